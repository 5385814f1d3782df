//! What of a request counts as prompt.

use serde_json::Value;

use crate::operation::Operation;
use crate::wires::anthropic::Anthropic;
use crate::wires::delivered::Text;
use crate::wires::openai::OpenAi;
use crate::wires::{Countable, Wire};

/// Where vendors without messages put their text: Llama, Mistral and Cohere, Titan, Cohere's chat, embeddings, rerank.
const PLACES: [&str; 9] = [
    "/prompt",
    "/inputText",
    "/message",
    "/chat_history",
    "/texts",
    "/inputs",
    "/query",
    "/documents",
    "/singleEmbeddingParams/text/value",
];

/// The prompt of a request body; `None` where it is no JSON object, or names a prompt that only the provider knows.
pub(super) fn of(operation: Operation, body: &[u8]) -> Option<Countable> {
    let request: Value = serde_json::from_slice(body).ok().filter(Value::is_object)?;
    let Some(messages) = request.get("messages").and_then(Value::as_array) else {
        return if request.get("promptVariables").is_some() { None } else { Some(of_places(&request)) };
    };
    if request.get("anthropic_version").is_some() {
        return Anthropic.prompt(operation, body);
    }
    if !messages.iter().all(is_converse) {
        return OpenAi.prompt(operation, body);
    }
    let mut text = Text::default();
    if let Some(system) = request.get("system") {
        read(system, &mut text);
    }
    for message in messages {
        if let Some(role) = message.get("role") {
            text.push(role);
        }
        if let Some(content) = message.get("content") {
            read(content, &mut text);
        }
    }
    if let Some(tools) = request.pointer("/toolConfig/tools") {
        text.push(tools);
    }
    Some(text.counted(u64::try_from(messages.len()).unwrap_or(u64::MAX), 0))
}

/// Converse's and Nova's blocks are unions; everybody else's name their type, or are just text.
fn is_converse(message: &Value) -> bool {
    let blocks = message.get("content").and_then(Value::as_array);
    blocks.is_some_and(|blocks| blocks.iter().all(|block| block.get("type").is_none()))
}

fn of_places(request: &Value) -> Countable {
    let mut text = Text::default();
    for value in PLACES.iter().filter_map(|place| request.pointer(place)) {
        read(value, &mut text);
    }
    text.counted(u64::from(request.get("message").is_some()), 0)
}

/// Text, wherever blocks nest it: calls, their results, reasoning, what a guardrail looks at. Images and files are none.
fn read(value: &Value, text: &mut Text) {
    match value {
        Value::String(whole) => text.push_str(whole),
        Value::Array(blocks) => blocks.iter().for_each(|block| read(block, text)),
        Value::Object(block) => {
            for name in ["name", "input", "json", "message"] {
                if let Some(piece) = block.get(name) {
                    text.push(piece);
                }
            }
            for name in
                ["text", "toolUse", "toolResult", "reasoningContent", "reasoningText", "guardContent", "content"]
            {
                if let Some(inner) = block.get(name) {
                    read(inner, text);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
