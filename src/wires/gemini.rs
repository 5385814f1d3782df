//! Gemini: `generateContent` and its kin. The model is in the path; usage comes in every chunk, and nothing marks the
//! last one.

mod prompt;

use http::Method;
use serde_json::{Value, json};

use super::delivered::{Delivered, Text};
use super::object::{Count, Object};
use super::told::{Cached, Told};
use super::{Countable, CredentialHeader, Exchange, Observer, Reading, UsageSeen, Wire};
use crate::framing::compact::compacted;
use crate::operation::Operation;
use crate::usage::{Anomaly, Units};

/// The wire.
#[derive(Debug)]
pub struct Gemini;

const MEMBERS: &[&str] =
    &["usageMetadata", "usage_metadata", "modelVersion", "model_version", "promptFeedback", "error", "candidates"];

/// Collections whose members have methods.
const COLLECTIONS: [&str; 3] = ["models", "tunedModels", "endpoints"];

impl Wire for Gemini {
    fn name(&self) -> &'static str {
        "gemini"
    }

    fn recognise<'a>(&self, method: &Method, path: &'a str) -> Option<Exchange<'a>> {
        let (rest, verb) = path.rsplit_once(':')?;
        let (operation, stream) = match verb {
            "generateContent" => (Operation::GenerateContent, Some(false)),
            "streamGenerateContent" => (Operation::GenerateContent, Some(true)),
            "embedContent" | "batchEmbedContents" => (Operation::Embeddings, Some(false)),
            "countTokens" => (Operation::CountTokens, Some(false)),
            _ => return None,
        };
        let (collections, model) = rest.rsplit_once('/')?;
        let collection = collections.rsplit('/').next()?;
        (method == Method::POST && COLLECTIONS.contains(&collection)).then_some(Exchange {
            wire: &Self,
            operation,
            // An endpoint's number is no model.
            model_in_path: (collection != "endpoints").then_some(model),
            stream_in_path: stream,
        })
    }

    fn credential(&self) -> CredentialHeader {
        CredentialHeader { name: "x-goog-api-key", prefix: "" }
    }

    fn error_body(&self, status: u16, code: &str, message: &str) -> String {
        let name = match status {
            401 => "UNAUTHENTICATED",
            403 => "PERMISSION_DENIED",
            404 => "NOT_FOUND",
            429 => "RESOURCE_EXHAUSTED",
            502 | 503 => "UNAVAILABLE",
            504 => "DEADLINE_EXCEEDED",
            500.. => "INTERNAL",
            _ => "INVALID_ARGUMENT",
        };
        let detail = json!({
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": code.to_ascii_uppercase(),
            "domain": "tokenmeter",
        });
        json!({"error": {"code": status, "message": message, "status": name, "details": [detail]}}).to_string()
    }

    fn members(&self) -> &'static [&'static str] {
        MEMBERS
    }

    fn observer(&self, operation: Operation, _provider: &str) -> Box<dyn Observer> {
        Box::new(Generated::new(operation))
    }

    fn prompt(&self, _operation: Operation, body: &[u8]) -> Option<Countable> {
        prompt::of(body)
    }
}

/// Reads an answer.
#[derive(Debug)]
struct Generated {
    operation: Operation,
    model: Option<String>,
    service_tier: Option<String>,
    /// All chunks' usage, merged.
    merged: Parts,
    /// The last chunk's alone.
    last: Parts,
    raw: String,
    seen: UsageSeen,
    is_error: bool,
    has_ended: bool,
    delivered: Delivered,
}

/// Usage in Gemini's own parts. Each is absent when zero.
#[derive(Clone, Copy, Debug, Default)]
struct Parts {
    /// Input is the prompt, output the candidates, reasoning the thoughts.
    told: Told,
    /// What tools put into the prompt, counted beside it.
    tool_prompt: Option<u64>,
}

impl Parts {
    fn of(usage: &Object<'_>) -> Self {
        let mut told = Told::default();
        let of = Some(usage);
        told.input = told.first(of, &["promptTokenCount", "prompt_token_count"]);
        told.output = told.first(of, &["candidatesTokenCount", "candidates_token_count"]);
        told.total = told.first(of, &["totalTokenCount", "total_token_count"]);
        told.reasoning = told.first(of, &["thoughtsTokenCount", "thoughts_token_count"]);
        told.cache_read = told.first(of, &["cachedContentTokenCount", "cached_content_token_count"]);
        let tool_prompt = told.first(of, &["toolUsePromptTokenCount", "tool_use_prompt_token_count"]);
        let prompt_details = ["promptTokensDetails", "prompt_tokens_details"];
        let candidates_details = ["candidatesTokensDetails", "candidates_tokens_details"];
        told.audio_input = modality(usage, prompt_details, "\"AUDIO\"", "4");
        told.image_input = modality(usage, prompt_details, "\"IMAGE\"", "2");
        told.audio_output = modality(usage, candidates_details, "\"AUDIO\"", "4");
        told.image_output = modality(usage, candidates_details, "\"IMAGE\"", "2");
        Self { told, tool_prompt }
    }

    fn merge(&mut self, later: Self) {
        self.told.merge(later.told);
        self.tool_prompt = later.tool_prompt.or(self.tool_prompt);
    }

    /// Whether the parts add up to the total, where there is one.
    fn adds_up(&self) -> bool {
        self.told.total.is_none_or(|total| total == self.sum())
    }

    fn sum(&self) -> u64 {
        [self.told.input, self.told.output, self.told.reasoning, self.tool_prompt]
            .into_iter()
            .flatten()
            .fold(0, u64::saturating_add)
    }

    /// The counts in the convention of one input and one output, what is missing filled from the total.
    fn settled(&self) -> (Told, Option<Anomaly>) {
        let mut told = self.told;
        let mut anomaly = None;
        if told.input.is_none() && told.total.is_some_and(|total| total > self.sum()) {
            told.input = told.total.and_then(|total| total.checked_sub(self.sum()));
        } else if !self.adds_up() {
            anomaly = Some(Anomaly::TotalDiffers);
        }
        told.input = sum(told.input, self.tool_prompt);
        told.output = sum(told.output, told.reasoning);
        if told.output.is_none() && told.total.is_some() && told.total == told.input {
            told.output = Some(0);
        }
        (told, anomaly)
    }
}

/// The sum of what is known; `None` where nothing is.
fn sum(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    match (one, other) {
        (None, None) => None,
        (one, other) => Some(one.unwrap_or(0).saturating_add(other.unwrap_or(0))),
    }
}

/// The tokens of one modality, by its name or, where enums are sent as numbers, by its number.
fn modality(usage: &Object<'_>, names: [&str; 2], word: &str, number: &str) -> Option<u64> {
    let name = names.into_iter().find(|name| usage.get(name).is_some())?;
    usage
        .objects(name)
        .filter(|detail| detail.get("modality").is_some_and(|kind| kind.get() == word || kind.get() == number))
        .filter_map(|detail| match (detail.count("tokenCount"), detail.count("token_count")) {
            (Count::Of(count), _) | (_, Count::Of(count)) => Some(count),
            (Count::Absent | Count::Invalid, Count::Absent | Count::Invalid) => None,
        })
        .fold(None, |known, count| sum(known, Some(count)))
}

impl Generated {
    fn new(operation: Operation) -> Self {
        Self {
            operation,
            model: None,
            service_tier: None,
            merged: Parts::default(),
            last: Parts::default(),
            raw: String::new(),
            seen: UsageSeen::Nothing,
            is_error: false,
            // Vectors have no reason to finish.
            has_ended: operation == Operation::Embeddings,
            delivered: Delivered::new(read_text),
        }
    }

    fn read(&mut self, object: &Object<'_>) {
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
        if self.has_ended && self.seen == UsageSeen::Interim {
            self.seen = UsageSeen::Final;
        }
    }

    fn take(&mut self, raw: &str) {
        let Some(usage) = Object::parse(raw.as_bytes()) else { return };
        self.service_tier =
            usage.text("serviceTier").or_else(|| usage.text("service_tier")).or_else(|| self.service_tier.take());
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
}

impl Observer for Generated {
    fn unit(&mut self, data: &[u8]) {
        // Nearly every chunk carries usage, so there is nothing to look for before parsing.
        if let Some(object) = Object::parse(data) {
            self.read(&object);
        }
        if self.operation == Operation::GenerateContent {
            self.delivered.push(data);
        }
    }

    fn is_terminal(&self) -> bool {
        false
    }

    fn reading(&self) -> Reading {
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
            units: Units::new(),
            service_tier: self.service_tier.clone(),
            anomaly: anomaly.or(differs),
            is_error: self.is_error,
            is_finished: self.has_ended && self.seen == UsageSeen::Final,
        }
    }

    fn delivered(&self) -> Countable {
        self.delivered.countable()
    }
}

fn read_text(unit: &[u8], text: &mut Text) {
    let Ok(unit) = serde_json::from_slice::<Value>(unit) else { return };
    let candidates = unit.get("candidates").and_then(Value::as_array).into_iter().flatten();
    for part in candidates
        .filter_map(|candidate| candidate.get("content").and_then(|content| content.get("parts")))
        .filter_map(Value::as_array)
        .flatten()
    {
        prompt::read_part(part, text);
    }
}
