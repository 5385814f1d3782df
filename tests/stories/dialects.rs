//! Dialects: APIs that are nobody else's, each by its own rules.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::fake_upstream::Canned;
use crate::stand::Stand;

/// A stand whose upstreams speak Ollama's and Cohere's own dialects.
fn stand() -> Stand {
    Stand::with(|base| {
        ["ollama", "cohere"]
            .map(|name| format!("[[upstream]]\nname = \"{name}\"\nwire = \"{name}\"\nbase_url = \"{base}\"\n"))
            .concat()
    })
}

/// The record of a call of `path` that is answered with `answer`.
async fn record_of(stand: &Stand, path: &str, body: &Value, content_type: &str, answer: &'static [u8]) -> Value {
    let before = stand.records().len();
    let headers = vec![("content-type".to_owned(), content_type.to_owned())];
    let canned = Canned { status: 200, headers, chunks: vec![Bytes::from_static(answer)] };
    stand.fake.respond_to("canned", canned);
    let reply = stand.call(path).json(body).header("x-fake-replay", "canned").send().await;
    assert_eq!(reply.body, answer);
    stand.records_when(before + 1).remove(before)
}

#[tokio::test]
async fn ollama_streams_where_nobody_says_otherwise_and_is_found_by_its_path() {
    let stand = stand();
    let body = json!({"model": "qwen3:4b", "messages": [{"role": "user", "content": "ping"}]});
    let answer = include_bytes!("../fixtures/ollama/chat_stream.ndjson");
    let record = record_of(&stand, "/api/chat", &body, "application/x-ndjson", answer).await;
    assert_eq!((&record["wire"], &record["stream"]), (&json!("ollama"), &json!(true)));
    assert_eq!(record["tokens"], json!({"input": 18, "output": 64}));
    assert_eq!((&record["provenance"], &record["model"]), (&json!("reported"), &json!("qwen3:4b")));
}

#[tokio::test]
async fn what_ollama_leaves_out_is_counted_here() {
    let stand = stand();
    let body = json!({"model": "llama3.1", "prompt": "how are you today", "stream": false});
    let answer = include_bytes!("../fixtures/ollama/generate.json");
    let record = record_of(&stand, "/ollama/api/generate", &body, "application/json", answer).await;
    assert_eq!((&record["provenance"], &record["stream"]), (&json!("partial"), &json!(false)));
    assert_eq!(record["tokens"]["output"], 38);
    assert!((2..10).contains(&record["tokens"]["input"].as_u64().unwrap()), "{record:#}");
}

#[tokio::test]
async fn cohere_is_counted_by_what_it_processes_and_paid_by_what_it_bills() {
    let stand = stand();
    let body = json!({"model": "command-a-03-2025", "messages": [{"role": "user", "content": "Hi"}]});
    let answer = include_bytes!("../fixtures/cohere/chat.json");
    let record = record_of(&stand, "/v2/chat", &body, "application/json", answer).await;
    assert_eq!(record["tokens"], json!({"input": 58, "cache_read": 448, "output": 40, "reasoning": 12}));
    let units = json!({"billed_input_tokens": 11, "billed_output_tokens": 0, "image_tokens": 259});
    assert_eq!((&record["units"], &record["cost_nanousd"]), (&units, &json!(27_500)));
    assert_eq!(record["model"], "command-a-03-2025");
}
