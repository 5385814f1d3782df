//! Azure `OpenAI` and Foundry: `OpenAI`'s dialect under a deployment's path or the `v1` one, another credential header.
//!
//! A deployment's name is not a model: the answer's model counts, and the deployment where an answer names none. What
//! Foundry speaks beside it, such as Anthropic's Messages, is read as what it is.

use http::Method;
use serde_json::json;

use super::openai::{self, OpenAi};
use super::prompt::Prompt;
use super::{CredentialHeader, Exchange, Observer, Wire};
use crate::operation::Operation;

/// The wire.
#[derive(Debug)]
pub struct Azure;

impl Wire for Azure {
    fn name(&self) -> &'static str {
        "azure"
    }

    fn recognise<'a>(&self, method: &Method, path: &'a str) -> Option<Exchange<'a>> {
        let exchange = openai::recognise(&Self, method, path)?;
        let deployment = path.split_once("/deployments/").and_then(|(_, rest)| rest.split('/').next());
        Some(Exchange { model_in_path: deployment.filter(|name| !name.is_empty()), ..exchange })
    }

    fn credential(&self) -> CredentialHeader {
        CredentialHeader { name: "api-key", prefix: "" }
    }

    fn error_body(&self, _status: u16, code: &str, message: &str) -> String {
        json!({"error": {"code": code, "message": message}}).to_string()
    }

    fn members(&self) -> &'static [&'static str] {
        OpenAi.members()
    }

    fn reads_small_whole(&self) -> bool {
        OpenAi.reads_small_whole()
    }

    fn takes_stream_options(&self) -> bool {
        OpenAi.takes_stream_options()
    }

    fn observer(&self, operation: Operation, provider: &str) -> Box<dyn Observer> {
        OpenAi.observer(operation, provider)
    }

    fn prompt(&self, operation: Operation, body: &[u8]) -> Option<Prompt> {
        OpenAi.prompt(operation, body)
    }
}
