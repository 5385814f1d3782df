//! Chat completions, text completions, Responses and embeddings.

use std::cell::Cell;

use base64::Engine;
use bytes::Bytes;
use serde_json::{Value, json};

use super::answer::{Answer, Pieces, event};
use super::promise::{Promise, THINKING};
use super::script::Script;

/// When every answer was made.
pub(crate) const CREATED: u64 = 1_767_225_600;

/// The embedding of everything.
pub(crate) const VECTOR: [f32; 4] = [0.5, -0.25, 0.125, 1.0];

pub(crate) fn chat(request: &Value, promise: &Promise, script: &Script) -> Answer {
    if let Some(error) = refusal(request, promise, script) {
        return error;
    }
    let finish = if promise.is_cut_short { "length" } else { "stop" };
    if !is_stream(request) {
        return Answer::json_with_text(promise, |text| {
            let choices = choices(request).map(|index| {
                json!({"index": index, "message": {"role": "assistant", "content": text, "refusal": null}, "logprobs": null,
                    "finish_reason": finish})
            });
            whole("chat.completion", promise, script, &choices.collect())
        });
    }
    let delta = |delta: Value, finish: Option<&str>, usage: Option<Value>| -> Bytes {
        let choices = choices(request)
            .map(|index| json!({"index": index, "delta": delta, "logprobs": null, "finish_reason": finish}));
        chunk("chat.completion.chunk", request, promise, script, &choices.collect(), usage)
    };
    let first = delta(json!({"role": "assistant", "content": "", "refusal": null}), None, None);
    let text = promise.stream_text(|text| delta(json!({"content": text}), None, None));
    let unasked = script.always_usage.then(|| chat_usage(promise, script));
    let last = delta(json!({}), Some(finish), unasked);
    let usage = end_usage(request, script).then(|| {
        chunk("chat.completion.chunk", request, promise, script, &json!([]), Some(chat_usage(promise, script)))
    });
    stream(script, std::iter::once(first).chain(text), std::iter::once(last).chain(usage))
}

pub(crate) fn text_completion(request: &Value, promise: &Promise, script: &Script) -> Answer {
    if let Some(error) = refusal(request, promise, script) {
        return error;
    }
    let finish = if promise.is_cut_short { "length" } else { "stop" };
    if !is_stream(request) {
        return Answer::json_with_text(promise, |text| {
            let choices = choices(request)
                .map(|index| json!({"index": index, "text": text, "logprobs": null, "finish_reason": finish}));
            whole("text_completion", promise, script, &choices.collect())
        });
    }
    let delta = |text: &str, finish: Option<&str>| -> Bytes {
        let choices = choices(request)
            .map(|index| json!({"index": index, "text": text, "logprobs": null, "finish_reason": finish}));
        chunk("text_completion", request, promise, script, &choices.collect(), None)
    };
    let text = promise.stream_text(|text| delta(text, None));
    let usage = end_usage(request, script)
        .then(|| chunk("text_completion", request, promise, script, &json!([]), Some(chat_usage(promise, script))));
    stream(script, text, std::iter::once(delta("", Some(finish))).chain(usage))
}

pub(crate) fn embeddings(request: &Value, promise: &Promise, script: &Script) -> Answer {
    if let Some(error) = refusal(request, promise, script) {
        return error;
    }
    let vector = if request.get("encoding_format").is_some_and(|format| format == "base64") {
        let bytes: Vec<u8> = VECTOR.iter().flat_map(|part| part.to_le_bytes()).collect();
        json!(base64::engine::general_purpose::STANDARD.encode(bytes))
    } else {
        json!(VECTOR)
    };
    let inputs = match request.get("input").and_then(Value::as_array) {
        Some(inputs) if inputs.iter().any(|input| !input.is_number()) => inputs.len(),
        _ => 1,
    };
    let data = (0..inputs).map(|index| json!({"object": "embedding", "index": index, "embedding": vector}));
    let mut answer = json!({"object": "list", "model": promise.model, "data": data.collect::<Value>()});
    if let (false, Some(members)) = (script.no_usage, answer.as_object_mut()) {
        let total = script.total.unwrap_or(promise.prompt());
        members.insert("usage".to_owned(), json!({"prompt_tokens": promise.prompt(), "total_tokens": total}));
    }
    Answer::json(http::StatusCode::OK, &answer)
}

pub(crate) fn responses(request: &Value, promise: &Promise, script: &Script) -> Answer {
    if let Some(error) = refusal(request, promise, script) {
        return error;
    }
    if !is_stream(request) {
        return Answer::json_with_text(promise, |text| response(promise, script, Some(text)));
    }
    // Events are numbered in order; a text so long that its pieces are one and the same cannot be.
    let send = |number: usize, kind: &str, mut data: Value| -> Bytes {
        if let Some(members) = data.as_object_mut() {
            members.insert("type".to_owned(), json!(kind));
            members.insert("sequence_number".to_owned(), json!(number));
        }
        event(script, Some(kind), &data.to_string())
    };
    let place = |extra: &str, value: Value| {
        let mut data = json!({"item_id": "msg_fake", "output_index": 0, "content_index": 0, "logprobs": []});
        if let Some(members) = data.as_object_mut() {
            members.insert(extra.to_owned(), value);
        }
        data
    };
    let item = |text: Option<&str>| json!({"output_index": 0, "item": output_message(text)});
    let part = |text: &str| place("part", json!({"type": "output_text", "text": text, "annotations": []}));
    let head = [
        send(0, "response.created", json!({"response": response(promise, script, None)})),
        send(1, "response.in_progress", json!({"response": response(promise, script, None)})),
        send(2, "response.output_item.added", item(None)),
        send(3, "response.content_part.added", part("")),
    ];
    let words = promise.pieces_of_text().len();
    let number = Cell::new(head.len());
    let text = promise.stream_text(|text| {
        let now = number.replace(number.get().saturating_add(1));
        send(now, "response.output_text.delta", place("delta", json!(text)))
    });
    let next = head.len().saturating_add(words);
    let ended = if promise.is_cut_short { "response.incomplete" } else { "response.completed" };
    let tail = [
        send(next, "response.output_text.done", place("text", json!(promise.text))),
        send(next.saturating_add(1), "response.content_part.done", part(&promise.text)),
        send(next.saturating_add(2), "response.output_item.done", item(Some(&promise.text))),
    ];
    let last = send(next.saturating_add(3), ended, json!({"response": response(promise, script, Some(&promise.text))}));
    let last = (!script.no_done).then_some(last);
    let failure =
        send(next, "error", json!({"code": "server_error", "message": "the fake failed as asked", "param": null}));
    let events: Pieces = Box::new(head.into_iter().chain(text).chain(tail).chain(last));
    Answer::sse(script, events, failure)
}

/// `text` is `None` while the response is under way.
pub(crate) fn response(promise: &Promise, script: &Script, text: Option<&str>) -> Value {
    let status = match text {
        None => "in_progress",
        Some(_) if promise.is_cut_short => "incomplete",
        Some(_) => "completed",
    };
    let thought = promise.thinks().then(
        || json!({"id": "rs_fake", "type": "reasoning", "summary": [{"type": "summary_text", "text": THINKING}]}),
    );
    let output = text.map(|text| thought.into_iter().chain([output_message(Some(text))]).collect::<Vec<_>>());
    let usage = text.filter(|_| !script.no_usage).map(|_| {
        json!({
            "input_tokens": promise.prompt(),
            "input_tokens_details": {"cached_tokens": promise.cache_read, "cache_write_tokens": promise.cache_write},
            "output_tokens": promise.output,
            "output_tokens_details": {"reasoning_tokens": promise.reasoning},
            "total_tokens": script.total.unwrap_or(promise.prompt().saturating_add(promise.output)),
        })
    });
    json!({
        "id": "resp_fake", "object": "response", "created_at": CREATED, "status": status, "error": null,
        "incomplete_details": promise.is_cut_short.then(|| json!({"reason": "max_output_tokens"})), "instructions": null,
        "model": promise.model, "output": output.unwrap_or_default(), "parallel_tool_calls": true, "temperature": 1.0,
        "tool_choice": "auto", "tools": [], "top_p": 1.0, "metadata": {}, "usage": usage,
    })
}

fn output_message(text: Option<&str>) -> Value {
    let content = text.map(|text| json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []}));
    json!({
        "id": "msg_fake", "type": "message", "role": "assistant",
        "status": if text.is_some() { "completed" } else { "in_progress" }, "content": Vec::from_iter(content),
    })
}

fn whole(object: &str, promise: &Promise, script: &Script, choices: &Value) -> Value {
    let mut answer = json!({
        "id": "chatcmpl-fake", "object": object, "created": CREATED, "model": promise.model, "choices": choices,
        "service_tier": "default", "system_fingerprint": null,
    });
    if let (false, Some(members)) = (script.no_usage, answer.as_object_mut()) {
        members.insert("usage".to_owned(), chat_usage(promise, script));
    }
    answer
}

/// One event of a completion. Where usage was asked for, each has the member.
fn chunk(
    object: &str,
    request: &Value,
    promise: &Promise,
    script: &Script,
    choices: &Value,
    usage: Option<Value>,
) -> Bytes {
    let mut data = json!({"id": "chatcmpl-fake", "object": object, "created": CREATED, "model": promise.model, "choices": choices});
    if let (true, Some(members)) = (usage.is_some() || end_usage(request, script), data.as_object_mut()) {
        members.insert("usage".to_owned(), usage.unwrap_or_default());
    }
    event(script, None, &data.to_string())
}

fn chat_usage(promise: &Promise, script: &Script) -> Value {
    json!({
        "prompt_tokens": promise.prompt(),
        "completion_tokens": promise.output,
        "total_tokens": script.total.unwrap_or(promise.prompt().saturating_add(promise.output)),
        "prompt_tokens_details": {"cached_tokens": promise.cache_read, "cache_write_tokens": promise.cache_write, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": promise.reasoning, "audio_tokens": 0,
            "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0},
    })
}

fn stream(
    script: &Script,
    events: impl Iterator<Item = Bytes> + Send + 'static,
    tail: impl Iterator<Item = Bytes>,
) -> Answer {
    let done = (!script.no_done).then(|| event(script, None, "[DONE]"));
    let tail: Vec<Bytes> = tail.chain(done).collect();
    let failure = event(script, None, &error_body(500).to_string());
    Answer::sse(script, Box::new(events.chain(tail)), failure)
}

/// The error that the request, the model's name or the script asks for.
fn refusal(request: &Value, promise: &Promise, script: &Script) -> Option<Answer> {
    if script.refuse_stream_options && request.get("stream_options").is_some() {
        let message = "Unrecognized request argument supplied: stream_options";
        let error =
            json!({"message": message, "type": "invalid_request_error", "param": "stream_options", "code": null});
        return Some(Answer::error(400, &json!({"error": error})));
    }
    promise.error.map(|status| Answer::error(status, &error_body(status)))
}

pub(crate) fn count_tokens(promise: &Promise) -> Answer {
    let count = || {
        let count = json!({"object": "response.input_tokens", "input_tokens": promise.prompt()});
        Answer::json(http::StatusCode::OK, &count)
    };
    promise.error.map_or_else(count, |status| Answer::error(status, &error_body(status)))
}

fn error_body(status: u16) -> Value {
    let (kind, code) = match status {
        401 => ("invalid_request_error", "invalid_api_key"),
        404 => ("invalid_request_error", "model_not_found"),
        429 => ("insufficient_quota", "insufficient_quota"),
        500.. => ("server_error", "server_error"),
        _ => ("invalid_request_error", "invalid_request"),
    };
    // LiteLLM tells a refused key by these words.
    let cause = if status == 401 { "Incorrect API key provided: " } else { "" };
    let message = format!("{cause}the fake answers {status} as asked");
    json!({"error": {"message": message, "type": kind, "param": null, "code": code}})
}

/// Whether the stream ends with a usage event: only if it was asked for.
fn end_usage(request: &Value, script: &Script) -> bool {
    let asked = request.pointer("/stream_options/include_usage").and_then(Value::as_bool).unwrap_or(false);
    asked && !script.no_usage
}

pub(crate) fn is_stream(request: &Value) -> bool {
    request.get("stream").and_then(Value::as_bool).unwrap_or(false)
}

fn choices(request: &Value) -> impl Iterator<Item = u64> {
    0..request.get("n").and_then(Value::as_u64).unwrap_or(1)
}
