//! IBM's watsonx.ai: `/ml/v1/text/…`. A stream of generated text tells its input with the first event and 0 in the
//! others, its output with the last. Chats are `OpenAI`'s dialect on paths of their own.

use http::Method;
use serde_json::json;

use super::answer::{Answer, counts};
use super::asked::Places;
use super::delivered::Text;
use super::object::{Count, Object};
use super::openai::OpenAi;
use super::prompt::Prompt;
use super::told::Told;
use super::{Consumption, CredentialHeader, Exchange, Observer, Wire, asked};
use crate::operation::Operation;

/// The wire.
#[derive(Debug)]
pub struct Watsonx;

/// Ours, then those of a chat.
const MEMBERS: &[&str] = &["model_id", "results", "input_token_count", "errors", "usage", "model", "error", "choices"];

/// The first model named stays; until a text has ended, its reason is a word too.
const DECISIVE: &[&str] = &["model_id", "stop_reason"];

/// What a path's end says, and whether its answer streams.
const ENDINGS: [(&str, Operation, bool); 9] = [
    ("/text/generation", Operation::TextCompletion, false),
    ("/text/generation_stream", Operation::TextCompletion, true),
    ("/generation/text", Operation::TextCompletion, false),
    ("/generation/text_stream", Operation::TextCompletion, true),
    ("/text/chat", Operation::Chat, false),
    ("/text/chat_stream", Operation::Chat, true),
    ("/text/embeddings", Operation::Embeddings, false),
    ("/text/rerank", Operation::Rerank, false),
    ("/text/tokenization", Operation::CountTokens, false),
];

/// Where a request has what counts as prompt.
const PLACES: Places = Places {
    instructions: &[],
    texts: &["/messages", "/input", "/inputs"],
    said: &[],
    beside: &[],
    tools: &["/tools"],
    schemas: &["/response_format"],
};

impl Wire for Watsonx {
    fn name(&self) -> &'static str {
        "watsonx"
    }

    fn recognise<'a>(&self, method: &Method, path: &'a str) -> Option<Exchange<'a>> {
        let (_, rest) = path.split_once("/ml/v1")?;
        let (_, operation, is_stream) = *ENDINGS.iter().find(|(ending, ..)| rest.ends_with(ending))?;
        let is_free = operation == Operation::CountTokens;
        (method == Method::POST).then_some(Exchange {
            stream_in_path: Some(is_stream),
            consumption: if is_free { Consumption::None } else { Consumption::Now },
            ..Exchange::new(&Self, operation)
        })
    }

    fn credential(&self) -> CredentialHeader {
        CredentialHeader { name: "authorization", prefix: "Bearer " }
    }

    fn error_body(&self, status: u16, code: &str, message: &str) -> String {
        json!({"errors": [{"code": code, "message": message}], "trace": "", "status_code": status}).to_string()
    }

    fn members(&self) -> &'static [&'static str] {
        MEMBERS
    }

    fn observer(&self, operation: Operation, provider: &str) -> Box<dyn Observer> {
        if operation == Operation::Chat {
            return OpenAi.observer(operation, provider);
        }
        let answer = Answer::new(read).retold_but_for(DECISIVE);
        Box::new(if operation == Operation::TextCompletion { answer.with_text(read_text) } else { answer })
    }

    fn prompt(&self, _operation: Operation, body: &[u8]) -> Option<Prompt> {
        asked::prompt(body, &PLACES)
    }
}

fn read(answer: &mut Answer, unit: &[u8]) {
    let Some(object) = Object::parse(unit) else { return };
    answer.model = answer.model.take().or_else(|| object.text("model_id"));
    answer.is_error |= object.get("errors").is_some();
    let mut told = Told::default();
    // Vectors and orders are counted beside the results, and have no reason to finish.
    told.input = told.first(Some(&object), &["input_token_count"]);
    answer.is_finished |= told.input.is_some();
    for result in object.objects("results") {
        told.input = told.first(Some(&result), &["input_token_count"]).or(told.input);
        told.output = told.first(Some(&result), &["generated_token_count"]).or(told.output);
        answer.is_finished |= result.text("stop_reason").is_some_and(|reason| reason != "not_finished");
    }
    told.input = told.input.max(answer.told.input);
    told.output = told.output.max(answer.told.output);
    answer.take(told, &counts(&[("input_token_count", told.input), ("generated_token_count", told.output)]));
    if answer.is_finished {
        answer.settle();
    }
}

fn read_text(unit: &[u8], text: &mut Text) {
    let Some(object) = Object::parse(unit) else { return };
    for (choice, result) in (0..).zip(object.objects("results")) {
        text.of_choice(Count::Of(choice));
        text.push_raw(result.get("generated_text"));
    }
}
