//! Jobs: work that outlives its call is counted once, when its result passes, whoever asks for it how often.

use http::Method;
use serde_json::{Value, json};

use crate::asks::{self, Ask};
use crate::fake_upstream::Promise;
use crate::stand::{PAYERS, Reply, Stand, upstreams};

fn in_background() -> Ask {
    asks::responses().with("background", json!(true))
}

/// Asks for a background response; its id.
async fn begin(stand: &Stand) -> String {
    let reply = stand.ask(&in_background()).send().await;
    assert_eq!(reply.json()["status"], "queued");
    reply.json()["id"].as_str().unwrap().to_owned()
}

async fn fetch(stand: &Stand, path: &str) -> Reply {
    stand.call(path).method(Method::GET).send().await
}

/// Each record's provenance, in the order of their ends.
fn provenances(records: &[Value]) -> Vec<&str> {
    records.iter().map(|record| record["provenance"].as_str().unwrap()).collect()
}

fn assert_counts(record: &Value, promise: &Promise) {
    let count = |name: &str| record["tokens"][name].as_u64();
    assert_eq!((count("input"), count("output")), (Some(promise.input), Some(promise.output)), "{record:#}");
    assert_eq!(record["provenance"], "reported");
    assert_eq!(record["model"], promise.model);
    assert!(record["cost_nanousd"].as_i64().unwrap() > 0 && record["usage_raw"].is_object(), "{record:#}");
}

/// Nothing is consumed by it.
fn assert_nothing(record: &Value) {
    assert_eq!(record["tokens"], json!({}), "{record:#}");
    assert_eq!(record["cost_nanousd"], Value::Null);
    assert!(record.get("units").is_none() && record.get("estimate").is_none(), "{record:#}");
}

#[tokio::test]
async fn a_background_response_is_counted_once_when_its_result_passes() {
    let stand = Stand::start();
    let id = begin(&stand).await;
    let path = format!("/openai/v1/responses/{id}");
    assert_eq!(fetch(&stand, &path).await.json()["status"], "in_progress");
    assert_eq!(fetch(&stand, &path).await.json()["status"], "completed");
    let records = stand.records_when(3);
    assert_eq!(provenances(&records), ["unknown", "none", "reported"]);
    assert_nothing(&records[0]);
    assert_nothing(&records[1]);
    assert_counts(&records[2], &in_background().promise(""));
    for record in &records {
        assert_eq!((&record["job"], &record["operation"]), (&json!(id), &json!("responses")), "{record:#}");
    }
    let total = &stand.report(&[])["total"];
    assert_eq!((&total["requests"], &total["unknown_requests"]), (&json!(3), &json!(1)));
    let promise = in_background().promise("");
    assert_eq!(total["tokens"]["total"], promise.input + promise.output);
    let csv = stand.run(&["records", "--format", "csv"]);
    assert!(csv.lines().next().unwrap().ends_with(",job") && csv.lines().nth(1).unwrap().ends_with(&id), "{csv}");
    stand.run(&["verify"]);
}

#[tokio::test]
async fn polling_and_fetching_again_count_nothing() {
    let twin = "[[upstream]]\nname = \"twin\"\nwire = \"openai\"\nprovider = \"openai\"";
    let stand = Stand::with(|base| format!("{}{PAYERS}{twin}\nbase_url = \"{base}\"\n", upstreams(base)));
    let id = begin(&stand).await;
    // Another upstream of the same provider has the same response.
    let paths = [format!("/openai/v1/responses/{id}"), format!("/twin/v1/responses/{id}?include[]=output")];
    for _ in 0..3 {
        for path in &paths {
            assert!(fetch(&stand, path).await.is_whole);
        }
    }
    let streamed = fetch(&stand, &format!("/openai/v1/responses/{id}?stream=true&starting_after=1")).await;
    assert!(streamed.text().contains("response.completed"), "{}", streamed.text());
    let records = stand.records_when(8);
    assert_eq!(provenances(&records), ["unknown", "none", "reported", "none", "none", "none", "none", "none"]);
    records[3..].iter().for_each(assert_nothing);
    let promise = in_background().promise("");
    assert_eq!(stand.report(&[])["total"]["tokens"]["total"], promise.input + promise.output);
}

#[tokio::test]
async fn a_response_that_was_reported_when_made_is_not_counted_when_fetched() {
    let stand = Stand::start();
    for ask in [asks::responses(), asks::responses_stream(), in_background().with("stream", json!(true))] {
        let before = stand.records().len();
        let made = stand.ask(&ask).send().await;
        let is_background = ask.body.get("background").is_some();
        let id = if is_background { "resp_fake_1" } else { "resp_fake" };
        assert!(made.text().contains(id), "{}", made.text());
        for _ in 0..3 {
            fetch(&stand, &format!("/openai/v1/responses/{id}")).await;
        }
        let records = stand.records_when(before + 4).split_off(before);
        assert_eq!(provenances(&records), ["reported", "none", "none", "none"], "{}", ask.body);
        assert_counts(&records[0], &ask.promise(""));
        records[1..].iter().for_each(assert_nothing);
    }
}

#[tokio::test]
async fn a_background_stream_that_its_client_left_is_counted_when_it_is_fetched() {
    let stand = Stand::start();
    let ask = in_background().with("stream", json!(true));
    let mut answer = stand.ask(&ask).fake("stall_after=5").begin().await;
    let so_far = crate::stand::read_until(&mut answer, |text| text.contains("output_text.delta")).await;
    let id = crate::stand::events(&so_far)[0]["response"]["id"].as_str().unwrap().to_owned();
    drop(answer);
    stand.noticed_hang_up().await;
    let records = stand.records_when(1);
    assert_eq!((&records[0]["outcome"], &records[0]["provenance"]), (&json!("client_closed"), &json!("unknown")));
    assert_nothing(&records[0]);
    let path = format!("/openai/v1/responses/{id}?stream=true&starting_after=4");
    for _ in 0..2 {
        fetch(&stand, &path).await;
    }
    let records = stand.records_when(3);
    assert_eq!(provenances(&records), ["unknown", "reported", "none"]);
    assert_counts(&records[1], &ask.promise(""));
}

#[tokio::test]
async fn a_result_that_is_cut_is_counted_when_it_passes_whole() {
    let stand = Stand::start();
    let id = begin(&stand).await;
    let path = format!("/openai/v1/responses/{id}");
    fetch(&stand, &path).await;
    let cut = stand.call(&path).method(Method::GET).fake("cut_after_bytes=200;chunks=100").send().await;
    assert!(!cut.is_whole);
    let refused = stand.call(&path).method(Method::GET).fake("status=500").send().await;
    assert_eq!(refused.status, 500);
    fetch(&stand, &path).await;
    let records = stand.records_when(5);
    assert_eq!(provenances(&records), ["unknown", "none", "none", "none", "reported"]);
    assert_counts(&records[4], &in_background().promise(""));
}

#[tokio::test]
async fn a_counted_job_stays_counted_across_a_kill() {
    let mut stand = Stand::start();
    let backup = stand.path().join("before.db");
    stand.run(&["backup", backup.to_str().unwrap()]);
    let (counted, open) = (begin(&stand).await, begin(&stand).await);
    let path = |id: &str| format!("/openai/v1/responses/{id}");
    for _ in 0..2 {
        fetch(&stand, &path(&counted)).await;
    }
    // What a server knows when it starts it has from the journal alone, then from the ledger alone.
    stand.kill();
    for file in ["ledger.db", "ledger.db-wal", "ledger.db-shm"] {
        std::fs::remove_file(stand.data().join(file)).unwrap();
    }
    std::fs::copy(&backup, stand.data().join("ledger.db")).unwrap();
    stand.serve();
    fetch(&stand, &path(&counted)).await;
    stand.kill();
    assert_eq!(stand.records().len(), 5);
    std::fs::remove_dir_all(stand.data().join("journal")).unwrap();
    stand.serve();
    for id in [&counted, &open, &open, &open] {
        fetch(&stand, &path(id)).await;
    }
    let records = stand.records_when(9);
    let expected = ["unknown", "unknown", "none", "reported", "none", "none", "none", "reported", "none"];
    assert_eq!(provenances(&records), expected);
    let promise = in_background().promise("");
    assert_eq!(stand.report(&[])["total"]["tokens"]["total"], 2 * (promise.input + promise.output));
    stand.run(&["verify"]);
}

#[tokio::test]
async fn two_fetches_at_once_count_one() {
    let stand = Stand::start();
    let id = begin(&stand).await;
    let path = format!("/openai/v1/responses/{id}");
    fetch(&stand, &path).await;
    let slowly = || stand.call(&path).method(Method::GET).fake("stall_before_last;hold=both;chunks=100").send();
    let (one, other, ()) = tokio::join!(slowly(), slowly(), async {
        stand
            .fake
            .wait_for(|received| received.iter().filter(|one| one.stalled.as_deref() == Some("both")).count() == 2)
            .await;
        stand.fake.release("both");
    });
    assert!(one.is_whole && other.is_whole);
    let mut provenances: Vec<String> = provenances(&stand.records_when(4)).into_iter().map(str::to_owned).collect();
    provenances.sort();
    assert_eq!(provenances, ["none", "none", "reported", "unknown"]);
}
