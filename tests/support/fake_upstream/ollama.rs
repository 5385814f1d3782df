//! Ollama's own API: chat as lines of JSON, which is what it answers where the request does not say, and embed.

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

use super::answer::Answer;
use super::openai::VECTOR;
use super::promise::Promise;
use super::script::Script;

pub(crate) fn chat(request: &Value, promise: &Promise, script: &Script) -> Answer {
    if let Some(status) = promise.error {
        return Answer::error(status, &error_body(status));
    }
    if request.get("stream").and_then(Value::as_bool) == Some(false) {
        return Answer::json_with_text(promise, |text| part(promise, script, text, true));
    }
    let line = |value: Value| Bytes::from(format!("{value}\n"));
    let text = promise.stream_text(|text| line(part(promise, script, text, false)));
    let last = (!script.no_done).then(|| line(part(promise, script, "", true)));
    let failure = line(error_body(500));
    Answer::stream("application/x-ndjson", script, Box::new(text.chain(last)), failure)
}

pub(crate) fn embed(request: &Value, promise: &Promise, script: &Script) -> Answer {
    if let Some(status) = promise.error {
        return Answer::error(status, &error_body(status));
    }
    let inputs = request.get("input").and_then(Value::as_array).map_or(1, Vec::len);
    let mut answer = json!({"model": promise.model, "embeddings": vec![VECTOR; inputs], "total_duration": 5_000_000, "load_duration": 1_000_000});
    count(&mut answer, script, "prompt_eval_count", promise.prompt());
    Answer::json(StatusCode::OK, &answer)
}

/// One line of the answer, or all of it.
fn part(promise: &Promise, script: &Script, text: &str, is_last: bool) -> Value {
    let mut part = json!({
        "model": promise.model, "created_at": "2026-01-01T00:00:00Z",
        "message": {"role": "assistant", "content": text}, "done": is_last,
    });
    if let (true, Some(members)) = (is_last, part.as_object_mut()) {
        members.insert("done_reason".to_owned(), json!(if promise.is_cut_short { "length" } else { "stop" }));
        members.insert("total_duration".to_owned(), json!(5_000_000));
        count(&mut part, script, "prompt_eval_count", promise.prompt());
        count(&mut part, script, "eval_count", promise.output);
    }
    part
}

/// A count of zero is left out, as the server has it.
fn count(answer: &mut Value, script: &Script, name: &str, count: u64) {
    if let (true, Some(members)) = (count > 0 && !script.no_usage, answer.as_object_mut()) {
        members.insert(name.to_owned(), json!(count));
    }
}

fn error_body(status: u16) -> Value {
    json!({"error": format!("the fake answers {status} as asked")})
}
