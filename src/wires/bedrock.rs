//! AWS Bedrock: Converse, and every vendor's own bodies through `InvokeModel`, whole and streamed.
//!
//! The model stands in the path, and the verb behind it says whether the answer streams. What is counted beside the
//! body, in headers or at a stream's end, completes what the body tells. Bedrock's `OpenAI` dialect
//! (`/openai/v1/chat/completions`) is the `openai` wire's.

mod aside;
mod converse;
mod invoke;
mod native;
mod plain;
mod prompt;

use http::Method;
use serde_json::json;

use super::prompt::Prompt;
use super::{CredentialHeader, Exchange, Observer, Wire, percent_decoded};
use crate::operation::Operation;

/// The wire.
#[derive(Debug)]
pub struct Bedrock;

/// Of whole bodies, Converse's and every vendor's; behind them those of a message of a stream that is too long to hold.
const MEMBERS: &[&str] = &[
    "usage",
    "output",
    "stopReason",
    "serviceTier",
    "performanceConfig",
    "type",
    "model",
    "content",
    "stop_reason",
    "error",
    "object",
    "choices",
    "service_tier",
    "inputTextTokenCount",
    "results",
    "prompt_token_count",
    "generation_token_count",
    "generation",
    "generations",
    "outputs",
    "completion",
    "completions",
    "text",
    "meta",
    "token_count",
    "metadata.usage",
    "metadata.serviceTier",
    "metadata.performanceConfig",
    "messageStop.stopReason",
    "chunk.bytes",
];

/// What the verb behind a model says: the operation where the model does not tell another, and whether it streams.
const VERBS: [(&str, Verb, Option<bool>); 5] = [
    ("converse", Verb::Converse, Some(false)),
    ("converse-stream", Verb::Converse, Some(true)),
    ("invoke", Verb::Invoke, Some(false)),
    ("invoke-with-response-stream", Verb::Invoke, Some(true)),
    ("count-tokens", Verb::CountTokens, None),
];

#[derive(Clone, Copy, Debug)]
enum Verb {
    Converse,
    Invoke,
    CountTokens,
}

/// What a model's name says of an `InvokeModel`, first match first; everything else talks.
const MODELS: [(&str, Operation); 6] = [
    ("rerank", Operation::Rerank),
    ("embed", Operation::Embeddings),
    ("image", Operation::ImageGeneration),
    ("nova-canvas", Operation::ImageGeneration),
    ("stability.", Operation::ImageGeneration),
    ("stable-", Operation::ImageGeneration),
];

impl Wire for Bedrock {
    fn name(&self) -> &'static str {
        "bedrock"
    }

    fn recognise<'a>(&self, method: &Method, path: &'a str) -> Option<Exchange<'a>> {
        if method != Method::POST {
            return None;
        }
        let path = path.trim_end_matches('/');
        // Policies applied to a text cost text units, no tokens; a batch job's results are written to a bucket.
        let is_guardrail = path.starts_with("/guardrail/") && path.ends_with("/apply");
        if is_guardrail || path.starts_with("/model-invocation-job") {
            return Some(Exchange::free(&Self, Operation::Other));
        }
        let (_, call) = path.split_once("/model/")?;
        let (model, verb) = call.rsplit_once('/').filter(|(model, _)| !model.is_empty())?;
        let (_, verb, stream_in_path) = VERBS.into_iter().find(|(name, ..)| *name == verb)?;
        let exchange = match verb {
            Verb::Converse => Exchange::new(&Self, Operation::Chat),
            Verb::CountTokens => Exchange::free(&Self, Operation::CountTokens),
            Verb::Invoke => {
                let told = MODELS.iter().find(|(name, _)| model.contains(name));
                Exchange::new(&Self, told.map_or(Operation::Chat, |(_, operation)| *operation))
            }
        };
        Some(Exchange { model_in_path: Some(model), stream_in_path, ..exchange })
    }

    /// Of an ARN only its resource's last part: what stands before it tells an account.
    fn model(&self, in_path: &str) -> String {
        let id = percent_decoded(in_path);
        let resource = id.strip_prefix("arn:").and_then(|arn| arn.splitn(5, ':').nth(4));
        match resource {
            Some(resource) => resource.rsplit('/').next().unwrap_or(resource).to_owned(),
            None => id.into_owned(),
        }
    }

    /// Bedrock API keys; requests signed by the client pass as they are.
    fn credential(&self) -> CredentialHeader {
        CredentialHeader { name: "authorization", prefix: "Bearer " }
    }

    fn error_body(&self, status: u16, code: &str, message: &str) -> String {
        let kind = match status {
            401 | 403 => "AccessDeniedException",
            404 => "ResourceNotFoundException",
            408 => "ModelTimeoutException",
            429 => "ThrottlingException",
            502..=504 => "ServiceUnavailableException",
            500.. => "InternalServerException",
            _ => "ValidationException",
        };
        // SDKs look for the exception's name in a header, then here.
        json!({"__type": kind, "message": message, "reason": code}).to_string()
    }

    fn members(&self) -> &'static [&'static str] {
        MEMBERS
    }

    /// Converse answers in a shape that no vendor's body has, so that one reader tells them apart.
    fn observer(&self, operation: Operation, _provider: &str) -> Box<dyn Observer> {
        Box::new(invoke::Invocation::new(operation))
    }

    fn prompt(&self, operation: Operation, body: &[u8]) -> Option<Prompt> {
        prompt::of(operation, body)
    }
}
