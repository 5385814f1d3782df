//! Records: the intent is there before the upstream is asked, the record before the client has the end.

use serde_json::json;

use crate::asks::{self, Ask};
use crate::stand::{Stand, read, read_until};

/// Whether the journal holds something of the call `id`.
fn journal_knows(stand: &Stand, id: &str) -> bool {
    let segments = std::fs::read_dir(stand.data().join("journal")).unwrap();
    segments
        .map(|entry| std::fs::read(entry.unwrap().path()).unwrap())
        .any(|bytes| bytes.windows(id.len()).any(|window| window == id.as_bytes()))
}

#[tokio::test]
async fn until_the_last_event_there_is_an_intent_and_no_record() {
    let mut stand = Stand::start();
    let ask = asks::messages_stream();
    let mut answer = stand.ask(&ask).fake("stall_before_last").begin().await;
    let id = answer.headers()["x-tokenmeter-record"].to_str().unwrap().to_owned();
    read_until(&mut answer, |text| text.contains("message_delta")).await;
    assert!(journal_knows(&stand, &id));
    assert_eq!(stand.records(), Vec::<serde_json::Value>::new());
    stand.fake.release("stall");
    read_until(&mut answer, |text| text.contains("message_stop")).await;
    stand.kill();
    assert_eq!(stand.only_record()["id"], id.as_str());
}

#[tokio::test]
async fn the_intent_is_there_before_the_upstream_has_the_request() {
    let stand = Stand::start();
    let call = stand.ask(&asks::chat()).fake("hold=gate").send();
    tokio::select! {
        _ = call => panic!("the head is held back"),
        _ = stand.fake.wait_for(|all| all.iter().any(|one| one.stalled.is_some())) => {}
    }
    let segment = std::fs::read_dir(stand.data().join("journal")).unwrap();
    let bytes: Vec<u8> = segment.flat_map(|entry| std::fs::read(entry.unwrap().path()).unwrap()).collect();
    assert!(bytes.windows(11).any(|window| window == b"gpt-4o-mini"));
    assert!(!bytes.windows(7).any(|window| window == b"how are"), "no text is kept");
}

/// Five times: reads until `end` is there, or to the end of the body, kills the server that instant, and looks.
async fn what_the_client_saw_end_is_recorded(ask: Ask, script: &str, end: Option<&str>) {
    let mut stand = Stand::start();
    let promise = ask.promise(script);
    for round in 1..=5 {
        let mut answer = stand.ask(&ask).fake(script).begin().await;
        match end {
            Some(end) => drop(read_until(&mut answer, |text| text.contains(end)).await),
            None => assert!(read(answer).await.is_whole),
        }
        stand.kill();
        let records = stand.records();
        assert_eq!(records.len(), round, "{}", stand.log());
        let record = &records[round - 1];
        assert_eq!((&record["outcome"], &record["provenance"]), (&json!("completed"), &json!("reported")));
        assert_eq!(record["tokens"]["input"], promise.input);
        assert_eq!(record["tokens"]["output"], promise.output);
        if round < 5 {
            stand.serve();
        }
    }
    stand.run(&["verify"]);
}

#[tokio::test]
async fn an_openai_stream_that_was_seen_to_end_survives_kill_9() {
    what_the_client_saw_end_is_recorded(asks::chat_stream(), "words=50", Some("[DONE]")).await;
}

#[tokio::test]
async fn an_anthropic_stream_that_was_seen_to_end_survives_kill_9() {
    what_the_client_saw_end_is_recorded(asks::messages_stream(), "words=50", Some("event: message_stop")).await;
}

#[tokio::test]
async fn a_responses_stream_that_was_seen_to_end_survives_kill_9() {
    what_the_client_saw_end_is_recorded(asks::responses_stream(), "words=50", Some("event: response.completed")).await;
}

#[tokio::test]
async fn a_gemini_stream_that_was_seen_to_end_survives_kill_9() {
    what_the_client_saw_end_is_recorded(asks::generate_stream(), "words=50", None).await;
}

#[tokio::test]
async fn a_whole_answer_that_was_seen_to_end_survives_kill_9() {
    what_the_client_saw_end_is_recorded(asks::chat(), "words=50", Some("\"total_tokens\"")).await;
}

#[tokio::test]
async fn calls_in_flight_at_kill_9_are_orphaned_once_and_their_prompts_estimated() {
    let mut stand = Stand::start();
    let ask = asks::chat_stream();
    let mut streaming = stand.ask(&ask).fake("words=9;stall_after=4").begin().await;
    let id = streaming.headers()["x-tokenmeter-record"].to_str().unwrap().to_owned();
    read_until(&mut streaming, |text| text.contains("word")).await;
    stand.kill();
    assert_eq!(stand.records().len(), 0, "nobody knows yet that it will not end");
    stand.serve();
    let record = stand.only_record();
    assert_eq!((&record["id"], &record["outcome"]), (&json!(id), &json!("orphaned")));
    assert_eq!(record["provenance"], "estimated");
    assert_eq!(record["tokens"]["input"], ask.body.to_string().len() as u64 / 4);
    stand.kill();
    stand.serve();
    assert_eq!(stand.records().len(), 1, "an orphan is found once");
    stand.run(&["verify"]);
}

#[tokio::test]
async fn a_call_without_a_body_in_its_answer_is_recorded_with_its_head() {
    let mut stand = Stand::start();
    let reply = stand.call("/openai/v1/models").method(http::Method::HEAD).send().await;
    stand.kill();
    assert_eq!(stand.only_record()["id"], reply.record_id().as_str());
}
