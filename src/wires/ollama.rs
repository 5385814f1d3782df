//! Ollama's own API: lines of JSON, of which the last has the counts. It leaves out counts of 0, which is no telling
//! that they are 0: a prompt that was cached whole has none on older versions.

use http::Method;
use serde_json::json;

use super::answer::{Answer, excerpt};
use super::asked::Places;
use super::delivered::Text;
use super::object::{Count, Object};
use super::prompt::Prompt;
use super::told::Told;
use super::{CredentialHeader, Exchange, Observer, Wire, asked, markers};
use crate::operation::Operation;

/// The wire.
#[derive(Debug)]
pub struct Ollama;

/// What is kept as the provider's usage: counts, and times in nanoseconds.
const USAGE: [&str; 6] =
    ["total_duration", "load_duration", "prompt_eval_count", "prompt_eval_duration", "eval_count", "eval_duration"];

const MEMBERS: &[&str] = &[
    "model",
    "message",
    "response",
    "thinking",
    "done",
    "error",
    "total_duration",
    "load_duration",
    "prompt_eval_count",
    "prompt_eval_duration",
    "eval_count",
    "eval_duration",
];

/// Models are looked at, fetched and sent too: then nothing is generated.
const ENDINGS: [(&str, Operation); 7] = [
    ("/api/chat", Operation::Chat),
    ("/api/generate", Operation::TextCompletion),
    ("/api/embed", Operation::Embeddings),
    ("/api/embeddings", Operation::Embeddings),
    ("/api/show", Operation::Other),
    ("/api/pull", Operation::Other),
    ("/api/push", Operation::Other),
];

/// The same on paths that other APIs may have for something that costs.
const FREE_ENDINGS: [&str; 2] = ["/api/create", "/api/copy"];

/// Where a request has what counts as prompt.
const PLACES: Places = Places {
    instructions: &["/system"],
    texts: &["/messages", "/prompt", "/suffix", "/input"],
    said: &[],
    beside: &[],
    tools: &["/tools"],
    schemas: &["/format"],
};

impl Wire for Ollama {
    fn name(&self) -> &'static str {
        "ollama"
    }

    fn recognise<'a>(&self, method: &Method, path: &'a str) -> Option<Exchange<'a>> {
        let path = path.trim_end_matches('/');
        let (_, operation) = ENDINGS.iter().find(|(ending, _)| path.ends_with(ending))?;
        let is_free = *operation == Operation::Other;
        (method == Method::POST)
            .then(|| if is_free { Exchange::free(&Self, *operation) } else { Exchange::new(&Self, *operation) })
    }

    fn recognise_own<'a>(&self, method: &Method, path: &'a str) -> Option<Exchange<'a>> {
        let is_free = path.contains("/api/blobs/") || FREE_ENDINGS.iter().any(|ending| path.ends_with(ending));
        (method == Method::POST && is_free).then(|| Exchange::free(&Self, Operation::Other))
    }

    fn streams_unasked(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Chat | Operation::TextCompletion)
    }

    fn credential(&self) -> CredentialHeader {
        CredentialHeader { name: "authorization", prefix: "Bearer " }
    }

    fn error_body(&self, _status: u16, code: &str, message: &str) -> String {
        json!({"error": message, "code": code}).to_string()
    }

    fn members(&self) -> &'static [&'static str] {
        MEMBERS
    }

    fn observer(&self, operation: Operation, _provider: &str) -> Box<dyn Observer> {
        Box::new(if operation == Operation::Embeddings {
            Answer::new(read_vectors)
        } else {
            Answer::new(read).with_text(read_text)
        })
    }

    fn prompt(&self, _operation: Operation, body: &[u8]) -> Option<Prompt> {
        asked::prompt(body, &PLACES)
    }
}

fn read(answer: &mut Answer, unit: &[u8]) {
    let told = [&markers::PROMPT_EVAL_COUNT, &markers::EVAL_COUNT, &markers::ERROR];
    let is_worth_it = answer.model.is_none()
        || told.into_iter().any(|marker| markers::has_value(marker, unit))
        || markers::is_true(&markers::IS_DONE, unit);
    if !is_worth_it {
        return;
    }
    let Some(object) = Object::parse(unit) else { return };
    take(answer, &object);
    if object.get("done").is_some_and(|done| done.get() == "true") {
        answer.is_finished = true;
        answer.is_terminal = true;
        // What is missing now is to be counted.
        if answer.told.input.is_some() && answer.told.output.is_some() {
            answer.settle();
        }
    }
}

fn read_vectors(answer: &mut Answer, unit: &[u8]) {
    let Some(object) = Object::parse(unit) else { return };
    take(answer, &object);
    answer.settle();
}

fn take(answer: &mut Answer, object: &Object<'_>) {
    answer.model = answer.model.take().or_else(|| object.text("model"));
    answer.is_error |= object.get("error").is_some();
    let mut told = Told::default();
    told.input = told.first(Some(object), &["prompt_eval_count"]);
    told.output = told.first(Some(object), &["eval_count"]);
    answer.take(told, &excerpt(object, &USAGE));
}

fn read_text(unit: &[u8], text: &mut Text) {
    let Some(object) = Object::parse(unit) else { return };
    let message = object.object("message");
    for holder in message.iter().chain([&object]) {
        text.think(holder.get("thinking"));
        text.push_raw(holder.get("content"));
        text.push_raw(holder.get("response"));
    }
    let calls = message.iter().flat_map(|message| message.objects("tool_calls"));
    for function in calls.filter_map(|call| call.object("function")) {
        text.call(Count::Absent, function.get("name"), function.get("arguments"));
    }
}
