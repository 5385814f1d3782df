//! `OpenAI` and everyone who speaks its dialect: chat, legacy completions, Responses, embeddings.
//!
//! Paths are known by their end, whatever gateway or deployment stands before it.

mod added_usage;
mod chat;
mod prompt;
mod responses;
mod usage;

use http::Method;
use serde_json::json;

pub use added_usage::{REQUEST_MEMBERS, Splice, ask_for_usage, is_added_usage};

use super::{Countable, CredentialHeader, Exchange, Observer, Wire};
use crate::operation::Operation;

/// The wire.
#[derive(Debug)]
pub struct OpenAi;

const MEMBERS: &[&str] = &[
    "usage",
    "model",
    "service_tier",
    "x_groq",
    "timings",
    "type",
    "status",
    "object",
    "error",
    "choices",
    "output",
    "response.usage",
    "response.model",
    "response.status",
    "response.service_tier",
    "response.error",
];

/// What a path's end says.
const ENDINGS: [(&str, Operation); 6] = [
    ("/chat/completions", Operation::Chat),
    ("/completions", Operation::TextCompletion),
    ("/responses", Operation::Responses),
    ("/responses/compact", Operation::Responses),
    ("/responses/input_tokens", Operation::CountTokens),
    ("/embeddings", Operation::Embeddings),
];

impl Wire for OpenAi {
    fn name(&self) -> &'static str {
        "openai"
    }

    fn recognise<'a>(&self, method: &Method, path: &'a str) -> Option<Exchange<'a>> {
        let path = path.trim_end_matches('/');
        let (_, operation) = ENDINGS.iter().find(|(ending, _)| path.ends_with(ending))?;
        (method == Method::POST).then_some(Exchange {
            wire: &Self,
            operation: *operation,
            model_in_path: None,
            stream_in_path: None,
        })
    }

    fn credential(&self) -> CredentialHeader {
        CredentialHeader { name: "authorization", prefix: "Bearer " }
    }

    fn error_body(&self, status: u16, code: &str, message: &str) -> String {
        let kind = match status {
            401 => "authentication_error",
            403 => "permission_error",
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        };
        json!({"error": {"message": message, "type": kind, "param": null, "code": code}}).to_string()
    }

    fn members(&self) -> &'static [&'static str] {
        MEMBERS
    }

    fn observer(&self, operation: Operation, provider: &str) -> Box<dyn Observer> {
        match operation {
            Operation::Responses => Box::new(responses::Responses::new(provider)),
            Operation::Chat
            | Operation::TextCompletion
            | Operation::Embeddings
            | Operation::GenerateContent
            | Operation::CountTokens
            | Operation::Other => Box::new(chat::Chat::new(operation, provider)),
        }
    }

    fn prompt(&self, operation: Operation, body: &[u8]) -> Option<Countable> {
        prompt::of(operation, body)
    }
}
