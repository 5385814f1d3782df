//! Interactions: whole, or as events of which the last carries the interaction with its usage. One that goes on in the
//! background answers without, and tells it when it is fetched.

use crate::framing::compact::compacted;
use crate::usage::{Anomaly, Units};
use crate::wires::delivered::{Delivered, Text};
use crate::wires::object::{Count, Object};
use crate::wires::told::{Cached, Told};
use crate::wires::{Job, Observer, Reading, UsageSeen, markers};

/// Reads an answer.
#[derive(Debug)]
pub(super) struct Interaction {
    model: Option<String>,
    service_tier: Option<String>,
    /// Input includes what tools put into the prompt, output what was thought.
    told: Told,
    differs: Option<Anomaly>,
    units: Units,
    raw: String,
    job: Option<Job>,
    is_error: bool,
    is_terminal: bool,
    delivered: Delivered,
}

impl Default for Interaction {
    fn default() -> Self {
        Self {
            model: None,
            service_tier: None,
            told: Told::default(),
            differs: None,
            units: Units::new(),
            raw: String::new(),
            job: None,
            is_error: false,
            is_terminal: false,
            delivered: Delivered::new(read_text),
        }
    }
}

impl Interaction {
    fn read(&mut self, object: &Object<'_>) {
        self.is_error |= object.get("error").is_some();
        let event = object.text("event_type");
        match (&event, object.object("interaction")) {
            (_, Some(interaction)) => self.take(&interaction),
            (None, None) => self.take(object),
            (Some(_), None) => {}
        }
        // Whatever the last event is called, it is the one whose interaction is over.
        self.is_terminal |= event.is_some() && self.job.as_ref().is_some_and(|job| job.is_over);
        self.is_terminal |= matches!(event.as_deref(), Some("interaction.complete" | "interaction.completed"));
    }

    fn take(&mut self, interaction: &Object<'_>) {
        // An agent stands in a model's place.
        let model = interaction.text("model").or_else(|| interaction.text("agent"));
        self.model = model.or_else(|| self.model.take());
        self.service_tier = interaction.text("service_tier").or_else(|| self.service_tier.take());
        if let Some(status) = interaction.text("status") {
            let is_over = !matches!(status.as_str(), "in_progress" | "queued");
            self.is_error |= status == "failed";
            // One that is not stored has no id, and no one can fetch it.
            self.job = interaction.text("id").map(|id| Job { id, is_over });
        }
        if let Some(raw) = interaction.get("usage") {
            self.take_usage(raw.get());
        }
    }

    fn take_usage(&mut self, raw: &str) {
        let Some(usage) = Object::parse(raw.as_bytes()) else { return };
        let mut told = Told::default();
        let of = Some(&usage);
        let prompt = told.first(of, &["total_input_tokens"]);
        let of_tools = told.first(of, &["total_tool_use_tokens"]);
        let answer = told.first(of, &["total_output_tokens"]);
        told.reasoning = told.first(of, &["total_thought_tokens", "total_reasoning_tokens"]);
        told.cache_read = told.first(of, &["total_cached_tokens"]);
        told.total = told.first(of, &["total_tokens"]);
        told.input = sum(prompt, of_tools);
        told.output = sum(answer, told.reasoning);
        told.audio_input = modality(&usage, "input_tokens_by_modality", "audio");
        told.image_input = modality(&usage, "input_tokens_by_modality", "image");
        told.audio_output = modality(&usage, "output_tokens_by_modality", "audio");
        told.image_output = modality(&usage, "output_tokens_by_modality", "image");
        if told.is_empty() {
            self.told.is_invalid |= told.is_invalid;
            return;
        }
        self.told.merge(told);
        self.differs = self.told.excess().filter(|excess| *excess != 0).map(|_| Anomaly::TotalDiffers);
        let searches = usage.objects("grounding_tool_count").filter_map(|tool| match tool.count("count") {
            Count::Of(count) if tool.text("type").as_deref() == Some("google_search") => Some(count),
            Count::Of(_) | Count::Absent | Count::Invalid => None,
        });
        let searches = searches.fold(0, u64::saturating_add);
        if searches > 0 {
            self.units.insert("searches".to_owned(), searches);
        }
        self.raw.clear();
        self.raw.push_str(raw);
    }
}

/// The sum of what is known; `None` where nothing is.
fn sum(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    one.map_or(other, |one| Some(one.saturating_add(other.unwrap_or(0))))
}

fn modality(usage: &Object<'_>, name: &str, kind: &str) -> Option<u64> {
    usage
        .objects(name)
        .filter(|part| part.text("modality").is_some_and(|modality| modality.eq_ignore_ascii_case(kind)))
        .filter_map(|part| match part.count("tokens") {
            Count::Of(tokens) => Some(tokens),
            Count::Absent | Count::Invalid => None,
        })
        .reduce(u64::saturating_add)
}

impl Observer for Interaction {
    fn unit(&mut self, data: &[u8]) {
        let is_text = markers::STEP_DELTA.find(data).is_some() && markers::USAGE.find(data).is_none();
        if !is_text && let Some(object) = Object::parse(data) {
            self.read(&object);
        }
        // A stream's last event may repeat what the steps said.
        if !self.is_terminal {
            self.delivered.push(data);
        }
    }

    fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    fn reading(&mut self) -> Reading {
        let (tokens, anomaly) = self.told.disjoint(Cached::Within);
        let is_over = self.is_terminal || self.job.as_ref().is_none_or(|job| job.is_over);
        let usage = match (self.told.is_empty(), is_over) {
            (true, _) => UsageSeen::Nothing,
            (false, true) => UsageSeen::Final,
            (false, false) => UsageSeen::Interim,
        };
        Reading {
            model: self.model.clone(),
            usage,
            tokens,
            usage_raw: compacted(&self.raw),
            units: self.units.clone(),
            service_tier: self.service_tier.clone(),
            anomaly: anomaly.or(self.differs),
            is_error: self.is_error,
            is_finished: self.is_terminal,
            job: self.job.clone(),
        }
    }

    fn kept(&self) -> Option<&Delivered> {
        Some(&self.delivered)
    }
}

fn read_text(unit: &[u8], text: &mut Text) {
    let Some(object) = Object::parse(unit) else { return };
    // Events of a stream.
    for piece in [object.object("step"), object.object("delta")].into_iter().flatten() {
        read_step(&piece, object.count("index"), text);
    }
    // A whole interaction; what it was asked may be repeated among its steps.
    for (number, step) in (0..).zip(object.objects("steps").chain(object.objects("outputs"))) {
        read_step(&step, Count::Of(number), text);
    }
}

/// A step, or a piece of one: text, thoughts in short, a call. What tools answered is no output, nor what was asked.
fn read_step(step: &Object<'_>, number: Count, text: &mut Text) {
    let kind = step.text("type").unwrap_or_default();
    if kind.ends_with("_input") || kind.ends_with("_result") {
        return;
    }
    let is_thought = kind.contains("thought");
    let pieces = ["content", "summary", "parts"].into_iter().flat_map(|name| step.objects(name));
    let pieces = pieces.chain(step.object("content"));
    let texts = pieces.map(|piece| piece.get("text")).chain([step.get("text")]);
    texts.for_each(|piece| if is_thought { text.think(piece) } else { text.push_raw(piece) });
    // The arguments of a call that is just beginning are empty, and said later.
    text.call(number, step.get("name"), step.get("arguments").filter(|arguments| arguments.get() != "{}"));
}
