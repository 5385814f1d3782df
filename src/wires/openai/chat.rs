//! Chat completions, legacy completions and embeddings: one shape of answer.

use std::sync::LazyLock;

use super::answer::Answer;
use super::llama::Llama;
use crate::operation::Operation;
use crate::wires::delivered::{Delivered, Text};
use crate::wires::markers::{self, Markers};
use crate::wires::object::{Count, Object};
use crate::wires::retold::Retold;
use crate::wires::{Observer, Reading, UsageSeen};

/// Events looked into for the model: Azure's first names an empty one, some servers name none ever.
const MODEL_LOOKS_MAX: u8 = 4;

/// Whose usage it is, what kind of answer, and what is not simply the last that was told: the first model named stays,
/// seconds may be written as text, and llama.cpp tells what it read from its cache by what it did not.
const DECISIVE: &[&str] = &["index", "object", "model", "seconds", "prompt_n"];

/// What an event tells that is more than text.
static TELLING: LazyLock<Markers> = LazyLock::new(|| {
    Markers::new(&[
        &markers::USAGE,
        &markers::FINISH_REASON,
        &markers::TIMINGS,
        &markers::TOKENS_PREDICTED,
        &markers::ERROR,
    ])
});

/// Reads an answer.
#[derive(Debug)]
pub(super) struct Chat {
    answer: Answer,
    model_looks: u8,
    llama: Llama,
    choices: Choices,
    retold: Retold,
    delivered: Delivered,
}

/// Which of a stream's choices began and ended, as far as events were looked into.
#[derive(Debug, Default)]
struct Choices {
    begun: u128,
    ended: u128,
}

impl Choices {
    fn take(&mut self, choices: &[Object<'_>]) {
        for choice in choices {
            let index = match choice.count("index") {
                Count::Of(index) => u32::try_from(index).unwrap_or(u32::MAX),
                Count::Absent | Count::Invalid => 0,
            };
            // No provider makes 128 choices of one call; the last stands for all beyond.
            let bit = 1_u128 << index.min(u128::BITS - 1);
            self.begun |= bit;
            if choice.get("finish_reason").is_some() {
                self.ended |= bit;
            }
        }
    }

    /// Whether every choice that began has ended.
    fn are_finished(&self) -> bool {
        self.begun != 0 && self.begun == self.ended
    }
}

impl Chat {
    pub(super) fn new(operation: Operation, provider: &str) -> Self {
        Self {
            answer: Answer::new(operation, provider),
            model_looks: 0,
            llama: Llama::default(),
            choices: Choices::default(),
            retold: Retold::new(DECISIVE),
            delivered: Delivered::new(read_text),
        }
    }

    fn read(&mut self, unit: &[u8]) {
        let Some(object) = Object::parse(unit) else { return };
        let answer = &mut self.answer;
        // The first that names itself: later events of some gateways name an alias.
        let model = answer.model.take();
        answer.take_head(&object);
        answer.model = model.or_else(|| answer.model.take());
        answer.is_error |= object.get("object").is_some_and(|kind| kind.get() == "\"error\"");
        let choices: Vec<Object<'_>> = object.objects("choices").collect();
        self.choices.take(&choices);
        let is_native = self.llama.take_native(&object);
        answer.is_finished = answer.is_terminal
            || self.choices.are_finished()
            || (is_native && object.get("stop").is_some_and(|stop| stop.get() == "true"));
        // vLLM may tell each choice's own usage as it goes: with several, what follows them all is the sum.
        let is_last_word = answer.is_finished
            || (!is_native && choices.iter().all(|choice| choice.get_any(&["delta", "text"]).is_none()));
        // The exact places only: `tool_usage` and its like are look-alikes. Moonshot puts it into the choice.
        let told = [
            object.get("usage"),
            object.object("x_groq").and_then(|groq| groq.get("usage")),
            choices.first().and_then(|choice| choice.get("usage")),
        ];
        // The first that tells anything: an empty object is no telling.
        let has_told = told.into_iter().flatten().any(|usage| answer.usage.take(usage));
        let choice = choices.first().map_or(Count::Absent, |choice| choice.count("index"));
        let choice = if let Count::Of(index) = choice { index } else { 0 };
        let has_timings =
            !is_native && object.get("timings").is_some_and(|timings| self.llama.take_timings(choice, timings));
        if has_told || is_native || has_timings {
            let is_final = is_last_word || answer.seen == UsageSeen::Final;
            answer.seen = if is_final { UsageSeen::Final } else { UsageSeen::Interim };
        }
    }

    /// Reads what is held unread.
    fn settle(&mut self) {
        let mut retold = std::mem::take(&mut self.retold);
        retold.settle(|unit| self.read(unit));
        self.retold = retold;
    }
}

impl Observer for Chat {
    fn unit(&mut self, data: &[u8]) {
        if data == b"[DONE]" {
            self.settle();
            let answer = &mut self.answer;
            answer.is_terminal = true;
            answer.is_finished = true;
            if answer.seen == UsageSeen::Interim {
                answer.seen = UsageSeen::Final;
            }
            return;
        }
        let answer = &self.answer;
        let looks_for_model = answer.model.is_none() && self.model_looks < MODEL_LOOKS_MAX;
        let is_embedding = answer.operation == Operation::Embeddings;
        self.model_looks = self.model_looks.saturating_add(u8::from(looks_for_model));
        if TELLING.any_has_value(data) {
            let mut retold = std::mem::take(&mut self.retold);
            retold.show(data, |unit| self.read(unit));
            self.retold = retold;
        } else if looks_for_model {
            self.settle();
            self.read(data);
        }
        if !is_embedding {
            self.delivered.push(data);
        }
    }

    fn is_terminal(&self) -> bool {
        self.answer.is_terminal
    }

    fn reading(&mut self) -> Reading {
        self.settle();
        let is_reported = self.answer.usage.raw().is_some();
        self.answer.reading_by(if is_reported { &self.answer.usage } else { self.llama.usage() })
    }

    fn kept(&self) -> Option<&Delivered> {
        Some(&self.delivered)
    }
}

fn read_text(unit: &[u8], text: &mut Text) {
    let Some(object) = Object::parse(unit) else { return };
    if object.get("choices").is_none() {
        // llama.cpp's native answer.
        text.push_raw(object.get("content"));
    }
    // Perplexity sends both: beside an increment the message so far, beside a whole message an empty increment.
    let names = if object.text("object").is_some_and(|kind| kind == "chat.completion") {
        ["message", "delta"]
    } else {
        ["delta", "message"]
    };
    for choice in object.objects("choices") {
        text.of_choice(choice.count("index"));
        text.push_raw(choice.get("text"));
        let Some(message) = names.into_iter().find_map(|name| choice.object(name)) else { continue };
        // Some servers send the same reasoning under two names.
        let names = ["reasoning_content", "reasoning", "thinking"];
        text.think(names.iter().find_map(|name| message.get(name).filter(|said| said.get() != "\"\"")));
        match message.get("content") {
            Some(parts) if parts.get().starts_with('[') => {
                message.objects("content").for_each(|part| read_part(&part, text));
            }
            content => text.push_raw(content),
        }
        text.push_raw(message.get("refusal"));
        text.push_raw(message.object("audio").and_then(|audio| audio.get("transcript")));
        for call in message.objects("tool_calls") {
            let function = call.object("function").or_else(|| call.object("custom"));
            let of_function = |name| function.as_ref().and_then(|function| function.get(name));
            text.call(call.count("index"), of_function("name"), of_function("arguments").or(of_function("input")));
        }
        if let Some(function) = message.object("function_call") {
            text.call(Count::Of(0), function.get("name"), function.get("arguments"));
        }
    }
}

/// A part of a content array; Mistral nests its thinking in another array.
fn read_part(part: &Object<'_>, text: &mut Text) {
    text.push_raw(part.get("text"));
    for inner in part.objects("thinking") {
        text.think(inner.get("text"));
    }
}
