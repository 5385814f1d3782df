//! Jobs: work that outlives the call that asks for it. Background responses, runs of assistants, results of batches.
//!
//! A job is queued when it is made, in progress when it is first fetched, and completed from then on; it reports the
//! usage that its first request promised. What is streamed to its end is completed. A response that is not made in
//! the background is `resp_fake` and can be fetched too: the last one that was made. Every file and every batch whose
//! results are asked for holds the same three lines, of which two report [`LINE_INPUT`] and [`LINE_OUTPUT`] tokens.

use bytes::Bytes;
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue};
use serde_json::{Value, json};

use super::answer::{Answer, event};
use super::log::Shared;
use super::openai;
use super::promise::Promise;
use super::script::Script;

/// Prompt tokens of a line.
pub(crate) const LINE_INPUT: u64 = 11;
/// Generated tokens of a line.
pub(crate) const LINE_OUTPUT: u64 = 5;

/// What was asked for, and how often it was fetched.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    promise: Promise,
    script: Script,
    is_background: bool,
    pub(crate) fetches: u64,
}

impl Job {
    fn new(promise: &Promise, script: &Script, is_background: bool) -> Self {
        Self { promise: promise.clone(), script: script.clone(), is_background, fetches: 0 }
    }

    fn status(&self) -> &'static str {
        match self.fetches {
            0 => "queued",
            1 => "in_progress",
            _ => "completed",
        }
    }
}

/// A response, in the background where that is asked for.
pub(crate) fn responses(shared: &Shared, request: &Value, promise: &Promise, script: &Script) -> Answer {
    let is_background = request.get("background").is_some_and(|background| *background == true);
    let is_stream = request.get("stream").is_some_and(|stream| *stream == true);
    let answer = openai::responses(request, promise, script);
    if answer.status != StatusCode::OK {
        return answer;
    }
    let mut job = Job::new(promise, script, is_background);
    if !is_background {
        job.fetches = 9;
        shared.keep_job("resp_fake", job);
        return answer;
    }
    let id = shared.new_id("resp_fake");
    if is_stream {
        // It goes on however far its stream is read.
        shared.keep_job(&id, job);
        return renamed(answer, "resp_fake", id);
    }
    let queued = response(&id, &job);
    shared.keep_job(&id, job);
    Answer::json(StatusCode::OK, &queued)
}

/// A response that is fetched, as a stream where the query says so.
pub(crate) fn fetch_response(shared: &Shared, id: &str, query: &str) -> Answer {
    let Some(job) = shared.fetch_job(id) else { return missing(id) };
    if query.contains("stream=true") {
        let answer = openai::responses(&json!({"stream": true}), &job.promise, &job.script);
        return renamed(answer, "resp_fake", id.to_owned());
    }
    Answer::json(StatusCode::OK, &response(id, &job))
}

fn response(id: &str, job: &Job) -> Value {
    let text = (job.status() == "completed").then_some(job.promise.text.as_str());
    let mut response = openai::response(&job.promise, &job.script, text);
    if let Some(members) = response.as_object_mut() {
        members.insert("id".to_owned(), json!(id));
        members.insert("background".to_owned(), json!(job.is_background));
        if text.is_none() {
            members.insert("status".to_owned(), json!(job.status()));
        }
    }
    response
}

/// A run, as a stream where that is asked for.
pub(crate) fn runs(shared: &Shared, request: &Value, promise: &Promise, script: &Script) -> Answer {
    let (id, mut job) = (shared.new_id("run_fake"), Job::new(promise, script, true));
    shared.keep_job(&id, job.clone());
    let created = run(&id, &job);
    if request.get("stream").is_none_or(|stream| *stream != true) {
        return Answer::json(StatusCode::OK, &created);
    }
    job.fetches = 9;
    let events = [
        event(script, Some("thread.run.created"), &created.to_string()),
        event(script, Some("thread.run.completed"), &run(&id, &job).to_string()),
        event(script, Some("done"), "[DONE]"),
    ];
    Answer::sse(script, Box::new(events.into_iter()), Bytes::new())
}

/// A run that is fetched.
pub(crate) fn fetch_run(shared: &Shared, id: &str) -> Answer {
    shared.fetch_job(id).map_or_else(|| missing(id), |job| Answer::json(StatusCode::OK, &run(id, &job)))
}

fn run(id: &str, job: &Job) -> Value {
    let Promise { output, model, .. } = &job.promise;
    let prompt = job.promise.prompt();
    let usage = json!({"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output});
    let is_over = job.status() == "completed";
    json!({
        "id": id, "object": "thread.run", "created_at": openai::CREATED, "assistant_id": "asst_fake",
        "thread_id": "thread_fake", "status": job.status(), "model": model,
        "usage": if is_over { usage } else { Value::Null },
    })
}

/// The lines that a batch of chats put out.
pub(crate) fn file_content() -> Answer {
    let body = |number: u64| {
        json!({
            "id": format!("chatcmpl-{number}"), "object": "chat.completion", "model": "gpt-4o-mini", "choices": [],
            "usage": {"prompt_tokens": LINE_INPUT, "completion_tokens": LINE_OUTPUT, "total_tokens": LINE_INPUT + LINE_OUTPUT},
        })
    };
    let line = |number: u64, status: u16, body: Value| {
        json!({
            "id": format!("batch_req_{number}"), "custom_id": format!("request-{number}"), "error": null,
            "response": {"status_code": status, "request_id": "req_fake", "body": body},
        })
    };
    lines(&[line(1, 200, body(1)), line(2, 400, json!({"error": {"message": "as asked"}})), line(3, 200, body(3))])
}

/// The lines of a batch of messages.
pub(crate) fn batch_results() -> Answer {
    let message = json!({
        "id": "msg_fake", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5", "content": [],
        "usage": {"input_tokens": LINE_INPUT, "output_tokens": LINE_OUTPUT, "service_tier": "batch"},
    });
    let line = |number: u64, result: Value| json!({"custom_id": format!("request-{number}"), "result": result});
    let succeeded = json!({"type": "succeeded", "message": message});
    let failed = json!({"type": "errored", "error": {"type": "error", "error": {"type": "invalid_request"}}});
    lines(&[line(1, succeeded.clone()), line(2, failed), line(3, succeeded)])
}

/// Lines, each a piece.
fn lines(values: &[Value]) -> Answer {
    let lines: Vec<Bytes> = values.iter().map(|value| Bytes::from(format!("{value}\n"))).collect();
    let length = lines.iter().map(|line| line.len() as u64).sum();
    let mut answer = Answer::json(StatusCode::OK, &Value::Null);
    answer.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    Answer { pieces: Box::new(lines.into_iter()), length: Some(length), ..answer }
}

fn missing(id: &str) -> Answer {
    Answer::error(404, &json!({"error": {"message": format!("no `{id}`"), "type": "invalid_request_error"}}))
}

/// The same answer with another id.
fn renamed(answer: Answer, from: &'static str, to: String) -> Answer {
    let pieces = answer.pieces.map(move |piece| match std::str::from_utf8(&piece) {
        Ok(text) => Bytes::from(text.replace(from, &to)),
        Err(_) => piece,
    });
    Answer { pieces: Box::new(pieces), ..answer }
}
