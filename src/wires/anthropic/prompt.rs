//! What of a request counts as prompt.

use serde_json::Value;

use crate::wires::asked;
use crate::wires::prompt::{Draft, Message, Prompt};

/// The prompt of a request body; `None` where it is no JSON object.
pub(super) fn of(body: &[u8]) -> Option<Prompt> {
    let request = asked::request(body)?;
    let mut draft = Draft::new();
    let member = |name: &str| request.get(name).filter(|value| !value.is_null());
    if let Some(system) = member("system") {
        let mut message = Message { role: "system".to_owned(), ..Message::default() };
        read_content(&mut draft, system, &mut message);
        draft.message(message);
    }
    // The legacy completions have no messages.
    if let Some(prompt) = member("prompt") {
        draft.input(prompt);
    }
    for one in member("messages").and_then(Value::as_array).into_iter().flatten() {
        let mut message = Message::default();
        if let Some(role) = one.get("role") {
            message.role = draft.text(role);
        }
        if let Some(content) = one.get("content") {
            read_content(&mut draft, content, &mut message);
        }
        draft.message(message);
    }
    for tool in member("tools").and_then(Value::as_array).into_iter().flatten() {
        // The provider's own have a kind, and what it says of them is not in the request.
        if tool.get("type").and_then(Value::as_str).is_some_and(|kind| kind != "custom") {
            draft.unseen();
        }
        draft.tool(tool, tool, tool.get("input_schema"));
    }
    if member("mcp_servers").is_some() || member("container").is_some() {
        draft.unseen();
    }
    draft.forced_tool(request.pointer("/tool_choice/name"));
    for format in [member("output_format"), request.pointer("/output_config/format")].into_iter().flatten() {
        asked::schema(&mut draft, format);
    }
    Some(draft.finish())
}

/// A text, or blocks: text, thinking, calls and their results.
fn read_content(draft: &mut Draft, content: &Value, message: &mut Message) {
    let blocks = match content {
        Value::Array(blocks) => blocks,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
            return draft.push(&mut message.text, content.as_str().map_or(&Value::Null, |_| content));
        }
    };
    for block in blocks {
        match block.get("type").and_then(Value::as_str).unwrap_or("text") {
            "image" => draft.image(block.pointer("/source/data").and_then(Value::as_str), false),
            "tool_use" => {
                let call = draft.call(block.get("id"), block.get("name"), block.get("input"));
                message.calls.push(call);
            }
            "tool_result" => {
                message.result_of = block.get("tool_use_id").map(|id| draft.text(id));
                if let Some(result) = block.get("content") {
                    read_content(draft, result, message);
                }
            }
            "text" | "thinking" => {
                for piece in ["text", "thinking"].iter().filter_map(|name| block.get(name)) {
                    draft.push(&mut message.text, piece);
                }
            }
            "document" if block.pointer("/source/type").and_then(Value::as_str) == Some("text") => {
                for piece in ["/title", "/context", "/source/data"].iter().filter_map(|place| block.pointer(place)) {
                    draft.push(&mut message.text, piece);
                }
            }
            "search_result" => {
                for piece in ["title", "source"].iter().filter_map(|name| block.get(name)) {
                    draft.push(&mut message.text, piece);
                }
                if let Some(inner) = block.get("content") {
                    read_content(draft, inner, message);
                }
            }
            // Files, thoughts that are encrypted, what the provider's own tools did.
            _ => draft.unseen(),
        }
    }
}
