//! `OpenAI`-shaped usage: one object, many dialects. Where servers differ, the sums decide; only where they cannot
//! tell does the provider's name.

use serde_json::value::RawValue;

use crate::framing::compact::compacted_value;
use crate::operation::Operation;
use crate::usage::{Anomaly, TokenCounts, Units};
use crate::wires::object::Object;
use crate::wires::told::{Cached, Told};

/// What an answer told of its usage so far.
#[derive(Debug, Default)]
pub(super) struct Usage {
    told: Told,
    raw: Option<Box<RawValue>>,
    beside: Beside,
    service_tier: Option<String>,
}

/// What is billed beside tokens.
#[derive(Debug, Default)]
struct Beside {
    /// Seconds of audio in the prompt: Mistral counts their tokens in the total only.
    prompt_audio_seconds: Option<u64>,
    /// Seconds of audio that was transcribed, a part of one counted as one, as the provider itself does.
    seconds: Option<u64>,
    /// Mistral's OCR.
    pages: Option<u64>,
    /// Searches, or what a ranking is billed by.
    searches: Option<u64>,
    /// Sources that xAI's live search used: billed each.
    sources: Option<u64>,
    /// Tokens of what Mistral's connectors fetched: in the total only.
    connector_tokens: Option<u64>,
}

impl Usage {
    /// Takes up a usage object; whether it told what the answer is billed by.
    pub(super) fn take(&mut self, raw: &RawValue) -> bool {
        let Some(usage) = Object::parse(raw.get().as_bytes()) else { return false };
        let is_billed_beside = self.beside.take(&usage);
        self.service_tier = usage.text("service_tier").or_else(|| self.service_tier.take());
        let told = told_in(&usage);
        self.keep(told, raw, is_billed_beside)
    }

    /// The tier, where the usage names it.
    pub(super) fn service_tier(&self) -> Option<String> {
        self.service_tier.clone()
    }

    /// Puts `told` in place of what was told before.
    pub(super) fn replace(&mut self, told: Told, raw: Option<Box<RawValue>>) {
        self.told = told;
        self.raw = raw;
    }

    fn keep(&mut self, told: Told, raw: &RawValue, is_billed_beside: bool) -> bool {
        self.told.merge(told);
        if told.is_empty() && !is_billed_beside {
            return false;
        }
        self.raw = Some(raw.to_owned());
        true
    }

    /// The provider's object, on one line.
    pub(super) fn raw(&self) -> Option<Box<RawValue>> {
        self.raw.as_deref().map(compacted_value)
    }

    /// What was consumed beside tokens.
    pub(super) fn units(&self) -> Units {
        let Beside { prompt_audio_seconds, seconds, pages, searches, sources, connector_tokens: _ } = self.beside;
        let audio_seconds = prompt_audio_seconds.or(seconds);
        [("audio_seconds", audio_seconds), ("pages", pages), ("searches", searches), ("sources", sources)]
            .into_iter()
            .filter_map(|(name, count)| count.filter(|count| *count > 0).map(|count| (name.to_owned(), count)))
            .collect()
    }

    /// The counts made disjoint.
    pub(super) fn tokens(&self, operation: Operation, provider: &str, model: &str) -> (TokenCounts, Option<Anomaly>) {
        let mut told = self.told;
        let generates = !matches!(operation, Operation::Embeddings | Operation::Rerank);
        // A count that is missing beside a total is what is left of it: Voyage gives the total alone, legacy
        // completions leave an output of 0 out.
        match (told.input, told.output, told.total) {
            (None, output, Some(total)) => told.input = total.checked_sub(output.unwrap_or(0)),
            (Some(input), None, Some(total)) if generates => told.output = total.checked_sub(input),
            (None | Some(_), _, _) => {}
        }
        let mut differs = None;
        let reasoning = told.reasoning.unwrap_or(0);
        match told.excess().map(i64::cast_unsigned) {
            // xAI: reasoning stands beside the output, and the total includes both.
            Some(excess) if excess > 0 && excess == reasoning => told.output = plus(told.output, reasoning),
            Some(0) if is_vercel_gemini(provider, model) => told.output = plus(told.output, reasoning),
            None if provider == "xai" && operation == Operation::Chat => told.output = plus(told.output, reasoning),
            None | Some(0) => {}
            Some(excess) if excess > i64::MAX.cast_unsigned() => differs = Some(Anomaly::TotalDiffers),
            Some(excess) if Some(excess) == self.beside.connector_tokens => told.input = plus(told.input, excess),
            Some(excess) if self.beside.prompt_audio_seconds.is_some() => {
                told.input = plus(told.input, excess);
                told.audio_input = Some(excess);
            }
            // Gemini behind OpenAI's shape: what it thought shows in the total only.
            Some(excess) if reasoning == 0 && is_gemini(provider, model) => {
                told.output = plus(told.output, excess);
                told.reasoning = Some(excess);
            }
            Some(_) => differs = Some(Anomaly::TotalDiffers),
        }
        let (tokens, anomaly) = told.disjoint(Cached::Within);
        (tokens, anomaly.or(differs))
    }
}

impl Beside {
    /// Takes up what a usage object tells beside tokens; whether that is what the answer as a whole is billed by.
    fn take(&mut self, usage: &Object<'_>) -> bool {
        // A count that is none is not worth an anomaly here.
        let mut counts = Told::default();
        let mut count = |object: Option<&Object<'_>>, names: &[&str]| counts.first(object, names);
        let tools = usage.object("server_tool_use_details");
        let connectors = usage.object("connectors");
        let seconds = usage.get_any(&["seconds"]).and_then(whole_seconds);
        let pages = count(Some(usage), &["pages_processed"]);
        let rankings = count(Some(usage), &["search_units"]);
        let searches = count(Some(usage), &["num_search_queries"])
            .or_else(|| count(tools.as_ref(), &["web_search_requests"]))
            .or_else(|| count(connectors.as_ref(), &["web_search", "web_search_premium"]));
        self.prompt_audio_seconds = count(Some(usage), &["prompt_audio_seconds"]).or(self.prompt_audio_seconds);
        self.seconds = seconds.or(self.seconds);
        self.pages = pages.or(self.pages);
        self.searches = rankings.or(searches).or(self.searches);
        self.sources = count(Some(usage), &["num_sources_used"]).or(self.sources);
        self.connector_tokens = count(Some(usage), &["connector_tokens"]).or(self.connector_tokens);
        seconds.or(pages).or(rankings).is_some()
    }
}

/// The token counts of a usage object, by any of the names that they have in this dialect.
fn told_in(usage: &Object<'_>) -> Told {
    let mut told = Told::default();
    let input_details =
        ["prompt_tokens_details", "input_tokens_details", "input_token_details", "prompt_token_details"]
            .iter()
            .find_map(|name| usage.object(name));
    let output_details =
        ["completion_tokens_details", "output_tokens_details", "output_token_details", "completion_token_details"]
            .iter()
            .find_map(|name| usage.object(name));
    let (usage, input_details, output_details) = (Some(usage), input_details.as_ref(), output_details.as_ref());
    told.input = told.first(usage, &["prompt_tokens", "input_tokens"]);
    told.output = told.first(usage, &["completion_tokens", "output_tokens"]);
    told.total = told.first(usage, &["total_tokens"]);
    told.cache_read = told.first(input_details, &["cached_tokens", "cache_read_input_tokens"]).or_else(|| {
        told.first(usage, &["prompt_cache_hit_tokens", "cached_tokens", "num_cached_tokens", "cache_read_input_tokens"])
    });
    told.cache_write = told
        .first(input_details, &["cache_write_tokens", "cache_creation_input_tokens"])
        .or_else(|| told.first(usage, &["cache_creation_input_tokens", "cache_write_tokens"]));
    told.reasoning =
        told.first(output_details, &["reasoning_tokens"]).or_else(|| told.first(usage, &["reasoning_tokens"]));
    told.audio_input = told.first(input_details, &["audio_tokens"]);
    told.image_input = told.first(input_details, &["image_tokens"]);
    told.audio_output = told.first(output_details, &["audio_tokens"]);
    told.image_output = told.first(output_details, &["image_tokens"]);
    told
}

/// Seconds, a number or a string of one, rounded up as `OpenAI` does: 5.49 are told as 6.
pub(super) fn whole_seconds(raw: &RawValue) -> Option<u64> {
    let text = raw.get().trim_matches('"');
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let is_number = [whole, part].iter().all(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    let whole = whole.parse::<u64>().ok().filter(|_| is_number)?;
    // Some hundred years are no call.
    (whole < 1 << 32).then(|| whole.saturating_add(u64::from(part.bytes().any(|digit| digit != b'0'))))
}

fn plus(count: Option<u64>, more: u64) -> Option<u64> {
    count.map(|count| count.saturating_add(more))
}

/// Vercel's gateway leaves Gemini's thoughts out of output and total; its price shows that they are billed.
fn is_vercel_gemini(provider: &str, model: &str) -> bool {
    provider.starts_with("vercel") && model.starts_with("google/")
}

fn is_gemini(provider: &str, model: &str) -> bool {
    matches!(provider, "gemini" | "google" | "vertex") || model.contains("gemini")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_second_is_a_second_however_it_is_written() {
        let seconds = |text: &str| whole_seconds(&RawValue::from_string(text.to_owned()).unwrap());
        assert_eq!((seconds("6"), seconds("5.489999771118164"), seconds("\"3.0\"")), (Some(6), Some(6), Some(3)));
        for odd in ["-1", "1e3", "\"x\"", "null", "{}", "99999999999999999999", "9999999999"] {
            assert_eq!(seconds(odd), None, "{odd}");
        }
    }
}
