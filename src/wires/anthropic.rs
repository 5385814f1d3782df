//! Anthropic: Messages, and counting their tokens.
//!
//! Usage is spread: `message_start` tells the input, each `message_delta` the output so far, and sometimes more input
//! (platform.claude.com/docs/en/build-with-claude/streaming, read 2026-11-20).

mod prompt;

use http::Method;
use serde_json::json;
use serde_json::value::RawValue;

use super::delivered::{Delivered, Text};
use super::object::Object;
use super::told::{Cached, Told};
use super::{Countable, CredentialHeader, Exchange, Observer, Reading, UsageSeen, Wire, markers};
use crate::framing::compact::compacted;
use crate::operation::Operation;
use crate::usage::Units;

/// The wire.
#[derive(Debug)]
pub struct Anthropic;

const MEMBERS: &[&str] = &["type", "model", "usage", "stop_reason", "error", "content"];

impl Wire for Anthropic {
    fn name(&self) -> &'static str {
        "anthropic"
    }

    fn recognise<'a>(&self, method: &Method, path: &'a str) -> Option<Exchange<'a>> {
        let path = path.trim_end_matches('/');
        // OpenAI's assistants have threads of messages.
        if method != Method::POST || path.contains("/threads/") {
            return None;
        }
        if let Some((_, publication)) = path.split_once("/publishers/anthropic/models/") {
            return on_vertex(publication);
        }
        let operation = match path {
            _ if path.ends_with("/messages") => Operation::Chat,
            _ if path.ends_with("/messages/count_tokens") => Operation::CountTokens,
            _ => return None,
        };
        Some(Exchange { wire: &Self, operation, model_in_path: None, stream_in_path: None })
    }

    fn credential(&self) -> CredentialHeader {
        CredentialHeader { name: "x-api-key", prefix: "" }
    }

    fn error_body(&self, status: u16, code: &str, message: &str) -> String {
        let kind = match status {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            529 => "overloaded_error",
            500.. => "api_error",
            _ => "invalid_request_error",
        };
        json!({"type": "error", "error": {"type": kind, "message": message, "code": code}}).to_string()
    }

    fn members(&self) -> &'static [&'static str] {
        MEMBERS
    }

    fn observer(&self, _operation: Operation, _provider: &str) -> Box<dyn Observer> {
        Box::new(Messages::new())
    }

    fn prompt(&self, _operation: Operation, body: &[u8]) -> Option<Countable> {
        prompt::of(body)
    }
}

/// Claude on Vertex: `{model}:{verb}`, and the same bodies.
fn on_vertex(publication: &str) -> Option<Exchange<'_>> {
    let (model, verb) = publication.rsplit_once(':')?;
    let is_count = model.starts_with("count-tokens");
    let stream = match verb {
        "rawPredict" => false,
        "streamRawPredict" => true,
        _ => return None,
    };
    Some(Exchange {
        wire: &Anthropic,
        operation: if is_count { Operation::CountTokens } else { Operation::Chat },
        model_in_path: (!is_count).then_some(model),
        stream_in_path: Some(stream),
    })
}

/// Usage objects kept before they are merged into one.
const RAWS_MAX: usize = 4;

/// Reads an answer.
#[derive(Debug)]
struct Messages {
    model: Option<String>,
    service_tier: Option<String>,
    told: Told,
    /// The usage objects in their order.
    raws: Vec<String>,
    units: Units,
    seen: UsageSeen,
    is_error: bool,
    is_finished: bool,
    is_terminal: bool,
    delivered: Delivered,
}

impl Messages {
    fn new() -> Self {
        Self {
            model: None,
            service_tier: None,
            told: Told::default(),
            raws: Vec::new(),
            units: Units::new(),
            seen: UsageSeen::Nothing,
            is_error: false,
            is_finished: false,
            is_terminal: false,
            delivered: Delivered::new(read_text),
        }
    }

    fn read(&mut self, object: &Object<'_>) {
        match object.text("type").as_deref() {
            Some("message_start") => {
                if let Some(message) = object.object("message") {
                    self.model = message.text("model");
                    self.take(&message, UsageSeen::Interim);
                    // The first word on output is a token or so, whatever follows: no count of what was generated.
                    (self.told.output, self.told.reasoning) = (None, None);
                }
            }
            Some("message_delta") => {
                self.is_finished |= object.object("delta").is_some_and(|delta| delta.get("stop_reason").is_some());
                self.take(object, if self.is_finished { UsageSeen::Final } else { UsageSeen::Interim });
            }
            Some("message_stop") => {
                self.is_terminal = true;
                self.is_finished = true;
                if self.seen == UsageSeen::Interim && self.told.output.is_some() {
                    self.seen = UsageSeen::Final;
                }
            }
            Some("error") => self.is_error = true,
            Some("ping" | "content_block_start" | "content_block_delta" | "content_block_stop") => {}
            // A whole message.
            Some(_) | None => {
                self.model = object.text("model");
                self.is_error |= object.get("error").is_some();
                self.is_finished |= object.get("stop_reason").is_some();
                self.take(object, UsageSeen::Final);
            }
        }
    }

    fn take(&mut self, holder: &Object<'_>, seen: UsageSeen) {
        let Some(raw) = holder.get("usage") else { return };
        let Some(usage) = Object::parse(raw.get().as_bytes()) else { return };
        let mut told = Told::default();
        let split = usage.object("cache_creation");
        let (split, of) = (split.as_ref(), Some(&usage));
        told.input = told.first(of, &["input_tokens"]);
        told.output = told.first(of, &["output_tokens"]);
        told.cache_read = told.first(of, &["cache_read_input_tokens"]);
        told.cache_write = told.first(of, &["cache_creation_input_tokens"]);
        told.cache_write_1h = told.first(split, &["ephemeral_1h_input_tokens"]);
        if told.cache_write.is_none() {
            let written_5m = told.first(split, &["ephemeral_5m_input_tokens"]);
            told.cache_write = match (written_5m, told.cache_write_1h) {
                (None, None) => None,
                (short, long) => Some(short.unwrap_or(0).saturating_add(long.unwrap_or(0))),
            };
        }
        told.reasoning = told.first(usage.object("output_tokens_details").as_ref(), &["thinking_tokens"]);
        if told.is_empty() {
            self.told.is_invalid |= told.is_invalid;
            return;
        }
        self.told.merge(told);
        self.service_tier = usage.text("service_tier").or_else(|| self.service_tier.take());
        self.take_units(&usage);
        self.seen = if self.seen == UsageSeen::Final { UsageSeen::Final } else { seen };
        if self.raws.len() >= RAWS_MAX {
            let merged = merged(&self.raws);
            self.raws = merged.into_iter().collect();
        }
        self.raws.push(raw.get().to_owned());
    }

    /// Searches, and what iterations of another kind consumed: compaction and advisors are not in the top-level
    /// counts, and have prices of their own.
    fn take_units(&mut self, usage: &Object<'_>) {
        let mut counts = Told::default();
        let tools = usage.object("server_tool_use");
        let searches = counts.first(tools.as_ref(), &["web_search_requests"]);
        let mut beside = [0_u64; 2];
        for iteration in usage.objects("iterations") {
            if matches!(iteration.text("type").as_deref(), Some("compaction" | "advisor_message")) {
                for (sum, name) in beside.iter_mut().zip(["input_tokens", "output_tokens"]) {
                    *sum = sum.saturating_add(counts.first(Some(&iteration), &[name]).unwrap_or(0));
                }
            }
        }
        let [input, output] = beside;
        let named = [("searches", searches.unwrap_or(0)), ("side_input_tokens", input), ("side_output_tokens", output)];
        for (name, count) in named.into_iter().filter(|(_, count)| *count > 0) {
            self.units.insert(name.to_owned(), count);
        }
    }
}

/// One object of the last value of each member that is not null.
fn merged(raws: &[String]) -> Option<String> {
    let mut members: Vec<(String, &RawValue)> = Vec::new();
    for (name, value) in raws.iter().filter_map(|raw| Object::parse(raw.as_bytes())).flat_map(Object::members) {
        match members.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) if value.get() != "null" => *known = value,
            Some(_) => {}
            None => members.push((name.into_owned(), value)),
        }
    }
    let mut object = String::from("{");
    for (name, value) in members {
        if object.len() > 1 {
            object.push(',');
        }
        object.push_str(&serde_json::to_string(&name).ok()?);
        object.push(':');
        object.push_str(value.get());
    }
    object.push('}');
    Some(object)
}

impl Observer for Messages {
    fn unit(&mut self, data: &[u8]) {
        // A citation in a whole message has a kind of a similar name.
        let is_text = markers::CONTENT_BLOCK.find(data).is_some() && markers::USAGE.find(data).is_none();
        if !is_text && let Some(object) = Object::parse(data) {
            self.read(&object);
        }
        if is_text || markers::CONTENT.find(data).is_some() {
            self.delivered.push(data);
        }
    }

    fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    fn reading(&self) -> Reading {
        let (tokens, anomaly) = self.told.disjoint(Cached::Beside);
        let usage_raw = match self.raws.as_slice() {
            [] => None,
            [only] => compacted(only),
            several => merged(several).and_then(|merged| compacted(&merged)),
        };
        Reading {
            model: self.model.clone(),
            usage: self.seen,
            tokens,
            usage_raw,
            units: self.units.clone(),
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
    // A whole message; a started one has no content yet.
    let blocks = object.objects("content");
    for block in blocks.chain(object.object("content_block")).chain(object.object("delta")) {
        for name in ["text", "thinking", "partial_json", "name", "input"] {
            // The input of a call that is just beginning is empty, and said later.
            text.push_raw(block.get(name).filter(|piece| piece.get() != "{}"));
        }
    }
}
