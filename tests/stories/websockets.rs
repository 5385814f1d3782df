//! Sessions over a `WebSocket`: tunnelled byte for byte, recorded with what passed, never read.

use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use http::{HeaderMap, Method, Request};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::asks;
use crate::fake_upstream::{Canned, Fate};
use crate::memory::memory;
use crate::stand::{CREDENTIAL, PATIENCE, PAYERS, Stand, upstreams};

pub(crate) type Socket = WebSocketStream<TcpStream>;

const REALTIME: &str = "/openai/v1/realtime?model=gpt-realtime";
const LIVE: &str = "/gemini/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent";

/// Opens a WebSocket at `path` of the proxy; the answer's headers beside it.
pub(crate) async fn open(
    stand: &Stand,
    path: &str,
    headers: &[(&'static str, &str)],
) -> Result<(Socket, HeaderMap), Error> {
    let url = format!("{}{path}", stand.proxy().replace("http://", "ws://"));
    let mut request: Request<()> = url.into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    let stream = TcpStream::connect(stand.proxy().trim_start_matches("http://")).await.unwrap();
    let (socket, response) = tokio_tungstenite::client_async(request, stream).await?;
    Ok((socket, response.headers().clone()))
}

async fn next(socket: &mut Socket) -> Message {
    let next = tokio::time::timeout(PATIENCE, socket.next()).await.expect("a message comes in time");
    next.expect("the session goes on").unwrap()
}

/// Says `message` and hears it again.
async fn echo(socket: &mut Socket, message: Message) {
    socket.send(message.clone()).await.unwrap();
    assert_eq!(next(socket).await, message);
}

/// Reads to the end; whether a close frame came before it.
pub(crate) async fn ends_in_order(socket: &mut Socket) -> bool {
    let mut has_closed = false;
    let reading = async {
        while let Some(Ok(message)) = socket.next().await {
            has_closed |= message.is_close();
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("the session ends in time");
    has_closed
}

/// Outcome, provenance and status.
fn ending(record: &Value) -> [Value; 3] {
    ["outcome", "provenance", "status"].map(|name| record[name].clone())
}

#[tokio::test]
async fn a_websocket_is_tunnelled_byte_for_byte_and_recorded_as_unknown() {
    let stand = Stand::start();
    let key = stand.key("lab").await;
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str()), ("openai-beta", "realtime=v1"), ("x-tokenmeter-app", "voice")];
    let (mut socket, head) = open(&stand, REALTIME, &headers).await.unwrap();
    assert_eq!(head["x-fake-session"], "1");
    let id = head["x-tokenmeter-record"].to_str().unwrap().to_owned();
    assert_eq!(next(&mut socket).await, Message::text("hello"));
    let audio: Vec<u8> = (0..100_000_u32).map(|at| (at % 251) as u8).collect();
    for message in [Message::text("how are you today"), Message::binary(audio), Message::text("")] {
        echo(&mut socket, message).await;
    }
    socket.close(None).await.unwrap();
    assert!(ends_in_order(&mut socket).await);

    let record = stand.only_record();
    assert_eq!(ending(&record), [json!("completed"), json!("unknown"), json!(101)]);
    assert_eq!((&record["operation"], &record["stream"]), (&json!("realtime"), &json!(true)));
    assert_eq!((&record["tokens"], &record["cost_nanousd"]), (&json!({}), &Value::Null));
    assert_eq!((record["id"].as_str(), record["model"].as_str()), (Some(id.as_str()), Some("gpt-realtime")));
    assert_eq!((&record["team"], &record["app"]), (&json!("lab"), &json!("voice")));
    // Frames' headers (2, 10 and 2 bytes, a mask of 4 each from the client), a close frame either way.
    let text = 17;
    let sent = (2 + 4 + text) + (10 + 4 + 100_000) + (2 + 4) + (2 + 4);
    let received = (2 + 5) + (2 + text) + (10 + 100_000) + 2 + 2;
    assert_eq!(record["units"], json!({"request_bytes": sent, "response_bytes": received}));
    assert!(record["time_to_first_byte_ms"].is_u64());

    let asked = stand.fake.requests().pop().unwrap();
    assert_eq!(asked.target, "/v1/realtime?model=gpt-realtime");
    assert_eq!(asked.header("authorization"), Some(format!("Bearer {CREDENTIAL}").as_str()));
    assert_eq!((asked.header("openai-beta"), asked.header("sec-websocket-version")), (Some("realtime=v1"), Some("13")));
    assert_eq!(asked.header("x-tokenmeter-app"), None);
}

#[tokio::test]
async fn a_websocket_whose_upstream_ends_it_is_completed_or_cut_as_it_ended() {
    let stand = Stand::start();
    let (mut socket, _) = open(&stand, REALTIME, &[]).await.unwrap();
    next(&mut socket).await;
    socket.send(Message::text("bye")).await.unwrap();
    assert!(ends_in_order(&mut socket).await);
    let records = stand.records_when(1);
    assert_eq!(ending(&records[0]), [json!("completed"), json!("unknown"), json!(101)]);

    for (count, script) in [(2, "cut_after=1"), (3, "cut_after=1;reset")] {
        let (mut socket, _) = open(&stand, REALTIME, &[("x-fake", script)]).await.unwrap();
        next(&mut socket).await;
        echo(&mut socket, Message::text("one")).await;
        assert!(!ends_in_order(&mut socket).await, "{script}");
        let record = stand.records_when(count).pop().unwrap();
        assert_eq!(ending(&record), [json!("upstream_cut"), json!("unknown"), json!(101)], "{script}");
        assert_eq!(record["units"], json!({"request_bytes": 2 + 4 + 3, "response_bytes": 2 + 5 + 2 + 3}), "{script}");
    }
}

#[tokio::test]
async fn a_websocket_whose_client_vanishes_is_recorded_and_lets_go_of_its_upstream() {
    let stand = Stand::start();
    let (mut socket, _) = open(&stand, REALTIME, &[]).await.unwrap();
    next(&mut socket).await;
    drop(socket);
    assert_eq!(ending(&stand.only_record()), [json!("client_closed"), json!("unknown"), json!(101)]);
    stand.fake.wait_for(|all| all.iter().all(|one| one.fate == Fate::ClientClosed)).await;
}

#[tokio::test]
async fn what_an_upstream_says_instead_of_a_websocket_passes_as_it_is() {
    let stand = Stand::start();
    let ask = |name: &'static str, value: &str| {
        let call =
            stand.call(REALTIME).method(Method::GET).header("connection", "upgrade").header("upgrade", "websocket");
        let call = call.header("sec-websocket-version", "13").header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        call.header(name, value).send()
    };
    for (count, status) in [(1, 401_u16), (2, 404), (3, 200)] {
        let reply = ask("x-fake", &format!("status={status}")).await;
        assert_eq!((reply.status.as_u16(), reply.json()["method"].as_str()), (status, Some("GET")));
        let record = stand.records_when(count).pop().unwrap();
        assert_eq!(record["id"], reply.record_id());
        assert_eq!(record["operation"], "realtime");
        if status == 200 {
            let units = json!({"request_bytes": 0, "response_bytes": reply.body.len()});
            assert_eq!((&record["provenance"], &record["units"]), (&json!("unknown"), &units));
        } else {
            assert_eq!(ending(&record), [json!("upstream_error"), json!("none"), json!(status)]);
        }
    }
    assert_eq!(ask("x-fake", "cut").await.status, 502);
    assert_eq!(ending(&stand.records_when(4)[3]), [json!("upstream_cut"), json!("unknown"), Value::Null]);
    let headers = [("connection", "upgrade"), ("upgrade", "websocket"), ("sec-websocket-version", "12")];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    stand.fake.respond_to("another-version", Canned { status: 426, headers, chunks: vec!["older".into()] });
    let reply = ask("x-fake-replay", "another-version").await;
    assert_eq!((reply.status.as_u16(), reply.text()), (426, "older".to_owned()));
    assert_eq!(
        (&reply.headers["upgrade"], &reply.headers["sec-websocket-version"]),
        (&"websocket".parse().unwrap(), &"12".parse().unwrap())
    );
}

#[tokio::test]
async fn a_virtual_key_never_leaves_in_a_websocket_and_the_credential_takes_its_place() {
    let stand = Stand::start();
    let key = stand.key("lab").await;
    let in_query = format!("{LIVE}?alt=ws&key={key}");
    let offered = format!("realtime, openai-insecure-api-key.{key}, openai-beta.realtime-v1");
    let last = format!("realtime, openai-insecure-api-key.{key}");
    for (path, header, value) in [
        (REALTIME, "api-key", key.as_str()),
        (REALTIME, "sec-websocket-protocol", &offered),
        (REALTIME, "sec-websocket-protocol", &last),
        (&in_query, "x-odd", "1"),
        (LIVE, "x-goog-api-key", &key),
    ] {
        stand.fake.forget();
        let (mut socket, head) = open(&stand, path, &[(header, value)]).await.unwrap();
        echo_after_hello(&mut socket).await;
        let asked = stand.fake.requests().pop().unwrap();
        let seen = format!("{} {:?}", asked.target, asked.headers);
        assert!(!seen.contains("tm_"), "{seen}");
        assert_eq!(seen.matches(CREDENTIAL).count(), 1, "{seen}");
        assert!(!format!("{head:?}").contains(CREDENTIAL), "{head:?}");
        match (header, path == in_query) {
            (_, true) => assert!(asked.target.ends_with(&format!("?alt=ws&key={CREDENTIAL}")), "{seen}"),
            ("sec-websocket-protocol", _) => {
                assert_eq!(asked.header(header), Some(value.replace(&key, CREDENTIAL).as_str()));
                // The fake takes the last one offered: the client hears of its own words.
                assert_eq!(head[header].to_str().unwrap(), value.rsplit(", ").next().unwrap());
            }
            ("x-goog-api-key", _) => assert_eq!(asked.header(header), Some(CREDENTIAL)),
            _ => assert_eq!(asked.header("authorization"), Some(format!("Bearer {CREDENTIAL}").as_str())),
        }
    }
    let refused = open(&stand, REALTIME, &[("sec-websocket-protocol", "openai-insecure-api-key.tm_short")]).await;
    assert!(matches!(refused, Err(Error::Http(response)) if response.status() == 401));
    let records = stand.records_when(5);
    assert!(records.iter().all(|record| record["team"] == "lab"), "{records:#?}");
}

pub(crate) async fn echo_after_hello(socket: &mut Socket) {
    next(socket).await;
    echo(socket, Message::text("one")).await;
}

#[tokio::test]
async fn a_websocket_that_falls_silent_is_cut_at_the_idle_timeout_and_one_that_talks_is_not() {
    let stand = Stand::with(|base| format!("{}idle_timeout_secs = 1\n{PAYERS}", upstreams(base)));
    let (mut socket, _) = open(&stand, LIVE, &[]).await.unwrap();
    next(&mut socket).await;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(2) {
        echo(&mut socket, Message::text("still here")).await;
    }
    assert!(!ends_in_order(&mut socket).await);
    assert_eq!(ending(&stand.only_record()), [json!("upstream_cut"), json!("unknown"), json!(101)]);
}

#[tokio::test]
async fn told_to_stop_a_websocket_may_end_and_is_cut_and_recorded_where_it_does_not() {
    let mut stand = Stand::with(|base| format!("[proxy]\ndrain_timeout_secs = 2\n{}{PAYERS}", upstreams(base)));
    let (mut ending_socket, _) = open(&stand, REALTIME, &[]).await.unwrap();
    let (mut endless, _) = open(&stand, REALTIME, &[]).await.unwrap();
    next(&mut endless).await;
    stand.terminate();
    next(&mut ending_socket).await;
    echo(&mut ending_socket, Message::text("one")).await;
    ending_socket.close(None).await.unwrap();
    assert!(ends_in_order(&mut ending_socket).await);
    assert!(!ends_in_order(&mut endless).await);
    assert_eq!(stand.wait(), Some(0));
    let records = stand.records();
    assert_eq!(records.len(), 2);
    assert_eq!(ending(&records[0]), [json!("completed"), json!("unknown"), json!(101)]);
    assert_eq!(ending(&records[1]), [json!("client_closed"), json!("unknown"), json!(101)]);
    assert_eq!(records[1]["units"], json!({"request_bytes": 0, "response_bytes": 2 + 5}));
}

#[tokio::test]
async fn a_websocket_holds_its_place_among_the_connections() {
    let stand = Stand::with(|base| format!("[proxy]\nconnections_max = 1\n{}{PAYERS}", upstreams(base)));
    let (mut socket, _) = open(&stand, REALTIME, &[]).await.unwrap();
    next(&mut socket).await;
    let second = stand.call("/openai/v1/models").method(Method::GET);
    let mut second = Box::pin(second.send());
    tokio::select! {
        _ = &mut second => panic!("there is no place for it"),
        () = async { for _ in 0..300 { echo(&mut socket, Message::text("one")).await } } => {}
    }
    drop(socket);
    assert_eq!(second.await.status, 200);
}

#[tokio::test]
async fn a_side_of_a_websocket_that_does_not_read_is_waited_for_in_little_memory() {
    let stand = Stand::start();
    // Prices and the tokenizer's tables stay.
    stand.ask(&asks::chat()).fake("no_usage").send().await;
    stand.only_record();
    stand.fake.forget();
    let (mut socket, _) = open(&stand, REALTIME, &[("x-fake", "stall_after=0")]).await.unwrap();
    next(&mut socket).await;
    stand.fake.wait_for(|all| all[0].stalled.is_some()).await;
    let before = memory(stand.pid(), "VmRSS:");
    let piece = Message::binary(vec![7; 64 << 10]);
    let mut sent = 0_u64;
    // What the kernels hold is a few megabytes; then nothing more is taken.
    while tokio::time::timeout(Duration::from_millis(300), socket.send(piece.clone())).await.is_ok() {
        sent += 64 << 10;
        assert!(sent < 64 << 20, "nobody holds it back");
    }
    let raised = memory(stand.pid(), "VmRSS:").saturating_sub(before);
    assert!(raised < 1 << 10, "{raised} KiB for {sent} bytes");
    stand.fake.release("stall");
    assert_eq!(next(&mut socket).await, piece, "it goes on where it stopped");
}

#[tokio::test]
async fn a_killed_server_leaves_a_websocket_as_an_orphan() {
    let mut stand = Stand::start();
    let (mut socket, _) = open(&stand, REALTIME, &[]).await.unwrap();
    next(&mut socket).await;
    stand.kill();
    stand.serve();
    let record = stand.only_record();
    assert_eq!(ending(&record), [json!("orphaned"), json!("unknown"), Value::Null]);
    assert_eq!((&record["operation"], &record["tokens"]), (&json!("realtime"), &json!({})));
}

#[tokio::test]
async fn an_upstream_that_refuses_what_cannot_be_metered_refuses_websockets() {
    let stand = Stand::with(|base| format!("{}unmetered = \"refuse\"\n{PAYERS}", upstreams(base)));
    let refused = open(&stand, LIVE, &[]).await;
    assert!(matches!(refused, Err(Error::Http(response)) if response.status() == 403));
    assert!(stand.records().is_empty() && stand.fake.requests().is_empty());
}
