//! Responses: named events, of which the last repeats the whole response with its usage.

use super::usage::Usage;
use crate::operation::Operation;
use crate::wires::delivered::{Delivered, Text};
use crate::wires::markers;
use crate::wires::object::Object;
use crate::wires::{Countable, Observer, Reading, UsageSeen};

/// Reads an answer.
#[derive(Debug)]
pub(super) struct Responses {
    provider: String,
    model: Option<String>,
    service_tier: Option<String>,
    usage: Usage,
    seen: UsageSeen,
    is_error: bool,
    is_finished: bool,
    is_terminal: bool,
    delivered: Delivered,
}

impl Responses {
    pub(super) fn new(provider: &str) -> Self {
        Self {
            provider: provider.to_owned(),
            model: None,
            service_tier: None,
            usage: Usage::default(),
            seen: UsageSeen::Nothing,
            is_error: false,
            is_finished: false,
            is_terminal: false,
            delivered: Delivered::new(read_text),
        }
    }

    fn read_event(&mut self, object: &Object<'_>) {
        let kind = object.text("type").unwrap_or_default();
        self.is_error |= kind == "error" || kind == "response.failed";
        if matches!(kind.as_str(), "response.completed" | "response.incomplete" | "response.failed") {
            self.is_terminal = true;
            self.is_finished = true;
        }
        if let Some(response) = object.object("response") {
            self.read_response(&response);
        }
    }

    fn read_response(&mut self, response: &Object<'_>) {
        self.model = response.text("model").or_else(|| self.model.take());
        self.service_tier = response.text("service_tier").or_else(|| self.service_tier.take());
        self.is_error |= response.get("error").is_some();
        let status = response.text("status");
        self.is_finished |= matches!(status.as_deref(), Some("completed" | "incomplete" | "failed" | "cancelled"));
        if response.get("usage").is_some_and(|usage| self.usage.take(usage)) {
            let is_under_way = matches!(status.as_deref(), Some("in_progress" | "queued"));
            self.seen = if is_under_way { UsageSeen::Interim } else { UsageSeen::Final };
        }
    }
}

impl Observer for Responses {
    fn unit(&mut self, data: &[u8]) {
        if data == b"[DONE]" {
            self.is_terminal = true;
            return;
        }
        // Only events about the response itself hold any of the three; deltas hold none.
        let may_be_of_the_response = markers::has_value(&markers::RESPONSE, data)
            || markers::has_value(&markers::USAGE, data)
            || markers::ERROR.find(data).is_some();
        if may_be_of_the_response && let Some(object) = Object::parse(data) {
            if object.get("type").is_some() || object.get("response").is_some() {
                self.read_event(&object);
            } else {
                self.read_response(&object);
            }
        }
        // The terminal event repeats what the deltas said, often at great length.
        if !self.is_terminal {
            self.delivered.push(data);
        }
    }

    fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    fn reading(&self) -> Reading {
        let model = self.model.as_deref().unwrap_or_default();
        let (tokens, anomaly) = self.usage.tokens(Operation::Responses, &self.provider, model);
        Reading {
            model: self.model.clone(),
            usage: self.seen,
            tokens,
            usage_raw: self.usage.raw(),
            units: self.usage.units(),
            service_tier: self.service_tier.clone(),
            anomaly,
            is_error: self.is_error,
            is_finished: self.is_finished,
        }
    }

    fn delivered(&self) -> Countable {
        self.delivered.countable()
    }
}

fn read_text(unit: &[u8], text: &mut Text) {
    let Some(object) = Object::parse(unit) else { return };
    let kind = object.text("type").unwrap_or_default();
    if is_text_delta(&kind) {
        text.push_raw(object.get("delta"));
    } else if kind == "response.output_item.added" {
        text.push_raw(object.object("item").and_then(|item| item.get("name")));
    } else {
        object.objects("output").for_each(|item| read_item(&item, text));
    }
}

/// Text, refusal, reasoning, a call's arguments: every delta but sound.
fn is_text_delta(kind: &str) -> bool {
    kind.rsplit('.').next() == Some("delta") && !kind.contains("audio")
}

/// An item of a whole response: a message, a call, or reasoning.
fn read_item(item: &Object<'_>, text: &mut Text) {
    for part in ["summary", "content"].into_iter().flat_map(|list| item.objects(list)) {
        text.push_raw(part.get("text"));
        text.push_raw(part.get("refusal"));
    }
    for name in ["name", "arguments", "input", "code"] {
        text.push_raw(item.get(name));
    }
}
