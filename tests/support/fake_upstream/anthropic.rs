//! Messages. Counts exclude what was cached; a stream's are cumulative and come twice.

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

use super::answer::{Answer, Pieces, event};
use super::promise::{Promise, THINKING};
use super::script::Script;

pub(crate) fn messages(request: &Value, promise: &Promise, script: &Script) -> Answer {
    if let Some(status) = promise.error {
        return Answer::error(status, &error_body(status));
    }
    if request.get("stream").and_then(Value::as_bool) != Some(true) {
        return Answer::json_with_text(promise, |text| {
            let thinking = json!({"type": "thinking", "thinking": THINKING, "signature": "ZmFrZQ=="});
            let content: Vec<Value> = promise
                .thinks()
                .then_some(thinking)
                .into_iter()
                .chain([json!({"type": "text", "text": text})])
                .collect();
            message(promise, script, &json!(content), Some(stop(promise)), promise.output)
        });
    }
    let send = |kind: &str, data: Value| event(script, Some(kind), &data.to_string());
    Answer::sse(script, events(promise, script, send), send("error", error_body(529)))
}

/// The events of a stream, each made by `send` from its name and data.
pub(crate) fn events(promise: &Promise, script: &Script, send: impl Fn(&str, Value) -> Bytes) -> Pieces {
    let send = |kind: &str, mut data: Value| -> Bytes {
        if let Some(members) = data.as_object_mut() {
            members.insert("type".to_owned(), json!(kind));
        }
        send(kind, data)
    };
    let start =
        |index: usize, block: Value| send("content_block_start", json!({"index": index, "content_block": block}));
    let delta = |index: usize, delta: Value| send("content_block_delta", json!({"index": index, "delta": delta}));
    let stop_block = |index: usize| send("content_block_stop", json!({"index": index}));

    // The provider's first word on output is a token or so; its last is the truth.
    let mut head = vec![send(
        "message_start",
        json!({"message": message(promise, script, &json!([]), None, promise.output.min(1))}),
    )];
    let text_index = usize::from(promise.thinks());
    if promise.thinks() {
        head.push(start(0, json!({"type": "thinking", "thinking": "", "signature": ""})));
        head.extend(
            THINKING.split_inclusive(' ').map(|word| delta(0, json!({"type": "thinking_delta", "thinking": word}))),
        );
        head.push(delta(0, json!({"type": "signature_delta", "signature": "ZmFrZQ=="})));
        head.push(stop_block(0));
    }
    head.push(start(text_index, json!({"type": "text", "text": ""})));
    head.push(send("ping", json!({})));
    let text = promise.stream_text(|text| delta(text_index, json!({"type": "text_delta", "text": text})));
    let mut last = json!({"delta": {"stop_reason": stop(promise), "stop_sequence": null}});
    if let (false, Some(members)) = (script.no_usage, last.as_object_mut()) {
        members.insert("usage".to_owned(), usage(promise, promise.output));
    }
    let tail = [stop_block(text_index), send("message_delta", last)];
    let done = (!script.no_done).then(|| send("message_stop", json!({})));
    Box::new(head.into_iter().chain(text).chain(tail).chain(done))
}

fn stop(promise: &Promise) -> &'static str {
    if promise.is_cut_short { "max_tokens" } else { "end_turn" }
}

pub(crate) fn count_tokens(promise: &Promise) -> Answer {
    match promise.error {
        Some(status) => Answer::error(status, &error_body(status)),
        None => Answer::json(StatusCode::OK, &json!({"input_tokens": promise.prompt()})),
    }
}

fn message(promise: &Promise, script: &Script, content: &Value, stop: Option<&str>, output: u64) -> Value {
    let mut message = json!({
        "id": "msg_fake", "type": "message", "role": "assistant", "model": promise.model, "content": content,
        "stop_reason": stop, "stop_sequence": null,
    });
    if let (false, Some(members)) = (script.no_usage, message.as_object_mut()) {
        members.insert("usage".to_owned(), usage(promise, output));
    }
    message
}

fn usage(promise: &Promise, output: u64) -> Value {
    json!({
        "input_tokens": promise.input,
        "cache_read_input_tokens": promise.cache_read,
        "cache_creation_input_tokens": promise.cache_write,
        "cache_creation": {"ephemeral_5m_input_tokens": promise.cache_write, "ephemeral_1h_input_tokens": 0},
        "output_tokens": output,
        "output_tokens_details": {"thinking_tokens": promise.reasoning.min(output)},
        "service_tier": "standard",
    })
}

fn error_body(status: u16) -> Value {
    let kind = match status {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        429 => "rate_limit_error",
        529 => "overloaded_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    };
    let message = format!("the fake answers {status} as asked");
    json!({"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_fake"})
}
