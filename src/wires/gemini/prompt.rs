//! What of a request counts as prompt.

use serde_json::Value;

use crate::wires::asked;
use crate::wires::prompt::{Draft, Message, Prompt};

/// The prompt of a request body; `None` where it is no JSON object.
pub(super) fn of(body: &[u8]) -> Option<Prompt> {
    let request = asked::request(body)?;
    let mut draft = Draft::new();
    let member = |name: &str| request.get(name).filter(|value| !value.is_null());
    for system in ["systemInstruction", "system_instruction"].iter().filter_map(|name| member(name)) {
        let message = content_of(&mut draft, system, "system");
        draft.message(message);
    }
    let contents = match member("contents") {
        Some(Value::Array(contents)) => contents.as_slice(),
        Some(one) => std::slice::from_ref(one),
        None => &[],
    };
    for content in contents {
        let message = content_of(&mut draft, content, "user");
        draft.message(message);
    }
    // An embedding has one content, a batch of them one a request.
    let requests = member("requests").and_then(Value::as_array).into_iter().flatten();
    for content in requests.filter_map(|request| request.get("content")).chain(member("content")) {
        let message = content_of(&mut draft, content, "");
        draft.text_alone(message.text);
    }
    // What is predicted from, on Vertex.
    for instance in member("instances").and_then(Value::as_array).into_iter().flatten() {
        for piece in ["title", "content", "text"].iter().filter_map(|name| instance.get(name)) {
            draft.input(piece);
        }
    }
    if member("cachedContent").or_else(|| member("cached_content")).is_some() {
        draft.unseen();
    }
    for tool in member("tools").and_then(Value::as_array).into_iter().flatten() {
        read_tool(&mut draft, tool);
    }
    let config = member("generationConfig").or_else(|| member("generation_config"));
    for name in
        ["responseSchema", "responseJsonSchema", "response_schema", "response_json_schema", "_responseJsonSchema"]
    {
        if let Some(schema) = config.and_then(|config| config.get(name)).filter(|schema| schema.is_object()) {
            draft.schema(schema, None);
        }
    }
    Some(draft.finish())
}

/// The prompt of an interaction: a text, a piece of content, or a list of pieces, steps or turns.
pub(super) fn of_interaction(body: &[u8]) -> Option<Prompt> {
    let request = asked::request(body)?;
    let mut draft = Draft::new();
    let member = |name: &str| request.get(name).filter(|value| !value.is_null());
    if let Some(system) = member("system_instruction") {
        let text = draft.text(system);
        draft.instruction(text);
    }
    match member("input") {
        Some(Value::Array(steps)) => {
            for step in steps {
                let mut message = Message { role: role_of(step).to_owned(), ..Message::default() };
                take_step(&mut draft, step, &mut message);
                draft.message(message);
            }
        }
        Some(step) => {
            let mut message = Message { role: role_of(step).to_owned(), ..Message::default() };
            take_step(&mut draft, step, &mut message);
            draft.message(message);
        }
        None => {}
    }
    if ["previous_interaction_id", "agent"].iter().any(|name| member(name).is_some()) {
        draft.unseen();
    }
    for tool in member("tools").and_then(Value::as_array).into_iter().flatten() {
        match tool.get("type").and_then(Value::as_str) {
            None | Some("function") => draft.tool(tool, tool, tool.get("parameters")),
            Some(_) => draft.unseen(),
        }
    }
    if let Some(schema) = member("response_format").filter(|schema| schema.is_object()) {
        draft.schema(schema, None);
    }
    Some(draft.finish())
}

fn role_of(step: &Value) -> &str {
    match step.get("role").or_else(|| step.get("type")).and_then(Value::as_str) {
        Some("model" | "model_output" | "function_call" | "thought") => "model",
        Some("function_result") => "tool",
        Some(_) | None => "user",
    }
}

/// Takes up a step, or a piece of one.
fn take_step(draft: &mut Draft, step: &Value, message: &mut Message) {
    let members = match step {
        Value::String(_) => return draft.push(&mut message.text, step),
        Value::Array(pieces) => return pieces.iter().for_each(|piece| take_step(draft, piece, message)),
        Value::Object(members) => members,
        Value::Null | Value::Bool(_) | Value::Number(_) => return,
    };
    match members.get("type").and_then(Value::as_str) {
        Some("function_call") => {
            let call = draft.call(members.get("id"), members.get("name"), members.get("arguments"));
            return message.calls.push(call);
        }
        Some("function_result") => {
            message.result_of = members.get("call_id").map(|id| draft.text(id));
            message.name = members.get("name").map(|name| draft.text(name));
        }
        Some("image") => draft.image(members.get("data").and_then(Value::as_str), false),
        Some("audio" | "video" | "document") => draft.unseen(),
        Some(_) | None => {}
    }
    for piece in ["text", "result"].iter().filter_map(|name| members.get(*name)) {
        draft.push(&mut message.text, piece);
    }
    for pieces in ["content", "summary", "parts"].iter().filter_map(|name| members.get(*name)) {
        take_step(draft, pieces, message);
    }
}

/// A content as a message; `role` where it names none.
fn content_of(draft: &mut Draft, content: &Value, role: &str) -> Message {
    let mut message = Message { role: role.to_owned(), ..Message::default() };
    if let Some(own) = content.get("role").and_then(Value::as_str).filter(|_| role != "system") {
        message.role = draft.text(&own.into());
    }
    match content.get("parts") {
        Some(Value::Array(parts)) => parts.iter().for_each(|part| take_part(draft, part, &mut message)),
        Some(part) => take_part(draft, part, &mut message),
        // Some clients send what the API does not ask for: a bare text.
        None => draft.push(&mut message.text, content.as_str().map_or(&Value::Null, |_| content)),
    }
    message
}

/// Takes up text, a call, its result, code, a picture.
fn take_part(draft: &mut Draft, part: &Value, message: &mut Message) {
    let of = |camel: &str, snake: &str| part.get(camel).or_else(|| part.get(snake));
    if let Some(text) = part.get("text") {
        draft.push(&mut message.text, text);
    }
    if let Some(call) = of("functionCall", "function_call") {
        let call = draft.call(call.get("id"), call.get("name"), call.get("args"));
        message.calls.push(call);
    }
    if let Some(result) = of("functionResponse", "function_response") {
        message.result_of = result.get("id").map(|id| draft.text(id));
        message.name = result.get("name").map(|name| draft.text(name));
        if let Some(response) = result.get("response") {
            draft.push(&mut message.text, response);
        }
    }
    for (holder, name) in [("executableCode", "code"), ("codeExecutionResult", "output")] {
        if let Some(piece) = part.get(holder).and_then(|holder| holder.get(name)) {
            draft.push(&mut message.text, piece);
        }
    }
    if let Some(data) = of("inlineData", "inline_data") {
        let kind = data.get("mimeType").or_else(|| data.get("mime_type")).and_then(Value::as_str);
        if kind.is_some_and(|kind| kind.starts_with("image/")) {
            draft.image(data.get("data").and_then(Value::as_str), false);
        } else {
            draft.unseen();
        }
    }
    if of("fileData", "file_data").is_some() {
        draft.unseen();
    }
}

/// Functions come in groups; what else there is runs at the provider.
fn read_tool(draft: &mut Draft, tool: &Value) {
    let functions = ["functionDeclarations", "function_declarations"].iter().find_map(|name| tool.get(name));
    for function in functions.and_then(Value::as_array).into_iter().flatten() {
        let kinds = ["parameters", "parametersJsonSchema", "parameters_json_schema"];
        draft.tool(function, function, kinds.iter().find_map(|name| function.get(name)));
    }
    if tool.as_object().is_some_and(|kinds| kinds.keys().any(|kind| !kind.starts_with("function"))) {
        draft.unseen();
    }
}
