//! `generateContent` and its stream, as events or as one JSON array. Thoughts are counted beside the candidates.

use std::cell::Cell;

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

use super::answer::{Answer, Pieces, event};
use super::promise::{Promise, THINKING};
use super::script::Script;

pub(crate) fn generate(promise: &Promise, script: &Script) -> Answer {
    match promise.error {
        Some(status) => Answer::error(status, &error_body(status)),
        None => Answer::json_with_text(promise, |text| {
            let parts: Vec<Value> = thought(promise).into_iter().chain([json!({"text": text})]).collect();
            chunk(promise, script, &json!(parts), Some(finish(promise)), promise.output)
        }),
    }
}

pub(crate) fn stream(promise: &Promise, script: &Script, as_events: bool) -> Answer {
    if let Some(status) = promise.error {
        let error = error_body(status);
        return Answer::error(status, &if as_events { error } else { json!([error]) });
    }
    // As events the provider ends its lines in CR LF, always.
    let script = Script { crlf: as_events || script.crlf, ..script.clone() };
    let send = |chunk: Value| -> Bytes {
        let chunk = chunk.to_string();
        if as_events { event(&script, None, &chunk) } else { chunk.into() }
    };
    // Every chunk repeats the usage so far, the thoughts in it before the first word.
    let said = Cell::new(promise.reasoning);
    let text = promise.stream_text(|text| {
        said.set(said.get().saturating_add(1));
        let output = if promise.bulk > 0 { promise.reasoning } else { said.get().min(promise.output) };
        send(chunk(promise, &script, &json!([{"text": text}]), None, output))
    });
    let first =
        thought(promise).map(|thought| send(chunk(promise, &script, &json!([thought]), None, promise.reasoning)));
    let last = send(chunk(promise, &script, &json!([{"text": ""}]), Some(finish(promise)), promise.output));
    let chunks = first.into_iter().chain(text).chain((!script.no_done).then_some(last));
    if as_events {
        let failure = send(error_body(500));
        return Answer::sse(&script, Box::new(chunks), failure);
    }
    let elements = chunks.enumerate().map(|(at, chunk)| {
        let before: &[u8] = if at == 0 { b"[" } else { b",\r\n" };
        Bytes::from([before, &chunk].concat())
    });
    let elements: Pieces = Box::new(elements.chain([Bytes::from_static(b"]\n")]));
    let mut answer = Answer::json(StatusCode::OK, &Value::Null);
    (answer.pieces, answer.length) = (elements, None);
    answer
}

pub(crate) fn count_tokens(promise: &Promise) -> Answer {
    match promise.error {
        Some(status) => Answer::error(status, &error_body(status)),
        None => Answer::json(StatusCode::OK, &json!({"totalTokens": promise.prompt()})),
    }
}

fn thought(promise: &Promise) -> Option<Value> {
    promise.thinks().then(|| json!({"text": THINKING, "thought": true}))
}

fn finish(promise: &Promise) -> &'static str {
    if promise.is_cut_short { "MAX_TOKENS" } else { "STOP" }
}

/// One `GenerateContentResponse`; `output` is what was generated so far, thoughts included.
fn chunk(promise: &Promise, script: &Script, parts: &Value, finish: Option<&str>, output: u64) -> Value {
    let mut candidate = json!({"index": 0, "content": {"role": "model", "parts": parts}});
    if let (Some(finish), Some(members)) = (finish, candidate.as_object_mut()) {
        members.insert("finishReason".to_owned(), json!(finish));
    }
    let mut chunk = json!({"candidates": [candidate], "modelVersion": promise.model, "responseId": "fake"});
    if let (false, Some(members)) = (script.no_usage, chunk.as_object_mut()) {
        members.insert("usageMetadata".to_owned(), usage(promise, script, output));
    }
    chunk
}

/// A count of zero is absent, as the provider has it.
fn usage(promise: &Promise, script: &Script, output: u64) -> Value {
    let counts = [
        ("promptTokenCount", promise.prompt()),
        ("cachedContentTokenCount", promise.cache_read),
        ("thoughtsTokenCount", promise.reasoning),
        ("candidatesTokenCount", output.saturating_sub(promise.reasoning)),
        ("totalTokenCount", script.total.unwrap_or(promise.prompt().saturating_add(output))),
    ];
    counts.into_iter().filter(|(_, count)| *count > 0).map(|(name, count)| (name.to_owned(), json!(count))).collect()
}

fn error_body(status: u16) -> Value {
    let name = match status {
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        429 => "RESOURCE_EXHAUSTED",
        500 => "INTERNAL",
        501.. => "UNAVAILABLE",
        _ => "INVALID_ARGUMENT",
    };
    json!({"error": {"code": status, "message": format!("the fake answers {status} as asked"), "status": name}})
}
