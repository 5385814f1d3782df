//! The results of a batch: lines, each with a message or the reason why there is none.

use serde_json::json;

use super::super::models::Models;
use super::super::object::Object;
use super::super::told::{Cached, Told};
use super::super::{Observer, Reading, UsageSeen};
use super::usage::Usage;
use crate::framing::compact::compacted;

/// Sums the lines. Whether all of them came is for the connection to say: there is no last one.
#[derive(Debug, Default)]
pub(super) struct Results {
    sum: Told,
    succeeded: u64,
    searches: u64,
    models: Models,
    service_tier: Option<String>,
    is_error: bool,
}

impl Results {
    fn read(&mut self, line: &Object<'_>) {
        self.is_error |= line.text("type").as_deref() == Some("error");
        let result = line.object("result");
        let message = result.as_ref().and_then(|result| result.object("message"));
        // A line too long to hold comes with its paths as names.
        let (usage, model) = match &message {
            Some(message) => (message.object("usage"), message.text("model")),
            None => (line.object("result.message.usage"), line.text("result.message.model")),
        };
        let is_success = result.is_some_and(|result| result.text("type").as_deref() == Some("succeeded"));
        let Some(usage) = usage.filter(|_| is_success) else { return };
        let Usage { told, iterations: _, searches, service_tier } = Usage::of(&usage);
        self.sum.add(told);
        self.succeeded = self.succeeded.saturating_add(1);
        self.searches = self.searches.saturating_add(searches.unwrap_or(0));
        self.service_tier = service_tier.or_else(|| self.service_tier.take());
        self.models.add(model);
    }
}

impl Observer for Results {
    fn unit(&mut self, data: &[u8]) {
        if let Some(line) = Object::parse(data) {
            self.read(&line);
        }
    }

    fn is_terminal(&self) -> bool {
        false
    }

    fn reading(&mut self) -> Reading {
        if self.succeeded == 0 {
            return Reading { is_error: self.is_error, ..Reading::default() };
        }
        let (tokens, anomaly) = self.sum.disjoint(Cached::Beside);
        let raw = json!({
            "succeeded": self.succeeded,
            "models": self.models,
            "input_tokens": self.sum.input,
            "cache_creation_input_tokens": self.sum.cache_write,
            "cache_read_input_tokens": self.sum.cache_read,
            "output_tokens": self.sum.output,
        });
        Reading {
            model: self.models.only(),
            usage: UsageSeen::Interim,
            tokens,
            usage_raw: compacted(&raw.to_string()),
            units: [("searches".to_owned(), self.searches)].into_iter().filter(|(_, count)| *count > 0).collect(),
            service_tier: self.service_tier.clone().or(Some("batch".to_owned())),
            anomaly,
            ..Reading::default()
        }
    }
}
