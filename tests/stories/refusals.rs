//! Refusals: what tokenmeter does not take is refused before it costs anything, in the provider's own words' shape.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use hyper::body::{Body, Frame};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::asks::{self, Ask};
use crate::stand::{PATIENCE, PAYERS, Stand, upstreams};

/// A key of the right shape that nobody made.
const UNKNOWN: &str = "tm_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

async fn is_refused(stand: &Stand, ask: &Ask, key: &str, status: u16, code: &str) {
    let reply = stand.ask(ask).header("x-api-key", key).send().await;
    assert_eq!(reply.status, status, "{}", reply.text());
    let (error, wire) = (reply.json(), ask.path.split('/').nth(1).unwrap());
    match wire {
        "anthropic" => {
            assert_eq!(error["type"], "error");
            assert_eq!(error["error"]["type"], "authentication_error");
            assert_eq!(error["error"]["code"], code);
        }
        "gemini" => {
            assert_eq!((&error["error"]["code"], &error["error"]["status"]), (&json!(401), &json!("UNAUTHENTICATED")));
            assert_eq!(error["error"]["details"][0]["reason"], code.to_ascii_uppercase());
        }
        _ => assert_eq!(error["error"]["code"], code, "{error}"),
    }
    assert!(error["error"]["message"].as_str().unwrap().len() > 20);
    assert!(!reply.headers.contains_key("x-tokenmeter-record"));
    assert!(!reply.text().contains(key), "what was presented is not repeated");
}

#[tokio::test]
async fn keys_that_are_none_are_refused_in_the_shape_of_every_wire() {
    let stand = Stand::start();
    let key = stand.key("lab").await;
    let list = stand.run(&["keys", "list"]);
    let id = list.lines().nth(1).unwrap().split_whitespace().next().unwrap();
    stand.run(&["keys", "revoke", id]);
    let began = std::time::Instant::now();
    while stand.ask(&asks::chat()).header("x-api-key", &key).send().await.status == 200 {
        assert!(began.elapsed() < PATIENCE);
    }
    let asked = stand.fake.requests().len();
    let before = stand.metric("tokenmeter_refused_total", &[r#"reason="unknown_key""#]).await;
    let asks = [asks::chat(), asks::messages(), asks::generate()];
    for ask in &asks {
        is_refused(&stand, ask, UNKNOWN, 401, "unknown_key").await;
        is_refused(&stand, ask, "tm_cut-off", 401, "malformed_key").await;
        is_refused(&stand, ask, &key, 401, "revoked_key").await;
    }
    assert_eq!(stand.fake.requests().len(), asked, "nothing reached an upstream");
    stand.metric_becomes("tokenmeter_refused_total", &[r#"reason="unknown_key""#], before + 3.0).await;
    stand.metric_becomes("tokenmeter_refused_total", &[r#"reason="malformed_key""#], 3.0).await;
    assert_eq!(stand.records().len(), asked, "only what was forwarded is recorded");
}

#[tokio::test]
async fn an_unknown_route_is_told_the_known_ones() {
    let stand = Stand::start();
    let reply = stand.call("/nowhere/v1/chat/completions").send().await;
    assert_eq!(reply.status, 404);
    for name in ["keyless", "openai", "anthropic", "gemini"] {
        assert!(reply.text().contains(name), "{}", reply.text());
    }
    stand.metric_becomes("tokenmeter_refused_total", &[r#"reason="unknown_route""#], 1.0).await;
    assert!(stand.records().is_empty());
}

#[tokio::test]
async fn a_virtual_key_needs_a_credential_to_stand_in_for_it() {
    let stand = Stand::start();
    let key = stand.key("lab").await;
    let refused = stand.metric("tokenmeter_refused_total", &[r#"reason="no_credential""#]).await;
    let ask = Ask { path: "/keyless/v1/chat/completions", ..asks::chat() };
    is_refused(&stand, &ask, &key, 401, "no_credential").await;
    stand.metric_becomes("tokenmeter_refused_total", &[r#"reason="no_credential""#], refused + 1.0).await;
    assert!(stand.fake.requests().is_empty());
}

#[tokio::test]
async fn told_to_refuse_who_is_unknown_nobody_calls_unnamed() {
    let stand = Stand::with(|base| format!("[attribution]\non_unknown = \"refuse\"\n{}{PAYERS}", upstreams(base)));
    let key = stand.key("lab").await;
    let reply = stand.ask(&asks::messages()).header("x-api-key", "sk-own").send().await;
    assert_eq!((reply.status.as_u16(), &reply.json()["type"]), (401, &json!("error")));
    assert_eq!(stand.ask(&asks::chat()).header("x-tokenmeter-team", "unheard-of").send().await.status, 401);
    assert_eq!(stand.ask(&asks::chat()).header("x-api-key", &key).send().await.status, 200);
    assert_eq!(stand.ask(&asks::chat()).header("x-tokenmeter-team", "lab").send().await.status, 200);
    stand.metric_becomes("tokenmeter_refused_total", &[r#"reason="unknown_caller""#], 2.0).await;
    assert_eq!(stand.records_when(2).len(), stand.fake.requests().len());
}

#[tokio::test]
async fn told_to_refuse_the_unmetered_only_what_cannot_cost_passes_unmetered() {
    let stand = Stand::with(|base| upstreams(base).replace("wire = ", "unmetered = \"refuse\"\nwire = "));
    let refused = stand.call("/openai/v1/brand/new").json(&json!({"prompt": "a cat"})).send().await;
    assert_eq!((refused.status.as_u16(), &refused.json()["error"]["code"]), (403, &json!("unmetered")));
    assert!(stand.fake.requests().is_empty());
    assert_eq!(stand.call("/openai/v1/models").method(Method::GET).send().await.status, 200);
    assert_eq!(stand.ask(&asks::chat()).send().await.status, 200);
    stand.metric_becomes("tokenmeter_refused_total", &[r#"reason="unmetered""#], 1.0).await;
}

#[tokio::test]
async fn a_client_that_still_sends_its_body_reads_why_it_is_refused_and_keeps_its_connection() {
    let stand = Stand::start();
    let mut client = TcpStream::connect(stand.proxy().replace("http://", "")).await.unwrap();
    // More than the kernel holds for one that does not read.
    let body = vec![b'x'; 3 << 20];
    let head = format!(
        "POST /openai/v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {UNKNOWN}\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    for _ in 0..2 {
        client.write_all(head.as_bytes()).await.unwrap();
        client.write_all(&body).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"}}") {
            assert!(client.read_buf(&mut answer).await.unwrap() > 0, "{}", answer.escape_ascii());
        }
        assert!(answer.starts_with(b"HTTP/1.1 401 "), "{}", answer.escape_ascii());
    }
    // One that asks first whether to send it is told at once.
    let asking = head.replace("\r\n\r\n", "\r\nexpect: 100-continue\r\n\r\n");
    client.write_all(asking.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"}}") {
        assert!(client.read_buf(&mut answer).await.unwrap() > 0);
    }
    assert!(answer.starts_with(b"HTTP/1.1 401 "), "{}", answer.escape_ascii());
}

/// A body that never comes.
struct Never;

impl Body for Never {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }
}

#[tokio::test]
async fn over_http2_a_refusal_does_not_wait_for_the_body() {
    let stand = Stand::start();
    let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    let request = Request::post(format!("{}/openai/v1/chat/completions", stand.proxy()))
        .header("authorization", format!("Bearer {UNKNOWN}"))
        .body(Never)
        .unwrap();
    // Over HTTP/1.1 it waits for two seconds.
    let answer = tokio::time::timeout(Duration::from_millis(1_500), client.request(request)).await;
    assert_eq!(answer.expect("the answer waits for the body").unwrap().status(), 401);
}
