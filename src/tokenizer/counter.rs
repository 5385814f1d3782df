//! Counter: counts the texts of one call, in short pieces and not without end.

use std::cell::Cell;
use std::time::{Duration, Instant};

use super::encodings::Tokenizer;
use super::lengths;

/// Longest text that is encoded in one piece. Encoding takes more than linear time in hostile text, and a regular
/// expression gives up on a million blanks; at 16 KiB both are bounded, natural text counts the same as in one piece,
/// and hostile text is off by less than one per cent.
const PIECE_BYTES_MAX: usize = 16 * 1024;

/// The same for a tokenizer of which nobody knows how long it takes: one piece more than there is time for is short.
const TIMED_PIECE_BYTES_MAX: usize = 4 * 1024;

/// Time that such a tokenizer may take: half a second a megabyte, and a little that makes short texts exact.
const NANOS_PER_BYTE: u64 = 450;
const TIME_TO_BEGIN: Duration = Duration::from_millis(25);

/// Bytes of a token where nothing better is known.
const BYTES_PER_TOKEN: u64 = 4;

/// What a text is called that was measured and not counted.
pub(super) const BY_LENGTH: &str = "bytes";

/// A text's tokens, and how they were counted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Counted {
    /// How many.
    pub tokens: u64,
    /// Those among them of text that nobody looked at: it was taken to have as many a byte as the rest.
    pub extrapolated: u64,
    /// The tokenizer's name, or `bytes` where a length was all there was.
    pub method: &'static str,
}

/// Counts the texts of one call. Of all of them together it looks at so many bytes; the rest counts at the same rate, and
/// so does every piece that there is no time for.
#[derive(Debug)]
pub struct Counter<'a> {
    tokenizer: &'a dyn Tokenizer,
    model: &'a str,
    bytes_left: Cell<usize>,
    /// Bytes that were counted, and their tokens.
    seen: Cell<(u64, u64)>,
    pace: Pace,
}

/// How long a call's texts took.
#[derive(Debug)]
struct Pace {
    is_timed: bool,
    clock: fn() -> Instant,
    passed_bytes: Cell<u64>,
    spent: Cell<Duration>,
}

impl Pace {
    /// What `count` says of a piece; `None` where those before took more time than they had: this one lends them its own.
    fn in_time<T>(&self, piece: &str, count: impl FnOnce() -> T) -> Option<T> {
        if !self.is_timed {
            return Some(count());
        }
        let allowed = Duration::from_nanos(self.passed_bytes.get().saturating_mul(NANOS_PER_BYTE));
        self.passed_bytes.set(self.passed_bytes.get().saturating_add(length(piece)));
        if self.spent.get() > allowed.saturating_add(TIME_TO_BEGIN) {
            return None;
        }
        let begun = (self.clock)();
        let counted = count();
        self.spent.set(self.spent.get().saturating_add((self.clock)().saturating_duration_since(begun)));
        Some(counted)
    }
}

impl<'a> Counter<'a> {
    pub(super) fn new(tokenizer: &'a dyn Tokenizer, model: &'a str, bytes_max: usize) -> Self {
        let pace = Pace {
            is_timed: tokenizer.is_timed(),
            clock: Instant::now,
            passed_bytes: Cell::default(),
            spent: Cell::default(),
        };
        Self { tokenizer, model, bytes_left: Cell::new(bytes_max), seen: Cell::default(), pace }
    }

    /// Counts by length alone: no tables are loaded.
    pub fn by_length(model: &'a str) -> Self {
        Self::new(&lengths::BY_KIND, model, usize::MAX)
    }

    /// The model that is called.
    pub fn model(&self) -> &'a str {
        self.model
    }

    /// The tokenizer's name.
    pub fn name(&self) -> &'static str {
        self.tokenizer.name()
    }

    /// The tokens of `text`.
    pub fn count(&self, text: &str) -> Counted {
        let at = text.floor_char_boundary(self.bytes_left.get());
        let (text, beyond) = text.split_at_checked(at).unwrap_or((text, ""));
        self.bytes_left.set(self.bytes_left.get().saturating_sub(text.len()));
        let mut counted = Counted { tokens: 0, extrapolated: 0, method: self.name() };
        let mut unread = length(beyond);
        if unread > 0 {
            self.bytes_left.set(0);
        }
        if self.pace.is_timed && self.pace.passed_bytes.get() == 0 {
            // Tables are loaded by the first text of all: not in its time.
            self.tokenizer.count("");
        }
        let bytes_max = if self.pace.is_timed { TIMED_PIECE_BYTES_MAX } else { PIECE_BYTES_MAX };
        for piece in pieces(text, bytes_max) {
            let Some(tokens) = self.pace.in_time(piece, || self.tokenizer.count(piece)) else {
                unread = unread.saturating_add(length(piece));
                continue;
            };
            let tokens = tokens.unwrap_or_else(|| {
                counted.method = BY_LENGTH;
                by_length(length(piece))
            });
            counted.tokens = counted.tokens.saturating_add(tokens);
            let (bytes, seen) = self.seen.get();
            self.seen.set((bytes.saturating_add(length(piece)), seen.saturating_add(tokens)));
        }
        // What nobody looked at counts like the rest of this call.
        match self.seen.get() {
            _ if unread == 0 => {}
            (0, _) => {
                counted.method = BY_LENGTH;
                counted.tokens = counted.tokens.saturating_add(by_length(unread));
            }
            (bytes, tokens) => {
                counted.extrapolated = scaled(tokens, unread, bytes);
                counted.tokens = counted.tokens.saturating_add(counted.extrapolated);
            }
        }
        counted
    }
}

/// `tokens · beyond / seen`, rounded down; of no tokens none, whatever was seen.
pub(super) fn scaled(tokens: u64, beyond: u64, seen: u64) -> u64 {
    if tokens == 0 {
        return 0;
    }
    let product = u128::from(tokens).saturating_mul(u128::from(beyond));
    product.checked_div(u128::from(seen)).and_then(|scaled| u64::try_from(scaled).ok()).unwrap_or(u64::MAX)
}

/// The tokens of so many bytes of which nothing else is known.
pub(super) fn by_length(bytes: u64) -> u64 {
    bytes.div_ceil(BYTES_PER_TOKEN)
}

pub(super) fn length(text: &str) -> u64 {
    u64::try_from(text.len()).unwrap_or(u64::MAX)
}

/// `text` in pieces of so many bytes at most, cut where the count does not change if such a place is there.
fn pieces(text: &str, bytes_max: usize) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (piece, after) = rest.split_at_checked(cut(rest, bytes_max)).unwrap_or((rest, ""));
        rest = after;
        Some(piece)
    })
}

/// Where the first piece of `text` ends: before the last space between a visible character and a letter or digit,
/// since both encodings begin a word with its space; else wherever the piece is full.
fn cut(text: &str, bytes_max: usize) -> usize {
    if text.len() <= bytes_max {
        return text.len();
    }
    let window = text.as_bytes().get(..bytes_max).unwrap_or_default();
    let safe = window.windows(3).rposition(
        |three| matches!(three, [before, b' ', after] if before.is_ascii_graphic() && after.is_ascii_alphanumeric()),
    );
    safe.map_or_else(|| text.floor_char_boundary(bytes_max), |at| at.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::super::encodings::{CL100K, O200K};
    use super::*;

    fn count(text: &str, tokenizer: &dyn Tokenizer) -> Counted {
        Counter::new(tokenizer, "m", usize::MAX).count(text)
    }

    #[test]
    fn known_texts_have_their_known_counts() {
        // Of OpenAI's own cookbook: "tiktoken is great!" has six tokens in both encodings.
        assert_eq!(count("tiktoken is great!", CL100K), Counted { tokens: 6, extrapolated: 0, method: "cl100k" });
        assert_eq!(count("tiktoken is great!", O200K), Counted { tokens: 6, extrapolated: 0, method: "o200k" });
        assert_eq!(count("", O200K).tokens, 0);
        assert!(count("<|endoftext|>", O200K).tokens > 1, "a special token in a user's text is text");
    }

    #[test]
    fn natural_text_counts_the_same_in_pieces() {
        let sentence =
            "Tokens are counted, e.g. 42 of them, where a provider (any one) reports nothing; fn main() { x += 1 }\n";
        let text = sentence.repeat(1_000);
        for tokenizer in [O200K, CL100K] {
            assert_eq!(Some(count(&text, tokenizer).tokens), tokenizer.count(&text));
        }
        assert!(pieces(&text, PIECE_BYTES_MAX).count() > 5);
        assert_eq!(pieces(&text, PIECE_BYTES_MAX).collect::<String>(), text);
    }

    #[test]
    fn hostile_text_is_counted_to_its_end() {
        for unit in ["a", " ", "=", "\n", "客", "🦀", "\u{301}"] {
            let text = unit.repeat(1_100_000 / unit.len());
            assert!(pieces(&text, PIECE_BYTES_MAX).all(|piece| !piece.is_empty() && piece.len() <= PIECE_BYTES_MAX));
            assert_eq!(pieces(&text, PIECE_BYTES_MAX).map(str::len).sum::<usize>(), text.len());
            let counted = count(&text, O200K);
            assert!(counted.tokens > 1_000 && counted.method == "o200k", "{unit:?}: {counted:?}");
        }
    }

    #[test]
    fn beyond_its_bytes_a_call_counts_at_the_rate_of_what_was_counted() {
        let words = "one two three four ".repeat(100);
        let whole = count(&words, O200K).tokens;
        let counter = Counter::new(O200K, "m", words.len());
        assert_eq!(counter.count(&words).tokens, whole);
        assert_eq!(
            counter.count(&words),
            Counted { tokens: whole, extrapolated: whole, method: "o200k" },
            "unread, at the same rate"
        );
        let half = Counter::new(O200K, "m", words.len() / 2).count(&words);
        assert!(half.method == "o200k" && half.tokens.abs_diff(whole) <= 2, "{half:?} of {whole}");
        assert!(half.extrapolated.abs_diff(whole / 2) <= 2, "{half:?} of {whole}");
        assert_eq!(
            Counter::new(O200K, "m", 0).count("12345678"),
            Counted { tokens: 2, extrapolated: 0, method: "bytes" }
        );
        let inside = Counter::new(O200K, "m", 4).count("客服");
        assert_eq!(inside.tokens, 2 * O200K.count("客").unwrap(), "no character is cut");
    }

    #[test]
    fn what_a_tokenizer_gives_up_on_is_measured() {
        #[derive(Debug)]
        struct GivesUp;
        impl Tokenizer for GivesUp {
            fn name(&self) -> &'static str {
                "gives up"
            }
            fn count(&self, piece: &str) -> Option<u64> {
                (piece.len() < 8).then_some(1)
            }
        }
        assert_eq!(count("short", &GivesUp), Counted { tokens: 1, extrapolated: 0, method: "gives up" });
        assert_eq!(count("not so short", &GivesUp), Counted { tokens: 3, extrapolated: 0, method: "bytes" });
    }
    thread_local! {
        static TIME: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    }

    /// What loading tables takes.
    const LOADING: Duration = Duration::from_secs(10);

    /// Counts a token every two bytes, and takes a microsecond for each byte; before the first it loads its tables.
    #[derive(Debug)]
    struct Slow;

    impl Tokenizer for Slow {
        fn name(&self) -> &'static str {
            "slow"
        }
        fn is_timed(&self) -> bool {
            true
        }
        fn count(&self, piece: &str) -> Option<u64> {
            let begun = TIME.get().max(LOADING);
            TIME.set(begun.saturating_add(Duration::from_micros(length(piece))));
            Some(length(piece) / 2)
        }
    }

    #[test]
    fn what_there_is_no_time_for_counts_at_the_rate_of_the_rest() {
        static BEGIN: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
        let mut counter = Counter::new(&Slow, "m", usize::MAX);
        counter.pace.clock = || *BEGIN + TIME.get();
        let short = "ab ".repeat(8_000);
        assert_eq!(counter.count(&short), Counted { tokens: 12_000, extrapolated: 0, method: "slow" });
        assert_eq!(TIME.get(), LOADING + Duration::from_millis(24), "all of it was looked at");
        let long = "abcd".repeat(1 << 18);
        let counted = counter.count(&long);
        assert!(counted.tokens.abs_diff(1 << 19) <= 1 && counted.method == "slow", "{counted:?}");
        assert!(counted.extrapolated.abs_diff(280_000) < 10_000, "450 of 1,000 bytes were looked at: {counted:?}");
        let taken = TIME.get().saturating_sub(LOADING);
        assert!(taken < Duration::from_millis(520), "{taken:?} for a megabyte");
        assert!(taken > Duration::from_millis(480), "all of the time is used: {taken:?}");
    }
}
