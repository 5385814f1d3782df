//! Drain: told to stop, the server takes nothing new, lets calls end, records them, and goes.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::asks;
use crate::stand::{PATIENCE, PAYERS, Stand, read, read_until, upstreams};

async fn becomes_unready(stand: &Stand) {
    let begun = Instant::now();
    while stand.get(&format!("{}/readyz", stand.admin())).await.status != 503 {
        assert!(begun.elapsed() < PATIENCE);
    }
}

#[tokio::test]
async fn told_to_stop_streams_end_whole_and_are_recorded() {
    let mut stand = Stand::start();
    let streams = asks::streams();
    let mut answers = Vec::new();
    for ask in &streams {
        let mut answer = stand.ask(ask).fake("words=9;stall_after=6").begin().await;
        read_until(&mut answer, |text| text.contains("word")).await;
        answers.push(answer);
    }
    assert_eq!(stand.get(&format!("{}/readyz", stand.admin())).await.status, 200);
    stand.terminate();
    becomes_unready(&stand).await;
    assert_eq!(stand.get(&format!("{}/healthz", stand.admin())).await.status, 200, "it is alive while it drains");
    stand.fake.release("stall");
    for answer in answers {
        assert!(read(answer).await.is_whole);
    }
    assert_eq!(stand.wait(), Some(0));
    let records = stand.records();
    assert_eq!(records.len(), streams.len());
    assert!(records.iter().all(|record| record["outcome"] == "completed" && record["provenance"] == "reported"));
}

#[tokio::test]
async fn the_drain_timeout_cuts_what_does_not_end_and_records_it() {
    let mut stand = Stand::with(|base| format!("[proxy]\ndrain_timeout_secs = 1\n{}{PAYERS}", upstreams(base)));
    let mut answer = stand.ask(&asks::messages_stream()).fake("words=9;stall_after=6").begin().await;
    read_until(&mut answer, |text| text.contains("word")).await;
    stand.terminate();
    assert!(!read(answer).await.is_whole);
    assert_eq!(stand.wait(), Some(0));
    let record = stand.only_record();
    assert_eq!((&record["outcome"], &record["provenance"]), (&json!("client_closed"), &json!("partial")));
    assert!(record["tokens"]["output"].as_u64().unwrap() >= 2, "{record:#}");
}

#[tokio::test]
async fn told_twice_it_stops_at_once() {
    let mut stand = Stand::start();
    let mut answer = stand.ask(&asks::chat_stream()).fake("words=9;stall_after=6").begin().await;
    read_until(&mut answer, |text| text.contains("word")).await;
    stand.terminate();
    becomes_unready(&stand).await;
    let begun = Instant::now();
    stand.terminate();
    assert!(!read(answer).await.is_whole);
    assert_eq!(stand.wait(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let record = stand.only_record();
    assert_eq!(record["outcome"], "client_closed");
    assert!(record["tokens"]["output"].as_u64().unwrap() >= 4, "{record:#}");
}

#[tokio::test]
async fn an_idle_server_stops_at_once_also_with_open_connections() {
    let mut stand = Stand::start();
    let idle = tokio::net::TcpStream::connect(stand.proxy().trim_start_matches("http://")).await.unwrap();
    stand.ask(&asks::chat()).send().await;
    let begun = Instant::now();
    stand.terminate();
    assert_eq!(stand.wait(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    drop(idle);
    assert_eq!(stand.records().len(), 1);
}

#[tokio::test]
async fn an_answer_that_is_finished_in_the_background_is_waited_for() {
    let mut stand = Stand::start();
    let call = stand.ask(&asks::chat()).fake("hold=gate").send();
    tokio::select! {
        _ = call => panic!("the head is held back"),
        _ = stand.fake.wait_for(|all| all.iter().any(|one| one.stalled.is_some())) => {}
    }
    stand.noticed_hang_up().await;
    stand.terminate();
    becomes_unready(&stand).await;
    stand.fake.release("gate");
    assert_eq!(stand.wait(), Some(0));
    let record = stand.only_record();
    assert_eq!((&record["outcome"], &record["provenance"]), (&json!("client_closed"), &json!("reported")));
}
