//! What of a request counts as prompt.

use serde_json::Value;

use crate::operation::Operation;
use crate::wires::Wire;
use crate::wires::anthropic::Anthropic;
use crate::wires::asked::{self, Places};
use crate::wires::openai::OpenAi;
use crate::wires::prompt::{Draft, Message, Prompt};

/// Where vendors without messages put their text: Llama, Mistral and Cohere, Titan, Cohere's chat, embeddings, rerank.
const PLACES: Places = Places {
    instructions: &["/preamble"],
    texts: &[
        "/prompt",
        "/inputText",
        "/chat_history",
        "/texts",
        "/inputs",
        "/query",
        "/singleEmbeddingParams/text/value",
    ],
    said: &["/message"],
    beside: &["/documents"],
    tools: &["/tools"],
    schemas: &["/response_format"],
};

/// Blocks that hold others, and where.
const HOLDERS: [(&str, &str); 4] = [
    ("guardContent", "/text/text"),
    ("reasoningContent", "/reasoningText/text"),
    ("json", ""),
    ("searchResult", "/content"),
];

/// The prompt of a request body; `None` where it is no JSON object.
pub(super) fn of(operation: Operation, body: &[u8]) -> Option<Prompt> {
    let request = asked::request(body)?;
    let Some(messages) = request.get("messages").and_then(Value::as_array) else {
        let mut prompt = asked::prompt(body, &PLACES)?;
        // A prompt that only the provider knows.
        prompt.has_unseen |= request.get("promptVariables").is_some();
        return Some(prompt);
    };
    if request.get("anthropic_version").is_some() {
        return Anthropic.prompt(operation, body);
    }
    if !messages.iter().all(is_converse) {
        return OpenAi.prompt(operation, body);
    }
    let mut draft = Draft::new();
    if let Some(system) = request.get("system") {
        let mut message = Message { role: "system".to_owned(), ..Message::default() };
        read(&mut draft, system, &mut message);
        draft.message(message);
    }
    for one in messages {
        let mut message = Message::default();
        if let Some(role) = one.get("role") {
            message.role = draft.text(role);
        }
        if let Some(content) = one.get("content") {
            read(&mut draft, content, &mut message);
        }
        draft.message(message);
    }
    for definition in request.pointer("/toolConfig/tools").and_then(Value::as_array).into_iter().flatten() {
        match definition.get("toolSpec") {
            Some(function) => draft.tool(definition, function, function.pointer("/inputSchema/json")),
            // A mark of where to cache costs nothing; what else there is runs at the provider.
            None if definition.get("cachePoint").is_some() => {}
            None => draft.unseen(),
        }
    }
    draft.forced_tool(request.pointer("/toolConfig/toolChoice/tool/name"));
    if let Some(format) = request.pointer("/outputConfig/textFormat/structure/jsonSchema") {
        asked::schema(&mut draft, format);
    }
    Some(draft.finish())
}

/// Converse's and Nova's blocks are unions; everybody else's name their type, or are just text.
fn is_converse(message: &Value) -> bool {
    let blocks = message.get("content").and_then(Value::as_array);
    blocks.is_some_and(|blocks| blocks.iter().all(|block| block.get("type").is_none()))
}

/// Blocks, or one: text, calls, their results, reasoning, what a guardrail looks at.
fn read(draft: &mut Draft, value: &Value, message: &mut Message) {
    let block = match value {
        Value::Array(blocks) => return blocks.iter().for_each(|block| read(draft, block, message)),
        Value::String(_) => return draft.push(&mut message.text, value),
        Value::Object(block) => block,
        Value::Null | Value::Bool(_) | Value::Number(_) => return,
    };
    if let Some(text) = block.get("text") {
        draft.push(&mut message.text, text);
    }
    if let Some(image) = block.get("image") {
        draft.image(image.pointer("/source/bytes").and_then(Value::as_str), false);
    }
    if let Some(used) = block.get("toolUse") {
        let call = draft.call(used.get("toolUseId"), used.get("name"), used.get("input"));
        message.calls.push(call);
    }
    if let Some(result) = block.get("toolResult") {
        message.result_of = result.get("toolUseId").map(|id| draft.text(id));
        if let Some(content) = result.get("content") {
            read(draft, content, message);
        }
    }
    for (holder, place) in HOLDERS {
        if let Some(inner) = block.get(holder).and_then(|holder| holder.pointer(place)) {
            match inner {
                Value::Array(_) if holder != "json" => read(draft, inner, message),
                Value::Null
                | Value::Bool(_)
                | Value::Number(_)
                | Value::String(_)
                | Value::Array(_)
                | Value::Object(_) => draft.push(&mut message.text, inner),
            }
        }
    }
    if ["document", "video", "audio"].iter().any(|name| block.contains_key(*name)) {
        draft.unseen();
    }
}
