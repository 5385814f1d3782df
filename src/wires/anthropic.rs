//! Anthropic: Messages, their batches, and the legacy completions.
//!
//! Usage is spread: `message_start` tells the input, each `message_delta` the output so far, and sometimes more input
//! (platform.claude.com/docs/en/build-with-claude/streaming, read 2026-11-20).

mod batch;
mod complete;
mod prompt;
mod usage;

use http::Method;
use serde_json::json;
use serde_json::value::RawValue;

use super::counts::{self, CountRequest};
use super::delivered::{Delivered, Text};
use super::object::{Count, Object};
use super::prompt::Prompt;
use super::told::{Cached, Told};
use super::{Consumption, CredentialHeader, Exchange, Observer, Reading, UsageSeen, Wire, markers};
use crate::framing::compact::compacted;
use crate::operation::Operation;
use crate::usage::Units;
use batch::Results;
use complete::Completion;
use usage::Usage;

/// The wire.
#[derive(Debug)]
pub struct Anthropic;

const MEMBERS: &[&str] = &[
    "type",
    "model",
    "usage",
    "stop_reason",
    "error",
    "content",
    // Of the legacy completions, and of a batch's results.
    "completion",
    "result.type",
    "result.message.model",
    "result.message.usage",
];

impl Wire for Anthropic {
    fn name(&self) -> &'static str {
        "anthropic"
    }

    fn recognise<'a>(&self, method: &Method, path: &'a str) -> Option<Exchange<'a>> {
        // OpenAI's assistants have threads of messages, Google has publishers of models.
        let is_of_others = path.contains("/threads/") || path.contains("/publishers/");
        if is_of_others { None } else { exchange_of(method, path.trim_end_matches('/')) }
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

    fn reads_small_whole(&self) -> bool {
        true
    }

    fn observer(&self, operation: Operation, _provider: &str) -> Box<dyn Observer> {
        match operation {
            Operation::TextCompletion => Box::new(Completion::default()),
            Operation::Batch => Box::new(Results::default()),
            Operation::Chat
            | Operation::Responses
            | Operation::Embeddings
            | Operation::GenerateContent
            | Operation::Interaction
            | Operation::InvokeAgent
            | Operation::ImageGeneration
            | Operation::Transcription
            | Operation::Speech
            | Operation::Moderation
            | Operation::Rerank
            | Operation::Ocr
            | Operation::Realtime
            | Operation::CountTokens
            | Operation::Other => Box::new(Messages::new()),
        }
    }

    fn count_request(&self, operation: Operation, path: &str, body: &[u8]) -> Option<CountRequest> {
        counts::of_anthropic(operation, path, body)
    }

    fn counted(&self, answer: &[u8]) -> Option<u64> {
        counts::counted(answer, "input_tokens")
    }

    fn prompt(&self, _operation: Operation, body: &[u8]) -> Option<Prompt> {
        prompt::of(body)
    }
}

/// Messages, their batches, and the legacy completions. Counting, beginning and looking after a batch cost nothing.
fn exchange_of<'a>(method: &Method, path: &'a str) -> Option<Exchange<'a>> {
    let free = || Some(Exchange::free(&Anthropic, Operation::Other));
    if let Some((_, batches)) = path.split_once("/messages/batches") {
        return match batches.strip_prefix('/').and_then(|batch| batch.split_once('/')) {
            Some((batch, "results")) if method == Method::GET => Some(Exchange {
                object_in_path: Some(batch),
                stream_in_path: Some(false),
                consumption: Consumption::Result,
                ..Exchange::new(&Anthropic, Operation::Batch)
            }),
            _ => free(),
        };
    }
    // Files are no results here, as OpenAI's are.
    if ["/v1/files", "/v1/skills"].iter().any(|store| path.starts_with(store)) {
        return free();
    }
    if method != Method::POST {
        return None;
    }
    match path {
        _ if path.ends_with("/messages") => Some(Exchange::new(&Anthropic, Operation::Chat)),
        _ if path.ends_with("/messages/count_tokens") => Some(Exchange::free(&Anthropic, Operation::CountTokens)),
        _ if path.ends_with("/v1/complete") => Some(Exchange::new(&Anthropic, Operation::TextCompletion)),
        _ => None,
    }
}

/// Usage objects kept before they are merged into one.
const RAWS_MAX: usize = 4;

/// Reads an answer.
#[derive(Debug)]
struct Messages {
    model: Option<String>,
    service_tier: Option<String>,
    told: Told,
    /// What all iterations consumed, where some are not in the top-level counts.
    iterations: Option<Told>,
    searches: Option<u64>,
    /// The usage objects in their order.
    raws: Vec<String>,
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
            iterations: None,
            searches: None,
            raws: Vec::new(),
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
        let Usage { told, iterations, searches, service_tier } = Usage::of(&usage);
        if told.is_empty() {
            self.told.is_invalid |= told.is_invalid;
            return;
        }
        self.told.merge(told);
        self.iterations = iterations.or(self.iterations);
        self.searches = searches.or(self.searches);
        self.service_tier = service_tier.or_else(|| self.service_tier.take());
        self.seen = if self.seen == UsageSeen::Final { UsageSeen::Final } else { seen };
        if self.raws.len() >= RAWS_MAX {
            let merged = merged(&self.raws);
            self.raws = merged.into_iter().collect();
        }
        self.raws.push(raw.get().to_owned());
    }

    /// Searches, and what was consumed beside the top-level counts.
    fn units(&self) -> Units {
        let beside = self.iterations.map(|all| usage::beside(&all, &self.told)).unwrap_or_default();
        beside
            .into_iter()
            .chain([("searches", self.searches.unwrap_or(0))])
            .filter(|(_, count)| *count > 0)
            .map(|(name, count)| (name.to_owned(), count))
            .collect()
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

    fn reading(&mut self) -> Reading {
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
            units: self.units(),
            service_tier: self.service_tier.clone(),
            anomaly,
            is_error: self.is_error,
            is_finished: self.is_finished,
            job: None,
        }
    }

    fn kept(&self) -> Option<&Delivered> {
        Some(&self.delivered)
    }
}

fn read_text(unit: &[u8], text: &mut Text) {
    let Some(object) = Object::parse(unit) else { return };
    // A whole message; a started one has no content yet.
    for (number, block) in (0..).zip(object.objects("content")) {
        read_block(&block, Count::Of(number), text);
    }
    for block in [object.object("content_block"), object.object("delta")].into_iter().flatten() {
        read_block(&block, object.count("index"), text);
    }
}

/// A block of content, or a piece of one.
fn read_block(block: &Object<'_>, number: Count, text: &mut Text) {
    text.push_raw(block.get("text"));
    text.think(block.get("thinking"));
    // The input of a call that is just beginning is empty, and said later.
    let input = block.get("input").filter(|input| input.get() != "{}");
    text.call(number, block.get("name"), block.get("partial_json").or(input));
}
