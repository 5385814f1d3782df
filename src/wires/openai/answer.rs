//! What every reader of this dialect keeps of an answer.

use super::usage::Usage;
use crate::operation::Operation;
use crate::wires::object::Object;
use crate::wires::{Job, Reading, UsageSeen};

/// An answer as far as it was read.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) operation: Operation,
    pub(super) provider: String,
    pub(super) model: Option<String>,
    pub(super) service_tier: Option<String>,
    pub(super) usage: Usage,
    pub(super) seen: UsageSeen,
    pub(super) is_error: bool,
    pub(super) is_finished: bool,
    pub(super) is_terminal: bool,
    pub(super) job: Option<Job>,
}

impl Answer {
    pub(super) fn new(operation: Operation, provider: &str) -> Self {
        Self {
            operation,
            provider: provider.to_owned(),
            model: None,
            service_tier: None,
            usage: Usage::default(),
            seen: UsageSeen::Nothing,
            is_error: false,
            is_finished: false,
            is_terminal: false,
            job: None,
        }
    }

    /// Takes up the model and the tier, each the last that is named, and whether it is an error.
    pub(super) fn take_head(&mut self, object: &Object<'_>) {
        self.model = object.text("model").or_else(|| self.model.take());
        self.service_tier = object.text("service_tier").or_else(|| self.service_tier.take());
        self.is_error |= object.get("error").is_some();
    }

    /// Takes up the status of work that may outlive its call, and its id.
    pub(super) fn take_status(&mut self, object: &Object<'_>) {
        const OVER: [&str; 5] = ["completed", "incomplete", "failed", "cancelled", "expired"];
        // A server that tells no status keeps nothing that could be asked for again.
        let Some(status) = object.text("status") else { return };
        let is_over = OVER.contains(&status.as_str());
        self.is_finished |= is_over;
        if let Some(id) = object.text("id") {
            self.job = Some(Job { id, is_over });
        }
    }

    pub(super) fn reading(&self) -> Reading {
        self.reading_by(&self.usage)
    }

    /// The same with `usage` in place of its own.
    pub(super) fn reading_by(&self, usage: &Usage) -> Reading {
        let (tokens, anomaly) = usage.tokens(self.operation, &self.provider, self.model.as_deref().unwrap_or_default());
        Reading {
            model: self.model.clone(),
            usage: self.seen,
            tokens,
            usage_raw: usage.raw(),
            units: usage.units(),
            service_tier: self.service_tier.clone().or_else(|| usage.service_tier()),
            anomaly,
            is_error: self.is_error,
            is_finished: self.is_finished,
            job: self.job.clone(),
        }
    }
}
