//! Intent and record: the two facts of a call, as the journal, the ledger and `tokenmeter records` hold them.
//!
//! Touches nothing. Field names in JSON are a promise: add, never rename.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::ids::{AppId, DepartmentId, KeyId, NodeId, Provider, RecordId, TeamId, UpstreamName};
use crate::money::NanoUsd;
use crate::operation::Operation;
use crate::usage::{Anomaly, Estimate, Outcome, Provenance, TokenCounts, Units};

/// By what evidence the payer is known.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttributedBy {
    /// A virtual key.
    Key,
    /// A trusted header.
    Header,
    /// Nothing: the call is unattributed.
    None,
}

impl AttributedBy {
    /// The value in records and columns.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Header => "header",
            Self::None => "none",
        }
    }
}

/// Free-form labels that a client gave a call: at most 16 of at most 64 bytes each side.
pub type Tags = BTreeMap<String, String>;

/// A call is about to reach an upstream. Holds no text of the call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// The call's id, the record's too.
    pub id: RecordId,
    /// When the call began here.
    pub started_at: jiff::Timestamp,
    /// Who pays.
    pub department: DepartmentId,
    /// Who pays.
    pub team: TeamId,
    /// The team's application, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<AppId>,
    /// The virtual key used, if one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<KeyId>,
    /// The evidence for the attribution.
    pub attributed_by: AttributedBy,
    /// The client's labels.
    #[serde(default, skip_serializing_if = "Tags::is_empty")]
    pub tags: Tags,
    /// The upstream asked.
    pub upstream: UpstreamName,
    /// The API family that the exchange is read as: by its path, else the upstream's.
    pub wire: String,
    /// The vendor behind the upstream.
    pub provider: Provider,
    /// What was asked.
    pub operation: Operation,
    /// The model asked for, in the body or the path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_requested: Option<String>,
    /// Whether the client asked for a stream.
    pub stream: bool,
    /// Length of the request body in bytes, where declared or seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_bytes: Option<u64>,
    /// Whether an answer costs anything by nature: reading what is stored and counting tokens does not.
    pub is_consumption: bool,
}

/// What a call's token kinds cost, each rounded once; [`Record::cost_nanousd`] is their sum.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct CostByKind {
    /// Of uncached input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<NanoUsd>,
    /// Of tokens read from the cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_read: Option<NanoUsd>,
    /// Of tokens written to the cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write: Option<NanoUsd>,
    /// Of generated tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<NanoUsd>,
}

impl CostByKind {
    /// Whether no kind has a price.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A call is over: the one fact that everything else is derived from. Never rewritten.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// The call's id.
    pub id: RecordId,
    /// When the call began here.
    pub started_at: jiff::Timestamp,
    /// When the call was over; buckets and months go by it. An orphan ends when it is found.
    pub ended_at: jiff::Timestamp,
    /// Who paid, as it was at the time.
    pub department: DepartmentId,
    /// Who paid, as it was at the time.
    pub team: TeamId,
    /// The team's application, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<AppId>,
    /// The virtual key used, if one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<KeyId>,
    /// The evidence for the attribution.
    pub attributed_by: AttributedBy,
    /// The client's labels.
    #[serde(default, skip_serializing_if = "Tags::is_empty")]
    pub tags: Tags,
    /// The journal that this record was first written to.
    pub node: NodeId,
    /// The record's place in its node's order, from 1, without gaps.
    pub seq: u64,
    /// The upstream asked.
    pub upstream: UpstreamName,
    /// The API family that the exchange was read as.
    pub wire: String,
    /// The vendor behind the upstream.
    pub provider: Provider,
    /// What was asked.
    pub operation: Operation,
    /// The model asked for, in the body or the path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_requested: Option<String>,
    /// The model that answered, else the one asked for.
    pub model: Option<String>,
    /// Whether the client asked for a stream.
    pub stream: bool,
    /// The answer's HTTP status; absent where there was no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// How the call ended.
    pub outcome: Outcome,
    /// Where the counts come from.
    pub provenance: Provenance,
    /// What was consumed.
    pub tokens: TokenCounts,
    /// Billed quantities that are not tokens.
    #[serde(default, skip_serializing_if = "Units::is_empty")]
    pub units: Units,
    /// The provider's own usage object, verbatim (insignificant white space aside).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage_raw: Option<Box<RawValue>>,
    /// The provider's id of the work that this call began, ended or asked for, where work outlives its call: a
    /// background response, a run, a batch. What is fetched is counted in one record at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// The service tier that the answer names; it decides the price.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_tier: Option<String>,
    /// How sure the local count is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimate: Option<Estimate>,
    /// Output tokens of the text that the client got, counted here: where its call was finished without it and they are
    /// fewer than those billed. Of a whole answer that it did not get to the end: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivered_output: Option<u64>,
    /// How the provider contradicted itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anomaly: Option<Anomaly>,
    /// The cost in nano-dollars; null while no price is known.
    pub cost_nanousd: Option<NanoUsd>,
    /// The cost of each token kind.
    #[serde(default, skip_serializing_if = "CostByKind::is_empty")]
    pub cost_nanousd_by_kind: CostByKind,
    /// The price used: its source, date, provider and model; null while no price is known.
    pub price: Option<String>,
    /// From the call's begin to the first byte of the answer's body, or its head where there is no body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_to_first_byte_ms: Option<u64>,
    /// From the call's begin to its end, by the monotonic clock.
    pub duration_ms: u64,
}

impl Record {
    /// The record as a ledger keeps it and gives it back, so that its hash is the same wherever it is taken: counts up
    /// to 2⁶³ - 1 (no call is so large, and the record says that it is invalid), no NUL in texts, which `PostgreSQL`
    /// cannot hold, instants to the microsecond.
    #[must_use]
    pub fn into_kept(mut self) -> Self {
        self.started_at = to_microsecond(self.started_at);
        self.ended_at = to_microsecond(self.ended_at);
        self.tags = self.tags.into_iter().map(|(name, value)| (without_nul(name), without_nul(value))).collect();
        self.units = self.units.into_iter().map(|(name, count)| (without_nul(name), kept_count(count))).collect();
        let tokens = &mut self.tokens;
        let counts = [
            &mut tokens.input,
            &mut tokens.cache_read,
            &mut tokens.cache_write,
            &mut tokens.output,
            &mut tokens.reasoning,
            &mut tokens.cache_write_1h,
            &mut tokens.audio_input,
            &mut tokens.audio_output,
            &mut tokens.image_input,
            &mut tokens.image_output,
            &mut self.delivered_output,
            &mut self.time_to_first_byte_ms,
        ];
        for count in counts {
            *count = count.map(kept_count);
        }
        self.duration_ms = kept_count(self.duration_ms);
        if let Some(estimate) = &mut self.estimate {
            estimate.method = without_nul(std::mem::take(&mut estimate.method));
            for count in [&mut estimate.low, &mut estimate.high, &mut estimate.observations] {
                *count = kept_count(*count);
            }
        }
        self.wire = without_nul(self.wire);
        let texts =
            [&mut self.model_requested, &mut self.model, &mut self.job, &mut self.service_tier, &mut self.price];
        for text in texts {
            *text = text.take().map(without_nul);
        }
        self
    }

    /// What the record says of a job; `None` where it says of none.
    pub fn job_seen(&self) -> Option<JobSeen> {
        let (provider, provenance) = (self.provider.clone(), self.provenance);
        self.job.clone().map(|job| JobSeen { provider, job, provenance })
    }
}

fn kept_count(count: u64) -> u64 {
    count.min(i64::MAX.unsigned_abs())
}

fn without_nul(text: String) -> String {
    if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text }
}

fn to_microsecond(at: jiff::Timestamp) -> jiff::Timestamp {
    jiff::Timestamp::from_microsecond(at.as_microsecond()).unwrap_or(at)
}

/// Calls that passed unmetered, since the journal could not record: their number is all that is known of them.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Gap {
    /// When the first of them began.
    pub from: jiff::Timestamp,
    /// When the last of them began.
    pub to: jiff::Timestamp,
    /// How many there were.
    pub requests: u64,
}

/// What an open call has brought so far, noted about once a second: all that is known of the answer of a call whose
/// process dies. Holds no text of the call.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Progress {
    /// The call's id.
    pub id: RecordId,
    /// When it was looked at.
    pub at: jiff::Timestamp,
    /// The model that answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The answer's HTTP status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Whether `tokens` are the provider's last word, although the answer had not ended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_reported: bool,
    /// What the provider reported so far.
    #[serde(default, skip_serializing_if = "TokenCounts::is_empty")]
    pub tokens: TokenCounts,
    /// Billed quantities that are not tokens, so far.
    #[serde(default, skip_serializing_if = "Units::is_empty")]
    pub units: Units,
    /// The provider's own usage object so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage_raw: Option<Box<RawValue>>,
    /// The service tier that the answer names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_tier: Option<String>,
    /// How the provider contradicted itself so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anomaly: Option<Anomaly>,
    /// Tokens of the text that was delivered, where the provider tells none: measured by the text's length.
    #[serde(default)]
    pub delivered_tokens: u64,
    /// Bytes of delivered text beside them that nobody looked into.
    #[serde(default)]
    pub delivered_bytes: u64,
}

/// What a record says of a job: by this the meter knows after a restart which were counted and which are to be.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize)]
pub struct JobSeen {
    /// The vendor whose id it is.
    pub provider: Provider,
    /// The job's id.
    pub job: String,
    /// `unknown`: it was begun. `none`: it was asked for and not counted. Else it was counted.
    pub provenance: Provenance,
}
