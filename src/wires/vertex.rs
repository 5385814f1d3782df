//! Vertex AI: Gemini's bodies behind projects and locations, and other vendors' models as publishers.

use http::Method;

use super::anthropic::Anthropic;
use super::gemini::{self, paths};
use super::openai::OpenAi;
use super::prompt::Prompt;
use super::{CredentialHeader, Exchange, Observer, Wire};
use crate::operation::Operation;

/// The wire.
#[derive(Debug)]
pub struct Vertex;

impl Wire for Vertex {
    fn name(&self) -> &'static str {
        "vertex"
    }

    fn recognise<'a>(&self, method: &Method, path: &'a str) -> Option<Exchange<'a>> {
        let publication =
            path.split_once("/publishers/").and_then(|(_, publication)| publication.split_once("/models/"));
        match publication {
            Some((publisher, model)) if publisher != "google" => of_partner(method, publisher, model),
            Some(_) | None if paths::is_vertex(path) => paths::exchange_of(&Self, method, path),
            Some(_) | None => None,
        }
    }

    /// An OAuth access token.
    fn credential(&self) -> CredentialHeader {
        CredentialHeader { name: "authorization", prefix: "Bearer " }
    }

    fn error_body(&self, status: u16, code: &str, message: &str) -> String {
        gemini::error_body(status, code, message)
    }

    fn members(&self) -> &'static [&'static str] {
        gemini::MEMBERS
    }

    fn observer(&self, operation: Operation, _provider: &str) -> Box<dyn Observer> {
        gemini::observer(operation)
    }

    fn prompt(&self, operation: Operation, body: &[u8]) -> Option<Prompt> {
        gemini::prompt(operation, body)
    }
}

/// Another vendor's `{model}:{verb}`: Claude speaks as at home, the others as `OpenAI` does.
fn of_partner<'a>(method: &Method, publisher: &str, publication: &'a str) -> Option<Exchange<'a>> {
    let (model, verb) = paths::method_of(publication).filter(|_| method == Method::POST)?;
    let stream = match verb.trim_end_matches('/') {
        "rawPredict" => false,
        "streamRawPredict" => true,
        _ => return None,
    };
    let exchange = match publisher {
        "anthropic" if model.starts_with("count-tokens") => {
            return Some(Exchange::free(&Anthropic, Operation::CountTokens));
        }
        "anthropic" => Exchange::new(&Anthropic, Operation::Chat),
        _ if model.contains("-ocr") => Exchange::new(&OpenAi, Operation::Ocr),
        _ => Exchange::new(&OpenAi, Operation::Chat),
    };
    Some(Exchange { model_in_path: Some(model), stream_in_path: Some(stream), ..exchange })
}
