//! `OpenAI`-shaped usage: one object, many dialects. Where servers differ, the sums decide; only where they cannot
//! tell does the provider's name.

use serde_json::value::RawValue;

use crate::framing::compact::compacted;
use crate::operation::Operation;
use crate::usage::{Anomaly, TokenCounts, Units};
use crate::wires::object::Object;
use crate::wires::told::{Cached, Told};

/// What an answer told of its usage so far.
#[derive(Debug, Default)]
pub(super) struct Usage {
    told: Told,
    raw: String,
    /// Seconds of audio in the prompt: Mistral counts their tokens in the total only.
    audio_seconds: Option<u64>,
    searches: Option<u64>,
    /// Sources that xAI's live search used: billed each.
    sources: Option<u64>,
}

impl Usage {
    /// Takes up a usage object; whether it told any count.
    pub(super) fn take(&mut self, raw: &RawValue) -> bool {
        let Some(usage) = Object::parse(raw.get().as_bytes()) else { return false };
        let mut told = Told::default();
        // Billed beside the tokens: one that is no count is not worth an anomaly.
        let mut beside = Told::default();
        self.audio_seconds = beside.first(Some(&usage), &["prompt_audio_seconds"]).or(self.audio_seconds);
        self.sources = beside.first(Some(&usage), &["num_sources_used"]).or(self.sources);
        let tools = usage.object("server_tool_use_details");
        self.searches = beside
            .first(Some(&usage), &["num_search_queries"])
            .or_else(|| beside.first(tools.as_ref(), &["web_search_requests"]))
            .or(self.searches);
        let usage = Some(&usage);
        let input_details = usage
            .and_then(|usage| usage.object("prompt_tokens_details").or_else(|| usage.object("input_tokens_details")));
        let output_details = usage.and_then(|usage| {
            usage.object("completion_tokens_details").or_else(|| usage.object("output_tokens_details"))
        });
        let (input_details, output_details) = (input_details.as_ref(), output_details.as_ref());
        told.input = told.first(usage, &["prompt_tokens", "input_tokens"]);
        told.output = told.first(usage, &["completion_tokens", "output_tokens"]);
        told.total = told.first(usage, &["total_tokens"]);
        told.cache_read = told.first(input_details, &["cached_tokens", "cache_read_input_tokens"]).or_else(|| {
            told.first(
                usage,
                &["prompt_cache_hit_tokens", "cached_tokens", "num_cached_tokens", "cache_read_input_tokens"],
            )
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
        self.keep(told, raw)
    }

    /// Takes up llama.cpp's `timings`: its counts where nobody asked for usage.
    pub(super) fn take_timings(&mut self, raw: &RawValue) -> bool {
        let Some(timings) = Object::parse(raw.get().as_bytes()) else { return false };
        let mut told = Told::default();
        let fresh = told.first(Some(&timings), &["prompt_n"]);
        told.cache_read = told.first(Some(&timings), &["cache_n"]);
        told.input = fresh.map(|fresh| fresh.saturating_add(told.cache_read.unwrap_or(0)));
        told.output = told.first(Some(&timings), &["predicted_n"]);
        self.keep(told, raw)
    }

    fn keep(&mut self, told: Told, raw: &RawValue) -> bool {
        self.told.merge(told);
        if told.is_empty() {
            return false;
        }
        self.raw.clear();
        self.raw.push_str(raw.get());
        true
    }

    /// The provider's object, on one line.
    pub(super) fn raw(&self) -> Option<Box<RawValue>> {
        compacted(&self.raw)
    }

    /// What was consumed beside tokens.
    pub(super) fn units(&self) -> Units {
        [("audio_seconds", self.audio_seconds), ("searches", self.searches), ("sources", self.sources)]
            .into_iter()
            .filter_map(|(name, count)| count.filter(|count| *count > 0).map(|count| (name.to_owned(), count)))
            .collect()
    }

    /// The counts made disjoint.
    pub(super) fn tokens(&self, operation: Operation, provider: &str, model: &str) -> (TokenCounts, Option<Anomaly>) {
        let mut told = self.told;
        let is_embedding = operation == Operation::Embeddings;
        // A count that is missing beside a total is what is left of it: Voyage gives the total alone, legacy
        // completions leave an output of 0 out.
        match (told.input, told.output, told.total) {
            (None, output, Some(total)) => told.input = total.checked_sub(output.unwrap_or(0)),
            (Some(input), None, Some(total)) if !is_embedding => told.output = total.checked_sub(input),
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
            Some(excess) if self.audio_seconds.is_some() => {
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
