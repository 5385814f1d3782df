//! What of a request counts as prompt.

use serde_json::Value;

use crate::wires::Countable;
use crate::wires::delivered::Text;

/// The prompt of a request body; `None` where it is no JSON object.
pub(super) fn of(body: &[u8]) -> Option<Countable> {
    let request: Value = serde_json::from_slice(body).ok().filter(Value::is_object)?;
    let mut text = Text::default();
    for system in ["systemInstruction", "system_instruction"].iter().filter_map(|name| request.get(name)) {
        read_content(system, &mut text);
    }
    let contents = match request.get("contents") {
        Some(Value::Array(contents)) => contents.as_slice(),
        Some(one) => std::slice::from_ref(one),
        None => &[],
    };
    for content in contents {
        read_content(content, &mut text);
    }
    // An embedding has one content, a batch of them one a request.
    let requests = request.get("requests").and_then(Value::as_array).into_iter().flatten();
    for content in requests.filter_map(|request| request.get("content")).chain(request.get("content")) {
        read_content(content, &mut text);
    }
    // What is predicted from, on Vertex.
    for instance in request.get("instances").and_then(Value::as_array).into_iter().flatten() {
        for piece in ["title", "content", "text"].iter().filter_map(|name| instance.get(name)) {
            text.push(piece);
        }
    }
    if let Some(tools) = request.get("tools") {
        text.push(tools);
    }
    Some(text.counted(u64::try_from(contents.len()).unwrap_or(u64::MAX), 0))
}

/// The prompt of an interaction: a text, a piece of content, or a list of pieces, steps or turns.
pub(super) fn of_interaction(body: &[u8]) -> Option<Countable> {
    let request: Value = serde_json::from_slice(body).ok().filter(Value::is_object)?;
    let mut text = Text::default();
    for part in ["system_instruction", "input"].iter().filter_map(|name| request.get(name)) {
        read_step(part, &mut text);
    }
    if let Some(tools) = request.get("tools") {
        text.push(tools);
    }
    let messages = request.get("input").map_or(0, |input| input.as_array().map_or(1, Vec::len));
    Some(text.counted(u64::try_from(messages).unwrap_or(u64::MAX), 0))
}

/// A step of an interaction, or a piece of one: text, thoughts in short, a call, its result. Images and files are no
/// text, signatures are not what was thought.
pub(super) fn read_step(step: &Value, text: &mut Text) {
    match step {
        Value::String(whole) => text.push_str(whole),
        Value::Array(pieces) => pieces.iter().for_each(|piece| read_step(piece, text)),
        Value::Object(members) => {
            for name in ["text", "name", "arguments", "result"] {
                // The arguments of a call that is just beginning are empty, and said later.
                let piece = members.get(name).filter(|piece| piece.as_object().is_none_or(|map| !map.is_empty()));
                if let Some(piece) = piece {
                    text.push(piece);
                }
            }
            for name in ["content", "summary", "parts"] {
                if let Some(pieces) = members.get(name) {
                    read_step(pieces, text);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn read_content(content: &Value, text: &mut Text) {
    match content.get("parts") {
        Some(Value::Array(parts)) => parts.iter().for_each(|part| read_part(part, text)),
        Some(part) => read_part(part, text),
        None => {}
    }
}

/// Text, a call, its result, or code. Images and files are no text.
pub(super) fn read_part(part: &Value, text: &mut Text) {
    if let Some(piece) = part.get("text") {
        text.push(piece);
    }
    let holders = [
        ("functionCall", ["name", "args"]),
        ("functionResponse", ["name", "response"]),
        ("executableCode", ["code", "language"]),
        ("codeExecutionResult", ["output", "outcome"]),
    ];
    for (holder, names) in holders {
        for piece in names.iter().filter_map(|name| part.get(holder).and_then(|holder| holder.get(name))) {
            text.push(piece);
        }
    }
}
