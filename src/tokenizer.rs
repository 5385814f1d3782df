//! Tokenizer: local counting, where a provider reports nothing.
//!
//! In: text and a model's name. Out: a count, the way it was counted, and a band that the truth is likely within.
//! Slow, for blocking threads only: tables take some milliseconds on first need, and hostile text half a second a
//! megabyte.

#![warn(clippy::arithmetic_side_effects)]

pub mod calibration;
pub mod completions;
mod counter;
mod encodings;
mod file;
mod functions;
pub mod lengths;
pub mod measured;
mod models;
mod openai;
mod vendors;
mod vocabulary;

pub use counter::{Counted, Counter};
pub use encodings::Tokenizer;
pub use file::{FileTokenizer, NoTokenizer};
pub use models::{OfFile, TEXT_BYTES_MAX, Tokenizers};

#[cfg(test)]
pub(crate) use file::tests::WORDS;

use counter::{BY_LENGTH, by_length, length, scaled};

use self::calibration::{Calibration, Generated, Key};
use self::completions::Answered;
use self::measured::{Measured, Rule, measure};
use crate::usage::Estimate;
use crate::wires::Countable;
use crate::wires::prompt::Prompt;

/// What is put behind a way of counting where a part of the text was not looked at.
const EXTRAPOLATED: &str = "+extrapolated";
/// What is put behind a way of counting where reported calls have corrected it.
const CALIBRATED: &str = "+calibrated";

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
    /// Generated tokens, if they were counted.
    pub output: Option<u64>,
    /// How sure all of this is.
    pub estimate: Estimate,
}

/// Counts `prompt`, and `delivered` of an answer that was `answered` by a model of `provider`, by `counter`; each `None`
/// where the provider told that part. Slow.
pub fn count_parts(
    prompt: Option<&Prompt>,
    delivered: Option<&Countable>,
    answered: Answered,
    counter: &Counter<'_>,
    provider: &str,
) -> Parts {
    Parts {
        prompt: prompt.map(|prompt| measure(prompt, answered.operation, counter, provider)),
        answer: delivered.map(|delivered| generated(delivered, answered, counter)),
    }
}

/// The text of an answer, counted as its vendor counts it. Slow.
pub fn generated(delivered: &Countable, answered: Answered, counter: &Counter<'_>) -> Generated {
    let Counted { tokens, extrapolated, method } = completions::measure_completion(delivered, answered, counter);
    let rule = if openai::Family::of(counter.model()).is_some() { Rule::Exact } else { Rule::Scaled };
    let hidden = completions::hidden_at_most(delivered, tokens, counter.model());
    Generated { tokens, extrapolated, calls: delivered.calls, hidden, method, rule }
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
    if name == BY_LENGTH {
        return name.to_owned();
    }
    let prompt = parts.prompt.map_or(0, |measured| measured.extrapolated);
    let is_extrapolated = parts.answer.map_or(prompt, |generated| generated.extrapolated.max(prompt)) > 0;
    let suffix = |is_so, suffix| if is_so { suffix } else { "" };
    [name, suffix(is_extrapolated, EXTRAPOLATED), suffix(is_calibrated, CALIBRATED)].concat()
}

/// How far off a sum may be whose parts may be off so far: they seldom are to the same side.
fn together(off: impl Iterator<Item = u64>) -> u64 {
    let square = |one: u64| u128::from(one).saturating_mul(u128::from(one));
    let squares = off.map(square).fold(0, u128::saturating_add);
    u64::try_from(squares.isqrt()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::UpstreamName;
    use crate::operation::Operation;
    use crate::wires::prompt::Message;

    fn count(text: &str) -> u64 {
        Tokenizers::default().counter("any", "gpt-5").count(text).tokens
    }

    fn countable(text: &str) -> Countable {
        Countable { text: text.to_owned(), ..Countable::default() }
    }

    /// An estimate before anything was learned.
    fn cold(prompt: Option<&Prompt>, delivered: Option<&Countable>, known: u64, model: &str) -> Estimated {
        let tokenizers = Tokenizers::default();
        let counter = tokenizers.counter("someone", model);
        let parts = count_parts(
            prompt,
            delivered,
            Answered { operation: Operation::Chat, is_whole: false },
            &counter,
            "someone",
        );
        let upstream = UpstreamName::parse("someone").unwrap();
        let key = Key { upstream, model: model.to_owned(), operation: Operation::Chat };
        estimate(&parts, known, &Calibration::default(), &key, false)
    }

    #[test]
    fn a_conversation_costs_more_than_its_text() {
        let text = count("hello world");
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
        let kept = count(text);
        let delivered = Countable { bytes_beyond: 3 * u64::try_from(text.len()).unwrap(), ..countable(text) };
        let fourfold = cold(None, Some(&delivered), 0, "gpt-5");
        assert_eq!((fourfold.output, fourfold.estimate.method.as_str()), (Some(4 * kept), "o200k+extrapolated"));
        let estimated = cold(Some(&Prompt::of_length(4_001)), None, 0, "gpt-5");
        assert_eq!((estimated.input, estimated.estimate.method.as_str()), (Some(1_001), BY_LENGTH));
        let endless = Countable { bytes_beyond: u64::MAX, messages: u64::MAX, tokens: u64::MAX, ..countable(text) };
        let prompt = Prompt { tokens: u64::MAX, texts: vec![text.to_owned()], ..Prompt::of_length(u64::MAX) };
        let estimated = cold(Some(&prompt), Some(&endless), u64::MAX, "m");
        assert_eq!(estimated.estimate.high, u64::MAX);
    }

    #[test]
    fn what_was_not_looked_at_is_said_and_widens_the_band() {
        let text = "one two three four ".repeat(50);
        let user = Message { role: "user".to_owned(), text: text.clone(), ..Message::default() };
        let prompt = Prompt { messages: vec![user], ..Prompt::default() };
        let estimated = |bytes_max| {
            let tokenizers = Tokenizers::new(Vec::new(), bytes_max);
            let answered = Answered { operation: Operation::Chat, is_whole: false };
            let parts = count_parts(Some(&prompt), None, answered, &tokenizers.counter("openai", "gpt-4o"), "openai");
            let upstream = UpstreamName::parse("openai").unwrap();
            let key = Key { upstream, model: "gpt-4o".to_owned(), operation: Operation::Chat };
            estimate(&parts, 0, &Calibration::default(), &key, true).estimate
        };
        let whole = estimated(text.len() + "user".len());
        assert_eq!(whole.method, "o200k", "a text is looked at once, however often a rule asks for it");
        let half = estimated(text.len() / 2);
        assert_eq!(half.method, "o200k+extrapolated");
        assert!(half.low < whole.low - 50 && half.high > whole.high + 50, "{half:?} {whole:?}");
        // Another vendor's tokens are half as many again.
        let (tokenizers, model) = (Tokenizers::new(Vec::new(), text.len() / 2), "claude-opus-4-7");
        let measured = measure(&prompt, Operation::Chat, &tokenizers.counter("anthropic", model), "anthropic");
        let share = measured.extrapolated * 100 / measured.tokens;
        assert!((45..=52).contains(&share) && measured.tokens > 250, "{share} % of {measured:?}");
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
