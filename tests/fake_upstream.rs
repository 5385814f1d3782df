//! The fake upstream keeps its own promises: what the stories of tokenmeter are measured against is measured here.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

#[path = "support/fake_upstream.rs"]
mod fake_upstream;

use std::io::Read;

use bytes::Bytes;
use fake_upstream::{Canned, FakeUpstream, Fate, Promise, promise};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

const CHAT: &str = "/v1/chat/completions";
const MESSAGES: &str = "/v1/messages";
const GENERATE: &str = "/v1beta/models/gemini-2.5-flash:generateContent";
const CONVERSE: &str = "/model/us.anthropic.claude-v1%3A0/converse";
const STREAM_GENERATE: &str = "/v1beta/models/gemini-2.5-flash:streamGenerateContent";

async fn ask(fake: &FakeUpstream, path: &str, body: &Value, script: &str) -> Response<Incoming> {
    let http = Client::builder(TokioExecutor::new()).build_http();
    http.request(post(fake, path, body, script)).await.unwrap()
}

fn post(fake: &FakeUpstream, path: &str, body: &Value, script: &str) -> Request<Full<Bytes>> {
    let request = Request::builder().method(Method::POST).uri(format!("{}{path}", fake.base_url()));
    request.header("x-fake", script).body(Full::from(body.to_string())).unwrap()
}

async fn text(fake: &FakeUpstream, path: &str, body: &Value, script: &str) -> String {
    let body = ask(fake, path, body, script).await.into_body().collect().await.unwrap();
    String::from_utf8(body.to_bytes().to_vec()).unwrap()
}

fn data(events: &str) -> Vec<Value> {
    let data = events.lines().filter_map(|line| line.strip_prefix("data: "));
    data.filter_map(|data| serde_json::from_str(data).ok()).collect()
}

fn number(value: &Value, pointer: &str) -> u64 {
    value.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
}

fn openai(usage: &Value) -> [u64; 5] {
    let (prompt, cached) = (number(usage, "/prompt_tokens"), number(usage, "/prompt_tokens_details/cached_tokens"));
    let written = number(usage, "/prompt_tokens_details/cache_write_tokens");
    let reasoning = number(usage, "/completion_tokens_details/reasoning_tokens");
    [prompt - cached - written, cached, written, number(usage, "/completion_tokens"), reasoning]
}

fn anthropic(usage: &Value) -> [u64; 5] {
    ["input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens"]
        .map(|name| number(usage, &format!("/{name}")))
        .into_iter()
        .chain([number(usage, "/output_tokens_details/thinking_tokens")])
        .collect::<Vec<_>>()
        .try_into()
        .unwrap()
}

fn gemini(usage: &Value) -> [u64; 5] {
    let (prompt, cached) = (number(usage, "/promptTokenCount"), number(usage, "/cachedContentTokenCount"));
    let thoughts = number(usage, "/thoughtsTokenCount");
    [prompt - cached, cached, 0, number(usage, "/candidatesTokenCount") + thoughts, thoughts]
}

fn counts(promise: &Promise) -> [u64; 5] {
    [promise.input, promise.cache_read, promise.cache_write, promise.output, promise.reasoning]
}

#[tokio::test]
async fn every_api_reports_what_was_promised() {
    let fake = FakeUpstream::start().unwrap();
    let chat = json!({"model": "m", "reasoning_effort": "low", "messages": [
        {"role": "system", "content": "be kind"}, {"role": "user", "content": [{"type": "text", "text": "hello dear world"}]}]});
    let messages = json!({"model": "m", "system": "be kind", "max_tokens": 100, "thinking": {"type": "enabled"},
        "messages": [{"role": "user", "content": "hello dear world"}]});
    let contents = json!({"systemInstruction": {"parts": [{"text": "be kind"}]},
        "contents": [{"role": "user", "parts": [{"text": "hello dear world"}]}],
        "generationConfig": {"thinkingConfig": {"thinkingBudget": 100}}});
    for (path, body, at, read) in [
        (CHAT, &chat, "/usage", openai as fn(&Value) -> [u64; 5]),
        (MESSAGES, &messages, "/usage", anthropic),
        (GENERATE, &contents, "/usageMetadata", gemini),
    ] {
        let promised = promise(path, body.to_string().as_bytes(), "cached=2");
        assert_eq!((counts(&promised), promised.text.as_str()), ([3, 2, 0, 8, 4], "echo hello dear world"), "{path}");
        let answer: Value = serde_json::from_str(&text(&fake, path, body, "cached=2").await).unwrap();
        assert_eq!(read(answer.pointer(at).unwrap()), counts(&promised), "{path}");
    }
}

#[tokio::test]
async fn families_count_in_their_own_words() {
    let fake = FakeUpstream::start().unwrap();
    let say = |text: &str| json!({"model": "m", "stream": false, "messages": [{"role": "user", "content": text}]});
    let converse = json!({"system": [{"text": "be kind"}], "messages": [{"role": "user", "content": [{"text": "hello world"}]}],
        "inferenceConfig": {"maxTokens": 2}});
    for (path, body, script, counted) in [
        (
            CONVERSE,
            &converse,
            "cached=2",
            json!({"inputTokens": 2, "cacheReadInputTokens": 2, "outputTokens": 2, "totalTokens": 6}),
        ),
        ("/model/claude/invoke", &say("hello world"), "", json!({"input_tokens": 2, "output_tokens": 3})),
        (
            "/v2/chat",
            &say("hello world"),
            "cached=1",
            json!({"billed_units": {"input_tokens": 1, "output_tokens": 3}, "cached_tokens": 1,
            "tokens": {"input_tokens": 2, "output_tokens": 3}}),
        ),
        ("/v2/embed", &json!({"texts": ["hello", "world"]}), "", json!({"billed_units": {"input_tokens": 2}})),
        (
            "/v2/rerank",
            &json!({"query": "hello", "documents": ["world"]}),
            "",
            json!({"billed_units": {"search_units": 1}}),
        ),
        ("/api/chat", &say("hello world"), "", json!({"prompt_eval_count": 2, "eval_count": 3})),
        ("/api/embed", &json!({"input": ["hello", "world"]}), "", json!({"prompt_eval_count": 2})),
        (
            "/openai/deployments/ours/chat/completions",
            &say("hello world"),
            "",
            json!({"prompt_tokens": 2, "completion_tokens": 3}),
        ),
    ] {
        let answer: Value = serde_json::from_str(&text(&fake, path, body, script).await).unwrap();
        let told = answer.get("usage").or_else(|| answer.get("meta")).unwrap_or(&answer);
        for (name, count) in counted.as_object().unwrap() {
            assert_eq!(&told[name], count, "{path} {name}: {answer}");
        }
        let promised = promise(path, body.to_string().as_bytes(), script);
        let whole: u64 = counts(&promised)[..4].iter().sum();
        assert_eq!(
            whole,
            if path.ends_with("rerank") {
                0
            } else if path.ends_with("embed") {
                2
            } else if path == CONVERSE {
                6
            } else {
                5
            }
        );
    }
    assert_eq!(promise(CONVERSE, b"{}", "").model, "us.anthropic.claude-v1:0");
}

#[tokio::test]
async fn bedrock_streams_in_messages_with_checksums_and_counts_last() {
    let fake = FakeUpstream::start().unwrap();
    let body =
        json!({"max_tokens": 9, "messages": [{"role": "user", "content": [{"type": "text", "text": "hello you"}]}]});
    for (verb, kinds) in
        [("converse-stream", ["messageStop", "metadata"]), ("invoke-with-response-stream", ["chunk", "chunk"])]
    {
        let path = CONVERSE.replace("converse", verb);
        let answer = ask(&fake, &path, &body, "chunks=7").await;
        assert_eq!(answer.headers()["content-type"], "application/vnd.amazon.eventstream");
        let messages = messages(&answer.into_body().collect().await.unwrap().to_bytes());
        let (last, others) = messages.split_last().unwrap();
        assert_eq!([others.last().unwrap().0.as_str(), last.0.as_str()], kinds);
        let counted = match verb {
            "converse-stream" => last.1["usage"].clone(),
            _ => serde_json::from_slice::<Value>(&base64_decoded(&last.1["bytes"])).unwrap()["amazon-bedrock-invocationMetrics"].clone(),
        };
        let [input, output] = [["inputTokens", "inputTokenCount"], ["outputTokens", "outputTokenCount"]]
            .map(|names| names.iter().find_map(|name| counted[name].as_u64()).unwrap());
        assert_eq!((input, output), (2, 3), "{verb}");

        let broken = ask(&fake, &path, &body, "error_after=1").await.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(self::messages(&broken).last().unwrap().0, "modelStreamErrorException");
    }
}

fn base64_decoded(text: &Value) -> Vec<u8> {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.decode(text.as_str().unwrap()).unwrap()
}

/// Messages of an AWS event stream: what kind each is, and its payload; every length and checksum must be right.
fn messages(mut bytes: &[u8]) -> Vec<(String, Value)> {
    let size = |bytes: &[u8]| usize::try_from(u32::from_be_bytes(bytes.try_into().unwrap())).unwrap();
    let checksum = |bytes: &[u8]| crc32fast::hash(bytes).to_be_bytes();
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let (message, rest) = bytes.split_at(size(bytes.split_at(4).0));
        let (checked, sum) = message.split_at(message.len() - 4);
        assert_eq!(checksum(checked), sum);
        let (prelude, rest_of_it) = checked.split_at(8);
        let (sum, body) = rest_of_it.split_at(4);
        assert_eq!(checksum(prelude), sum);
        let (mut headers, payload) = body.split_at(size(prelude.split_at(4).1));
        let mut kind = String::new();
        while let Some((name, rest)) = headers.split_first() {
            let (name, rest) = rest.split_at(usize::from(*name));
            let Some(([7, high, low], rest)) = rest.split_first_chunk() else { unreachable!("a header is a string") };
            let (value, rest) = rest.split_at(usize::from(u16::from_be_bytes([*high, *low])));
            if [b":event-type".as_slice(), b":exception-type"].contains(&name) {
                kind = String::from_utf8(value.to_vec()).unwrap();
            }
            headers = rest;
        }
        found.push((kind, serde_json::from_slice(payload).unwrap()));
        bytes = rest;
    }
    found
}

#[tokio::test]
async fn streams_say_how_much_where_their_family_does() {
    let fake = FakeUpstream::start().unwrap();
    let body =
        |model: &str| json!({"model": model, "stream": true, "messages": [{"role": "user", "content": "hello you"}]});

    let events = data(&text(&fake, CHAT, &body("mistral-small"), "").await);
    let (last, others) = events.split_last().unwrap();
    assert_eq!((&last["choices"][0]["finish_reason"], number(last, "/usage/completion_tokens")), (&json!("stop"), 3));
    assert!(others.iter().all(|event| event.get("usage").is_none()));

    let azure = data(&text(&fake, "/openai/deployments/ours/chat/completions", &body("ours"), "").await);
    assert_eq!((&azure[0]["model"], &azure[0]["choices"]), (&json!(""), &json!([])));
    assert!(azure[0]["prompt_filter_results"].is_array() && azure.iter().all(|event| event.get("usage").is_none()));

    let cohere = text(&fake, "/v2/chat", &body("command"), "").await;
    let end = data(&cohere).pop().unwrap();
    assert_eq!((&end["type"], number(&end, "/delta/usage/tokens/output_tokens")), (&json!("message-end"), 3));
    assert!(cohere.ends_with("data: [DONE]\n\n"));

    let lines = text(&fake, "/api/chat", &json!({"messages": body("m")["messages"]}), "").await;
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (last, others) = lines.split_last().unwrap();
    assert_eq!((&last["done"], number(last, "/eval_count")), (&json!(true), 3));
    assert!(others.iter().all(|line| line["done"] == json!(false) && line.get("eval_count").is_none()));
}

#[tokio::test]
async fn a_chat_stream_reports_usage_only_when_asked() {
    let fake = FakeUpstream::start().unwrap();
    let mut body = json!({"model": "m", "stream": true, "messages": [{"role": "user", "content": "hello"}]});
    let unasked = text(&fake, CHAT, &body, "").await;
    assert!(!unasked.contains("usage") && unasked.ends_with("data: [DONE]\n\n"), "{unasked}");

    body["stream_options"] = json!({"include_usage": true});
    let asked = data(&text(&fake, CHAT, &body, "").await);
    let (last, others) = asked.split_last().unwrap();
    assert!(others.iter().all(|event| event.get("usage") == Some(&Value::Null)));
    assert_eq!(last["choices"], json!([]));
    assert_eq!(openai(&last["usage"]), counts(&promise(CHAT, body.to_string().as_bytes(), "")));

    let always = data(&text(&fake, CHAT, &json!({"stream": true}), "always_usage").await);
    assert!(always.last().unwrap().pointer("/usage/completion_tokens").is_some());
    let refused = ask(&fake, CHAT, &body, "refuse_stream_options").await;
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn streams_of_the_others_report_cumulatively() {
    let fake = FakeUpstream::start().unwrap();
    let body =
        json!({"model": "m", "stream": true, "max_tokens": 9, "messages": [{"role": "user", "content": "hello you"}]});
    let promised = counts(&promise(MESSAGES, body.to_string().as_bytes(), "cache_write=1"));
    let events = data(&text(&fake, MESSAGES, &body, "cache_write=1").await);
    assert_eq!(number(&events[0], "/message/usage/output_tokens"), 1);
    assert_eq!(anthropic(&events[events.len() - 2]["usage"]), promised);
    assert_eq!(events.last().unwrap(), &json!({"type": "message_stop"}));

    let body = json!({"contents": [{"parts": [{"text": "hello you"}]}]});
    let promised = counts(&promise(STREAM_GENERATE, body.to_string().as_bytes(), ""));
    let sse = text(&fake, &format!("{STREAM_GENERATE}?alt=sse"), &body, "").await;
    assert_eq!(sse.matches('\n').count(), sse.matches("\r\n").count());
    let array: Vec<Value> = serde_json::from_str(&text(&fake, STREAM_GENERATE, &body, "").await).unwrap();
    assert_eq!(data(&sse), array);
    assert_eq!(gemini(&array.last().unwrap()["usageMetadata"]), promised);

    let body = json!({"model": "m", "stream": true, "input": "hello you"});
    let events = data(&text(&fake, "/v1/responses", &body, "").await);
    assert!(events.iter().enumerate().all(|(at, event)| event["sequence_number"] == json!(at)));
    assert_eq!(number(events.last().unwrap(), "/response/usage/output_tokens"), 3);
}

#[tokio::test]
async fn an_error_has_the_shape_of_its_provider() {
    let fake = FakeUpstream::start().unwrap();
    for (path, at) in [
        (CHAT, "/error/code"),
        (MESSAGES, "/error/type"),
        (GENERATE, "/error/status"),
        ("/openai/deployments/ours/chat/completions", "/error/code"),
        (CONVERSE, "/message"),
        ("/v2/chat", "/message"),
        ("/api/chat", "/error"),
    ] {
        let answer = ask(&fake, path, &json!({"model": "error-429"}), "").await;
        assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
        let error: Value = serde_json::from_slice(&answer.into_body().collect().await.unwrap().to_bytes()).unwrap();
        assert!(error.pointer(at).is_some_and(Value::is_string), "{path}: {error}");
    }
    let broken = text(&fake, CHAT, &json!({"stream": true}), "error_after=1").await;
    assert!(data(&broken)[1].pointer("/error/message").is_some() && !broken.contains("[DONE]"));
    let unknown = ask(&fake, CHAT, &json!({}), "stal_after=3").await;
    assert_eq!(unknown.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_stalled_answer_goes_on_when_it_is_released() {
    let fake = FakeUpstream::start().unwrap();
    let mut answer = ask(&fake, CHAT, &json!({"stream": true}), "hold=here;stall_after=1").await;
    let first = answer.body_mut().frame().await.unwrap().unwrap();
    let stalled = fake.wait_for(|requests| requests.iter().any(|r| r.stalled.as_deref() == Some("here"))).await;
    assert_eq!(first.data_ref().map(Bytes::len), usize::try_from(stalled[0].sent_bytes).ok());
    fake.release("here");
    assert!(answer.into_body().collect().await.unwrap().to_bytes().ends_with(b"data: [DONE]\n\n"));
    assert_eq!(fake.wait_for(|r| r[0].fate != Fate::Open).await[0].fate, Fate::Answered);
}

#[tokio::test]
async fn a_client_that_leaves_is_noticed_before_the_head_and_within_the_body() {
    let fake = FakeUpstream::start().unwrap();
    let http = Client::builder(TokioExecutor::new()).build_http();
    let held = http.request(post(&fake, CHAT, &json!({}), "hold=never"));
    tokio::select! {
        _ = held => unreachable!("nothing releases it"),
        _ = fake.wait_for(|r| r.first().is_some_and(|r| r.stalled.is_some())) => {}
    }
    drop(http);
    assert_eq!(fake.wait_for(|r| r[0].fate != Fate::Open).await[0].fate, Fate::ClientClosed);
    fake.forget();

    let answer = ask(&fake, CHAT, &json!({"stream": true}), "stall_before_last").await;
    fake.wait_for(|r| r[0].stalled.is_some()).await;
    drop(answer);
    assert_eq!(fake.wait_for(|r| r[0].fate != Fate::Open).await[0].fate, Fate::ClientClosed);
}

#[tokio::test]
async fn a_request_that_breaks_off_is_logged_as_far_as_it_came() {
    let fake = FakeUpstream::start().unwrap();
    let mut stream = tokio::net::TcpStream::connect(fake.address()).await.unwrap();
    stream
        .write_all(b"POST /v1/messages HTTP/1.1\r\nhost: fake\r\ncontent-length: 100\r\n\r\n{\"model\"")
        .await
        .unwrap();
    fake.wait_for(|r| r.first().is_some_and(|r| r.body_bytes == 8)).await;
    drop(stream);
    let received = fake.wait_for(|r| r[0].fate != Fate::Open).await;
    assert_eq!((received[0].fate, received[0].body_is_complete), (Fate::ClientClosed, false));
}

#[tokio::test]
async fn a_cut_comes_after_exactly_the_bytes_it_names() {
    let fake = FakeUpstream::start().unwrap();
    for (script, body) in [
        ("cut_after_bytes=100", json!({"stream": true})),
        ("cut_after_bytes=100;reset;chunks=7", json!({"stream": true})),
        ("cut_after_bytes=100", json!({})),
        ("cut_after_bytes=100;gzip;chunks=1", json!({"stream": true})),
    ] {
        let mut answer = ask(&fake, CHAT, &body, script).await.into_body();
        let mut bytes = 0;
        let end = loop {
            match answer.frame().await {
                Some(Ok(frame)) => bytes += frame.data_ref().map_or(0, Bytes::len),
                end => break end,
            }
        };
        assert!(matches!(end, Some(Err(_))), "{script}: a cut is not an end");
        assert_eq!(bytes, 100, "{script}");
    }
    let http = Client::builder(TokioExecutor::new()).build_http();
    for script in ["cut", "reset"] {
        assert!(http.request(post(&fake, CHAT, &json!({}), script)).await.is_err());
    }
    assert!(fake.wait_for(|r| r.iter().all(|r| r.fate != Fate::Open)).await.iter().all(|r| r.fate == Fate::Cut));
}

#[tokio::test]
async fn encodings_and_chunk_sizes_change_no_byte_of_the_text() {
    let fake = FakeUpstream::start().unwrap();
    let body = json!({"stream": true, "messages": [{"role": "user", "content": "hello dear world"}]});
    let plain = text(&fake, CHAT, &body, "").await;
    assert_eq!(text(&fake, CHAT, &body, "chunks=3").await, plain);
    for (encoding, decode) in [
        ("gzip", (|bytes| read(flate2::read::MultiGzDecoder::new(bytes))) as fn(&[u8]) -> String),
        ("deflate", |bytes| read(flate2::read::ZlibDecoder::new(bytes))),
        ("br", |bytes| read(brotli::Decompressor::new(bytes, 4096))),
        ("zstd", |bytes| read(zstd::stream::read::Decoder::new(bytes).unwrap())),
    ] {
        let answer = ask(&fake, CHAT, &body, encoding).await;
        assert_eq!(answer.headers()["content-encoding"], encoding);
        assert_eq!(decode(&answer.into_body().collect().await.unwrap().to_bytes()), plain, "{encoding}");
        let whole = ask(&fake, CHAT, &json!({}), encoding).await;
        assert!(whole.headers().contains_key("content-length"));
        assert!(decode(&whole.into_body().collect().await.unwrap().to_bytes()).starts_with('{'), "{encoding}");
    }
}

fn read(mut decoder: impl Read) -> String {
    let mut text = String::new();
    decoder.read_to_string(&mut text).unwrap();
    text
}

#[tokio::test]
async fn a_large_answer_is_as_large_as_asked_and_counts_its_words() {
    let fake = FakeUpstream::start().unwrap();
    let body = json!({"model": "m", "stream": true, "stream_options": {"include_usage": true}});
    let answer = text(&fake, CHAT, &body, "bytes=1000000").await;
    let events = data(&answer);
    assert!(answer.len() > 1_000_000);
    let words = events.iter().filter_map(|event| event.pointer("/choices/0/delta/content")?.as_str());
    let words = words.map(|text| text.split_whitespace().count() as u64).sum::<u64>();
    assert_eq!(number(events.last().unwrap(), "/usage/completion_tokens"), words);
    assert_eq!(promise(CHAT, body.to_string().as_bytes(), "bytes=1000000").output, words);

    let whole = ask(&fake, CHAT, &json!({}), "bytes=1000000").await;
    let declared: usize = whole.headers()["content-length"].to_str().unwrap().parse().unwrap();
    let whole = whole.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(whole.len(), declared);
    assert_eq!(number(&serde_json::from_slice(&whole).unwrap(), "/usage/completion_tokens"), words);
}

#[tokio::test]
async fn canned_answers_are_replayed_chunk_by_chunk() {
    let fake = FakeUpstream::start().unwrap();
    let chunks = vec![Bytes::from_static(b"da"), Bytes::from_static(b"ta: x\r"), Bytes::from_static(b"\n")];
    let headers = vec![("content-type".to_owned(), "text/event-stream".to_owned())];
    fake.respond_to("row-1", Canned { status: 203, headers, chunks });
    let mut request = post(&fake, "/anything?at=all", &json!({"a": 1}), "cut_after=2");
    request.headers_mut().insert("x-fake-replay", "row-1".parse().unwrap());
    let http = Client::builder(TokioExecutor::new()).build_http();
    let mut answer = http.request(request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::NON_AUTHORITATIVE_INFORMATION);
    let mut body = Vec::new();
    while let Some(Ok(frame)) = answer.body_mut().frame().await {
        body.extend_from_slice(frame.data_ref().unwrap());
    }
    assert_eq!(body, b"data: x\r");
    let received = fake.requests();
    assert_eq!((received[0].target.as_str(), received[0].body.as_slice()), ("/anything?at=all", &br#"{"a":1}"#[..]));
    assert_eq!(received[0].header("x-fake"), Some("cut_after=2"));
    assert!(received[0].body_is_complete && received[0].body_bytes == 7);
}

#[tokio::test]
async fn http_2_without_tls_carries_trailers() {
    let fake = FakeUpstream::start().unwrap();
    let http = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    let answer = http.request(post(&fake, CHAT, &json!({"stream": true}), "trailers")).await.unwrap();
    let collected = answer.into_body().collect().await.unwrap();
    assert_eq!(collected.trailers().and_then(|trailers| trailers.get("x-fake-trailer")).unwrap(), "end");
    let received = fake.wait_for(|r| r[0].fate != Fate::Open).await;
    assert_eq!((received[0].version.as_str(), received[0].fate), ("HTTP/2.0", Fate::Answered));
}

#[tokio::test]
async fn another_process_reads_the_log_and_releases() {
    let fake = FakeUpstream::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    assert_eq!(fake.address().to_string(), fake.base_url().replace("http://", ""));
    text(&fake, "/v1/whatever?x=1", &json!({"a": 1}), "").await;
    text(&fake, "/__release/later", &json!({}), "").await;
    text(&fake, CHAT, &json!({}), "hold=later").await;
    let http = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let get = http.get(format!("{}/__log", fake.base_url()).parse().unwrap()).await.unwrap();
    let log: Value = serde_json::from_slice(&get.into_body().collect().await.unwrap().to_bytes()).unwrap();
    assert_eq!(log[0]["path"], "/v1/whatever?x=1");
    assert_eq!((&log[0]["body"], &log[0]["fate"]), (&json!(r#"{"a":1}"#), &json!("answered")));
    assert_eq!(log.as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn every_directive_of_the_table_is_understood() {
    let fake = FakeUpstream::start().unwrap();
    fake.release("1");
    fake.release("stall");
    let rows = include_str!("support/fake_upstream/script.rs").lines().filter_map(|line| line.strip_prefix("//! | `"));
    let mut count = 0;
    for directive in rows.filter_map(|row| row.split(" | ").next()).flat_map(|words| words.split_whitespace()) {
        let directive = directive.trim_matches('`').replace("=NAME", "=1").replace("=N", "=1");
        let http = Client::builder(TokioExecutor::new()).build_http();
        let answer = http.request(post(&fake, "/elsewhere", &json!({}), &directive)).await;
        assert!(
            answer.is_ok_and(|a| a.status() != StatusCode::BAD_REQUEST) || ["cut", "reset"].contains(&&*directive),
            "{directive}"
        );
        count += 1;
    }
    assert_eq!(count, 33, "the table is read wrong");
}

#[tokio::test]
async fn work_in_the_background_is_over_when_it_is_fetched_again() {
    let fake = FakeUpstream::start().unwrap();
    let http = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let get = async |path: &str| -> Value {
        let answer = http.get(format!("{}{path}", fake.base_url()).parse().unwrap()).await.unwrap();
        serde_json::from_slice(&answer.into_body().collect().await.unwrap().to_bytes()).unwrap()
    };
    let request = json!({"input": "how are you", "background": true});
    for path in ["/v1/responses", "/v1/threads/t/runs"] {
        let made: Value = serde_json::from_str(&text(&fake, path, &request, "").await).unwrap();
        assert_eq!((&made["status"], &made["usage"]), (&json!("queued"), &Value::Null));
        let one = format!("{path}/{}", made["id"].as_str().unwrap());
        let fetched = get(&one).await;
        assert_eq!((&fetched["status"], &fetched["usage"]), (&json!("in_progress"), &Value::Null));
        for _ in 0..2 {
            let fetched = get(&one).await;
            assert_eq!((&fetched["status"], &fetched["id"]), (&json!("completed"), &made["id"]));
            let promise = promise(path, request.to_string().as_bytes(), "");
            assert_eq!(fetched["usage"]["total_tokens"], promise.input + promise.output);
        }
    }
    assert!(get("/v1/responses/resp_other").await["error"].is_object());
    let lines = async |path: &str| {
        let answer = http.get(format!("{}{path}", fake.base_url()).parse().unwrap()).await.unwrap();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(body.to_vec()).unwrap().lines().count()
    };
    assert_eq!(lines("/v1/files/file-1/content").await, 3);
    assert_eq!(lines("/v1/messages/batches/msgbatch_1/results").await, 3);
}

#[tokio::test]
async fn a_prompt_is_counted_at_each_endpoint_for_it_and_that_may_be_told_to_fail() {
    let fake = FakeUpstream::start().unwrap();
    let contents = json!([{"role": "user", "parts": [{"text": "how are you"}]}]);
    let endpoints = [
        (
            "/v1/messages/count_tokens",
            json!({"messages": [{"role": "user", "content": "how are you"}]}),
            "input_tokens",
        ),
        ("/v1/responses/input_tokens", json!({"input": "how are you"}), "input_tokens"),
        (
            "/v1beta/models/m:countTokens",
            json!({"generateContentRequest": {"model": "models/m", "contents": contents}}),
            "totalTokens",
        ),
    ];
    for (path, body, member) in &endpoints {
        let answer: Value = serde_json::from_str(&text(&fake, path, body, "").await).unwrap();
        assert_eq!(answer[member], 3, "{path}");
    }
    fake.answer_counts("x-fake", "status=500");
    for (path, body, _) in &endpoints {
        assert_eq!(ask(&fake, path, body, "").await.status(), StatusCode::INTERNAL_SERVER_ERROR, "{path}");
    }
    assert_eq!(ask(&fake, MESSAGES, &json!({"messages": []}), "").await.status(), StatusCode::OK);
}
