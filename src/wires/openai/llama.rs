//! llama.cpp's own words: `timings` beside an `OpenAI`-shaped answer, and the counts of its native `/completion`.

use serde_json::value::RawValue;

use super::shares::{Prompt, Shares};
use super::usage::Usage;
use crate::wires::object::{Count, Object};
use crate::wires::told::Told;

/// Longest value that is kept as evidence.
const RAW_BYTES_MAX: usize = 16 << 10;

/// Reads what stands in where nobody asked for usage.
#[derive(Debug, Default)]
pub(super) struct Llama {
    shares: Shares,
    usage: Usage,
}

impl Llama {
    /// What was told; to be read where the answer has no usage.
    pub(super) fn usage(&self) -> &Usage {
        &self.usage
    }

    /// Takes up a chunk's or an answer's `timings`, one per choice.
    pub(super) fn take_timings(&mut self, choice: u64, raw: &RawValue) -> bool {
        let Some(timings) = Object::parse(raw.get().as_bytes()) else { return false };
        let mut told = Told::default();
        let fresh = told.first(Some(&timings), &["prompt_n"]);
        told.cache_read = told.first(Some(&timings), &["cache_n"]);
        told.input = fresh.map(|fresh| fresh.saturating_add(told.cache_read.unwrap_or(0)));
        told.output = told.first(Some(&timings), &["predicted_n"]);
        if told.is_empty() {
            return false;
        }
        self.shares.take(choice, told);
        self.usage.replace(self.shares.sum(Prompt::Shared), Some(raw.to_owned()));
        true
    }

    /// Takes up an answer of `/completion`, or an event of it: one prompt each. `tokens_cached` is what the slot's
    /// cache holds afterwards, answer included, so what was read from it is told by the timings alone.
    pub(super) fn take_native(&mut self, answer: &Object<'_>) -> bool {
        let mut told = Told::default();
        told.input = told.first(Some(answer), &["tokens_evaluated"]);
        told.output = told.first(Some(answer), &["tokens_predicted"]);
        if told.is_empty() {
            return false;
        }
        let timings = answer.object("timings");
        let fresh = told.first(timings.as_ref(), &["prompt_n"]);
        told.cache_read = told
            .first(timings.as_ref(), &["cache_n"])
            .or_else(|| told.input.zip(fresh).and_then(|(whole, fresh)| whole.checked_sub(fresh)));
        let index = match answer.count("index") {
            Count::Of(index) => index,
            Count::Absent | Count::Invalid => 0,
        };
        self.shares.take(index, told);
        let raw = RawValue::from_string(native_raw(answer)).ok();
        self.usage.replace(self.shares.sum(Prompt::Own), raw);
        true
    }
}

/// The members that tell counts, verbatim.
fn native_raw(answer: &Object<'_>) -> String {
    let mut raw = String::from("{");
    for name in ["index", "tokens_evaluated", "tokens_predicted", "tokens_cached", "timings"] {
        let Some(value) = answer.get(name).filter(|value| value.get().len() < RAW_BYTES_MAX) else { continue };
        if raw.len() > 1 {
            raw.push(',');
        }
        raw.push('"');
        raw.push_str(name);
        raw.push_str("\":");
        raw.push_str(value.get());
    }
    raw.push('}');
    raw
}
