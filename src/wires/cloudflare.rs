//! Cloudflare's Workers AI: `/ai/run/MODEL`. Its `/ai/v1/` is `OpenAI`'s dialect.

use http::Method;
use serde_json::json;

use super::answer::Answer;
use super::asked::Places;
use super::delivered::Text;
use super::object::Object;
use super::prompt::Prompt;
use super::told::Told;
use super::{CredentialHeader, Exchange, Observer, Wire, asked, markers};
use crate::operation::Operation;

/// The wire.
#[derive(Debug)]
pub struct Cloudflare;

const MEMBERS: &[&str] = &[
    "success",
    "usage",
    "response",
    "tool_calls",
    "choices",
    "result.usage",
    "result.response",
    "result.tool_calls",
    "result.choices",
];

/// Models run on one path, so that only their names tell what they do. One that none of these words is in talks.
const WORDS: [(&str, Operation); 13] = [
    ("rerank", Operation::Rerank),
    ("bge-", Operation::Embeddings),
    ("embed", Operation::Embeddings),
    ("whisper", Operation::Transcription),
    ("deepgram/nova", Operation::Transcription),
    ("deepgram/flux", Operation::Transcription),
    ("melotts", Operation::Speech),
    ("deepgram/aura", Operation::Speech),
    ("flux", Operation::ImageGeneration),
    ("stable-diffusion", Operation::ImageGeneration),
    ("dreamshaper", Operation::ImageGeneration),
    ("/phoenix", Operation::ImageGeneration),
    ("/lucid", Operation::ImageGeneration),
];

fn operation_of(model: &str) -> Operation {
    WORDS.iter().find(|(word, _)| model.contains(word)).map_or(Operation::Chat, |(_, operation)| *operation)
}

/// Where a request has what counts as prompt.
const PLACES: Places = Places {
    instructions: &["/instructions"],
    texts: &["/messages", "/prompt", "/input", "/text"],
    said: &[],
    beside: &[],
    tools: &["/tools", "/functions"],
    schemas: &["/response_format"],
};

impl Wire for Cloudflare {
    fn name(&self) -> &'static str {
        "cloudflare"
    }

    fn recognise<'a>(&self, method: &Method, path: &'a str) -> Option<Exchange<'a>> {
        let (_, model) = path.split_once("/ai/run/")?;
        (method == Method::POST && !model.is_empty())
            .then_some(Exchange { model_in_path: Some(model), ..Exchange::new(&Self, operation_of(model)) })
    }

    fn credential(&self) -> CredentialHeader {
        CredentialHeader { name: "authorization", prefix: "Bearer " }
    }

    fn error_body(&self, status: u16, code: &str, message: &str) -> String {
        let error = json!({"code": status, "message": message, "type": code});
        json!({"success": false, "errors": [error], "messages": [], "result": null}).to_string()
    }

    fn members(&self) -> &'static [&'static str] {
        MEMBERS
    }

    fn observer(&self, operation: Operation, _provider: &str) -> Box<dyn Observer> {
        let answer = Answer::new(read);
        Box::new(if operation == Operation::Chat { answer.with_text(read_text) } else { answer })
    }

    fn prompt(&self, _operation: Operation, body: &[u8]) -> Option<Prompt> {
        asked::prompt(body, &PLACES)
    }
}

/// Usage comes in a whole answer's result, or with the last event of a stream, in which events are without a result.
fn read(answer: &mut Answer, unit: &[u8]) {
    if unit == b"[DONE]" {
        answer.is_terminal = true;
        answer.is_finished = true;
        answer.settle();
        return;
    }
    let is_worth_it = [&markers::USAGE, &markers::SUCCESS, &markers::ERROR];
    if !is_worth_it.into_iter().any(|marker| markers::has_value(marker, unit)) {
        return;
    }
    let Some(object) = Object::parse(unit) else { return };
    let has_failed = object.get("success").is_some_and(|success| success.get() == "false");
    answer.is_error |= has_failed || object.get("error").is_some();
    let result = object.object("result");
    for raw in [Some(&object), result.as_ref()].into_iter().flatten().filter_map(|holder| holder.get("usage")) {
        take(answer, raw.get());
    }
    if result.is_some() {
        answer.settle();
    }
}

fn take(answer: &mut Answer, raw: &str) {
    let Some(usage) = Object::parse(raw.as_bytes()) else { return };
    let details = usage.object("prompt_tokens_details");
    let output_details = usage.object("completion_tokens_details");
    let mut told = Told::default();
    told.input = told.first(Some(&usage), &["prompt_tokens", "input_tokens"]);
    told.output = told.first(Some(&usage), &["completion_tokens", "output_tokens"]);
    told.total = told.first(Some(&usage), &["total_tokens"]);
    told.cache_read = told.first(details.as_ref(), &["cached_tokens"]);
    told.reasoning = told.first(output_details.as_ref(), &["reasoning_tokens"]);
    answer.take(told, raw);
}

fn read_text(unit: &[u8], text: &mut Text) {
    let Some(object) = Object::parse(unit) else { return };
    let result = object.object("result");
    for holder in [Some(&object), result.as_ref()].into_iter().flatten() {
        text.push_raw(holder.get("response"));
        read_calls(holder, text);
        // Newer models answer in OpenAI's shape.
        for choice in holder.objects("choices") {
            let Some(message) = choice.object("delta").or_else(|| choice.object("message")) else { continue };
            text.of_choice(choice.count("index"));
            text.think(message.get_any(&["reasoning_content", "reasoning"]));
            text.push_raw(message.get("content"));
            read_calls(&message, text);
        }
    }
}

fn read_calls(holder: &Object<'_>, text: &mut Text) {
    for call in holder.objects("tool_calls") {
        let number = call.count("index");
        let function = call.object("function").unwrap_or(call);
        text.call(number, function.get("name"), function.get("arguments"));
    }
}
