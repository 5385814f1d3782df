//! The results of a batch: within the batch itself, or in a file of lines.

use serde_json::json;

use super::usage::{Parts, service_tier};
use crate::framing::compact::compacted;
use crate::usage::Anomaly;
use crate::wires::models::Models;
use crate::wires::object::Object;
use crate::wires::told::{Cached, Told};
use crate::wires::{Job, Observer, Reading, UsageSeen};

/// The members of a batch that hold the usage and the model of each of its responses.
pub(super) const USAGES: &str = "response.inlinedResponses.inlinedResponses[].response.usageMetadata";
pub(super) const MODELS: &str = "response.inlinedResponses.inlinedResponses[].response.modelVersion";

/// Sums the responses.
#[derive(Debug, Default)]
pub(super) struct Results {
    sum: Told,
    succeeded: u64,
    models: Models,
    service_tier: Option<String>,
    anomaly: Option<Anomaly>,
    is_error: bool,
    job: Option<Job>,
}

impl Results {
    /// The results in a batch; `None` where `object` is none.
    pub(super) fn of_batch(object: &Object<'_>) -> Option<Self> {
        let name = object.text("name").filter(|name| name.contains("batches/"))?;
        let id = name.rsplit('/').next().unwrap_or(&name).to_owned();
        let is_over = object.get("done").is_some_and(|done| done.get() == "true");
        let mut results = Self { job: Some(Job { id, is_over }), ..Self::default() };
        object.objects(USAGES).for_each(|usage| results.take(&usage));
        for model in object.elements(MODELS) {
            results.models.add(serde_json::from_str(model.get()).ok());
        }
        Some(results)
    }

    fn take(&mut self, usage: &Object<'_>) {
        let (told, anomaly) = Parts::of(usage).settled();
        if told.is_empty() {
            return;
        }
        self.sum.add(told);
        self.succeeded = self.succeeded.saturating_add(1);
        self.anomaly = self.anomaly.or(anomaly);
        self.service_tier = service_tier(usage).or_else(|| self.service_tier.take());
    }
}

impl Observer for Results {
    /// A line of a file: `{"key":…,"response":…}`.
    fn unit(&mut self, data: &[u8]) {
        let Some(line) = Object::parse(data) else { return };
        self.is_error |= line.get("error").is_some() && line.get("key").is_none();
        let Some(response) = line.object("response") else { return };
        if let Some(usage) = response.object("usageMetadata") {
            self.take(&usage);
            self.models.add(response.text("modelVersion"));
        }
    }

    fn is_terminal(&self) -> bool {
        false
    }

    fn reading(&mut self) -> Reading {
        if self.succeeded == 0 {
            return Reading { is_error: self.is_error, job: self.job.clone(), ..Reading::default() };
        }
        let (tokens, anomaly) = self.sum.disjoint(Cached::Within);
        let raw = json!({
            "succeeded": self.succeeded,
            "models": self.models,
            "input": self.sum.input,
            "cached": self.sum.cache_read,
            "output": self.sum.output,
        });
        Reading {
            model: self.models.only(),
            // A list has no last word: it is the sum of all when it has come whole.
            usage: UsageSeen::Interim,
            tokens,
            usage_raw: compacted(&raw.to_string()),
            service_tier: self.service_tier.clone().filter(|tier| tier != "standard").or(Some("batch".to_owned())),
            anomaly: anomaly.or(self.anomaly),
            job: self.job.clone(),
            ..Reading::default()
        }
    }
}
