//! Shape: what a request is by its body alone, where no path says.

use serde_json::{Map, Value};

use super::{Wire, anthropic, gemini, openai, tgi};
use crate::operation::Operation;

/// The wire of `body` and what it asks of `model`; `None` where it is no request that one knows by its members.
pub fn of_body(body: &[u8], model: &str) -> Option<(&'static dyn Wire, Operation)> {
    let members: Map<String, Value> = serde_json::from_slice(body).ok()?;
    let has = |name: &str| members.contains_key(name);
    let is_anthropics = model.contains("claude") || has("anthropic_version") || (has("system") && has("max_tokens"));
    let is_embedding = model.contains("embed");
    if has("contents") {
        Some((&gemini::Gemini, Operation::GenerateContent))
    } else if has("messages") && is_anthropics {
        Some((&anthropic::Anthropic, Operation::Chat))
    } else if has("messages") {
        Some((&openai::OpenAi, Operation::Chat))
    } else if has("input") && is_embedding {
        Some((&openai::OpenAi, Operation::Embeddings))
    } else if has("input") {
        Some((&openai::OpenAi, Operation::Responses))
    } else if has("prompt") {
        Some((&openai::OpenAi, Operation::TextCompletion))
    } else if has("inputs") {
        Some((&tgi::Tgi, Operation::TextCompletion))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_known_by_its_members() {
        for (body, model, expected) in [
            (r#"{"messages": []}"#, "gpt-5", Some(("openai", Operation::Chat))),
            (r#"{"messages": []}"#, "claude-sonnet-4-5", Some(("anthropic", Operation::Chat))),
            (r#"{"messages": [], "system": "", "max_tokens": 9}"#, "m", Some(("anthropic", Operation::Chat))),
            (r#"{"contents": []}"#, "gemini-3-pro", Some(("gemini", Operation::GenerateContent))),
            (r#"{"input": ""}"#, "gpt-5", Some(("openai", Operation::Responses))),
            (r#"{"input": ""}"#, "text-embedding-3-small", Some(("openai", Operation::Embeddings))),
            (r#"{"prompt": ""}"#, "gpt-3.5-turbo-instruct", Some(("openai", Operation::TextCompletion))),
            (r#"{"inputs": ""}"#, "m", Some(("tgi", Operation::TextCompletion))),
            (r#"{"any": "object"}"#, "gpt-5", None),
            ("[]", "gpt-5", None),
            ("plain text", "gpt-5", None),
            ("", "", None),
        ] {
            let found = of_body(body.as_bytes(), model).map(|(wire, operation)| (wire.name(), operation));
            assert_eq!(found, expected, "{body} {model}");
        }
    }
}
