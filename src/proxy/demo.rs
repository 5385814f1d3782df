//! Demo: an upstream inside this process, so that a first call needs no key and no network.
//!
//! Speaks `OpenAI` chat completions, Anthropic Messages and Gemini `generateContent`, streaming and not. Its answer is
//! always the same sentence; a token is a word of it, and four bytes of the request's body.

use std::convert::Infallible;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::DuplexStream;
use tokio_util::task::TaskTracker;

const WORDS: &[&str] =
    &["This", " answer", " was", " made", " inside", " tokenmeter", ";", " no", " provider", " was", " asked", "."];
const MODEL: &str = "demo-1";
const REQUEST_BYTES_MAX: usize = 1 << 20;
const PIPE_BYTES: usize = 64 << 10;

/// The upstream inside this process.
#[derive(Debug)]
pub(crate) struct Demo {
    tasks: TaskTracker,
}

impl Demo {
    pub(crate) fn new(tasks: TaskTracker) -> Self {
        Self { tasks }
    }

    /// A new connection to it.
    pub(crate) fn connect(&self) -> DuplexStream {
        let (near, far) = tokio::io::duplex(PIPE_BYTES);
        self.tasks.spawn(async move {
            let serving = hyper::server::conn::http1::Builder::new()
                .keep_alive(false)
                .serve_connection(TokioIo::new(far), service_fn(answer));
            if let Err(error) = serving.await {
                tracing::debug!(error = &error as &dyn std::error::Error, "demo connection ended");
            }
        });
        near
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let Ok(body) = Limited::new(request.into_body(), REQUEST_BYTES_MAX).collect().await else {
        return Ok(reply(
            StatusCode::PAYLOAD_TOO_LARGE,
            "application/json",
            error("the demo takes bodies up to 1 MiB"),
        ));
    };
    let body = body.to_bytes();
    let request: Value = serde_json::from_slice(&body).unwrap_or_default();
    let is_stream = request.get("stream").and_then(Value::as_bool).unwrap_or(false);
    let tokens = Tokens { input: body.len() / 4, output: WORDS.len() };
    let ok = StatusCode::OK;
    Ok(if path.ends_with("/chat/completions") {
        if is_stream {
            let wants_usage =
                request.pointer("/stream_options/include_usage").and_then(Value::as_bool).unwrap_or(false);
            reply(ok, "text/event-stream", openai_stream(&tokens, wants_usage))
        } else {
            reply(ok, "application/json", openai_whole(&tokens))
        }
    } else if path.ends_with("/messages") {
        if is_stream {
            reply(ok, "text/event-stream", anthropic_stream(&tokens))
        } else {
            reply(ok, "application/json", anthropic_whole(&tokens))
        }
    } else if path.ends_with(":streamGenerateContent") {
        reply(ok, "text/event-stream", gemini_stream(&tokens))
    } else if path.ends_with(":generateContent") {
        reply(ok, "application/json", gemini_piece(&WORDS.concat(), true, &tokens).to_string())
    } else {
        let known =
            "/v1/chat/completions, /v1/messages, /v1beta/models/demo-1:generateContent, …:streamGenerateContent";
        reply(StatusCode::NOT_FOUND, "application/json", error(&format!("the demo knows {known}")))
    })
}

struct Tokens {
    input: usize,
    output: usize,
}

fn reply(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response
}

fn error(message: &str) -> String {
    json!({"error": {"message": message, "type": "invalid_request_error", "param": null, "code": "demo"}}).to_string()
}

fn openai_usage(tokens: &Tokens) -> Value {
    let total = tokens.input.saturating_add(tokens.output);
    json!({"prompt_tokens": tokens.input, "completion_tokens": tokens.output, "total_tokens": total})
}

fn openai_whole(tokens: &Tokens) -> String {
    json!({
        "id": "chatcmpl-demo", "object": "chat.completion", "created": 0, "model": MODEL,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": WORDS.concat()}, "finish_reason": "stop"}],
        "usage": openai_usage(tokens),
    })
    .to_string()
}

fn openai_stream(tokens: &Tokens, wants_usage: bool) -> String {
    let chunk = |choices: Value, usage: Option<Value>| {
        let mut chunk = json!({
            "id": "chatcmpl-demo", "object": "chat.completion.chunk", "created": 0, "model": MODEL, "choices": choices,
        });
        if let (Some(usage), Some(chunk)) = (usage, chunk.as_object_mut()) {
            chunk.insert("usage".into(), usage);
        }
        format!("data: {chunk}\n\n")
    };
    let quiet = wants_usage.then_some(Value::Null);
    let mut stream = String::new();
    for word in WORDS {
        let choice = json!([{"index": 0, "delta": {"role": "assistant", "content": word}, "finish_reason": null}]);
        stream.push_str(&chunk(choice, quiet.clone()));
    }
    stream.push_str(&chunk(json!([{"index": 0, "delta": {}, "finish_reason": "stop"}]), quiet));
    if wants_usage {
        stream.push_str(&chunk(json!([]), Some(openai_usage(tokens))));
    }
    stream.push_str("data: [DONE]\n\n");
    stream
}

fn anthropic_whole(tokens: &Tokens) -> String {
    json!({
        "id": "msg_demo", "type": "message", "role": "assistant", "model": MODEL,
        "content": [{"type": "text", "text": WORDS.concat()}], "stop_reason": "end_turn", "stop_sequence": null,
        "usage": {"input_tokens": tokens.input, "output_tokens": tokens.output},
    })
    .to_string()
}

fn anthropic_stream(tokens: &Tokens) -> String {
    let mut stream = String::new();
    let mut event = |value: Value| {
        let name = value.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
        stream.extend(["event: ", &name, "\ndata: ", &value.to_string(), "\n\n"]);
    };
    event(json!({"type": "message_start", "message": {
        "id": "msg_demo", "type": "message", "role": "assistant", "model": MODEL, "content": [],
        "stop_reason": null, "stop_sequence": null, "usage": {"input_tokens": tokens.input, "output_tokens": 1},
    }}));
    event(json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}));
    for word in WORDS {
        event(json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}}));
    }
    event(json!({"type": "content_block_stop", "index": 0}));
    event(json!({"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": null},
        "usage": {"output_tokens": tokens.output}}));
    event(json!({"type": "message_stop"}));
    stream
}

fn gemini_piece(text: &str, is_last: bool, tokens: &Tokens) -> Value {
    let total = tokens.input.saturating_add(tokens.output);
    let mut piece = json!({
        "candidates": [{"content": {"role": "model", "parts": [{"text": text}]}, "index": 0}],
        "modelVersion": MODEL, "responseId": "demo",
    });
    if is_last && let Some(piece) = piece.as_object_mut() {
        piece.insert(
            "usageMetadata".into(),
            json!({"promptTokenCount": tokens.input, "candidatesTokenCount": tokens.output, "totalTokenCount": total}),
        );
        if let Some(candidate) =
            piece.get_mut("candidates").and_then(|all| all.get_mut(0)).and_then(Value::as_object_mut)
        {
            candidate.insert("finishReason".into(), "STOP".into());
        }
    }
    piece
}

fn gemini_stream(tokens: &Tokens) -> String {
    let last = WORDS.len().saturating_sub(1);
    let mut stream = String::new();
    for (index, word) in WORDS.iter().enumerate() {
        stream.extend(["data: ", &gemini_piece(word, index == last, tokens).to_string(), "\r\n\r\n"]);
    }
    stream
}
