//! What AWS counts beside the model's own words: in headers of a whole answer, at the end of a stream.
//!
//! Where both tell they agree, but for a few streams of tool calls, and Cohere's, whose count is of billed units. The
//! model's own count stands then, and the record keeps both.

use http::HeaderMap;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::framing::compact::compacted;
use crate::usage::{Anomaly, TokenCounts};
use crate::wires::object::Object;
use crate::wires::told::{Cached, Told};
use crate::wires::{Reading, UsageSeen};

/// The member of a stream's last chunk.
pub(super) const METRICS: &str = "amazon-bedrock-invocationMetrics";

/// Headers that count: they become the members of one object.
const HEADERS: [&str; 4] = [
    "x-amzn-bedrock-input-token-count",
    "x-amzn-bedrock-output-token-count",
    "x-amzn-bedrock-cache-read-input-token-count",
    "x-amzn-bedrock-cache-write-input-token-count",
];

/// Headers that name the tier, the tier proper first.
const TIERS: [&str; 2] = ["x-amzn-bedrock-service-tier", "x-amzn-bedrock-performanceconfig-latency"];

/// Counts told beside a body.
#[derive(Debug, Default)]
pub(super) struct Aside {
    told: Told,
    /// What they stood in: `headers`, or [`METRICS`].
    place: &'static str,
    raw: String,
    service_tier: Option<String>,
}

impl Aside {
    /// Takes up what an answer's head counts.
    pub(super) fn take_head(&mut self, headers: &HeaderMap) {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
        let mut counts = serde_json::Map::new();
        for name in HEADERS {
            if let Some(count) = text(name) {
                let number = count.parse::<u64>().map_or_else(|_| Value::from(count), Value::from);
                counts.insert(name.to_owned(), number);
            }
        }
        let raw = Value::Object(counts).to_string();
        self.take(&raw, HEADERS, "headers");
        self.service_tier =
            TIERS.into_iter().filter_map(text).find(|tier| !matches!(*tier, "" | "standard")).map(str::to_owned);
    }

    /// Takes up the metrics of a stream's last chunk.
    pub(super) fn take_metrics(&mut self, raw: &RawValue) {
        let names = ["inputTokenCount", "outputTokenCount", "cacheReadInputTokenCount", "cacheWriteInputTokenCount"];
        self.take(raw.get(), names, METRICS);
    }

    fn take(&mut self, raw: &str, [input, output, cache_read, cache_write]: [&str; 4], place: &'static str) {
        let Some(counts) = Object::parse(raw.as_bytes()) else { return };
        let mut told = Told::default();
        told.input = told.first(Some(&counts), &[input]);
        told.output = told.first(Some(&counts), &[output]);
        told.cache_read = told.first(Some(&counts), &[cache_read]);
        told.cache_write = told.first(Some(&counts), &[cache_write]);
        let is_empty = told.is_empty();
        self.told.merge(told);
        if !is_empty {
            self.place = place;
            raw.clone_into(&mut self.raw);
        }
    }

    /// Completes what the body told, or contradicts it.
    pub(super) fn complete(&self, reading: &mut Reading) {
        reading.service_tier = reading.service_tier.take().or_else(|| self.service_tier.clone());
        if self.raw.is_empty() {
            return;
        }
        let (beside, anomaly) = self.told.disjoint(Cached::Beside);
        reading.anomaly = reading.anomaly.or(anomaly);
        reading.usage = UsageSeen::Final;
        let Some(body) = &reading.usage_raw else {
            reading.tokens = beside;
            reading.usage_raw = compacted(&self.raw);
            return;
        };
        let whole = completed(reading.tokens, beside);
        let differs = differs(&whole, &beside);
        if differs || whole != reading.tokens {
            reading.usage_raw = compacted(&format!(r#"{{"usage":{},"{}":{}}}"#, body.get(), self.place, self.raw));
        }
        if differs {
            reading.anomaly = reading.anomaly.or(Some(Anomaly::CountsDiffer));
        }
        reading.tokens = whole;
    }
}

/// The counts of `body`, those that it does not have from `beside`. Its cached tokens may be within an input that it
/// does tell, so that they are believed only beside the same input.
fn completed(body: TokenCounts, beside: TokenCounts) -> TokenCounts {
    let is_same_input = body.input.is_none() || body.input == beside.input;
    TokenCounts {
        input: body.input.or(beside.input),
        output: body.output.or(beside.output),
        cache_read: body.cache_read.or(beside.cache_read.filter(|_| is_same_input)),
        cache_write: body.cache_write.or(beside.cache_write.filter(|_| is_same_input)),
        ..body
    }
}

/// Whether two counts of the same call contradict each other.
fn differs(body: &TokenCounts, beside: &TokenCounts) -> bool {
    let is_other = |ours: Option<u64>, theirs: Option<u64>| theirs.is_some() && ours != theirs;
    let is_other_input = is_other(body.input, beside.input) && body.input_total() != beside.input_total();
    is_other_input || is_other(body.output, beside.output)
}
