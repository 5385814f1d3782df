//! Bedrock: Converse, and `InvokeModel` of a Claude's own body, whole and as an AWS event stream. Converse counts what
//! was cached apart; `InvokeModel` counts in headers too, and its stream once more at the end.

use base64::Engine;
use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use serde_json::{Value, json};

use super::answer::{Answer, Pieces};
use super::anthropic;
use super::promise::Promise;
use super::script::Script;

const EVENT_STREAM: &str = "application/vnd.amazon.eventstream";

/// What a header's value is, in a message: a string.
const STRING: u8 = 7;

pub(crate) fn converse(promise: &Promise, script: &Script) -> Answer {
    if let Some(status) = promise.error {
        return refusal(status);
    }
    Answer::json_with_text(promise, |text| {
        let message = json!({"role": "assistant", "content": [{"text": text}]});
        let answer = json!({"output": {"message": message}, "stopReason": stop(promise), "metrics": {"latencyMs": 5}});
        with_usage(answer, promise, script)
    })
}

/// Usage comes last, behind the event that says why the model stopped.
pub(crate) fn converse_stream(promise: &Promise, script: &Script) -> Answer {
    if let Some(status) = promise.error {
        return refusal(status);
    }
    let start = event("messageStart", &json!({"role": "assistant", "p": "abcdef"}));
    let text = promise.stream_text(|text| {
        event("contentBlockDelta", &json!({"contentBlockIndex": 0, "delta": {"text": text}, "p": "abcd"}))
    });
    let tail = [
        event("contentBlockStop", &json!({"contentBlockIndex": 0, "p": "abc"})),
        event("messageStop", &json!({"stopReason": stop(promise), "p": "ab"})),
    ];
    let last = with_usage(json!({"metrics": {"latencyMs": 5}, "p": "a"}), promise, script);
    let last = (!script.no_done).then(|| event("metadata", &last));
    stream(script, Box::new(std::iter::once(start).chain(text).chain(tail).chain(last)))
}

pub(crate) fn invoke(request: &Value, promise: &Promise, script: &Script) -> Answer {
    if let Some(status) = promise.error {
        return refusal(status);
    }
    let mut answer = anthropic::messages(request, promise, script);
    let counts = [
        ("x-amzn-bedrock-input-token-count", promise.input),
        ("x-amzn-bedrock-output-token-count", promise.output),
        ("x-amzn-bedrock-cache-read-input-token-count", promise.cache_read),
        ("x-amzn-bedrock-cache-write-input-token-count", promise.cache_write),
    ];
    for (name, count) in counts.into_iter().filter(|_| !script.no_usage) {
        answer.headers.insert(HeaderName::from_static(name), HeaderValue::from(count));
    }
    answer
}

pub(crate) fn invoke_stream(promise: &Promise, script: &Script) -> Answer {
    if let Some(status) = promise.error {
        return refusal(status);
    }
    let chunk = |kind: &str, mut data: Value| {
        if let (true, Some(members)) = (kind == "message_stop" && !script.no_usage, data.as_object_mut()) {
            members.insert("amazon-bedrock-invocationMetrics".to_owned(), invocation_metrics(promise));
        }
        let bytes = base64::engine::general_purpose::STANDARD.encode(data.to_string());
        event("chunk", &json!({"bytes": bytes, "p": "abcdefgh"}))
    };
    stream(script, anthropic::events(promise, script, chunk))
}

fn invocation_metrics(promise: &Promise) -> Value {
    json!({
        "inputTokenCount": promise.input, "outputTokenCount": promise.output,
        "cacheReadInputTokenCount": promise.cache_read, "cacheWriteInputTokenCount": promise.cache_write,
        "invocationLatency": 5, "firstByteLatency": 1,
    })
}

fn with_usage(mut answer: Value, promise: &Promise, script: &Script) -> Value {
    if let (false, Some(members)) = (script.no_usage, answer.as_object_mut()) {
        let total = promise.prompt().saturating_add(promise.output);
        let usage = json!({
            "inputTokens": promise.input, "outputTokens": promise.output, "totalTokens": script.total.unwrap_or(total),
            "cacheReadInputTokens": promise.cache_read, "cacheWriteInputTokens": promise.cache_write,
        });
        members.insert("usage".to_owned(), usage);
    }
    answer
}

fn stop(promise: &Promise) -> &'static str {
    if promise.is_cut_short { "max_tokens" } else { "end_turn" }
}

fn stream(script: &Script, events: Pieces) -> Answer {
    let exception = json!({"message": "the fake failed as asked", "originalStatusCode": 500});
    let failure =
        message(&[(":exception-type", "modelStreamErrorException"), (":message-type", "exception")], &exception);
    Answer::stream(EVENT_STREAM, script, events, failure)
}

/// A message of an event stream.
pub(crate) fn event(kind: &str, payload: &Value) -> Bytes {
    message(&[(":event-type", kind), (":message-type", "event")], payload)
}

/// A message: lengths and their checksum, headers, payload, and the checksum of it all; numbers big-endian.
fn message(kinds: &[(&str, &str)], payload: &Value) -> Bytes {
    const PRELUDE: usize = 8;
    const CHECKSUM: usize = 4;
    let mut headers = Vec::new();
    for (name, value) in kinds.iter().chain(&[(":content-type", "application/json")]) {
        headers.extend(u8::try_from(name.len()).unwrap_or(u8::MAX).to_be_bytes());
        headers.extend_from_slice(name.as_bytes());
        headers.push(STRING);
        headers.extend(u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
        headers.extend_from_slice(value.as_bytes());
    }
    let payload = payload.to_string();
    let total = [PRELUDE, CHECKSUM, headers.len(), payload.len(), CHECKSUM].into_iter().fold(0, usize::saturating_add);
    let length = |length: usize| u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    let mut message = Vec::with_capacity(total);
    message.extend(length(total));
    message.extend(length(headers.len()));
    message.extend(crc32fast::hash(&message).to_be_bytes());
    message.extend_from_slice(&headers);
    message.extend_from_slice(payload.as_bytes());
    message.extend(crc32fast::hash(&message).to_be_bytes());
    message.into()
}

fn refusal(status: u16) -> Answer {
    let kind = match status {
        401 | 403 => "AccessDeniedException",
        404 => "ResourceNotFoundException",
        429 => "ThrottlingException",
        500 => "InternalServerException",
        501.. => "ServiceUnavailableException",
        _ => "ValidationException",
    };
    let mut answer = Answer::error(status, &json!({"message": format!("the fake answers {status} as asked")}));
    answer.headers.insert(HeaderName::from_static("x-amzn-errortype"), HeaderValue::from_static(kind));
    answer
}
