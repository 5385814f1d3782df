//! What of a request counts as prompt, where it stands in members of known names.

use serde_json::Value;

use super::Countable;
use super::delivered::Text;

/// The prompt of a request: the text of the members at `texts` and the whole JSON of those at `schemas`, each a JSON
/// pointer, in this order. `None` where `body` is no JSON object.
pub(super) fn prompt(body: &[u8], texts: &[&str], schemas: &[&str]) -> Option<Countable> {
    let request: Value = serde_json::from_slice(body).ok().filter(Value::is_object)?;
    let mut text = Text::default();
    let mut messages = 0;
    for pointer in texts {
        if let Some(value) = request.pointer(pointer) {
            read(value, &mut text, &mut messages);
        }
    }
    for value in schemas.iter().filter_map(|pointer| request.pointer(pointer)) {
        text.push(value);
    }
    Some(text.counted(messages, 0))
}

/// A string, a message, a part of a message, or an array of such. Images, audio and files are no text.
fn read(value: &Value, text: &mut Text, messages: &mut u64) {
    match value {
        Value::String(piece) => text.push_str(piece),
        Value::Array(items) => items.iter().for_each(|item| read(item, text, messages)),
        Value::Object(_) => {
            if let Some(role) = value.get("role") {
                *messages = messages.saturating_add(1);
                text.push(role);
            }
            for name in ["text", "message", "content", "thinking", "tool_plan"] {
                if let Some(inner) = value.get(name) {
                    read(inner, text, messages);
                }
            }
            for call in value.get("tool_calls").and_then(Value::as_array).into_iter().flatten() {
                for name in ["name", "arguments"] {
                    if let Some(piece) = call.get("function").and_then(|function| function.get(name)) {
                        text.push(piece);
                    }
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_messages_parts_and_schemas_is_a_prompt_and_pictures_are_not() {
        let body = br#"{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"hi"},
            {"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}]},
            {"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":"{}"}}]}],"tools":[{"a":1}]}"#;
        let prompt = prompt(body, &["/messages"], &["/tools"]).unwrap();
        assert_eq!((prompt.text.as_str(), prompt.messages), (r#"userhiassistantf{}[{"a":1}]"#, 2));
        assert_eq!(super::prompt(b"[1]", &["/input"], &[]), None);
    }
}
