//! Gemini: `generateContent` and its kin, predictions, batches, and interactions.

mod batch;
mod generated;
mod interaction;
pub(super) mod paths;
mod predictions;
mod prompt;
mod usage;

use http::Method;
use serde_json::json;

use super::counts::{self, CountRequest};
use super::prompt::Prompt;
use super::{CredentialHeader, Exchange, Observer, Wire};
use crate::operation::Operation;
use batch::Results;
use generated::Generated;
use interaction::Interaction;

/// The wire.
#[derive(Debug)]
pub struct Gemini;

/// Top-level members of whole answers of all of Google's APIs.
pub(super) const MEMBERS: &[&str] = &[
    "usageMetadata",
    "usage_metadata",
    "modelVersion",
    "model_version",
    "promptFeedback",
    "error",
    "candidates",
    // Predictions.
    predictions::STATISTICS,
    predictions::PICTURES,
    predictions::CHARACTERS,
    // Interactions, and the events of their streams.
    "id",
    "model",
    "agent",
    "status",
    "service_tier",
    "usage",
    "steps",
    "outputs",
    "event_type",
    "interaction.id",
    "interaction.model",
    "interaction.agent",
    "interaction.status",
    "interaction.service_tier",
    "interaction.usage",
    // Batches, and the lines of their files.
    "name",
    "done",
    "key",
    batch::USAGES,
    batch::MODELS,
    "response.usageMetadata",
    "response.modelVersion",
];

impl Wire for Gemini {
    fn name(&self) -> &'static str {
        "gemini"
    }

    fn recognise<'a>(&self, method: &Method, path: &'a str) -> Option<Exchange<'a>> {
        // Vertex reads its own, and `/v1beta/openai/` is OpenAI's API.
        let is_of_others = paths::is_vertex(path) || path.contains("/openai/");
        if is_of_others { None } else { paths::exchange_of(&Self, method, path) }
    }

    fn credential(&self) -> CredentialHeader {
        CredentialHeader { name: "x-goog-api-key", prefix: "" }
    }

    fn error_body(&self, status: u16, code: &str, message: &str) -> String {
        error_body(status, code, message)
    }

    fn members(&self) -> &'static [&'static str] {
        MEMBERS
    }

    fn observer(&self, operation: Operation, _provider: &str) -> Box<dyn Observer> {
        observer(operation)
    }

    fn count_request(&self, operation: Operation, path: &str, body: &[u8]) -> Option<CountRequest> {
        counts::of_gemini(operation, path, body)
    }

    fn counted(&self, answer: &[u8]) -> Option<u64> {
        counts::counted(answer, "totalTokens")
    }

    fn prompt(&self, operation: Operation, body: &[u8]) -> Option<Prompt> {
        prompt(operation, body)
    }
}

/// An error as all of Google's APIs write it.
pub(super) fn error_body(status: u16, code: &str, message: &str) -> String {
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

/// A reader of an answer of any of Google's APIs.
pub(super) fn observer(operation: Operation) -> Box<dyn Observer> {
    match operation {
        Operation::Interaction => Box::new(Interaction::default()),
        Operation::Batch => Box::new(Results::default()),
        Operation::Chat
        | Operation::TextCompletion
        | Operation::Responses
        | Operation::Embeddings
        | Operation::GenerateContent
        | Operation::InvokeAgent
        | Operation::ImageGeneration
        | Operation::Transcription
        | Operation::Speech
        | Operation::Moderation
        | Operation::Rerank
        | Operation::Ocr
        | Operation::Realtime
        | Operation::CountTokens
        | Operation::Other => Box::new(Generated::new(operation)),
    }
}

/// The prompt of a request to any of them.
pub(super) fn prompt(operation: Operation, body: &[u8]) -> Option<Prompt> {
    if operation == Operation::Interaction { prompt::of_interaction(body) } else { prompt::of(body) }
}
