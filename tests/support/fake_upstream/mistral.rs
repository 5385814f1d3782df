//! Mistral's chat completions: a stream reports usage unasked, in the chunk that says why it finished.

use bytes::Bytes;
use serde_json::{Value, json};

use super::answer::{Answer, event};
use super::openai::{self, CREATED};
use super::promise::Promise;
use super::script::Script;

pub(crate) fn chat(request: &Value, promise: &Promise, script: &Script) -> Answer {
    if let Some(status) = promise.error {
        return Answer::error(status, &error_body(status));
    }
    let finish = if promise.is_cut_short { "length" } else { "stop" };
    if !openai::is_stream(request) {
        return Answer::json_with_text(promise, |text| {
            let message = json!({"role": "assistant", "content": text, "tool_calls": null});
            let choice = json!({"index": 0, "message": message, "finish_reason": finish});
            completion("chat.completion", promise, script, &choice, true)
        });
    }
    let delta = |delta: Value, finish: Option<&str>| -> Bytes {
        let choice = json!({"index": 0, "delta": delta, "finish_reason": finish});
        event(
            script,
            None,
            &completion("chat.completion.chunk", promise, script, &choice, finish.is_some()).to_string(),
        )
    };
    let first = delta(json!({"role": "assistant", "content": ""}), None);
    let text = promise.stream_text(|text| delta(json!({"content": text}), None));
    let last = delta(json!({"content": ""}), Some(finish));
    let done = (!script.no_done).then(|| event(script, None, "[DONE]"));
    let events = std::iter::once(first).chain(text).chain([last]).chain(done);
    Answer::sse(script, Box::new(events), event(script, None, &error_body(500).to_string()))
}

fn completion(object: &str, promise: &Promise, script: &Script, choice: &Value, is_last: bool) -> Value {
    let mut completion =
        json!({"id": "fake", "object": object, "created": CREATED, "model": promise.model, "choices": [choice]});
    if let (true, Some(members)) = (is_last && !script.no_usage, completion.as_object_mut()) {
        let usage = json!({
            "prompt_tokens": promise.prompt(),
            "completion_tokens": promise.output,
            "total_tokens": script.total.unwrap_or(promise.prompt().saturating_add(promise.output)),
            "num_cached_tokens": promise.cache_read,
            "prompt_tokens_details": {"cached_tokens": promise.cache_read},
        });
        members.insert("usage".to_owned(), usage);
    }
    completion
}

fn error_body(status: u16) -> Value {
    let message = format!("the fake answers {status} as asked");
    json!({"object": "error", "message": message, "type": "fake_error", "param": null, "code": status.to_string()})
}
