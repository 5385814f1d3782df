//! Alibaba's `DashScope`, its own API: usage comes cumulative in every event. Its `/compatible-mode/` is `OpenAI`'s
//! dialect. Pictures are tasks: begun by one call, looked at by others.

use http::Method;
use serde_json::json;

use super::answer::Answer;
use super::asked::Places;
use super::delivered::Text;
use super::object::Object;
use super::prompt::Prompt;
use super::told::Told;
use super::{Consumption, CredentialHeader, Exchange, Job, Observer, Wire, asked};
use crate::operation::Operation;

/// The wire.
#[derive(Debug)]
pub struct DashScope;

const MEMBERS: &[&str] = &[
    "usage",
    "code",
    "error",
    "output.text",
    "output.finish_reason",
    "output.choices",
    "output.task_id",
    "output.task_status",
];

/// What stands behind `/api/v1/services/`.
const SERVICES: [(&str, Operation); 7] = [
    ("aigc/text-generation/", Operation::Chat),
    ("aigc/multimodal-generation/", Operation::Chat),
    ("aigc/text2image/", Operation::ImageGeneration),
    ("aigc/image2image/", Operation::ImageGeneration),
    ("aigc/image-generation/", Operation::ImageGeneration),
    ("embeddings/", Operation::Embeddings),
    ("rerank/", Operation::Rerank),
];

/// Until a choice has ended, its reason is a word too.
const DECISIVE: &[&str] = &["finish_reason"];

/// States of a task that is over.
const OVER: [&str; 4] = ["SUCCEEDED", "FAILED", "CANCELED", "UNKNOWN"];

/// Where a request has what counts as prompt.
const PLACES: Places = Places {
    instructions: &[],
    texts: &["/input/messages", "/input/prompt", "/input/text", "/input/texts", "/input/contents"],
    said: &[],
    beside: &[],
    tools: &["/parameters/tools"],
    schemas: &["/parameters/response_format"],
};

impl Wire for DashScope {
    fn name(&self) -> &'static str {
        "dashscope"
    }

    fn recognise<'a>(&self, method: &Method, path: &'a str) -> Option<Exchange<'a>> {
        if method == Method::GET {
            let (_, task) = path.split_once("/api/v1/tasks/")?;
            // Tasks are pictures for the most part; what they are billed by, their answers say.
            let exchange = Exchange::new(&Self, Operation::ImageGeneration);
            return (!task.contains('/')).then_some(Exchange { consumption: Consumption::Result, ..exchange });
        }
        let (_, service) = path.split_once("/api/v1/services/")?;
        let (_, operation) = SERVICES.iter().find(|(prefix, _)| service.starts_with(prefix))?;
        (method == Method::POST).then(|| Exchange::new(&Self, *operation))
    }

    fn credential(&self) -> CredentialHeader {
        CredentialHeader { name: "authorization", prefix: "Bearer " }
    }

    fn error_body(&self, _status: u16, code: &str, message: &str) -> String {
        json!({"code": code, "message": message, "request_id": ""}).to_string()
    }

    fn members(&self) -> &'static [&'static str] {
        MEMBERS
    }

    fn observer(&self, operation: Operation, _provider: &str) -> Box<dyn Observer> {
        // Vectors, orders and pictures have no reason to finish.
        Box::new(if operation == Operation::Chat {
            Answer::new(read).with_text(read_text).retold_but_for(DECISIVE)
        } else {
            Answer::new(read_whole)
        })
    }

    fn prompt(&self, _operation: Operation, body: &[u8]) -> Option<Prompt> {
        asked::prompt(body, &PLACES)
    }
}

fn read_whole(answer: &mut Answer, unit: &[u8]) {
    read(answer, unit);
    answer.settle();
}

fn read(answer: &mut Answer, unit: &[u8]) {
    let Some(object) = Object::parse(unit) else { return };
    let output = object.object("output");
    answer.is_error |= object.get("error").is_some() || (output.is_none() && object.text("code").is_some());
    if let Some(raw) = object.get("usage") {
        take(answer, raw.get());
    }
    let Some(output) = output else { return };
    if let (Some(id), Some(status)) = (output.text("task_id"), output.text("task_status")) {
        answer.job = Some(Job { id, is_over: OVER.contains(&status.as_str()) });
    }
    let reasons: Vec<_> = output.objects("choices").filter_map(|choice| choice.text("finish_reason")).collect();
    // Until then the reason is the word "null".
    if reasons.into_iter().chain(output.text("finish_reason")).any(|reason| reason != "null") {
        answer.is_finished = true;
        answer.settle();
    }
}

fn take(answer: &mut Answer, raw: &str) {
    let Some(object) = Object::parse(raw.as_bytes()) else { return };
    let usage = Some(&object);
    let [input, output, prompt] =
        ["input_tokens_details", "output_tokens_details", "prompt_tokens_details"].map(|name| object.object(name));
    let mut told = Told::default();
    told.input = told.first(usage, &["input_tokens"]);
    told.output = told.first(usage, &["output_tokens"]);
    told.total = told.first(usage, &["total_tokens"]);
    if told.input.is_none() && told.output.is_none() {
        // Vectors and orders have a total alone.
        told.input = told.total;
    }
    told.cache_read =
        [&prompt, &input].into_iter().find_map(|details| told.first(details.as_ref(), &["cached_tokens"]));
    told.cache_write = told.first(prompt.as_ref(), &["cache_creation_input_tokens"]);
    told.reasoning = told.first(output.as_ref(), &["reasoning_tokens"]);
    told.image_input = told.first(input.as_ref(), &["image_tokens"]).or_else(|| told.first(usage, &["image_tokens"]));
    told.audio_input = told.first(input.as_ref(), &["audio_tokens"]);
    told.audio_output = told.first(output.as_ref(), &["audio_tokens"]);
    let mut beside = Told::default();
    let pictures = beside.first(usage, &["image_count"]);
    answer.note("images", pictures);
    let search = object.object("plugins").and_then(|plugins| plugins.object("search"));
    let searches = beside.first(search.as_ref(), &["count"]);
    answer.note("searches", searches);
    if told.is_empty() && pictures.is_some() {
        answer.keep(raw);
        answer.settle();
    }
    answer.take(told, raw);
}

fn read_text(unit: &[u8], text: &mut Text) {
    let Some(output) = Object::parse(unit).and_then(|object| object.object("output")) else { return };
    let mut piece = Text::default();
    piece.push_raw(output.get("text"));
    for choice in output.objects("choices") {
        let Some(message) = choice.object("message") else { continue };
        piece.of_choice(choice.count("index"));
        piece.think(message.get("reasoning_content"));
        match message.get("content") {
            Some(parts) if parts.get().starts_with('[') => {
                message.objects("content").for_each(|part| piece.push_raw(part.get("text")));
            }
            content => piece.push_raw(content),
        }
        for call in message.objects("tool_calls") {
            let Some(function) = call.object("function") else { continue };
            piece.call(call.count("index"), function.get("name"), function.get("arguments"));
        }
    }
    text.push_or_replace(piece);
}
