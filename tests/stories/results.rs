//! Results: what runs and batches used is counted once, with their own id as evidence.

use http::Method;
use serde_json::{Value, json};

use crate::asks::Ask;
use crate::fake_upstream::jobs::{LINE_INPUT, LINE_OUTPUT};
use crate::stand::{Reply, Stand};

const RUNS: &str = "/openai/v1/threads/thread_fake/runs";
const OPENAI_RESULTS: &str = "/openai/v1/files/file-out/content";
const ANTHROPIC_RESULTS: &str = "/anthropic/v1/messages/batches/msgbatch_1/results";

fn a_run() -> Ask {
    let body = json!({"assistant_id": "asst_fake", "model": "gpt-4o-mini", "instructions": "how are you today"});
    Ask { path: RUNS, body }
}

async fn fetch(stand: &Stand, path: &str, script: &str) -> Reply {
    stand.call(path).method(Method::GET).fake(script).send().await
}

fn told(records: &[Value]) -> Vec<(&str, Option<u64>, Option<u64>)> {
    let count = |record: &Value, name: &str| record["tokens"][name].as_u64();
    records
        .iter()
        .map(|record| (record["provenance"].as_str().unwrap(), count(record, "input"), count(record, "output")))
        .collect()
}

#[tokio::test]
async fn a_run_is_counted_once_when_it_is_over() {
    let stand = Stand::start();
    let begun = stand.ask(&a_run()).send().await.json();
    let id = begun["id"].as_str().unwrap();
    for _ in 0..4 {
        fetch(&stand, &format!("{RUNS}/{id}"), "").await;
    }
    let records = stand.records_when(5);
    let (none, promise) = (("none", None, None), a_run().promise(""));
    let counted = ("reported", Some(promise.input), Some(promise.output));
    assert_eq!(told(&records), [("unknown", None, None), none, counted, none, none]);
    assert!(records.iter().all(|record| record["job"] == id), "{records:#?}");
}

#[tokio::test]
async fn a_run_whose_stream_ended_is_not_counted_when_it_is_fetched() {
    let stand = Stand::start();
    let stream = stand.ask(&a_run().with("stream", json!(true))).send().await;
    assert!(stream.text().contains("thread.run.completed"));
    for _ in 0..3 {
        fetch(&stand, &format!("{RUNS}/run_fake_0"), "").await;
    }
    let records = stand.records_when(4);
    let (none, promise) = (("none", None, None), a_run().promise(""));
    assert_eq!(told(&records), [("reported", Some(promise.input), Some(promise.output)), none, none, none]);
    assert_eq!(records[0]["job"], "run_fake_0");
}

#[tokio::test]
async fn the_results_of_a_batch_are_counted_once_and_whole() {
    let none = ("none", None, None);
    let sum = ("reported", Some(2 * LINE_INPUT), Some(2 * LINE_OUTPUT));
    for (path, id) in [(OPENAI_RESULTS, "file-out"), (ANTHROPIC_RESULTS, "msgbatch_1")] {
        let mut stand = Stand::start();
        assert!(!fetch(&stand, path, "cut_after=2").await.is_whole);
        assert!(fetch(&stand, path, "").await.is_whole);
        assert!(fetch(&stand, path, "chunks=7").await.is_whole);
        stand.kill();
        stand.serve();
        fetch(&stand, path, "").await;
        let records = stand.records_when(4);
        assert_eq!(told(&records), [none, sum, none, none], "{path}");
        assert!(records.iter().all(|record| record["job"] == id && record["operation"] == "batch"), "{records:#?}");
        assert_eq!(stand.report(&[])["total"]["tokens"]["total"], 2 * (LINE_INPUT + LINE_OUTPUT));
        stand.run(&["verify"]);
    }
}

#[tokio::test]
async fn results_whose_client_left_are_fetched_to_their_end_and_counted() {
    let stand = Stand::start();
    let left = stand.call(OPENAI_RESULTS).method(Method::GET).fake("stall_after=1;hold=left").begin().await;
    stand.fake.wait_for(|all| all[0].stalled.is_some()).await;
    drop(left);
    stand.noticed_hang_up().await;
    stand.fake.release("left");
    let record = stand.only_record();
    assert_eq!(
        (&record["outcome"], &record["provenance"]),
        (&json!("client_closed"), &json!("reported")),
        "{record:#}"
    );
    assert_eq!(record["tokens"]["output"], 2 * LINE_OUTPUT);
    fetch(&stand, OPENAI_RESULTS, "").await;
    assert_eq!(stand.records_when(2)[1]["provenance"], "none");
}
