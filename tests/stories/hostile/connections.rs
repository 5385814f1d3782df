//! Answers that break HTTP: what they declare is not what they send, and no call pays for another's.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::asks;
use crate::raw_upstream::{self, Step, write};
use crate::stand::{PAYERS, Reply, Stand, upstreams};

const ANSWER: &str =
    r#"{"model":"m","choices":[{"message":{"content":"Hi"}}],"usage":{"prompt_tokens":11,"completion_tokens":7}}"#;

/// A stand whose upstream answers each connection by `steps`.
fn stand_with(steps: impl Fn(&str) -> Vec<Step> + Send + Sync + 'static) -> Stand {
    let address = raw_upstream::start(steps);
    Stand::with(|_| upstreams(&format!("http://{address}")) + PAYERS)
}

/// Asks a chat once, of an upstream that answers by `steps`; the answer and its record.
async fn answer_and_record(steps: Vec<Step>) -> (Reply, Value) {
    let stand = stand_with(move |_| steps.clone());
    let reply = stand.ask(&asks::chat()).send().await;
    let record = stand.only_record();
    assert!(!stand.log().contains("panicked"));
    (reply, record)
}

fn head(lines: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{lines}\r\n")
}

fn is_reported(record: &Value) -> bool {
    record["provenance"] == "reported" && record["tokens"]["output"] == 7
}

#[tokio::test]
async fn an_answer_shorter_than_it_declares_is_seen_to_be_cut() {
    for lines in [format!("content-length: {}\r\n", ANSWER.len() + 1), "transfer-encoding: chunked\r\n".to_owned()] {
        let chunk =
            if lines.contains("chunked") { format!("{:x}\r\n{ANSWER}\r\n", ANSWER.len()) } else { ANSWER.into() };
        for ending in [None, Some(Step::Reset)] {
            let steps = [write(head(&lines) + &chunk)].into_iter().chain(ending).collect();
            let (reply, record) = answer_and_record(steps).await;
            assert!(!reply.is_whole, "{lines}");
            assert_eq!(record["outcome"], "upstream_cut", "{record:#}");
            assert_ne!(record["provenance"], "none", "{record:#}");
        }
    }
}

#[tokio::test]
async fn what_follows_an_answer_belongs_to_no_other_call() {
    let of_another = head("content-length: 2\r\n") + "{}";
    let steps = vec![
        write(head(&format!("content-length: {}\r\n", ANSWER.len())) + ANSWER + &of_another),
        Step::Next,
        write(of_another),
    ];
    let stand = stand_with(move |_| steps.clone());
    let http = crate::stand::http_with_pool();
    for _ in 0..5 {
        let answer = http.request(stand.ask(&asks::chat()).request()).await.unwrap();
        assert_eq!(crate::stand::read(answer).await.text(), ANSWER);
    }
    assert!(stand.records_when(5).iter().all(is_reported));
}

#[tokio::test]
async fn an_answer_that_ends_with_its_connection_is_whole() {
    let old = format!("HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n{ANSWER}");
    let (reply, record) = answer_and_record(vec![write(old)]).await;
    assert!(reply.is_whole && reply.text() == ANSWER);
    assert!(is_reported(&record), "{record:#}");
}

#[tokio::test]
async fn any_number_of_interim_answers_comes_before_the_answer() {
    let interim =
        "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n";
    let answer = head(&format!("content-length: {}\r\n", ANSWER.len())) + ANSWER;
    let (reply, record) = answer_and_record(vec![Step::Write(interim.into(), 500), write(answer)]).await;
    assert!(reply.is_whole && reply.text() == ANSWER);
    assert!(is_reported(&record), "{record:#}");
}

#[tokio::test]
async fn an_answer_that_may_have_no_body_has_none() {
    let steps =
        |status: &str| vec![write(format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\n\r\n{ANSWER}"))];
    for status in ["204 No Content", "304 Not Modified"] {
        let (reply, record) = answer_and_record(steps(status)).await;
        assert_eq!((reply.is_whole, reply.body.len()), (true, 0), "{status}");
        assert_eq!(record["tokens"].get("cache_read"), None, "{record:#}");
        assert!(!is_reported(&record), "{record:#}");
    }
}

#[tokio::test]
async fn an_error_under_a_status_of_200_costs_nothing() {
    let error = r#"{"error":{"message":"overloaded","type":"server_error"}}"#;
    let (reply, record) =
        answer_and_record(vec![write(head(&format!("content-length: {}\r\n", error.len())) + error)]).await;
    assert_eq!(reply.text(), error);
    assert_eq!((&record["provenance"], &record["outcome"]), (&json!("none"), &json!("upstream_cut")), "{record:#}");
    assert_eq!(record["tokens"], json!({}));
}

#[tokio::test]
async fn what_is_no_answer_is_a_502_and_unknown() {
    for bytes in [
        Bytes::from_static(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"),
        Bytes::from_static(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!"),
        Bytes::from_static(b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n"),
        Bytes::from_static(b"HTTP/1.1 200 OK\r\nbad name: x\r\n\r\n"),
        Bytes::from_static(b"\x15\x03\x01\x00\x02\x02\x28"),
        Bytes::from(format!("HTTP/1.1 200 OK\r\n{}\r\n", "x-many: 1\r\n".repeat(20_000))),
        Bytes::from(format!("HTTP/1.1 200 OK\r\nx-long: {}\r\n\r\n", "x".repeat(4 << 20))),
    ] {
        let (reply, record) = answer_and_record(vec![write(bytes.clone())]).await;
        assert_eq!(reply.status, 502, "{:?}", bytes.get(..40));
        assert_eq!(
            (&record["outcome"], &record["provenance"]),
            (&json!("upstream_cut"), &json!("unknown")),
            "{record:#}"
        );
    }
}
