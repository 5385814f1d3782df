//! Agents that the provider keeps: runs of assistants, and Mistral's conversations.

use super::answer::Answer;
use crate::operation::Operation;
use crate::wires::markers;
use crate::wires::object::Object;
use crate::wires::{Observer, Reading, UsageSeen};

/// Reads an answer.
#[derive(Debug)]
pub(super) struct Agent {
    answer: Answer,
}

impl Agent {
    pub(super) fn new(provider: &str) -> Self {
        Self { answer: Answer::new(Operation::InvokeAgent, provider) }
    }

    /// A run, whole or as an event tells it. Its usage is null until it is over.
    fn read_run(&mut self, run: &Object<'_>) {
        let answer = &mut self.answer;
        answer.model = run.text("model").or_else(|| answer.model.take());
        answer.service_tier = run.text("service_tier").or_else(|| answer.service_tier.take());
        answer.take_status(run);
        answer.is_terminal |= answer.is_finished;
        if run.get("usage").is_some_and(|usage| answer.usage.take(usage)) {
            answer.seen = if answer.is_finished { UsageSeen::Final } else { UsageSeen::Interim };
        }
    }

    /// A conversation's answer, or an event of it.
    fn read_conversation(&mut self, object: &Object<'_>) {
        let answer = &mut self.answer;
        let kind = object.text("type").unwrap_or_default();
        answer.take_head(object);
        answer.is_error |= matches!(kind.as_str(), "error" | "conversation.response.error");
        answer.is_terminal |= kind == "conversation.response.done";
        // Each entry names the model that made it.
        let model = object.objects("outputs").filter_map(|entry| entry.text("model")).last();
        answer.model = model.or_else(|| answer.model.take());
        if object.get("usage").is_some_and(|usage| answer.usage.take(usage)) {
            answer.seen = UsageSeen::Final;
            answer.is_finished = true;
        }
    }
}

impl Observer for Agent {
    fn unit(&mut self, data: &[u8]) {
        if data == b"[DONE]" {
            self.answer.is_terminal = true;
            return;
        }
        let is_run = markers::THREAD_RUN.find(data).is_some();
        let may_tell = is_run
            || markers::has_value(&markers::USAGE, data)
            || markers::ERROR.find(data).is_some()
            || (self.answer.model.is_none() && markers::MODEL.find(data).is_some());
        let Some(object) = may_tell.then(|| Object::parse(data)).flatten() else { return };
        match object.text("object").as_deref() {
            Some("thread.run") => self.read_run(&object),
            // A step repeats its share of the run's usage, a list that of other runs; an assistant names a model.
            Some("thread.run.step" | "list" | "assistant") => {}
            Some(_) | None => self.read_conversation(&object),
        }
    }

    fn is_terminal(&self) -> bool {
        self.answer.is_terminal
    }

    fn reading(&mut self) -> Reading {
        self.answer.reading()
    }
}
