//! Usage: what a call consumed, and how sure we are.
//!
//! Touches nothing.

#![warn(clippy::arithmetic_side_effects)]

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Disjoint token counts of one call, and the *of which* counts beside them. An absent count is unknown, never zero.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct TokenCounts {
    /// Input tokens billed at full rate: excludes `cache_read` and `cache_write` whatever the provider's convention.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<u64>,
    /// Input tokens read from the provider's prompt cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_read: Option<u64>,
    /// Input tokens written to the provider's prompt cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write: Option<u64>,
    /// Generated tokens, reasoning included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<u64>,
    /// Of `output`: reasoning that the model did not show as its answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<u64>,
    /// Of `cache_write`: written to live for an hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write_1h: Option<u64>,
    /// Of `input` and `cache_read`: audio.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audio_input: Option<u64>,
    /// Of `output`: audio.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audio_output: Option<u64>,
    /// Of `input` and `cache_read`: images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_input: Option<u64>,
    /// Of `output`: images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_output: Option<u64>,
}

impl TokenCounts {
    /// `input + cache_read + cache_write`: every prompt token processed. Unknown counts add nothing.
    pub fn input_total(&self) -> u64 {
        [self.input, self.cache_read, self.cache_write].into_iter().flatten().fold(0, u64::saturating_add)
    }

    /// `input + cache_read + cache_write + output`. Unknown counts add nothing.
    pub fn total(&self) -> u64 {
        self.input_total().saturating_add(self.output.unwrap_or(0))
    }

    /// Whether nothing at all is known.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Billed quantities that are not tokens, by name: `audio_seconds`, `images`, `searches`, `characters`, `pages`.
pub type Units = BTreeMap<String, u64>;

/// Where a record's counts come from.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Provenance {
    /// The provider's final usage.
    Reported,
    /// Some counts are the provider's, some ours.
    Partial,
    /// All counts are ours.
    Estimated,
    /// It may have cost something and we cannot say how much.
    Unknown,
    /// Nothing was consumed: an error answer without usage, never sent, or not consumption by nature.
    None,
}

impl Provenance {
    /// The value in records, labels and columns.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reported => "reported",
            Self::Partial => "partial",
            Self::Estimated => "estimated",
            Self::Unknown => "unknown",
            Self::None => "none",
        }
    }
}

/// How a call ended.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The answer went through to its end.
    Completed,
    /// No connection, or status 400 and above.
    UpstreamError,
    /// The upstream broke off in the middle of its answer.
    UpstreamCut,
    /// The client left first, even if the call was then finished in the background.
    ClientClosed,
    /// In flight when the process died.
    Orphaned,
}

impl Outcome {
    /// The value in records, labels and columns.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::UpstreamError => "upstream_error",
            Self::UpstreamCut => "upstream_cut",
            Self::ClientClosed => "client_closed",
            Self::Orphaned => "orphaned",
        }
    }
}

/// How a provider contradicted itself. The record keeps its words in `usage_raw`.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Anomaly {
    /// More cached tokens than prompt tokens where the prompt includes them.
    CachedExceedsInput,
    /// More reasoning tokens than output tokens where the output includes them.
    ReasoningExceedsOutput,
    /// The parts do not add up to the provider's total.
    TotalDiffers,
    /// Two counts of the same call are not the same: Bedrock counts what a model has counted.
    CountsDiffer,
    /// A count that is negative, fractional, or beyond any real call.
    CountInvalid,
    /// A compressed or oversized answer could not be read to its end.
    Unreadable,
}

impl Anomaly {
    /// The value in records, labels and columns.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CachedExceedsInput => "cached_exceeds_input",
            Self::ReasoningExceedsOutput => "reasoning_exceeds_output",
            Self::TotalDiffers => "total_differs",
            Self::CountsDiffer => "counts_differ",
            Self::CountInvalid => "count_invalid",
            Self::Unreadable => "unreadable",
        }
    }
}

/// How sure a locally counted number is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Estimate {
    /// Total tokens that the truth is unlikely to be below.
    pub low: u64,
    /// Total tokens that the truth is unlikely to be above.
    pub high: u64,
    /// How it was counted: by which tokenizer, `o200k` or `cl100k` or another's name, or by `bytes` alone. Behind it
    /// `+extrapolated` where a part of the text was not looked at, then `+calibrated` where calls with reported usage have
    /// corrected the count.
    pub method: String,
    /// So many such calls, of the same upstream, model and operation. 0: the count is as a rule makes it, and the band is
    /// what such rules are off by.
    pub observations: u64,
}
