//! Cohere, version 2: chat and its stream, embed, rerank. Tokens stand beside the units that are billed; cached ones
//! are among the former only.

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

use super::answer::{Answer, event};
use super::openai::{self, VECTOR};
use super::promise::Promise;
use super::script::Script;

pub(crate) fn chat(request: &Value, promise: &Promise, script: &Script) -> Answer {
    if let Some(status) = promise.error {
        return Answer::error(status, &error_body(status));
    }
    let finish = if promise.is_cut_short { "MAX_TOKENS" } else { "COMPLETE" };
    if !openai::is_stream(request) {
        return Answer::json_with_text(promise, |text| {
            let message = json!({"role": "assistant", "content": [{"type": "text", "text": text}]});
            let answer = json!({"id": "fake", "finish_reason": finish, "message": message});
            with(answer, "usage", script, chat_usage(promise))
        });
    }
    let send = |kind: &str, mut data: Value| -> Bytes {
        if let Some(members) = data.as_object_mut() {
            members.insert("type".to_owned(), json!(kind));
        }
        event(script, Some(kind), &data.to_string())
    };
    let content = |content: Value| json!({"index": 0, "delta": {"message": {"content": content}}});
    let message = json!({"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []});
    let head = [
        send("message-start", json!({"id": "fake", "delta": {"message": message}})),
        send("content-start", content(json!({"type": "text", "text": ""}))),
    ];
    let text = promise.stream_text(|text| send("content-delta", content(json!({"text": text}))));
    let end = with(json!({"finish_reason": finish}), "usage", script, chat_usage(promise));
    let tail = [send("content-end", json!({"index": 0})), send("message-end", json!({"id": "fake", "delta": end}))];
    let done = (!script.no_done).then(|| event(script, None, "[DONE]"));
    let events = head.into_iter().chain(text).chain(tail).chain(done);
    let failure =
        json!({"id": "fake", "delta": {"finish_reason": "ERROR", "error": "the fake failed as asked", "usage": {}}});
    Answer::sse(script, Box::new(events), send("message-end", failure))
}

pub(crate) fn embed(request: &Value, promise: &Promise, script: &Script) -> Answer {
    if let Some(status) = promise.error {
        return Answer::error(status, &error_body(status));
    }
    let texts = request.get("texts").cloned().unwrap_or_default();
    let vectors = vec![VECTOR; texts.as_array().map_or(1, Vec::len)];
    let answer =
        json!({"id": "fake", "response_type": "embeddings_by_type", "embeddings": {"float": vectors}, "texts": texts});
    let meta = json!({"api_version": {"version": "2"}, "billed_units": {"input_tokens": promise.prompt()}});
    Answer::json(StatusCode::OK, &with(answer, "meta", script, meta))
}

/// Documents in the order in which they came; one search, and no tokens.
pub(crate) fn rerank(request: &Value, promise: &Promise, script: &Script) -> Answer {
    if let Some(status) = promise.error {
        return Answer::error(status, &error_body(status));
    }
    let documents = request.get("documents").and_then(Value::as_array).map_or(0, Vec::len);
    let results: Value = (0..documents).map(|index| json!({"index": index, "relevance_score": 0.5})).collect();
    let meta = json!({"api_version": {"version": "2"}, "billed_units": {"search_units": 1}});
    Answer::json(StatusCode::OK, &with(json!({"id": "fake", "results": results}), "meta", script, meta))
}

fn chat_usage(promise: &Promise) -> Value {
    json!({
        "billed_units": {"input_tokens": promise.input, "output_tokens": promise.output},
        "tokens": {"input_tokens": promise.prompt(), "output_tokens": promise.output},
        "cached_tokens": promise.cache_read,
    })
}

fn with(mut answer: Value, member: &str, script: &Script, usage: Value) -> Value {
    if let (false, Some(members)) = (script.no_usage, answer.as_object_mut()) {
        members.insert(member.to_owned(), usage);
    }
    answer
}

fn error_body(status: u16) -> Value {
    json!({"id": "fake", "message": format!("the fake answers {status} as asked")})
}
