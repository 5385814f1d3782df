//! Clients that leave, and servers that stop, when it is inconvenient; and requests that tell their length otherwise.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::asks::{chat, chat_stream};
use crate::stand::{PAYERS, Stand, read_until};

/// Sends `request` as it is and returns all that comes back until the server closes.
async fn raw(stand: &Stand, request: &str) -> String {
    let mut stream = TcpStream::connect(stand.proxy().strip_prefix("http://").unwrap()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_stream_asked_for_in_chunks_is_counted_by_the_provider_all_the_same() {
    let stand = Stand::start();
    let body = chat_stream().body.to_string();
    let request = format!(
        "POST {} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
        chat_stream().path,
        body.len(),
    );
    let answer = raw(&stand, &request).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("[DONE]"), "{answer}");
    assert!(!answer.contains("\"choices\":[]"), "the usage event is ours to take out: {answer}");
    assert_eq!(stand.only_record()["provenance"], "reported");
}

#[tokio::test]
async fn a_post_that_says_it_has_no_body_says_so_upstream() {
    let stand = Stand::start();
    let path = "/openai/v1/responses/resp_1/cancel";
    raw(&stand, &format!("POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")).await;
    assert_eq!(stand.fake.requests()[0].header("content-length"), Some("0"));
}

#[tokio::test]
async fn an_upstreams_bare_name_is_its_root() {
    let stand = Stand::start();
    raw(&stand, "GET /openai?x=1 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert_eq!(stand.fake.requests()[0].target, "/?x=1");
}

#[tokio::test]
async fn a_client_that_leaves_before_there_is_a_connection_pays_nothing() {
    // An egress proxy that takes the connection and never says that it has one itself.
    let egress = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = egress.local_addr().unwrap();
    let stand = Stand::with(|base| {
        format!(
            "[[upstream]]\nname = \"openai\"\nwire = \"openai\"\nbase_url = \"{base}\"\nproxy_url = \"http://{address}\"\n{PAYERS}"
        )
    });
    let mut asking = Vec::new();
    for ask in [chat(), chat_stream()] {
        tokio::select! {
            _ = stand.ask(&ask).begin() => panic!("there is no answer"),
            taken = egress.accept() => asking.push(taken.unwrap()),
        }
        stand.noticed_hang_up().await;
    }
    for record in stand.records_when(2) {
        let ends = (&record["outcome"], &record["provenance"]);
        assert_eq!(ends, (&json!("client_closed"), &json!("none")), "{record:#}");
        assert_eq!(record["tokens"], json!({}));
    }
    assert!(stand.fake.requests().is_empty());
    drop(asking);
}

#[tokio::test]
async fn a_stop_in_the_middle_keeps_the_numbers_that_were_read() {
    let mut stand = Stand::start();
    let truth = chat().promise("");
    // All but the last byte of the answer: the usage has come, the end has not.
    let mut answer = stand.ask(&chat()).fake("chunks=1;chunked;stall_before_last").begin().await;
    read_until(&mut answer, |text| text.contains("\"usage\":{") && text.ends_with('}')).await;
    drop(answer);
    stand.noticed_hang_up().await;
    stand.terminate();
    stand.terminate();
    assert_eq!(stand.wait(), Some(0));
    let record: Value = stand.only_record();
    assert_eq!(record["provenance"], "reported", "{record:#}");
    assert_eq!(record["tokens"]["output"], truth.output);
}

#[tokio::test]
async fn a_server_that_answered_the_demo_stops_when_it_is_told() {
    let mut stand =
        Stand::with(|_| "[[upstream]]\nname = \"demo\"\nwire = \"openai\"\nbase_url = \"demo:\"\n".to_owned());
    let reply = stand.call("/demo/v1/chat/completions").json(&chat().body).send().await;
    assert_eq!(reply.status, 200);
    stand.terminate();
    // Within the stand's patience, which is shorter than idle connections live.
    assert_eq!(stand.wait(), Some(0));
    assert!(!stand.log().contains("WARN"), "{}", stand.log());
}
