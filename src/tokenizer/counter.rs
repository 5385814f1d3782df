//! Counter: counts the texts of one call, in short pieces and not without end.

use std::cell::Cell;

use super::encodings::Tokenizer;

/// Longest text that is encoded in one piece. Encoding takes more than linear time in hostile text, and a regular
/// expression gives up on a million blanks; at 16 KiB both are bounded, natural text counts the same as in one piece,
/// and hostile text is off by less than one per cent.
const PIECE_BYTES_MAX: usize = 16 * 1024;

/// Bytes of a token where nothing better is known.
const BYTES_PER_TOKEN: u64 = 4;

/// What a text is called that was measured and not counted.
pub(super) const BY_LENGTH: &str = "bytes";

/// A text's tokens, and how they were counted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Counted {
    /// How many.
    pub tokens: u64,
    /// The tokenizer's name, or `bytes` where a length was all there was.
    pub method: &'static str,
}

/// Counts the texts of one call. Of all of them together it looks at so many bytes; the rest counts at the same rate.
#[derive(Debug)]
pub struct Counter<'a> {
    tokenizer: &'a dyn Tokenizer,
    model: &'a str,
    bytes_left: Cell<usize>,
    /// Bytes that were counted, and their tokens.
    seen: Cell<(u64, u64)>,
}

impl<'a> Counter<'a> {
    pub(super) fn new(tokenizer: &'a dyn Tokenizer, model: &'a str, bytes_max: usize) -> Self {
        Self { tokenizer, model, bytes_left: Cell::new(bytes_max), seen: Cell::default() }
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
        let mut counted = Counted { tokens: 0, method: self.name() };
        for piece in pieces(text) {
            let tokens = self.tokenizer.count(piece).unwrap_or_else(|| {
                counted.method = BY_LENGTH;
                by_length(length(piece))
            });
            counted.tokens = counted.tokens.saturating_add(tokens);
        }
        let (bytes, tokens) = self.seen.get();
        let seen = (bytes.saturating_add(length(text)), tokens.saturating_add(counted.tokens));
        self.seen.set(seen);
        if !beyond.is_empty() {
            // What nobody looked at counts like the rest of this call.
            self.bytes_left.set(0);
            let tokens = match seen {
                (0, _) => {
                    counted.method = BY_LENGTH;
                    by_length(length(beyond))
                }
                (bytes, tokens) => scaled(tokens, length(beyond), bytes),
            };
            counted.tokens = counted.tokens.saturating_add(tokens);
        }
        counted
    }
}

/// `tokens · beyond / seen`, rounded down.
pub(super) fn scaled(tokens: u64, beyond: u64, seen: u64) -> u64 {
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

/// `text` in pieces that are short, cut where the count does not change if such a place is there.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (piece, after) = rest.split_at_checked(cut(rest)).unwrap_or((rest, ""));
        rest = after;
        Some(piece)
    })
}

/// Where the first piece of `text` ends: before the last space between a visible character and a letter or digit,
/// since both encodings begin a word with its space; else wherever the piece is full.
fn cut(text: &str) -> usize {
    if text.len() <= PIECE_BYTES_MAX {
        return text.len();
    }
    let window = text.as_bytes().get(..PIECE_BYTES_MAX).unwrap_or_default();
    let safe = window.windows(3).rposition(
        |three| matches!(three, [before, b' ', after] if before.is_ascii_graphic() && after.is_ascii_alphanumeric()),
    );
    safe.map_or_else(|| text.floor_char_boundary(PIECE_BYTES_MAX), |at| at.saturating_add(1))
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
        assert_eq!(count("tiktoken is great!", CL100K), Counted { tokens: 6, method: "cl100k" });
        assert_eq!(count("tiktoken is great!", O200K), Counted { tokens: 6, method: "o200k" });
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
        assert!(pieces(&text).count() > 5);
        assert_eq!(pieces(&text).collect::<String>(), text);
    }

    #[test]
    fn hostile_text_is_counted_to_its_end() {
        for unit in ["a", " ", "=", "\n", "客", "🦀", "\u{301}"] {
            let text = unit.repeat(1_100_000 / unit.len());
            assert!(pieces(&text).all(|piece| !piece.is_empty() && piece.len() <= PIECE_BYTES_MAX));
            assert_eq!(pieces(&text).map(str::len).sum::<usize>(), text.len());
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
        assert_eq!(counter.count(&words), Counted { tokens: whole, method: "o200k" }, "unread, at the same rate");
        let half = Counter::new(O200K, "m", words.len() / 2).count(&words);
        assert!(half.method == "o200k" && half.tokens.abs_diff(whole) <= 2, "{half:?} of {whole}");
        assert_eq!(Counter::new(O200K, "m", 0).count("12345678"), Counted { tokens: 2, method: "bytes" });
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
        assert_eq!(count("short", &GivesUp), Counted { tokens: 1, method: "gives up" });
        assert_eq!(count("not so short", &GivesUp), Counted { tokens: 3, method: "bytes" });
    }
}
