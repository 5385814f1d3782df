//! What of a request counts as prompt, in the shapes that most dialects share.

use serde_json::Value;

use super::prompt::{Draft, Message, Prompt};

/// Parts of a content whose text the provider alone knows.
const UNSEEN: [&str; 12] = [
    "input_audio",
    "audio",
    "audio_url",
    "file",
    "input_file",
    "file_url",
    "video",
    "video_url",
    "input_video",
    "document_url",
    "file_id",
    "media",
];

/// Where a dialect has what counts, as JSON pointers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Places {
    /// Instructions beside the messages.
    pub(super) instructions: &'static [&'static str],
    /// Messages, or texts with none around them.
    pub(super) texts: &'static [&'static str],
    /// What the user says, as a bare text.
    pub(super) said: &'static [&'static str],
    /// Anything else that the model reads: as the JSON that it is.
    pub(super) beside: &'static [&'static str],
    /// Definitions of functions.
    pub(super) tools: &'static [&'static str],
    /// The shape of the answer.
    pub(super) schemas: &'static [&'static str],
}

/// The request that `body` is; `None` where it is no JSON object.
pub(super) fn request(body: &[u8]) -> Option<Value> {
    serde_json::from_slice(body).ok().filter(Value::is_object)
}

/// The prompt of a request; `None` where `body` is no JSON object.
pub(super) fn prompt(body: &[u8], places: &Places) -> Option<Prompt> {
    let request = request(body)?;
    let at = |pointers: &'static [&'static str]| pointers.iter().filter_map(|pointer| request.pointer(pointer));
    let mut draft = Draft::new();
    for instruction in at(places.instructions).filter(|value| !value.is_null()) {
        let mut message = Message { role: "system".to_owned(), ..Message::default() };
        content(&mut draft, instruction, &mut message);
        draft.message(message);
    }
    at(places.texts).for_each(|value| read(&mut draft, value));
    for said in at(places.said).filter(|value| !value.is_null()) {
        let text = draft.text(said);
        draft.message(Message { role: "user".to_owned(), text, ..Message::default() });
    }
    for value in at(places.beside).filter(|value| !value.is_null()) {
        let text = draft.text(&as_json(value));
        draft.text_alone(text);
    }
    at(places.tools).for_each(|value| tools(&mut draft, value));
    at(places.schemas).for_each(|value| schema(&mut draft, value));
    if let Some(pictures) = request.get("images") {
        images(&mut draft, pictures);
    }
    Some(draft.finish())
}

/// A string stays one; documents are counted as they stand.
fn as_json(value: &Value) -> Value {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
        Value::Array(_) | Value::Object(_) => Value::String(value.to_string()),
    }
}

/// A text, a message, a part with no message around it, or an array of such.
fn read(draft: &mut Draft, value: &Value) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| read(draft, item)),
        Value::Object(members) if members.contains_key("role") => {
            let message = message(draft, value);
            draft.message(message);
        }
        Value::Object(_) => {
            let mut bare = Message::default();
            content(draft, value, &mut bare);
            draft.text_alone(bare.text);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => draft.input(value),
    }
}

/// A message of a conversation: its text, its pictures, the calls that it makes.
pub(super) fn message(draft: &mut Draft, value: &Value) -> Message {
    let mut message = Message::default();
    let part = |name: &str| value.get(name).filter(|part| !part.is_null());
    if let Some(role) = part("role") {
        message.role = draft.text(role);
    }
    message.name = part("name").map(|name| draft.text(name));
    for name in ["reasoning_content", "reasoning", "thinking", "tool_plan", "message", "content", "refusal"] {
        if let Some(inner) = part(name) {
            content(draft, inner, &mut message);
        }
    }
    if let Some(pictures) = part("images") {
        images(draft, pictures);
    }
    if part("audio").is_some() {
        draft.unseen();
    }
    for call in part("tool_calls").and_then(Value::as_array).into_iter().flatten() {
        let function = call.get("function").or_else(|| call.get("custom")).unwrap_or(call);
        let arguments = ["arguments", "input", "parameters"].iter().find_map(|name| function.get(name));
        let call = draft.call(call.get("id"), function.get("name"), arguments);
        message.calls.push(call);
    }
    if let Some(call) = part("function_call").filter(|call| call.is_object()) {
        let call = draft.call(None, call.get("name"), call.get("arguments"));
        message.calls.push(call);
    }
    message.result_of = ["tool_call_id", "tool_name"].iter().find_map(|name| part(name)).map(|id| draft.text(id));
    message
}

/// What a message holds: a text, parts, or one part.
pub(super) fn content(draft: &mut Draft, value: &Value, message: &mut Message) {
    match value {
        Value::String(_) => draft.push(&mut message.text, value),
        Value::Array(parts) => parts.iter().for_each(|part| content(draft, part, message)),
        Value::Object(part) => {
            let kind = part.get("type").and_then(Value::as_str).unwrap_or_default();
            if UNSEEN.iter().any(|unseen| kind == *unseen || part.contains_key(*unseen)) {
                draft.unseen();
            }
            for name in ["image_url", "image"] {
                if let Some(picture) = part.get(name) {
                    let source = picture.get("url").or_else(|| picture.get("data")).unwrap_or(picture).as_str();
                    let detail = picture.get("detail").or_else(|| part.get("detail")).and_then(Value::as_str);
                    draft.image(source, detail == Some("low"));
                }
            }
            if part.contains_key("document") {
                // A result among those of a search.
                let document = part.get("document").map(as_json).unwrap_or_default();
                draft.push(&mut message.text, &document);
            }
            for name in ["text", "message", "content", "thinking", "refusal"] {
                if let Some(inner) = part.get(name) {
                    content(draft, inner, message);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn images(draft: &mut Draft, pictures: &Value) {
    for picture in pictures.as_array().into_iter().flatten() {
        draft.image(picture.as_str(), false);
    }
}

/// Functions that the model may call: an array of them, each alone or inside what says that it is one.
pub(super) fn tools(draft: &mut Draft, value: &Value) {
    for definition in value.as_array().into_iter().flatten() {
        let inner = ["function", "custom", "toolSpec"].iter().find_map(|name| definition.get(name));
        let function = inner.filter(|inner| inner.is_object()).unwrap_or(definition);
        let kinds = ["parameters", "input_schema", "parameter_definitions", "inputSchema"];
        let parameters = kinds.iter().find_map(|name| function.get(name));
        if function.get("name").is_none_or(|name| !name.is_string()) {
            draft.unseen();
        }
        draft.tool(definition, function, parameters);
    }
}

/// The shape of an answer, in any of the places where a format has it. A format without one costs nothing.
pub(super) fn schema(draft: &mut Draft, format: &Value) {
    let of = format.get("json_schema").filter(|inner| inner.is_object());
    let holder = of.unwrap_or(format);
    let inner = ["schema", "value"].iter().find_map(|name| holder.get(name));
    let own = || Some(holder).filter(|holder| of.is_some() || holder.get("properties").is_some());
    if let Some(schema) = inner.or_else(own).filter(|schema| schema.is_object()) {
        draft.schema(schema, Some(holder));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::wires::prompt::Image;

    const PLACES: Places = Places {
        instructions: &["/system"],
        texts: &["/messages"],
        said: &["/message"],
        beside: &["/documents"],
        tools: &["/tools"],
        schemas: &["/response_format"],
    };

    fn asked(request: &Value) -> Prompt {
        prompt(request.to_string().as_bytes(), &PLACES).unwrap()
    }

    #[test]
    fn the_text_of_messages_is_a_prompt_and_pictures_are_counted() {
        let prompt = asked(&json!({
            "messages": [
                {"role": "user", "content": [
                    {"type": "text", "text": "hi "},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}},
                    {"type": "text", "text": "there"},
                ]},
                {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]},
                {"role": "tool", "tool_call_id": "1", "content": "done"},
            ],
            "system": "S",
            "message": "and?",
            "documents": [{"a": 1}],
        }));
        let texts: Vec<_> = prompt.messages.iter().map(|one| (one.role.as_str(), one.text.as_str())).collect();
        assert_eq!(
            texts,
            [("system", "S"), ("user", "hi there"), ("assistant", ""), ("tool", "done"), ("user", "and?")]
        );
        assert_eq!(prompt.messages[2].calls[0].arguments, "{}");
        assert_eq!(prompt.messages[3].result_of.as_deref(), Some("1"));
        assert_eq!(prompt.images, [Image { size: None, is_low_detail: true }]);
        assert_eq!(prompt.texts, [r#"[{"a":1}]"#]);
        assert!(!prompt.has_unseen);
        assert_eq!(super::prompt(b"[1]", &PLACES), None);
    }

    #[test]
    fn tools_and_shapes_are_found_however_they_are_wrapped() {
        let parameters = json!({"type": "object", "properties": {"b": {}, "a": {}}});
        let prompt = asked(&json!({
            "tools": [
                {"type": "function", "function": {"name": "f", "description": "d", "parameters": parameters}},
                {"name": "g", "input_schema": parameters},
                {"type": "web_search"},
            ],
            "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": parameters}},
        }));
        let names: Vec<_> = prompt.tools.iter().map(|tool| tool.name.as_str()).collect();
        assert_eq!(names, ["f", "g", ""]);
        assert!(prompt.tools[..2].iter().all(|tool| tool.parameters == parameters));
        assert!(prompt.tools[1].definition.contains(r#"{"b":{},"a":{}}"#), "in the order in which they were sent");
        assert!(prompt.has_unseen, "nobody knows what a tool of the provider's puts in");
        assert_eq!(
            prompt.schema.map(|schema| (schema.name, schema.schema)),
            Some(("n".to_owned(), parameters.clone()))
        );
        let format = |format: Value| asked(&json!({"response_format": format})).schema.map(|schema| schema.schema);
        for holder in [
            parameters.clone(),
            json!({"type": "json_object", "schema": parameters}),
            json!({"type": "json_object", "json_schema": parameters}),
            json!({"type": "json", "value": parameters}),
        ] {
            assert_eq!(format(holder), Some(parameters.clone()));
        }
        for none in [json!({"type": "json_object"}), json!("json"), json!({"type": "json_schema", "json_schema": 1})] {
            assert_eq!(format(none), None);
        }
    }

    #[test]
    fn what_cannot_be_counted_is_said() {
        for part in [
            json!({"type": "input_audio", "input_audio": {"data": "AAAA"}}),
            json!({"type": "file", "file": {"file_id": "f"}}),
            json!({"video": "https://example.org/v.mp4"}),
        ] {
            assert!(asked(&json!({"messages": [{"role": "user", "content": [part]}]})).has_unseen);
        }
    }
}
