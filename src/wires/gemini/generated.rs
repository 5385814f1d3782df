//! Reads what was generated, embedded or predicted: usage comes in every chunk, and nothing marks the last one.

use super::batch::Results;
use super::predictions::Predictions;
use super::usage::{Parts, service_tier};
use crate::framing::compact::compacted;
use crate::operation::Operation;
use crate::usage::Units;
use crate::wires::delivered::{Delivered, Text};
use crate::wires::object::{Count, Object};
use crate::wires::retold::Retold;
use crate::wires::told::Cached;
use crate::wires::{Observer, Reading, UsageSeen, markers};

/// What counts are of, what a tier is told by, and what makes an answer a batch.
const DECISIVE: &[&str] = &["modality", "trafficType", "traffic_type", "name"];

/// Reads an answer.
#[derive(Debug)]
pub(super) struct Generated {
    operation: Operation,
    model: Option<String>,
    service_tier: Option<String>,
    /// All chunks' usage, merged.
    merged: Parts,
    /// The last chunk's alone.
    last: Parts,
    raw: String,
    units: Units,
    seen: UsageSeen,
    is_error: bool,
    has_ended: bool,
    /// What stands here is a whole batch.
    batch: Option<Results>,
    retold: Retold,
    delivered: Delivered,
}

impl Generated {
    pub(super) fn new(operation: Operation) -> Self {
        Self {
            operation,
            model: None,
            service_tier: None,
            merged: Parts::default(),
            last: Parts::default(),
            raw: String::new(),
            units: Units::new(),
            seen: UsageSeen::Nothing,
            is_error: false,
            // Vectors have no reason to finish.
            has_ended: operation == Operation::Embeddings,
            batch: None,
            retold: Retold::new(DECISIVE),
            delivered: Delivered::new(read_text),
        }
    }

    fn read(&mut self, unit: &[u8]) {
        let Some(object) = Object::parse(unit) else { return };
        let model = object.text("modelVersion").or_else(|| object.text("model_version"));
        self.model = model.or_else(|| self.model.take());
        self.is_error |= object.get("error").is_some();
        let is_blocked = object.object("promptFeedback").is_some_and(|feedback| feedback.get("blockReason").is_some());
        let has_finished = object
            .objects("candidates")
            .any(|candidate| candidate.get_any(&["finishReason", "finish_reason"]).is_some());
        self.has_ended |= is_blocked || has_finished;
        if let Some(raw) = object.get_any(&["usageMetadata", "usage_metadata"]) {
            self.take(raw.get());
            // Nothing is generated beside it, or so much that it was not kept: an image in a whole answer.
            self.has_ended |= object.get("candidates").is_none();
        }
        let predictions = Predictions::of(&object);
        self.units.extend(predictions.units);
        if let Some(raw) = predictions.raw {
            self.merged.told.merge(predictions.told);
            self.raw = raw;
            self.seen = UsageSeen::Final;
        }
        self.batch = Results::of_batch(&object).or_else(|| self.batch.take());
        if self.has_ended && self.seen == UsageSeen::Interim {
            self.seen = UsageSeen::Final;
        }
        if markers::WEB_SEARCH_QUERIES.find(unit).is_some() {
            self.take_searches(&object);
        }
    }

    fn take(&mut self, raw: &str) {
        let Some(usage) = Object::parse(raw.as_bytes()) else { return };
        self.service_tier = service_tier(&usage).or_else(|| self.service_tier.take());
        let parts = Parts::of(&usage);
        if parts.told.is_empty() && parts.tool_prompt.is_none() {
            self.merged.told.is_invalid |= parts.told.is_invalid;
            return;
        }
        self.merged.merge(parts);
        self.last = parts;
        self.raw.clear();
        self.raw.push_str(raw);
        if self.seen == UsageSeen::Nothing {
            self.seen = UsageSeen::Interim;
        }
    }

    /// Searches made to ground the answer: the list is repeated as it grows.
    fn take_searches(&mut self, object: &Object<'_>) {
        let made = object.objects("candidates").filter_map(|candidate| {
            let grounding = candidate.object("groundingMetadata").or_else(|| candidate.object("grounding_metadata"))?;
            let queries = ["webSearchQueries", "web_search_queries"].map(|name| grounding.elements(name).len());
            queries.into_iter().max().and_then(|queries| u64::try_from(queries).ok())
        });
        let made = made.fold(0, u64::saturating_add);
        if made > 0 {
            self.units.insert("searches".to_owned(), made);
        }
    }
}

impl Observer for Generated {
    fn unit(&mut self, data: &[u8]) {
        let mut retold = std::mem::take(&mut self.retold);
        retold.show(data, |unit| self.read(unit));
        self.retold = retold;
        if self.operation == Operation::GenerateContent {
            self.delivered.push(data);
        }
    }

    fn is_terminal(&self) -> bool {
        false
    }

    fn reading(&mut self) -> Reading {
        let mut retold = std::mem::take(&mut self.retold);
        retold.settle(|unit| self.read(unit));
        self.retold = retold;
        if let Some(batch) = &mut self.batch {
            return batch.reading();
        }
        // A count that the last chunk leaves out may have become zero: the total tells.
        let is_last_right = self.last.told.total.is_some() && self.last.adds_up() && !self.merged.adds_up();
        let parts = if is_last_right { self.last } else { self.merged };
        let (told, differs) = parts.settled();
        let (tokens, anomaly) = told.disjoint(Cached::Within);
        Reading {
            model: self.model.clone(),
            usage: self.seen,
            tokens,
            usage_raw: compacted(&self.raw),
            units: self.units.clone(),
            service_tier: self.service_tier.clone(),
            anomaly: anomaly.or(differs),
            is_error: self.is_error,
            is_finished: self.has_ended && self.seen == UsageSeen::Final,
            job: None,
        }
    }

    fn kept(&self) -> Option<&Delivered> {
        Some(&self.delivered)
    }
}

fn read_text(unit: &[u8], text: &mut Text) {
    let Some(object) = Object::parse(unit) else { return };
    for candidate in object.objects("candidates") {
        text.of_choice(candidate.count("index"));
        let Some(content) = candidate.object("content") else { continue };
        content.objects("parts").for_each(|part| read_part(&part, text));
    }
}

/// Text, a thought in short, a call, or code that the model had run. What the code said is no output.
fn read_part(part: &Object<'_>, text: &mut Text) {
    if part.get("thought").is_some_and(|thought| thought.get() == "true") {
        text.think(part.get("text"));
    } else {
        text.push_raw(part.get("text"));
    }
    if let Some(call) = part.object("functionCall") {
        text.call(Count::Absent, call.get("name"), call.get("args"));
    }
    if let Some(code) = part.object("executableCode") {
        text.push_raw(code.get("code"));
    }
}
