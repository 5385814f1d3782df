//! Responses: named events, of which the last repeats the whole response with its usage.

use super::answer::Answer;
use crate::operation::Operation;
use crate::wires::delivered::{Delivered, Text};
use crate::wires::markers;
use crate::wires::object::{Count, Object};
use crate::wires::{Observer, Reading, UsageSeen};

/// Reads an answer.
#[derive(Debug)]
pub(super) struct Responses {
    answer: Answer,
    is_begun: bool,
    delivered: Delivered,
}

impl Responses {
    pub(super) fn new(provider: &str) -> Self {
        Self {
            answer: Answer::new(Operation::Responses, provider),
            is_begun: false,
            delivered: Delivered::new(read_text),
        }
    }

    fn read_event(&mut self, object: &Object<'_>) {
        let kind = object.text("type").unwrap_or_default();
        self.answer.is_error |= kind == "error" || kind == "response.failed";
        if let Some(response) = object.object("response") {
            self.read_response(&response);
        } else if object.get("usage").is_some() || object.text("object").as_deref() == Some("response") {
            // A whole response that names a type, as some gateways' do.
            self.read_response(object);
        }
        if matches!(kind.as_str(), "response.completed" | "response.incomplete" | "response.failed") {
            self.answer.is_terminal = true;
            self.answer.is_finished = true;
            if let Some(job) = &mut self.answer.job {
                job.is_over = true;
            }
        }
    }

    fn read_response(&mut self, response: &Object<'_>) {
        let answer = &mut self.answer;
        answer.take_head(response);
        answer.take_status(response);
        if response.get("usage").is_some_and(|usage| answer.usage.take(usage)) {
            let is_under_way = matches!(response.text("status").as_deref(), Some("in_progress" | "queued"));
            answer.seen = if is_under_way { UsageSeen::Interim } else { UsageSeen::Final };
        }
    }
}

impl Observer for Responses {
    fn unit(&mut self, data: &[u8]) {
        if data == b"[DONE]" {
            self.answer.is_terminal = true;
            return;
        }
        let is_first = !std::mem::replace(&mut self.is_begun, true);
        // The first may be the whole answer. Only events about the response itself hold any of the three; deltas hold none.
        let may_be_of_the_response = is_first
            || markers::has_value(&markers::RESPONSE, data)
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
        if !self.answer.is_terminal {
            self.delivered.push(data);
        }
    }

    fn is_terminal(&self) -> bool {
        self.answer.is_terminal
    }

    fn reading(&mut self) -> Reading {
        self.answer.reading()
    }

    fn kept(&self) -> Option<&Delivered> {
        Some(&self.delivered)
    }
}

fn read_text(unit: &[u8], text: &mut Text) {
    let Some(object) = Object::parse(unit) else { return };
    let kind = object.text("type").unwrap_or_default();
    if kind.rsplit('.').next() == Some("delta") {
        read_delta(&kind, &object, text);
    } else if kind == "response.output_item.added" {
        text.call(object.count("output_index"), object.object("item").and_then(|item| item.get("name")), None);
    } else {
        for (number, item) in (0..).zip(object.objects("output")) {
            read_item(&item, number, text);
        }
    }
}

/// A piece of text, refusal, reasoning, or of what a call is given; sound is no text.
fn read_delta(kind: &str, event: &Object<'_>, text: &mut Text) {
    let delta = event.get("delta");
    let is_of_call = ["arguments", "input", "code"].iter().any(|what| kind.ends_with(&format!("{what}.delta")));
    if kind.contains("audio") && !kind.contains("transcript") {
        return;
    }
    if is_of_call {
        text.call(event.count("output_index"), None, delta);
    } else if kind.contains("reasoning") {
        text.think(delta);
    } else {
        text.push_raw(delta);
    }
}

/// An item of a whole response: a message, a call, or reasoning.
fn read_item(item: &Object<'_>, number: u64, text: &mut Text) {
    let is_reasoning = item.text("type").as_deref() == Some("reasoning");
    for part in ["summary", "content"].into_iter().flat_map(|list| item.objects(list)) {
        if is_reasoning {
            text.think(part.get("text"));
        } else {
            text.push_raw(part.get("text"));
            text.push_raw(part.get("refusal"));
        }
    }
    text.call(Count::Of(number), item.get("name"), item.get_any(&["arguments", "input", "code"]));
}
