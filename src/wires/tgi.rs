//! Hugging Face's text-generation-inference, and the hosted inference API of the same shape. Counts stand in the
//! answer's head, or in `details` where the client asked for them. Its `/v1/` is `OpenAI`'s dialect.

use http::{HeaderMap, Method};
use serde_json::json;

use super::answer::{Answer, counts, excerpt};
use super::asked::Places;
use super::delivered::Text;
use super::object::Object;
use super::prompt::Prompt;
use super::told::Told;
use super::{CredentialHeader, Exchange, Observer, Wire, asked, markers};
use crate::operation::Operation;

/// The wire.
#[derive(Debug)]
pub struct Tgi;

/// The prompt's tokens come one by one if at all: they are counted.
const MEMBERS: &[&str] = &[
    "generated_text",
    "error",
    "token",
    "details.generated_tokens",
    "details.input_length",
    "details.prompt_tokens",
    "details.finish_reason",
    "details.prefill",
];

/// What is kept as the provider's usage. `details` hold the text too, token by token.
const USAGE: [&str; 4] = ["input_length", "prompt_tokens", "generated_tokens", "finish_reason"];

/// Where a request has what counts as prompt.
const PLACES: Places = Places {
    instructions: &[],
    texts: &["/inputs"],
    said: &[],
    beside: &[],
    tools: &[],
    schemas: &["/parameters/grammar"],
};

impl Wire for Tgi {
    fn name(&self) -> &'static str {
        "tgi"
    }

    fn recognise<'a>(&self, method: &Method, path: &'a str) -> Option<Exchange<'a>> {
        let is_stream = method == Method::POST && path.ends_with("/generate_stream");
        is_stream.then(|| generation(None, Some(true)))
    }

    fn recognise_own<'a>(&self, method: &Method, path: &'a str) -> Option<Exchange<'a>> {
        if method != Method::POST {
            return None;
        }
        if path.ends_with("/tokenize") || path.ends_with("/chat_tokenize") {
            return Some(Exchange::free(&Self, Operation::CountTokens));
        }
        if path.ends_with("/generate") {
            return Some(generation(None, Some(false)));
        }
        // A model may have OpenAI's dialect behind it.
        let model = path.split_once("/models/").map(|(_, model)| model).filter(|model| !model.contains("/v1/"));
        (path == "/" || model.is_some()).then(|| generation(model, None))
    }

    fn credential(&self) -> CredentialHeader {
        CredentialHeader { name: "authorization", prefix: "Bearer " }
    }

    fn error_body(&self, _status: u16, code: &str, message: &str) -> String {
        json!({"error": message, "error_type": code}).to_string()
    }

    fn members(&self) -> &'static [&'static str] {
        MEMBERS
    }

    fn observer(&self, _operation: Operation, _provider: &str) -> Box<dyn Observer> {
        Box::new(Answer::new(read).with_head(read_head).with_text(read_text))
    }

    fn prompt(&self, _operation: Operation, body: &[u8]) -> Option<Prompt> {
        asked::prompt(body, &PLACES)
    }
}

fn generation(model: Option<&str>, stream: Option<bool>) -> Exchange<'_> {
    Exchange { model_in_path: model, stream_in_path: stream, ..Exchange::new(&Tgi, Operation::TextCompletion) }
}

fn read_head(answer: &mut Answer, headers: &HeaderMap) {
    let count = |name: &str| headers.get(name)?.to_str().ok()?.parse::<u64>().ok();
    let [input, output] = ["x-prompt-tokens", "x-generated-tokens"].map(count);
    answer.note("characters", count("x-compute-characters"));
    let told = Told { input, output, ..Told::default() };
    answer.take(told, &counts(&[("x-prompt-tokens", input), ("x-generated-tokens", output)]));
    if input.is_some() && output.is_some() {
        answer.settle();
    }
}

/// An event, or an element of the array that the hosted API answers with.
fn read(answer: &mut Answer, unit: &[u8]) {
    let is_worth_it = [&markers::GENERATED_TEXT, &markers::DETAILS, &markers::ERROR];
    if !is_worth_it.into_iter().any(|marker| markers::has_value(marker, unit)) {
        return;
    }
    let Some(object) = Object::parse(unit) else { return };
    answer.is_error |= object.get("error").is_some();
    if let Some(details) = object.object("details") {
        let mut told = Told::default();
        let prefill = u64::try_from(details.elements("prefill").len()).ok().filter(|tokens| *tokens > 0);
        told.input = told.first(Some(&details), &["input_length", "prompt_tokens"]).or(prefill);
        told.output = told.first(Some(&details), &["generated_tokens"]);
        answer.take(told, &excerpt(&details, &USAGE));
    }
    if object.get("generated_text").is_some() {
        answer.is_finished = true;
        // In a stream the whole text stands beside the last token.
        answer.is_terminal |= object.get("token").is_some();
        // What is missing now is to be counted.
        if answer.told.input.is_some() && answer.told.output.is_some() {
            answer.settle();
        }
    }
}

fn read_text(unit: &[u8], text: &mut Text) {
    let Some(object) = Object::parse(unit) else { return };
    match object.object("token") {
        Some(token) if token.get("special").is_none_or(|special| special.get() != "true") => {
            text.push_raw(token.get("text"));
        }
        Some(_) => {}
        None => text.push_raw(object.get("generated_text")),
    }
}
