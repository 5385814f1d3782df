//! Vendors whose bodies have counts, if any, beside their text: Titan, Llama, Cohere, and texts of Mistral, AI21 and
//! Claude that count nothing.

use serde_json::value::RawValue;

use crate::framing::compact::compacted;
use crate::operation::Operation;
use crate::wires::delivered::{Delivered, Text};
use crate::wires::object::{Count, Object};
use crate::wires::retold::Retold;
use crate::wires::told::{Cached, Told};
use crate::wires::{Reading, UsageSeen};

/// Names of the prompt's tokens: Titan's, Llama's.
const INPUT: [&str; 2] = ["inputTextTokenCount", "prompt_token_count"];
/// Names of the generated tokens: Titan's in a stream, Llama's.
const OUTPUT: [&str; 2] = ["totalOutputTextTokenCount", "generation_token_count"];
/// Members that are not null once the model has finished.
const ENDS: [&str; 3] = ["completionReason", "stop_reason", "finish_reason"];

/// Reads an answer.
#[derive(Debug)]
pub(super) struct Plain {
    operation: Operation,
    told: Told,
    /// Each count by its name, as last told.
    raws: Vec<(&'static str, String)>,
    is_finished: bool,
    retold: Retold,
    delivered: Delivered,
}

impl Plain {
    pub(super) fn new(operation: Operation) -> Self {
        Self {
            operation,
            told: Told::default(),
            raws: Vec::new(),
            is_finished: false,
            // It may show another vendor's shape.
            retold: Retold::new(&["type"]),
            delivered: Delivered::new(read_text),
        }
    }

    /// Takes a chunk unread, if it tells the same members as the one before again.
    pub(super) fn takes(&mut self, json: &[u8]) -> bool {
        let takes = self.retold.takes(json);
        if takes {
            self.deliver(json);
        }
        takes
    }

    /// Reads a body, or a chunk of one.
    pub(super) fn read(&mut self, json: &[u8], is_whole: bool) {
        self.settle();
        let Some(object) = Object::parse(json) else { return };
        self.is_finished |= is_whole;
        self.read_counts(&object);
        self.retold.hold(json);
        self.deliver(json);
    }

    /// Reads what is held unread.
    fn settle(&mut self) {
        let mut retold = std::mem::take(&mut self.retold);
        retold.settle(|json| {
            if let Some(object) = Object::parse(json) {
                self.read_counts(&object);
            }
        });
        self.retold = retold;
    }

    fn read_counts(&mut self, object: &Object<'_>) {
        self.is_finished |= object.get_any(&ENDS).is_some();
        let mut told = Told::default();
        told.input = told.first(Some(object), &INPUT);
        told.output = told.first(Some(object), &OUTPUT);
        for name in INPUT.into_iter().chain(OUTPUT) {
            self.keep(name, object.get(name));
        }
        self.told.merge(told);
        self.read_results(object);
        // Cohere's last chunk holds the whole response.
        self.read_cohere(object.object("response").as_ref().unwrap_or(object));
    }

    fn deliver(&mut self, json: &[u8]) {
        if self.operation != Operation::Embeddings {
            self.delivered.push(json);
        }
    }

    /// The operation, as long as nothing was counted: something else may still show what it is.
    pub(super) fn undecided(&self) -> Option<Operation> {
        self.told.is_empty().then_some(self.operation)
    }

    /// Titan counts each of its results.
    fn read_results(&mut self, object: &Object<'_>) {
        let mut told = Told::default();
        for result in object.objects("results") {
            if let Some(count) = told.first(Some(&result), &["tokenCount"]) {
                told.output = Some(told.output.unwrap_or(0).saturating_add(count));
            }
        }
        if let Some(sum) = told.output {
            self.raws.retain(|(known, _)| *known != "tokenCount");
            self.raws.push(("tokenCount", sum.to_string()));
        }
        self.told.merge(told);
    }

    /// Cohere counts what its model read and, fewer, what it bills.
    fn read_cohere(&mut self, response: &Object<'_>) {
        let meta = response.object("meta");
        let of_meta = |name| meta.as_ref().and_then(|meta: &Object<'_>| meta.object(name));
        let places = [response.object("token_count"), of_meta("tokens"), of_meta("billed_units")];
        let mut told = Told::default();
        for place in &places {
            told.input = told.input.or(told.first(place.as_ref(), &["input_tokens", "prompt_tokens"]));
            told.output = told.output.or(told.first(place.as_ref(), &["output_tokens", "response_tokens"]));
        }
        if !told.is_empty() {
            self.keep("token_count", response.get("token_count"));
            self.keep("meta", response.get("meta"));
        }
        self.told.merge(told);
    }

    fn keep(&mut self, name: &'static str, raw: Option<&RawValue>) {
        let Some(raw) = raw else { return };
        self.raws.retain(|(known, _)| *known != name);
        self.raws.push((name, raw.get().to_owned()));
    }

    /// One object of the counts by their names.
    fn raw(&self) -> Option<Box<RawValue>> {
        let members: Vec<String> = self.raws.iter().map(|(name, raw)| format!("\"{name}\":{raw}")).collect();
        if members.is_empty() { None } else { compacted(&format!("{{{}}}", members.join(","))) }
    }

    pub(super) fn reading(&mut self) -> Reading {
        self.settle();
        let (tokens, anomaly) = self.told.disjoint(Cached::Beside);
        let usage = match (self.told.is_empty(), self.is_finished) {
            (true, _) => UsageSeen::Nothing,
            (false, true) => UsageSeen::Final,
            (false, false) => UsageSeen::Interim,
        };
        let is_finished = self.is_finished;
        Reading { usage, tokens, usage_raw: self.raw(), anomaly, is_finished, ..Reading::default() }
    }

    pub(super) fn kept(&self) -> &Delivered {
        &self.delivered
    }
}

fn read_text(unit: &[u8], text: &mut Text) {
    let Some(object) = Object::parse(unit) else { return };
    for name in ["outputText", "generation", "completion", "text"] {
        text.push_raw(object.get(name));
    }
    for (name, member) in [("results", "outputText"), ("outputs", "text"), ("generations", "text")] {
        for (choice, one) in (0..).zip(object.objects(name)) {
            text.of_choice(Count::Of(choice));
            text.push_raw(one.get(member));
        }
    }
    for (choice, completion) in (0..).zip(object.objects("completions")) {
        text.of_choice(Count::Of(choice));
        text.push_raw(completion.object("data").and_then(|data| data.get("text")));
    }
}
