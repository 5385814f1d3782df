//! Counts: how a provider is asked to count a prompt itself, which consumes nothing.
//!
//! Each such endpoint takes what the call took, less what steers the answer, and refuses what it does not know.

use serde_json::{Map, Value};

use crate::operation::Operation;

/// A request for a count, as a POST with a JSON body.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CountRequest {
    /// The path, on the same host as the call.
    pub path: String,
    /// The header that chooses the API's version, where one must.
    pub version: Option<(&'static str, &'static str)>,
    /// The body.
    pub body: Vec<u8>,
}

/// Members of a message's request that Anthropic counts (platform.claude.com/docs/en/api/messages-count-tokens, read
/// 2026-11-29). Files by URL, servers' tools and MCP are refused there: then there is no count.
const ANTHROPIC: &[&str] = &["model", "messages", "system", "tools", "tool_choice", "thinking", "output_config"];
/// Anthropic answers nobody without it; the clients' own is not kept.
const ANTHROPIC_VERSION: (&str, &str) = ("anthropic-version", "2023-06-01");
/// Those of a response's that `OpenAI` counts (developers.openai.com/api/reference, `responses/input_tokens`, read
/// 2026-11-29).
const OPENAI: &[&str] = &[
    "model",
    "input",
    "instructions",
    "tools",
    "tool_choice",
    "text",
    "reasoning",
    "truncation",
    "parallel_tool_calls",
    "previous_response_id",
    "conversation",
];
/// Those of Gemini's (ai.google.dev/api/tokens, read 2026-11-29).
const GEMINI: &[&str] = &["contents", "systemInstruction", "system_instruction", "tools", "toolConfig"];

/// Anthropic's of the call to `path`.
pub(super) fn of_anthropic(operation: Operation, path: &str, body: &[u8]) -> Option<CountRequest> {
    let is_counted = operation == Operation::Chat && path.ends_with("/messages");
    let body = is_counted.then(|| members(body, ANTHROPIC)).flatten()?;
    let request = body.contains_key("messages").then(|| request(format!("{path}/count_tokens"), body))?;
    Some(CountRequest { version: Some(ANTHROPIC_VERSION), ..request })
}

/// `OpenAI`'s of the call to `path`.
pub(super) fn of_openai(operation: Operation, path: &str, body: &[u8]) -> Option<CountRequest> {
    let is_counted = operation == Operation::Responses && path.ends_with("/responses");
    let body = is_counted.then(|| members(body, OPENAI)).flatten()?;
    body.contains_key("input").then(|| request(format!("{path}/input_tokens"), body))
}

/// Gemini's of the call to `path`, which names the model: there all but `contents` stands in a request of its own.
pub(super) fn of_gemini(operation: Operation, path: &str, body: &[u8]) -> Option<CountRequest> {
    if operation != Operation::GenerateContent {
        return None;
    }
    let (before, method) = path.rsplit_once(':')?;
    let model = before.rsplit_once("/models/").map(|(_, model)| model)?;
    let is_counted = matches!(method, "generateContent" | "streamGenerateContent");
    let mut counted = is_counted.then(|| members(body, GEMINI)).flatten()?;
    if !counted.contains_key("contents") {
        return None;
    }
    counted.insert("model".to_owned(), Value::String(format!("models/{model}")));
    let whole = Map::from_iter([("generateContentRequest".to_owned(), Value::Object(counted))]);
    Some(request(format!("{before}:countTokens"), whole))
}

/// The count that an answer is.
pub(super) fn counted(answer: &[u8], member: &str) -> Option<u64> {
    let answer: Map<String, Value> = serde_json::from_slice(answer).ok()?;
    answer.get(member)?.as_u64()
}

fn members(body: &[u8], names: &[&str]) -> Option<Map<String, Value>> {
    let mut body: Map<String, Value> = serde_json::from_slice(body).ok()?;
    body.retain(|name, _| names.contains(&name.as_str()));
    Some(body)
}

fn request(path: String, body: Map<String, Value>) -> CountRequest {
    CountRequest { path, version: None, body: Value::Object(body).to_string().into_bytes() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::wires::by_name;

    fn asked(wire: &str, operation: Operation, path: &str, body: &Value) -> Option<(String, Value)> {
        let request = by_name(wire).unwrap().count_request(operation, path, body.to_string().as_bytes())?;
        Some((request.path, serde_json::from_slice(&request.body).unwrap()))
    }

    #[test]
    fn a_provider_is_asked_for_what_it_was_asked_less_what_steers_the_answer() {
        let messages = json!([{"role": "user", "content": "hello"}]);
        let tools = json!([{"name": "f", "input_schema": {"type": "object"}}]);
        let body = json!({"model": "claude-sonnet-4-5", "max_tokens": 9, "stream": true, "temperature": 0.5,
            "metadata": {"user_id": "u"}, "system": "be brief", "messages": messages, "tools": tools});
        assert_eq!(
            asked("anthropic", Operation::Chat, "/v1/messages", &body),
            Some((
                "/v1/messages/count_tokens".to_owned(),
                json!({"model": "claude-sonnet-4-5", "system": "be brief", "messages": messages, "tools": tools})
            ))
        );
        let body = json!({"model": "gpt-5", "input": "hello", "stream": true, "store": false, "max_output_tokens": 9});
        assert_eq!(
            asked("openai", Operation::Responses, "/v1/responses", &body),
            Some(("/v1/responses/input_tokens".to_owned(), json!({"model": "gpt-5", "input": "hello"})))
        );
        let contents = json!([{"role": "user", "parts": [{"text": "hello"}]}]);
        let body =
            json!({"contents": contents, "generationConfig": {"temperature": 1}, "systemInstruction": {"parts": []}});
        assert_eq!(
            asked("gemini", Operation::GenerateContent, "/v1beta/models/gemini-3-pro:streamGenerateContent", &body),
            Some((
                "/v1beta/models/gemini-3-pro:countTokens".to_owned(),
                json!({"generateContentRequest":
                    {"model": "models/gemini-3-pro", "contents": contents, "systemInstruction": {"parts": []}}})
            ))
        );
    }

    #[test]
    fn what_no_endpoint_counts_is_not_asked() {
        let any = json!({"messages": [], "input": "", "contents": []});
        for (wire, operation, path) in [
            ("openai", Operation::Chat, "/v1/chat/completions"),
            ("openai", Operation::Embeddings, "/v1/embeddings"),
            ("openai", Operation::Responses, "/v1/responses/compact"),
            ("anthropic", Operation::TextCompletion, "/v1/complete"),
            ("anthropic", Operation::Chat, "/v1/chat/completions"),
            ("gemini", Operation::Embeddings, "/v1beta/models/m:embedContent"),
            ("gemini", Operation::GenerateContent, "/v1beta/interactions"),
            ("cohere", Operation::Chat, "/v2/chat"),
        ] {
            assert_eq!(asked(wire, operation, path, &any), None, "{wire} {path}");
        }
        for (wire, operation, path) in [
            ("openai", Operation::Responses, "/v1/responses"),
            ("anthropic", Operation::Chat, "/v1/messages"),
            ("gemini", Operation::GenerateContent, "/v1beta/models/m:generateContent"),
        ] {
            assert!(asked(wire, operation, path, &any).is_some(), "{wire} {path}");
            assert_eq!(asked(wire, operation, path, &json!({"model": "m"})), None, "{wire} {path} without a prompt");
            assert_eq!(asked(wire, operation, path, &json!([])), None, "{wire} {path} of no object");
        }
    }

    #[test]
    fn a_count_is_where_each_puts_it() {
        for (wire, answer, count) in [
            ("anthropic", r#"{"input_tokens": 2095}"#, Some(2095)),
            ("openai", r#"{"object": "response.input_tokens", "input_tokens": 11}"#, Some(11)),
            ("gemini", r#"{"totalTokens": 31, "promptTokensDetails": []}"#, Some(31)),
            ("openai", r#"{"error": {"message": "no"}}"#, None),
            ("anthropic", r#"{"input_tokens": -1}"#, None),
            ("gemini", "", None),
            ("cohere", r#"{"input_tokens": 1}"#, None),
        ] {
            assert_eq!(by_name(wire).unwrap().counted(answer.as_bytes()), count, "{wire} {answer}");
        }
    }
}
