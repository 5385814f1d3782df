//! Chat completions, legacy completions and embeddings: one shape of answer.

use super::usage::Usage;
use crate::operation::Operation;
use crate::wires::delivered::{Delivered, Text};
use crate::wires::markers;
use crate::wires::object::Object;
use crate::wires::{Countable, Observer, Reading, UsageSeen};

/// Events looked into for the model: Azure's first names an empty one, some servers name none ever.
const MODEL_LOOKS_MAX: u8 = 4;

/// Reads an answer.
#[derive(Debug)]
pub(super) struct Chat {
    operation: Operation,
    provider: String,
    model: Option<String>,
    model_looks: u8,
    service_tier: Option<String>,
    usage: Usage,
    timings: Usage,
    seen: UsageSeen,
    is_error: bool,
    is_finished: bool,
    is_terminal: bool,
    delivered: Delivered,
}

impl Chat {
    pub(super) fn new(operation: Operation, provider: &str) -> Self {
        Self {
            operation,
            provider: provider.to_owned(),
            model: None,
            model_looks: 0,
            service_tier: None,
            usage: Usage::default(),
            timings: Usage::default(),
            seen: UsageSeen::Nothing,
            is_error: false,
            is_finished: false,
            is_terminal: false,
            delivered: Delivered::new(read_text),
        }
    }

    fn read(&mut self, unit: &[u8]) {
        let Some(object) = Object::parse(unit) else { return };
        self.model = self.model.take().or_else(|| object.text("model"));
        self.service_tier = object.text("service_tier").or_else(|| self.service_tier.take());
        self.is_error |= object.get("error").is_some() || object.text("object").is_some_and(|kind| kind == "error");
        let choices: Vec<Object<'_>> = object.objects("choices").collect();
        self.is_finished |= choices.iter().any(|choice| choice.get("finish_reason").is_some());
        let is_last_word =
            self.is_finished || choices.iter().all(|choice| choice.get_any(&["delta", "text"]).is_none());
        // The exact places only: `tool_usage` and its like are look-alikes. Moonshot puts it into the choice.
        let told = [
            object.get("usage"),
            object.object("x_groq").and_then(|groq| groq.get("usage")),
            choices.first().and_then(|choice| choice.get("usage")),
        ];
        let has_told = told.into_iter().flatten().next().is_some_and(|usage| self.usage.take(usage));
        let has_timings = object.get("timings").is_some_and(|timings| self.timings.take_timings(timings));
        if has_told || has_timings {
            self.seen =
                if is_last_word || self.seen == UsageSeen::Final { UsageSeen::Final } else { UsageSeen::Interim };
        }
    }
}

impl Observer for Chat {
    fn unit(&mut self, data: &[u8]) {
        if data == b"[DONE]" {
            self.is_terminal = true;
            self.is_finished = true;
            if self.seen == UsageSeen::Interim {
                self.seen = UsageSeen::Final;
            }
            return;
        }
        let looks_for_model = self.model.is_none() && self.model_looks < MODEL_LOOKS_MAX;
        self.model_looks = self.model_looks.saturating_add(u8::from(looks_for_model));
        if looks_for_model
            || markers::has_value(&markers::USAGE, data)
            || markers::has_value(&markers::FINISH_REASON, data)
            || markers::has_value(&markers::TIMINGS, data)
            || markers::has_value(&markers::ERROR, data)
        {
            self.read(data);
        }
        if self.operation != Operation::Embeddings {
            self.delivered.push(data);
        }
    }

    fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    fn reading(&self) -> Reading {
        // llama.cpp's timings stand in where there is no usage.
        let usage = if self.usage.raw().is_some() { &self.usage } else { &self.timings };
        let (tokens, anomaly) = usage.tokens(self.operation, &self.provider, self.model.as_deref().unwrap_or_default());
        Reading {
            model: self.model.clone(),
            usage: self.seen,
            tokens,
            usage_raw: usage.raw(),
            units: usage.units(),
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
    // Perplexity sends both: beside an increment the message so far, beside a whole message an empty increment.
    let names = if object.text("object").is_some_and(|kind| kind == "chat.completion") {
        ["message", "delta"]
    } else {
        ["delta", "message"]
    };
    for choice in object.objects("choices") {
        text.push_raw(choice.get("text"));
        let Some(message) = names.into_iter().find_map(|name| choice.object(name)) else { continue };
        // Some servers send the same reasoning under two names.
        let names = ["reasoning_content", "reasoning", "thinking"];
        text.push_str(&names.iter().find_map(|name| message.text(name)).unwrap_or_default());
        match message.get("content") {
            Some(parts) if parts.get().starts_with('[') => {
                message.objects("content").for_each(|part| read_part(&part, text));
            }
            content => text.push_raw(content),
        }
        text.push_raw(message.get("refusal"));
        text.push_raw(message.object("audio").and_then(|audio| audio.get("transcript")));
        let calls = message.objects("tool_calls").filter_map(|call| call.object("function"));
        for call in calls.chain(message.object("function_call")) {
            text.push_raw(call.get("name"));
            text.push_raw(call.get("arguments"));
        }
    }
}

/// A part of a content array; Mistral nests its thinking in another array.
fn read_part(part: &Object<'_>, text: &mut Text) {
    text.push_raw(part.get("text"));
    for inner in part.objects("thinking") {
        text.push_raw(inner.get("text"));
    }
}
