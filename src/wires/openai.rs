//! `OpenAI` and everyone who speaks its dialect: chat, completions, Responses, embeddings, images, audio, rankings, OCR,
//! assistants, batches.

mod added_usage;
mod agent;
mod answer;
mod batch;
mod billed;
mod chat;
mod llama;
mod paths;
mod prompt;
mod responses;
mod shares;
mod usage;

use http::Method;
use serde_json::json;

pub use added_usage::{REQUEST_MEMBERS, Splice, ask_for_usage, is_added_usage};

use super::counts::{self, CountRequest};
use super::prompt::Prompt;
use super::{CredentialHeader, Exchange, Observer, Wire};
use crate::operation::Operation;

/// The wire.
#[derive(Debug)]
pub struct OpenAi;

const MEMBERS: &[&str] = &[
    "usage",
    "usage_info",
    "model",
    "service_tier",
    "x_groq",
    "timings",
    "id",
    "index",
    "type",
    "status",
    "object",
    "error",
    "choices",
    "output",
    "outputs",
    "data",
    "duration",
    "content",
    "stop",
    "tokens_evaluated",
    "tokens_predicted",
    "tokens_cached",
    "meta.billed_units",
    "response.id",
    "response.usage",
    "response.model",
    "response.status",
    "response.service_tier",
    "response.error",
    "response.body.usage",
    "response.body.model",
    "response.body.object",
    "response.body.service_tier",
];

/// The exchange that `method` and `path` are in this dialect, read as `wire`.
pub(super) fn recognise<'a>(wire: &'static dyn Wire, method: &Method, path: &'a str) -> Option<Exchange<'a>> {
    paths::recognise(wire, method, path)
}

impl Wire for OpenAi {
    fn name(&self) -> &'static str {
        "openai"
    }

    fn recognise<'a>(&self, method: &Method, path: &'a str) -> Option<Exchange<'a>> {
        recognise(&Self, method, path)
    }

    fn recognise_own<'a>(&self, method: &Method, path: &'a str) -> Option<Exchange<'a>> {
        paths::recognise_own(&Self, method, path)
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

    fn reads_small_whole(&self) -> bool {
        true
    }

    fn takes_stream_options(&self) -> bool {
        true
    }

    fn observer(&self, operation: Operation, provider: &str) -> Box<dyn Observer> {
        match operation {
            Operation::Responses => Box::new(responses::Responses::new(provider)),
            Operation::InvokeAgent => Box::new(agent::Agent::new(provider)),
            Operation::Batch => Box::new(batch::Batch::new(provider)),
            Operation::ImageGeneration
            | Operation::Transcription
            | Operation::Speech
            | Operation::Moderation
            | Operation::Rerank
            | Operation::Ocr => Box::new(billed::Billed::new(operation, provider)),
            Operation::Chat
            | Operation::TextCompletion
            | Operation::Embeddings
            | Operation::GenerateContent
            | Operation::Interaction
            | Operation::Realtime
            | Operation::CountTokens
            | Operation::Other => Box::new(chat::Chat::new(operation, provider)),
        }
    }

    fn count_request(&self, operation: Operation, path: &str, body: &[u8]) -> Option<CountRequest> {
        counts::of_openai(operation, path, body)
    }

    fn counted(&self, answer: &[u8]) -> Option<u64> {
        counts::counted(answer, "input_tokens")
    }

    fn prompt(&self, operation: Operation, body: &[u8]) -> Option<Prompt> {
        prompt::of(operation, body)
    }
}
