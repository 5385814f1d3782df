//! What of a request counts as prompt.

use serde_json::Value;

use crate::operation::Operation;
use crate::wires::Countable;
use crate::wires::delivered::Text;

/// The prompt of a request body; `None` where it is no JSON object, or names a template that only the provider knows.
pub(super) fn of(operation: Operation, body: &[u8]) -> Option<Countable> {
    let request: Value = serde_json::from_slice(body).ok().filter(Value::is_object)?;
    if request.get("prompt").is_some_and(Value::is_object) {
        return None;
    }
    let mut text = Text::default();
    if operation == Operation::Speech {
        // Billed by its characters; how it shall sound is not.
        text.push(request.get("input")?);
        return Some(text.counted(0, 0));
    }
    let mut tokens = 0;
    let mut messages = 0;
    for name in ["instructions", "prompt", "input", "suffix"] {
        if let Some(value) = request.get(name) {
            let is_conversation = name == "input" && matches!(operation, Operation::Responses | Operation::CountTokens);
            match value {
                Value::Array(items) if is_conversation => {
                    messages = read_messages(items, &mut text);
                }
                Value::String(input) if is_conversation => {
                    messages = 1;
                    text.push_str(input);
                }
                Value::Null
                | Value::Bool(_)
                | Value::Number(_)
                | Value::String(_)
                | Value::Array(_)
                | Value::Object(_) => read_input(value, &mut text, &mut tokens),
            }
        }
    }
    if let Some(Value::Array(items)) = request.get("messages") {
        messages = read_messages(items, &mut text);
    }
    for name in ["tools", "functions", "response_format", "text"] {
        if let Some(value) = request.get(name) {
            text.push(value);
        }
    }
    Some(text.counted(messages, tokens))
}

fn read_messages(items: &[Value], text: &mut Text) -> u64 {
    for message in items {
        for name in ["role", "name", "refusal", "reasoning_content", "arguments", "output"] {
            if let Some(value) = message.get(name) {
                text.push(value);
            }
        }
        match message.get("content") {
            Some(Value::Array(parts)) => {
                // Images, audio and files are no text: their parts have none.
                for piece in parts.iter().filter_map(|part| part.get("text").or_else(|| part.get("refusal"))) {
                    text.push(piece);
                }
            }
            Some(content) => text.push(content),
            None => {}
        }
        for call in message.get("tool_calls").and_then(Value::as_array).into_iter().flatten() {
            for name in ["name", "arguments"] {
                if let Some(value) = call.get("function").and_then(|function| function.get(name)) {
                    text.push(value);
                }
            }
        }
    }
    u64::try_from(items.len()).unwrap_or(u64::MAX)
}

/// A string, strings, token numbers, or arrays of token numbers.
fn read_input(value: &Value, text: &mut Text, tokens: &mut u64) {
    match value {
        Value::String(input) => text.push_str(input),
        Value::Number(_) => *tokens = tokens.saturating_add(1),
        Value::Array(items) => items.iter().for_each(|item| read_input(item, text, tokens)),
        Value::Object(part) => {
            if let Some(piece) = part.get("text") {
                text.push(piece);
            }
        }
        Value::Null | Value::Bool(_) => {}
    }
}
