//! What of a request counts as prompt.

use serde_json::Value;

use crate::operation::Operation;
use crate::wires::asked;
use crate::wires::prompt::{Draft, Message, Prompt};

/// What says that the model reads more than is in the request: a history that the provider keeps, what it finds.
const KEPT_BY_PROVIDER: [&str; 3] = ["previous_response_id", "conversation", "web_search_options"];

/// The prompt of a request body; `None` where it is no JSON object.
pub(super) fn of(operation: Operation, body: &[u8]) -> Option<Prompt> {
    let request = asked::request(body)?;
    let mut draft = Draft::new();
    let member = |name: &str| request.get(name).filter(|value| !value.is_null());
    if operation == Operation::Speech {
        // Billed by its characters; how it shall sound is not.
        draft.input(member("input")?);
        return Some(draft.finish());
    }
    if KEPT_BY_PROVIDER.iter().any(|name| member(name).is_some()) {
        draft.unseen();
    }
    if let Some(instructions) = member("instructions").filter(|value| value.as_str() != Some("")) {
        let text = draft.text(instructions);
        draft.instruction(text);
    }
    match member("prompt") {
        // A template: what it says is the provider's.
        Some(Value::Object(_)) => draft.unseen(),
        Some(prompt) => draft.input(prompt),
        None => {}
    }
    match member("input") {
        Some(input) if matches!(operation, Operation::Responses | Operation::CountTokens) => {
            read_items(&mut draft, input);
        }
        Some(input) => read_input(&mut draft, input),
        None => {}
    }
    if let Some(suffix) = member("suffix") {
        draft.input(suffix);
    }
    for message in member("messages").and_then(Value::as_array).into_iter().flatten() {
        let message = asked::message(&mut draft, message);
        draft.message(message);
    }
    let is_responses = operation == Operation::Responses;
    for tools in ["tools", "functions"].iter().filter_map(|name| member(name)) {
        if is_responses { read_tools(&mut draft, tools) } else { asked::tools(&mut draft, tools) }
    }
    for choice in ["tool_choice", "function_call"].iter().filter_map(|name| member(name)) {
        let named = ["function", "custom"].iter().find_map(|kind| choice.get(kind)).unwrap_or(choice);
        draft.forced_tool(named.get("name"));
        if is_responses && choice == "required" {
            draft.force_only_tool();
        }
    }
    // Several passes over what was said, none of which is in the request.
    if request.pointer("/reasoning/mode").is_some_and(|mode| mode == "pro") {
        draft.unseen();
    }
    for format in [member("response_format"), request.pointer("/text/format")].into_iter().flatten() {
        asked::schema(&mut draft, format);
    }
    Some(draft.finish())
}

/// What vectors are made of, or what is ranked: texts, token numbers, parts.
fn read_input(draft: &mut Draft, input: &Value) {
    match input {
        Value::Array(items) => items.iter().for_each(|item| read_input(draft, item)),
        Value::Object(_) => {
            let mut parts = Message::default();
            asked::content(draft, input, &mut parts);
            draft.text_alone(parts.text);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => draft.input(input),
    }
}

/// Tools of a response: one that is wrapped as in a chat is a function of that name without parameters.
fn read_tools(draft: &mut Draft, tools: &Value) {
    for tool in tools.as_array().into_iter().flatten() {
        if !matches!(tool.get("type").and_then(Value::as_str), None | Some("function" | "custom")) {
            draft.unseen();
        }
        draft.tool(tool, tool, tool.get("parameters"));
    }
}

/// The input of a response: what the user says, or items of all kinds.
fn read_items(draft: &mut Draft, input: &Value) {
    let Some(items) = input.as_array() else {
        let text = draft.text(input);
        draft.message(Message { role: "user".to_owned(), text, ..Message::default() });
        return;
    };
    let is_said = |item: &Value| item.get("role").is_some_and(|role| role == "user");
    let turn = items.iter().rposition(is_said);
    let mut was_call = false;
    for (at, item) in items.iter().enumerate() {
        let kind = item.get("type").and_then(Value::as_str);
        let is_call = matches!(kind, Some("function_call" | "custom_tool_call"));
        match kind {
            None | Some("message") => {
                let message = asked::message(draft, item);
                // Nothing said is no message here.
                if item.get("content") != Some(&Value::Array(Vec::new())) {
                    draft.message(message);
                }
            }
            Some("function_call" | "custom_tool_call") => {
                let arguments = item.get("arguments").or_else(|| item.get("input"));
                let call = draft.call(item.get("call_id"), item.get("name"), arguments);
                match draft.last_message().filter(|_| was_call) {
                    // Calls one behind the other were made at once.
                    Some(message) => message.calls.push(call),
                    None => {
                        draft.message(Message {
                            role: "assistant".to_owned(),
                            calls: vec![call],
                            ..Message::default()
                        });
                    }
                }
            }
            Some("function_call_output" | "custom_tool_call_output") => {
                let mut message = Message { role: "tool".to_owned(), ..Message::default() };
                message.result_of = item.get("call_id").map(|id| draft.text(id));
                match item.get("output") {
                    Some(parts @ Value::Array(_)) => asked::content(draft, parts, &mut message),
                    Some(output) => draft.push(&mut message.text, output),
                    None => {}
                }
                draft.message(message);
            }
            // What was thought before the last message of the user is not read again; what was thought since is, and is
            // encrypted.
            Some("reasoning") if turn.is_some_and(|turn| at < turn) => {}
            // What the provider's own tools did, and what it keeps.
            Some(_) => draft.unseen(),
        }
        was_call = is_call;
    }
}
