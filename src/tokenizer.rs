//! Tokenizer: local counting, where a provider reports nothing.
//!
//! In: text and a model's name. Out: a count, the way it was counted, and a band that the truth is likely within.
//! Slow, for blocking threads only: tables take a tenth of a second and tens of megabytes on first need, and hostile
//! text half a second a megabyte.

#![warn(clippy::arithmetic_side_effects)]

pub mod calibration;
mod functions;
pub mod measured;
mod openai;
mod vendors;

use std::collections::HashSet;

use tiktoken_rs::{CoreBPE, cl100k_base_singleton, o200k_base_singleton};

use self::calibration::{Calibration, Generated, Key};
use self::measured::{Measured, Rule, measure};
use crate::operation::Operation;
use crate::usage::Estimate;
use crate::wires::Countable;
use crate::wires::prompt::Prompt;

/// Longest text that is encoded in one piece. Encoding takes more than linear time in hostile text, and a regular
/// expression gives up on a million blanks; at 16 KiB both are bounded, natural text counts the same as in one piece,
/// and hostile text is off by less than one per cent.
const PIECE_BYTES_MAX: usize = 16 * 1024;

/// How a count by length alone is called.
const BY_LENGTH: &str = "bytes";
/// What is put behind a way of counting where reported calls have corrected it.
const CALIBRATED: &str = "+calibrated";

/// Bytes of a token where nothing better is known.
const BYTES_PER_TOKEN: u64 = 4;

/// A text's tokens, and how they were counted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Counted {
    /// How many.
    pub tokens: u64,
    /// `o200k`, `cl100k`, or `bytes` where a length was all there was.
    pub method: &'static str,
}

/// What was counted of a call, before what others taught is added.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Parts {
    /// The prompt, where it was to be counted.
    pub prompt: Option<Measured>,
    /// The answer's text, likewise.
    pub answer: Option<Generated>,
}

impl Parts {
    /// Whether only lengths were known of all of it.
    pub fn are_by_length(&self) -> bool {
        self.prompt.is_none_or(|measured| measured.method == BY_LENGTH)
            && self.answer.is_none_or(|generated| generated.method == BY_LENGTH)
    }
}

/// What a call is likely to have consumed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Estimated {
    /// Prompt tokens, if a prompt was to be counted.
    pub input: Option<u64>,
    /// Generated tokens, if delivered text was to be counted.
    pub output: Option<u64>,
    /// How sure all of this is.
    pub estimate: Estimate,
}

/// The tokens of `text` for `model`.
pub fn count(text: &str, model: &str) -> Counted {
    let (bpe, method) = encoding(model);
    // None is allowed: what looks like a special token in a user's text is text.
    let no_special_tokens = HashSet::new();
    let mut counted = Counted { tokens: 0, method };
    for piece in pieces(text) {
        let tokens = bpe.count(piece, &no_special_tokens).ok().and_then(|tokens| u64::try_from(tokens).ok());
        let tokens = tokens.unwrap_or_else(|| {
            counted.method = BY_LENGTH;
            by_length(length(piece))
        });
        counted.tokens = counted.tokens.saturating_add(tokens);
    }
    counted
}

/// Counts `prompt`, sent for `operation`, and `delivered` for `model` of `provider`; each `None` where the provider told
/// that part. Slow.
pub fn count_parts(
    prompt: Option<&Prompt>,
    delivered: Option<&Countable>,
    operation: Operation,
    model: &str,
    provider: &str,
) -> Parts {
    Parts {
        prompt: prompt.map(|prompt| measure(prompt, operation, model, provider)),
        answer: delivered.map(|delivered| generated(delivered, model)),
    }
}

/// The text of an answer of `model`, counted. Slow.
pub fn generated(delivered: &Countable, model: &str) -> Generated {
    let Counted { tokens, method } = count_all(delivered, model);
    let rule = if openai::Family::of(model).is_some() { Rule::Exact } else { Rule::Scaled };
    Generated { tokens, calls: 0, method, rule }
}

/// What a call of `key` is likely to have consumed, of which `parts` were counted. `known` tokens that the provider told
/// are in the band, and certain. Of an answer that `is_whole` also what its text does not show is estimated.
pub fn estimate(parts: &Parts, known: u64, calibration: &Calibration, key: &Key, is_whole: bool) -> Estimated {
    let Parts { prompt, answer } = parts;
    let input = prompt.as_ref().map(|measured| calibration.prompt(key, measured));
    let output = answer.map(|generated| calibration.answer(key, generated, is_whole));
    let both = || [input, output].into_iter().flatten();
    let ours = both().fold(known, |sum: u64, part| sum.saturating_add(part.tokens));
    let below = together(both().map(|part| part.tokens.saturating_sub(part.low)));
    let above = together(both().map(|part| part.high.saturating_sub(part.tokens)));
    let observations = input.or(output).map_or(0, |part| part.observations);
    Estimated {
        input: input.map(|part| part.tokens),
        output: output.map(|part| part.tokens),
        estimate: Estimate {
            low: ours.saturating_sub(below).max(known),
            high: ours.saturating_add(above),
            method: method(parts, observations > 0),
            observations,
        },
    }
}

/// How the parts were counted; the worse of two ways names it.
fn method(parts: &Parts, is_calibrated: bool) -> String {
    let prompt = parts.prompt.as_ref().filter(|measured| measured.tokens > 0).map(|measured| measured.method);
    let answer = parts.answer.filter(|generated| generated.tokens > 0).map(|generated| generated.method);
    let name = match (prompt, answer) {
        (_, Some(BY_LENGTH)) => BY_LENGTH,
        (Some(method), _) | (None, Some(method)) => method,
        (None, None) => {
            parts.prompt.map(|measured| measured.method).or(parts.answer.map(|one| one.method)).unwrap_or("o200k")
        }
    };
    if is_calibrated && name != BY_LENGTH { format!("{name}{CALIBRATED}") } else { name.to_owned() }
}

/// How far off a sum may be whose parts may be off so far: they seldom are to the same side.
fn together(off: impl Iterator<Item = u64>) -> u64 {
    let square = |one: u64| u128::from(one).saturating_mul(u128::from(one));
    let squares = off.map(square).fold(0, u128::saturating_add);
    u64::try_from(squares.isqrt()).unwrap_or(u64::MAX)
}

/// The tokens of all that `countable` stands for: what it kept, at the same rate what it did not, and those known.
fn count_all(countable: &Countable, model: &str) -> Counted {
    let kept = if countable.text.is_empty() {
        Counted { tokens: 0, method: encoding_name(model) }
    } else {
        count(&countable.text, model)
    };
    let (beyond, method) = match (countable.bytes_beyond, length(&countable.text)) {
        (0, _) => (0, kept.method),
        (beyond, 0) => (by_length(beyond), BY_LENGTH),
        (beyond, seen) => (scaled(kept.tokens, beyond, seen), kept.method),
    };
    Counted { tokens: kept.tokens.saturating_add(beyond).saturating_add(countable.tokens), method }
}

/// `tokens · beyond / seen`, rounded down.
fn scaled(tokens: u64, beyond: u64, seen: u64) -> u64 {
    let product = u128::from(tokens).saturating_mul(u128::from(beyond));
    product.checked_div(u128::from(seen)).and_then(|scaled| u64::try_from(scaled).ok()).unwrap_or(u64::MAX)
}

fn by_length(bytes: u64) -> u64 {
    bytes.div_ceil(BYTES_PER_TOKEN)
}

fn length(text: &str) -> u64 {
    u64::try_from(text.len()).unwrap_or(u64::MAX)
}

fn encoding(model: &str) -> (&'static CoreBPE, &'static str) {
    match encoding_name(model) {
        "cl100k" => (cl100k_base_singleton(), "cl100k"),
        _ => (o200k_base_singleton(), "o200k"),
    }
}

/// `cl100k` for the models that have it; `o200k` for all later ones, and for strangers.
fn encoding_name(model: &str) -> &'static str {
    let name = openai::bare(model);
    let is_gpt_4 = name.strip_prefix("gpt-4").is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', ':']));
    let older = ["gpt-3.5", "gpt-35", "text-embedding-", "davinci-002", "babbage-002"];
    if is_gpt_4 || older.iter().any(|prefix| name.starts_with(prefix)) { "cl100k" } else { "o200k" }
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
    use super::*;
    use crate::ids::UpstreamName;
    use crate::wires::prompt::Message;

    fn countable(text: &str) -> Countable {
        Countable { text: text.to_owned(), ..Countable::default() }
    }

    #[test]
    fn a_model_has_its_encoding() {
        for model in
            ["gpt-4", "gpt-4-turbo", "gpt-4-0613", "gpt-3.5-turbo", "gpt-35-turbo", "ft:gpt-4:acme", "openai/gpt-4"]
        {
            assert_eq!(encoding_name(model), "cl100k", "{model}");
        }
        for model in ["gpt-4o", "gpt-4.1-mini", "gpt-4.5-preview", "gpt-5", "o4-mini", "claude-sonnet-4-5", "", "gpt-6"]
        {
            assert_eq!(encoding_name(model), "o200k", "{model}");
        }
        assert_eq!(encoding_name("text-embedding-3-small"), "cl100k");
    }

    #[test]
    fn known_texts_have_their_known_counts() {
        // Of OpenAI's own cookbook: "tiktoken is great!" has six tokens in both encodings.
        assert_eq!(count("tiktoken is great!", "gpt-4"), Counted { tokens: 6, method: "cl100k" });
        assert_eq!(count("tiktoken is great!", "gpt-5"), Counted { tokens: 6, method: "o200k" });
        assert_eq!(count("", "gpt-5").tokens, 0);
        assert!(count("<|endoftext|>", "gpt-5").tokens > 1, "a special token in a user's text is text");
    }

    #[test]
    fn natural_text_counts_the_same_in_pieces() {
        let sentence =
            "Tokens are counted, e.g. 42 of them, where a provider (any one) reports nothing; fn main() { x += 1 }\n";
        let text = sentence.repeat(1_000);
        for model in ["gpt-5", "gpt-4"] {
            let whole = encoding(model).0.count(&text, &HashSet::new()).unwrap();
            assert_eq!(count(&text, model).tokens, u64::try_from(whole).unwrap());
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
            let counted = count(&text, "gpt-5");
            assert!(counted.tokens > 1_000 && counted.method == "o200k", "{unit:?}: {counted:?}");
        }
    }

    /// An estimate before anything was learned.
    fn cold(prompt: Option<&Prompt>, delivered: Option<&Countable>, known: u64, model: &str) -> Estimated {
        let parts = count_parts(prompt, delivered, Operation::Chat, model, "someone");
        let upstream = UpstreamName::parse("someone").unwrap();
        let key = Key { upstream, model: model.to_owned(), operation: Operation::Chat };
        estimate(&parts, known, &Calibration::default(), &key, true)
    }

    #[test]
    fn a_conversation_costs_more_than_its_text() {
        let text = count("hello world", "gpt-5").tokens;
        let input = |prompt: &Prompt| cold(Some(prompt), None, 0, "gpt-4o").input;
        let bare = Prompt { texts: vec!["hello world".to_owned()], ..Prompt::default() };
        assert_eq!(input(&bare), Some(text));
        let message = Message { role: "user".to_owned(), text: "hello world".to_owned(), ..Message::default() };
        let chat = Prompt { messages: vec![message.clone(), message], ..Prompt::default() };
        assert_eq!(input(&chat), Some(2 * (text + 4) + 3));
        assert_eq!(input(&Prompt { tokens: 7, ..Prompt::default() }), Some(7));
    }

    #[test]
    fn what_was_not_kept_counts_at_the_rate_of_what_was() {
        let text = "one two three four five six seven eight";
        let kept = count(text, "gpt-5").tokens;
        let delivered = Countable { bytes_beyond: 3 * u64::try_from(text.len()).unwrap(), ..countable(text) };
        assert_eq!(cold(None, Some(&delivered), 0, "gpt-5").output, Some(4 * kept));
        let estimated = cold(Some(&Prompt::of_length(4_001)), None, 0, "gpt-5");
        assert_eq!((estimated.input, estimated.estimate.method.as_str()), (Some(1_001), BY_LENGTH));
        let endless = Countable { bytes_beyond: u64::MAX, messages: u64::MAX, tokens: u64::MAX, ..countable(text) };
        let prompt = Prompt { tokens: u64::MAX, texts: vec![text.to_owned()], ..Prompt::of_length(u64::MAX) };
        let estimated = cold(Some(&prompt), Some(&endless), u64::MAX, "m");
        assert_eq!(estimated.estimate.high, u64::MAX);
    }

    #[test]
    fn the_band_is_wider_where_the_tokenizer_is_anothers() {
        let hundred = Prompt { tokens: 100, ..Prompt::default() };
        let band = |prompt: &Prompt, model: &str, known| {
            let Estimate { low, high, observations, .. } = cold(Some(prompt), None, known, model).estimate;
            assert_eq!(observations, 0);
            (low, high)
        };
        assert_eq!(band(&hundred, "gpt-4o", 0), (85, 115));
        assert_eq!(band(&hundred, "claude-sonnet-4-5", 0), (40, 160));
        assert_eq!(band(&hundred, "gpt-4o", 1_000), (1_085, 1_115));
        assert_eq!(band(&Prompt { has_unseen: true, ..hundred.clone() }, "gpt-4o", 0), (40, 160));
        let delivered = Countable { tokens: 100, ..Countable::default() };
        let both = cold(Some(&hundred), Some(&delivered), 0, "claude-sonnet-4-5").estimate;
        assert_eq!((both.low, both.high, both.method.as_str()), (116, 284, "o200k"), "√2 · 60 of 200");
        let nothing = cold(None, None, 5, "m");
        assert_eq!((nothing.input, nothing.output, nothing.estimate.low, nothing.estimate.high), (None, None, 5, 5));
    }
}
