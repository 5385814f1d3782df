//! Streams: one answer as every wire that streams sends it, and what each of its pieces tells.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Value, json};

use crate::fake_upstream::bedrock::event;

/// What is said, a piece a word.
const SAID: &str = "The meter counts every token that passes and tells who paid for it , whoever leaves first ; \
                    a stream that breaks off is charged for what was delivered by then and for nothing else .";

/// What providers report that tell their counts at the end: no one counts so by accident.
const REPORTED: u64 = 77;

/// A streamed answer.
pub(crate) struct Stream {
    /// The upstream, and its wire.
    pub(crate) wire: &'static str,
    /// The provider's path.
    pub(crate) path: &'static str,
    pub(crate) body: Value,
    pub(crate) model: &'static str,
    pub(crate) content_type: &'static str,
    pub(crate) pieces: Vec<Piece>,
    /// Output tokens that the provider reports in the end.
    pub(crate) reported: u64,
    /// Pieces until it has told them.
    pub(crate) told_after: usize,
    /// Pieces until the terminal event, that included; `None` where there is none.
    pub(crate) ends_after: Option<usize>,
}

/// A piece of the body, and the text that it delivers.
pub(crate) struct Piece {
    pub(crate) bytes: Bytes,
    pub(crate) text: &'static str,
}

impl Stream {
    /// The text of the first `pieces`.
    pub(crate) fn text(&self, pieces: usize) -> String {
        self.pieces.iter().take(pieces).map(|piece| piece.text).collect()
    }

    /// The bytes of the first `pieces`.
    pub(crate) fn length(&self, pieces: usize) -> usize {
        self.pieces.iter().take(pieces).map(|piece| piece.bytes.len()).sum()
    }
}

/// What a wire sends around the words: what begins it, a word, what ends it. What ends it is behind a last word.
struct Shape<'a> {
    wire: &'static str,
    path: &'static str,
    model: &'static str,
    content_type: &'static str,
    begin: Vec<Bytes>,
    /// Makes a piece of a word, its number, and whether it is the last.
    word: &'a dyn Fn(&str, usize, bool) -> Bytes,
    end: Vec<Bytes>,
    /// What of the end stands in front of the reported usage; `None`: the words tell it.
    before_usage: Option<usize>,
    /// Whether the last piece of the end, but for what never comes, is the terminal event.
    is_ended: bool,
    /// What may stand behind the end.
    behind: &'static str,
}

impl Shape<'_> {
    fn stream(self, body: Value) -> Stream {
        let words: Vec<&'static str> = SAID.split_inclusive(' ').collect();
        let last = words.len() - 1;
        let plain = |bytes: Bytes| Piece { bytes, text: "" };
        let said = words
            .iter()
            .enumerate()
            .map(|(at, word)| Piece { bytes: (self.word)(word, at + 1, at == last), text: word });
        let (begin, end) = (self.begin.len(), self.end.len());
        let told_after = begin + words.len() + self.before_usage.map_or(0, |before| before + 1);
        let ends_after = self.is_ended.then_some(begin + words.len() + end);
        let tail = self.end.into_iter().chain([Bytes::from_static(self.behind.as_bytes())]);
        let pieces = self.begin.into_iter().map(plain).chain(said).chain(tail.map(plain)).collect();
        Stream {
            wire: self.wire,
            path: self.path,
            body,
            model: self.model,
            content_type: self.content_type,
            pieces,
            reported: if self.before_usage.is_some() { REPORTED } else { words.len() as u64 },
            told_after,
            ends_after,
        }
    }
}

const EVENTS: &str = "text/event-stream";
const BEHIND_EVENTS: &str = ": nothing more\n\n";

fn sse(data: &Value) -> Bytes {
    Bytes::from(format!("data: {data}\n\n"))
}

fn named(data: &Value) -> Bytes {
    let name = data["type"].as_str().unwrap_or_default();
    Bytes::from(format!("event: {name}\ndata: {data}\n\n"))
}

fn line(data: &Value) -> Bytes {
    Bytes::from(format!("{data}\n"))
}

fn done() -> Bytes {
    Bytes::from_static(b"data: [DONE]\n\n")
}

fn messages(model: &str) -> Value {
    json!({"model": model, "stream": true, "messages": [{"role": "user", "content": "how are you today"}]})
}

fn chunk(delta: &Value, reason: Option<&str>) -> Value {
    let choice = json!({"index": 0, "delta": delta, "finish_reason": reason});
    json!({"id": "c-1", "object": "chat.completion.chunk", "model": "gpt-4o-mini", "choices": [choice]})
}

fn openai_usage() -> Value {
    json!({"prompt_tokens": 11, "completion_tokens": REPORTED, "total_tokens": 11 + REPORTED})
}

/// Every wire that streams.
pub(crate) fn all() -> Vec<Stream> {
    let mut all = openai();
    all.extend(anthropic());
    all.extend(gemini());
    all.extend(bedrock());
    all.extend(cohere());
    all.extend(others());
    all
}

fn openai() -> Vec<Stream> {
    let usage = json!({"id": "c-1", "object": "chat.completion.chunk", "model": "gpt-4o-mini", "choices": [], "usage": openai_usage()});
    let chat = |wire, path| {
        let shape = Shape {
            wire,
            path,
            model: "gpt-4o-mini",
            content_type: EVENTS,
            begin: vec![sse(&chunk(&json!({"role": "assistant", "content": ""}), None))],
            word: &|word, _, _| sse(&chunk(&json!({"content": word}), None)),
            end: vec![sse(&chunk(&json!({}), Some("stop"))), sse(&usage), done()],
            before_usage: Some(1),
            is_ended: true,
            behind: BEHIND_EVENTS,
        };
        let mut body = messages("gpt-4o-mini");
        body["stream_options"] = json!({"include_usage": true});
        shape.stream(body)
    };
    let text = |word: &str| json!({"object": "text_completion", "model": "gpt-4o-mini", "choices": [{"index": 0, "text": word}]});
    let completion = Shape {
        wire: "openai",
        path: "/v1/completions",
        model: "gpt-4o-mini",
        content_type: EVENTS,
        begin: vec![],
        word: &|word, _, _| sse(&text(word)),
        end: vec![sse(&json!({"object": "text_completion", "choices": [], "usage": openai_usage()})), done()],
        before_usage: Some(0),
        is_ended: true,
        behind: BEHIND_EVENTS,
    };
    let of_response = |kind: &str, status: &str, usage: Value| {
        named(
            &json!({"type": kind, "response": {"id": "r-1", "object": "response", "status": status, "model": "gpt-4o-mini", "usage": usage}}),
        )
    };
    let response = Shape {
        wire: "openai",
        path: "/v1/responses",
        model: "gpt-4o-mini",
        content_type: EVENTS,
        begin: vec![
            of_response("response.created", "in_progress", Value::Null),
            named(
                &json!({"type": "response.output_item.added", "output_index": 0, "item": {"type": "message", "id": "m-1"}}),
            ),
        ],
        word: &|word, _, _| {
            named(&json!({"type": "response.output_text.delta", "item_id": "m-1", "output_index": 0, "delta": word}))
        },
        end: vec![
            named(&json!({"type": "response.output_text.done", "item_id": "m-1", "output_index": 0, "text": SAID})),
            of_response("response.completed", "completed", json!({"input_tokens": 11, "output_tokens": REPORTED})),
        ],
        before_usage: Some(1),
        is_ended: true,
        behind: BEHIND_EVENTS,
    };
    vec![
        chat("openai", "/v1/chat/completions"),
        chat("azure", "/openai/deployments/gpt-4o-mini/chat/completions?api-version=2024-10-21"),
        completion.stream(json!({"model": "gpt-4o-mini", "stream": true, "prompt": "how are you today"})),
        response.stream(json!({"model": "gpt-4o-mini", "stream": true, "input": "how are you today"})),
    ]
}

/// Events of Messages, each made by `event`.
fn messages_events<'a>(
    (wire, path, model, content_type): (&'static str, &'static str, &'static str, &'static str),
    event: &dyn Fn(&Value) -> Bytes,
    word: &'a dyn Fn(&str, usize, bool) -> Bytes,
    behind: &'static str,
) -> Shape<'a> {
    let message = json!({"id": "m-1", "type": "message", "role": "assistant", "model": model, "content": [],
        "usage": {"input_tokens": 11, "output_tokens": 1}});
    let text = json!({"type": "text", "text": ""});
    let usage = json!({"output_tokens": REPORTED});
    Shape {
        wire,
        path,
        model,
        content_type,
        begin: vec![
            event(&json!({"type": "message_start", "message": message})),
            event(&json!({"type": "content_block_start", "index": 0, "content_block": text})),
            event(&json!({"type": "ping"})),
        ],
        word,
        end: vec![
            event(&json!({"type": "content_block_stop", "index": 0})),
            event(&json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage})),
            event(&json!({"type": "message_stop"})),
        ],
        before_usage: Some(1),
        is_ended: true,
        behind,
    }
}

fn text_delta(word: &str) -> Value {
    json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}})
}

fn anthropic() -> Vec<Stream> {
    const PLACES: [(&str, &str, &str, &str); 2] = [
        ("anthropic", "/v1/messages", "claude-sonnet-4-5", EVENTS),
        (
            "vertex",
            "/v1/projects/p/locations/l/publishers/anthropic/models/claude-sonnet-4-5:streamRawPredict",
            "claude-sonnet-4-5",
            EVENTS,
        ),
    ];
    PLACES
        .into_iter()
        .map(|place| {
            let word = |word: &str, _, _| named(&text_delta(word));
            messages_events(place, &named, &word, BEHIND_EVENTS).stream(messages("claude-sonnet-4-5"))
        })
        .collect()
}

fn gemini() -> Vec<Stream> {
    let part = |word: &str, number: usize, is_last: bool| {
        let content = json!({"role": "model", "parts": [{"text": word}]});
        let mut candidate = json!({"index": 0, "content": content});
        if is_last {
            candidate["finishReason"] = json!("STOP");
        }
        let usage = json!({"promptTokenCount": 11, "candidatesTokenCount": number, "totalTokenCount": 11 + number});
        json!({"candidates": [candidate], "usageMetadata": usage, "modelVersion": "gemini-2.0-flash"})
    };
    let body = json!({"contents": [{"role": "user", "parts": [{"text": "how are you today"}]}]});
    let events = |wire, path| {
        let word = |word: &str, number, is_last| sse(&part(word, number, is_last));
        let shape = Shape {
            wire,
            path,
            model: "gemini-2.0-flash",
            content_type: EVENTS,
            begin: vec![],
            word: &word,
            end: vec![],
            before_usage: None,
            is_ended: false,
            behind: BEHIND_EVENTS,
        };
        shape.stream(body.clone())
    };
    let element = |word: &str, number: usize, is_last: bool| {
        Bytes::from(format!("{}{}", if number == 1 { "[" } else { "\n,\r\n" }, part(word, number, is_last)))
    };
    let array = Shape {
        wire: "gemini",
        path: "/v1beta/models/gemini-2.0-flash:streamGenerateContent",
        model: "gemini-2.0-flash",
        content_type: "application/json; charset=UTF-8",
        begin: vec![],
        word: &element,
        end: vec![],
        before_usage: None,
        is_ended: false,
        behind: "\n]",
    };
    vec![
        events("gemini", "/v1beta/models/gemini-2.0-flash:streamGenerateContent?alt=sse"),
        events(
            "vertex",
            "/v1/projects/p/locations/l/publishers/google/models/gemini-2.0-flash:streamGenerateContent?alt=sse",
        ),
        array.stream(body.clone()),
    ]
}

fn bedrock() -> Vec<Stream> {
    const MESSAGES: &str = "application/vnd.amazon.eventstream";
    let usage = json!({"inputTokens": 11, "outputTokens": REPORTED, "totalTokens": 11 + REPORTED});
    let converse = Shape {
        wire: "bedrock",
        path: "/model/amazon.nova-lite-v1:0/converse-stream",
        model: "amazon.nova-lite-v1:0",
        content_type: MESSAGES,
        begin: vec![event("messageStart", &json!({"role": "assistant"}))],
        word: &|word, _, _| event("contentBlockDelta", &json!({"contentBlockIndex": 0, "delta": {"text": word}})),
        end: vec![
            event("contentBlockStop", &json!({"contentBlockIndex": 0})),
            event("messageStop", &json!({"stopReason": "end_turn"})),
            event("metadata", &json!({"usage": usage, "metrics": {"latencyMs": 5}})),
        ],
        before_usage: Some(2),
        is_ended: true,
        behind: "",
    };
    let chunk = |data: &Value| event("chunk", &json!({"bytes": STANDARD.encode(data.to_string()), "p": "abc"}));
    let word = |word: &str, _, _| chunk(&text_delta(word));
    let place = (
        "bedrock",
        "/model/anthropic.claude-3-haiku-20240307-v1:0/invoke-with-response-stream",
        "anthropic.claude-3-haiku-20240307-v1:0",
        MESSAGES,
    );
    let invoke = messages_events(place, &chunk, &word, "");
    let asked = json!({"role": "user", "content": [{"text": "how are you today"}]});
    vec![converse.stream(json!({"messages": [asked]})), invoke.stream(messages("claude-3-haiku"))]
}

fn cohere() -> Vec<Stream> {
    let usage = json!({"tokens": {"input_tokens": 11, "output_tokens": REPORTED}});
    let content = |word: &str| json!({"message": {"content": {"text": word}}});
    let second = Shape {
        wire: "cohere",
        path: "/v2/chat",
        model: "command-a-03-2025",
        content_type: EVENTS,
        begin: vec![named(
            &json!({"type": "message-start", "delta": {"message": {"role": "assistant", "content": []}}}),
        )],
        word: &|word, _, _| named(&json!({"type": "content-delta", "index": 0, "delta": content(word)})),
        end: vec![
            named(&json!({"type": "content-end", "index": 0})),
            named(&json!({"type": "message-end", "delta": {"finish_reason": "COMPLETE", "usage": usage}})),
        ],
        before_usage: Some(1),
        is_ended: true,
        behind: BEHIND_EVENTS,
    };
    let response = json!({"text": SAID, "finish_reason": "COMPLETE", "meta": usage});
    let first = Shape {
        wire: "cohere",
        path: "/v1/chat",
        model: "command-r",
        content_type: "application/stream+json",
        begin: vec![line(&json!({"is_finished": false, "event_type": "stream-start", "generation_id": "g1"}))],
        word: &|word, _, _| line(&json!({"is_finished": false, "event_type": "text-generation", "text": word})),
        end: vec![line(&json!({"is_finished": true, "event_type": "stream-end", "response": response}))],
        before_usage: Some(0),
        is_ended: true,
        behind: "\n",
    };
    let older = json!({"model": "command-r", "stream": true, "message": "how are you today"});
    vec![second.stream(messages("command-a-03-2025")), first.stream(older)]
}

fn others() -> Vec<Stream> {
    let lines = |word: &str| {
        line(&json!({"model": "qwen3:4b", "message": {"role": "assistant", "content": word}, "done": false}))
    };
    let ollama = Shape {
        wire: "ollama",
        path: "/api/chat",
        model: "qwen3:4b",
        content_type: "application/x-ndjson",
        begin: vec![],
        word: &|word, _, _| lines(word),
        end: vec![line(&json!({"model": "qwen3:4b", "message": {"role": "assistant", "content": ""}, "done": true,
            "done_reason": "stop", "prompt_eval_count": 11, "eval_count": REPORTED}))],
        before_usage: Some(0),
        is_ended: true,
        behind: "\n",
    };
    let words: Vec<&str> = SAID.split_inclusive(' ').collect();
    let dashscope = Shape {
        wire: "dashscope",
        path: "/api/v1/services/aigc/text-generation/generation",
        model: "qwen-plus",
        content_type: "text/event-stream;charset=UTF-8",
        begin: vec![],
        word: &|_, number, is_last| {
            let so_far = words.iter().take(number).copied().collect::<String>();
            let reason = if is_last { "stop" } else { "null" };
            let output =
                json!({"choices": [{"message": {"role": "assistant", "content": so_far}, "finish_reason": reason}]});
            let usage = json!({"input_tokens": 11, "output_tokens": number, "total_tokens": 11 + number});
            sse(&json!({"output": output, "usage": usage, "request_id": "d-1"}))
        },
        end: vec![],
        before_usage: None,
        is_ended: false,
        behind: BEHIND_EVENTS,
    };
    let token = |text: &str, is_special: bool| json!({"id": 7, "text": text, "logprob": -0.5, "special": is_special});
    let details = json!({"finish_reason": "eos_token", "generated_tokens": REPORTED, "input_length": 11});
    let tgi = Shape {
        wire: "tgi",
        path: "/generate_stream",
        model: "",
        content_type: EVENTS,
        begin: vec![],
        word: &|word, _, _| sse(&json!({"token": token(word, false), "generated_text": null, "details": null})),
        end: vec![sse(&json!({"token": token("</s>", true), "generated_text": SAID, "details": details}))],
        before_usage: Some(0),
        is_ended: true,
        behind: BEHIND_EVENTS,
    };
    let cloudflare = Shape {
        wire: "cloudflare",
        path: "/client/v4/accounts/a/ai/run/@cf/meta/llama-3.2-1b-instruct",
        model: "@cf/meta/llama-3.2-1b-instruct",
        content_type: EVENTS,
        begin: vec![],
        word: &|word, _, _| sse(&json!({"response": word, "p": "abcd"})),
        end: vec![sse(&json!({"response": "", "usage": openai_usage()})), done()],
        before_usage: Some(0),
        is_ended: true,
        behind: BEHIND_EVENTS,
    };
    let results = |text: &str, input: u64, output: u64, reason: &str| {
        let result = json!({"generated_text": text, "generated_token_count": output, "input_token_count": input, "stop_reason": reason});
        sse(&json!({"model_id": "ibm/granite-3-8b", "results": [result]}))
    };
    let watsonx = Shape {
        wire: "watsonx",
        path: "/ml/v1/text/generation_stream?version=2024-05-01",
        model: "ibm/granite-3-8b",
        content_type: EVENTS,
        begin: vec![results("", 11, 0, "not_finished")],
        word: &|word, number, is_last| {
            results(word, 0, number as u64, if is_last { "eos_token" } else { "not_finished" })
        },
        end: vec![],
        before_usage: None,
        is_ended: false,
        behind: BEHIND_EVENTS,
    };
    let prompt = json!({"input": "how are you today", "model_id": "ibm/granite-3-8b"});
    let inputs = json!({"inputs": "how are you today", "stream": true});
    let asked = json!({"model": "qwen-plus", "input": {"prompt": "how are you today"}, "stream": true});
    vec![
        ollama.stream(messages("qwen3:4b")),
        dashscope.stream(asked),
        tgi.stream(inputs),
        cloudflare.stream(json!({"stream": true, "prompt": "how are you today"})),
        watsonx.stream(prompt),
    ]
}
