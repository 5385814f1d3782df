//! Tokenizer: local counting, where a provider reports nothing.
//!
//! In: text and a model's name. Out: a count, the way it was counted, and a band that the truth is likely within.
//! Slow, for blocking threads only: tables take a tenth of a second and tens of megabytes on first need, and hostile
//! text half a second a megabyte.

#![warn(clippy::arithmetic_side_effects)]

pub mod completions;
pub mod lengths;
pub mod measured;

use std::collections::HashSet;

use tiktoken_rs::{CoreBPE, cl100k_base_singleton, o200k_base_singleton};

use crate::usage::Estimate;
use crate::wires::Countable;

/// Longest text that is encoded in one piece. Encoding takes more than linear time in hostile text, and a regular
/// expression gives up on a million blanks; at 16 KiB both are bounded, natural text counts the same as in one piece,
/// and hostile text is off by less than one per cent.
const PIECE_BYTES_MAX: usize = 16 * 1024;

/// Bytes of a token where nothing better is known.
const BYTES_PER_TOKEN: u64 = 4;

/// What a message costs beside its text: role and delimiters.
const TOKENS_PER_MESSAGE: u64 = 4;
/// What a conversation costs beside its messages: it primes the answer.
const TOKENS_PER_CONVERSATION: u64 = 3;

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

/// A text's tokens, and how they were counted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Counted {
    /// How many.
    pub tokens: u64,
    /// `o200k`, `cl100k`, or `bytes` where a length was all there was.
    pub method: &'static str,
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

/// The tokens of `text` for `model`.
pub fn count(text: &str, model: &str) -> Counted {
    let (bpe, method) = encoding(model);
    // None is allowed: what looks like a special token in a user's text is text.
    let no_special_tokens = HashSet::new();
    let mut counted = Counted { tokens: 0, method };
    for piece in pieces(text) {
        let tokens = bpe.count(piece, &no_special_tokens).ok().and_then(|tokens| u64::try_from(tokens).ok());
        let tokens = tokens.unwrap_or_else(|| {
            counted.method = "bytes";
            by_length(length(piece))
        });
        counted.tokens = counted.tokens.saturating_add(tokens);
    }
    counted
}

/// The tokens that `text` is likely to be by its length alone: no tables are loaded.
pub fn count_by_length(text: &str) -> Counted {
    Counted { tokens: lengths::tokens(text), method: "bytes" }
}

/// What `prompt` is for `model` of `provider`, and how sure that and `output` are; each `None` where the provider told
/// that part. `known` tokens that it told are in the band, and certain.
pub fn estimate(
    prompt: Option<&Countable>,
    output: Option<Counted>,
    known: u64,
    model: &str,
    provider: &str,
) -> Estimated {
    let input = prompt.map(|prompt| {
        let counted = count_all(prompt, model);
        // Embeddings and plain completions have no messages and cost nothing around their text.
        let around = match prompt.messages {
            0 => 0,
            messages => messages.saturating_mul(TOKENS_PER_MESSAGE).saturating_add(TOKENS_PER_CONVERSATION),
        };
        Counted { tokens: counted.tokens.saturating_add(around), ..counted }
    });
    let parts = [input, output].into_iter().flatten().filter(|counted| counted.tokens > 0);
    let ours = parts.clone().fold(0, |sum: u64, counted| sum.saturating_add(counted.tokens));
    // The worse of two methods names the estimate.
    let is_by_length = parts.clone().any(|counted| counted.method == "bytes");
    let method =
        if is_by_length { "bytes" } else { parts.clone().next().map_or(encoding_name(model), |one| one.method) };
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
fn count_all(countable: &Countable, model: &str) -> Counted {
    let kept = if countable.text.is_empty() {
        Counted { tokens: 0, method: encoding_name(model) }
    } else {
        count(&countable.text, model)
    };
    let (beyond, method) = match (countable.bytes_beyond, length(&countable.text)) {
        (0, _) => (0, kept.method),
        (beyond, 0) => (by_length(beyond), "bytes"),
        (beyond, seen) => (scaled(kept.tokens, beyond, seen), kept.method),
    };
    Counted { tokens: kept.tokens.saturating_add(beyond).saturating_add(countable.tokens), method }
}

/// `tokens · beyond / seen`, rounded down.
fn scaled(tokens: u64, beyond: u64, seen: u64) -> u64 {
    let product = u128::from(tokens).saturating_mul(u128::from(beyond));
    product.checked_div(u128::from(seen)).and_then(|scaled| u64::try_from(scaled).ok()).unwrap_or(u64::MAX)
}

fn per_cent_up(of: u64, per_cent: u64) -> u64 {
    of.saturating_mul(per_cent).div_ceil(100)
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
    let name = model.rsplit('/').next().unwrap_or(model);
    let name = name.strip_prefix("ft:").unwrap_or(name);
    let is_gpt_4 = name.strip_prefix("gpt-4").is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', ':']));
    let is_older = ["gpt-3.5", "gpt-35", "text-embedding-"].iter().any(|prefix| name.starts_with(prefix));
    if is_gpt_4 || is_older { "cl100k" } else { "o200k" }
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

    #[test]
    fn a_conversation_costs_more_than_its_text() {
        let text = count("hello world", "gpt-5").tokens;
        let input = |prompt: &Countable| estimate(Some(prompt), None, 0, "gpt-5", "openai").input;
        assert_eq!(input(&countable("hello world")), Some(text));
        assert_eq!(input(&Countable { messages: 2, ..countable("hello world") }), Some(text + 2 * 4 + 3));
        assert_eq!(input(&Countable { tokens: 7, ..Countable::default() }), Some(7));
    }

    #[test]
    fn what_was_not_kept_counts_at_the_rate_of_what_was() {
        let text = "one two three four five six seven eight";
        let kept = count(text, "gpt-5").tokens;
        let delivered = Countable { bytes_beyond: 3 * u64::try_from(text.len()).unwrap(), ..countable(text) };
        assert_eq!(estimate(Some(&delivered), None, 0, "gpt-5", "openai").input, Some(4 * kept));
        let unseen = Countable { bytes_beyond: 4_001, ..Countable::default() };
        let estimated = estimate(Some(&unseen), None, 0, "gpt-5", "openai");
        assert_eq!((estimated.input, estimated.estimate.method.as_str()), (Some(1_001), "bytes"));
        let endless = Countable { bytes_beyond: u64::MAX, messages: u64::MAX, tokens: u64::MAX, ..countable(text) };
        let most = Counted { tokens: u64::MAX, method: "o200k" };
        assert_eq!(estimate(Some(&endless), Some(most), u64::MAX, "m", "p").estimate.high, u64::MAX);
    }

    #[test]
    fn the_band_is_wider_where_the_tokenizer_is_anothers() {
        let hundred = Countable { tokens: 100, ..Countable::default() };
        let band = |provider: &str, known| {
            let Estimate { low, high, observations, .. } =
                estimate(Some(&hundred), None, known, "m", provider).estimate;
            assert_eq!(observations, 0);
            (low, high)
        };
        assert_eq!(band("openai", 0), (85, 115));
        assert_eq!(band("anthropic", 0), (60, 160));
        assert_eq!(band("openai", 1_000), (1_085, 1_115));
        let nothing = estimate(None, None, 5, "m", "openai");
        assert_eq!((nothing.input, nothing.output, nothing.estimate.low, nothing.estimate.high), (None, None, 5, 5));
    }
}
