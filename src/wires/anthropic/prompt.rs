//! What of a request counts as prompt.

use serde_json::Value;

use crate::wires::Countable;
use crate::wires::delivered::Text;

/// The prompt of a request body; `None` where it is no JSON object.
pub(super) fn of(body: &[u8]) -> Option<Countable> {
    let request: Value = serde_json::from_slice(body).ok().filter(Value::is_object)?;
    let mut text = Text::default();
    if let Some(system) = request.get("system") {
        read_content(system, &mut text);
    }
    // The legacy completions have no messages.
    if let Some(prompt) = request.get("prompt") {
        text.push(prompt);
    }
    let messages = request.get("messages").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    for message in messages {
        if let Some(role) = message.get("role") {
            text.push(role);
        }
        if let Some(content) = message.get("content") {
            read_content(content, &mut text);
        }
    }
    if let Some(tools) = request.get("tools") {
        text.push(tools);
    }
    Some(text.counted(u64::try_from(messages.len()).unwrap_or(u64::MAX), 0))
}

/// A string, or blocks: text, thinking, calls and their results. Images and files are no text.
fn read_content(content: &Value, text: &mut Text) {
    match content {
        Value::String(whole) => text.push_str(whole),
        Value::Array(blocks) => {
            for block in blocks {
                for name in ["text", "thinking", "name", "input"] {
                    if let Some(piece) = block.get(name) {
                        text.push(piece);
                    }
                }
                if let Some(result) = block.get("content") {
                    read_content(result, text);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => {}
    }
}
