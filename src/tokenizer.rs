//! Tokenizer: local counting, where a provider reports nothing.
//!
//! In: text and a model's name. Out: a count, the way it was counted, and a band that the truth is likely within.
//! Slow, for blocking threads only: tables take a tenth of a second and tens of megabytes on first need, and hostile
//! text half a second a megabyte.

#![warn(clippy::arithmetic_side_effects)]

pub mod calibration;
mod counter;
mod encodings;
mod file;
mod functions;
pub mod measured;
mod models;
mod openai;
mod vendors;

pub use counter::{Counted, Counter};
pub use encodings::Tokenizer;
pub use file::{FileTokenizer, NoTokenizer};
pub use models::{OfFile, TEXT_BYTES_MAX, Tokenizers};

#[cfg(test)]
pub(crate) use file::tests::WORDS;

use counter::{BY_LENGTH, by_length, length, scaled};
use measured::measure;

use crate::operation::Operation;
use crate::usage::Estimate;
use crate::wires::Countable;
use crate::wires::prompt::Prompt;

/// A band around a count, in per cent of it. A prior: until a model's calls with reported usage have taught better.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Band {
    below: u64,
    above: u64,
}

/// Models whose tokenizer this is: what is missed are tools, images and hidden text.
const OWN_TOKENIZER: Band = Band { below: 15, above: 15 };
/// Models of other vendors, and text that was not seen: tokenizers and templates differ.
const OTHER_TOKENIZER: Band = Band { below: 40, above: 60 };

/// Providers that serve the models whose tokenizer this is.
const OWN_PROVIDERS: [&str; 2] = ["azure", "openai"];

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

/// What `prompt`, sent for `operation`, and `delivered` are by `counter`, of a model of `provider`; each `None` where the
/// provider told that part. `known` tokens that it told are in the band, and certain.
pub fn estimate(
    prompt: Option<&Prompt>,
    delivered: Option<&Countable>,
    known: u64,
    operation: Operation,
    counter: &Counter<'_>,
    provider: &str,
) -> Estimated {
    let input = prompt.map(|prompt| {
        let measured = measure(prompt, operation, counter, provider);
        Counted { tokens: measured.tokens, method: measured.method }
    });
    let output = delivered.map(|delivered| count_all(delivered, counter));
    let parts = [input, output].into_iter().flatten().filter(|counted| counted.tokens > 0);
    let ours = parts.clone().fold(0, |sum: u64, counted| sum.saturating_add(counted.tokens));
    // The worse of two methods names the estimate.
    let is_by_length = parts.clone().any(|counted| counted.method == BY_LENGTH);
    let method = if is_by_length { BY_LENGTH } else { parts.clone().next().map_or(counter.name(), |one| one.method) };
    let band = if OWN_PROVIDERS.contains(&provider) && !is_by_length { OWN_TOKENIZER } else { OTHER_TOKENIZER };
    Estimated {
        input: input.map(|counted| counted.tokens),
        output: output.map(|counted| counted.tokens),
        estimate: Estimate {
            low: known.saturating_add(ours.saturating_sub(per_cent_up(ours, band.below))),
            high: known.saturating_add(ours).saturating_add(per_cent_up(ours, band.above)),
            method: method.to_owned(),
            observations: 0,
        },
    }
}

/// The tokens of all that `countable` stands for: what it kept, at the same rate what it did not, and those known.
fn count_all(countable: &Countable, counter: &Counter<'_>) -> Counted {
    let kept = counter.count(&countable.text);
    let (beyond, method) = match (countable.bytes_beyond, length(&countable.text)) {
        (0, _) => (0, kept.method),
        (beyond, 0) => (by_length(beyond), BY_LENGTH),
        (beyond, seen) => (scaled(kept.tokens, beyond, seen), kept.method),
    };
    Counted { tokens: kept.tokens.saturating_add(beyond).saturating_add(countable.tokens), method }
}

fn per_cent_up(of: u64, per_cent: u64) -> u64 {
    of.saturating_mul(per_cent).div_ceil(100)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wires::prompt::Message;

    /// What `estimate` says of a call of `model`.
    fn estimated(
        prompt: Option<&Prompt>,
        delivered: Option<&Countable>,
        known: u64,
        model: &str,
        provider: &str,
    ) -> Estimated {
        let tokenizers = Tokenizers::default();
        estimate(prompt, delivered, known, Operation::Chat, &tokenizers.counter("any", model), provider)
    }

    fn count(text: &str) -> u64 {
        Tokenizers::default().counter("any", "gpt-5").count(text).tokens
    }

    fn countable(text: &str) -> Countable {
        Countable { text: text.to_owned(), ..Countable::default() }
    }

    #[test]
    fn a_conversation_costs_more_than_its_text() {
        let text = count("hello world");
        let input = |prompt: &Prompt| estimated(Some(prompt), None, 0, "gpt-4o", "openai").input;
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
        assert_eq!(estimated(None, Some(&delivered), 0, "gpt-5", "openai").output, Some(4 * kept));
        let seen = estimated(Some(&Prompt::of_length(4_001)), None, 0, "gpt-5", "openai");
        assert_eq!((seen.input, seen.estimate.method.as_str()), (Some(1_001), "bytes"));
        let endless = Countable { bytes_beyond: u64::MAX, messages: u64::MAX, tokens: u64::MAX, ..countable(text) };
        let prompt = Prompt { tokens: u64::MAX, texts: vec![text.to_owned()], ..Prompt::of_length(u64::MAX) };
        assert_eq!(estimated(Some(&prompt), Some(&endless), u64::MAX, "m", "p").estimate.high, u64::MAX);
    }

    #[test]
    fn the_band_is_wider_where_the_tokenizer_is_anothers() {
        let hundred = Prompt { tokens: 100, ..Prompt::default() };
        let band = |provider: &str, known| {
            let Estimate { low, high, observations, .. } =
                estimated(Some(&hundred), None, known, "m", provider).estimate;
            assert_eq!(observations, 0);
            (low, high)
        };
        assert_eq!(band("openai", 0), (85, 115));
        assert_eq!(band("anthropic", 0), (60, 160));
        assert_eq!(band("openai", 1_000), (1_085, 1_115));
        let nothing = estimated(None, None, 5, "m", "openai");
        assert_eq!((nothing.input, nothing.output, nothing.estimate.low, nothing.estimate.high), (None, None, 5, 5));
    }
}
