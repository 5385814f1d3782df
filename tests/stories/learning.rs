//! Learning: calls with reported usage teach what those without are likely to be, and how sure that is.

use std::time::{Duration, Instant};

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::asks::{self, Ask};
use crate::cluster::Cluster;
use crate::stand::{PATIENCE, PAYERS, Stand, upstreams};

/// A chat of `words` words.
fn chat(words: usize) -> Ask {
    let text = vec!["quietly"; words].join(" ");
    asks::chat().with("messages", json!([{"role": "user", "content": text}]))
}

/// What a call was estimated as whose provider reports nothing.
pub(crate) async fn silent(stand: &Stand, ask: &Ask) -> Value {
    let id = stand.ask(ask).fake("no_usage").send().await.record_id();
    let begun = Instant::now();
    loop {
        if let Some(record) = stand.records().into_iter().find(|record| record["id"] == *id) {
            assert_eq!(record["provenance"], "estimated", "{record:#}");
            return record;
        }
        assert!(begun.elapsed() < PATIENCE, "no record of {id}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Calls whose usage is reported.
async fn reported(stand: &Stand, count: usize) {
    for call in 0..count {
        assert_eq!(stand.ask(&chat(5 + call * 7 % 60)).send().await.status, 200);
    }
}

/// Calls until as many have taught that an estimate says so; that estimate.
async fn taught(stand: &Stand, ask: &Ask) -> Value {
    let begun = Instant::now();
    loop {
        reported(stand, 8).await;
        let record = silent(stand, ask).await;
        if observations(&record) >= 20 {
            return record;
        }
        assert!(begun.elapsed() < PATIENCE * 2, "calls teach nothing: {record:#}");
    }
}

pub(crate) fn observations(record: &Value) -> u64 {
    record["estimate"]["observations"].as_u64().unwrap()
}

/// How wide a record's band is, relative to its tokens.
fn width(record: &Value) -> f64 {
    let number = |value: &Value| value.as_f64().unwrap();
    let tokens = number(&record["tokens"]["input"]) + number(&record["tokens"]["output"]);
    (number(&record["estimate"]["high"]) - number(&record["estimate"]["low"])) / tokens
}

/// Rows of what was learned in the stand's ledger.
fn rows(stand: &Stand) -> i64 {
    let ledger = Connection::open(stand.data().join("ledger.db")).unwrap();
    ledger.query_row("SELECT COUNT(*) FROM calibration", (), |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn what_reported_calls_taught_makes_estimates_surer_also_after_a_restart() {
    let mut stand = Stand::start();
    let ask = chat(30);
    let before = silent(&stand, &ask).await;
    assert_eq!((observations(&before), &before["estimate"]["method"]), (0, &json!("o200k")));
    let after = taught(&stand, &ask).await;
    assert_eq!(after["estimate"]["method"], "o200k+calibrated");
    assert!(width(&after) < width(&before) / 2.0, "{before:#} {after:#}");
    let truth = ask.promise("").input;
    let off = |record: &Value| record["tokens"]["input"].as_u64().unwrap().abs_diff(truth);
    assert!(off(&after) <= 2 && off(&after) < off(&before), "{truth}: {before:#} {after:#}");

    stand.terminate();
    assert_eq!(stand.wait(), Some(0));
    assert!(rows(&stand) > 0);
    stand.serve();
    let again = silent(&stand, &ask).await;
    assert!(observations(&again) >= observations(&after), "{again:#}");
    assert_eq!(again["estimate"]["method"], "o200k+calibrated");
}

#[tokio::test]
async fn where_nothing_is_to_be_learned_nothing_is() {
    let mut stand = Stand::with(|base| format!("[counting]\nlearn = false\n{}{PAYERS}", upstreams(base)));
    reported(&stand, 40).await;
    let record = silent(&stand, &chat(30)).await;
    assert_eq!((observations(&record), &record["estimate"]["method"]), (0, &json!("o200k")));
    stand.terminate();
    assert_eq!(stand.wait(), Some(0));
    assert_eq!(rows(&stand), 0);
}

#[tokio::test]
async fn a_spoilt_state_is_learned_anew() {
    let mut stand = Stand::start();
    let ask = chat(30);
    taught(&stand, &ask).await;
    stand.terminate();
    stand.wait();
    let ledger = Connection::open(stand.data().join("ledger.db")).unwrap();
    ledger.execute("UPDATE calibration SET state = '{\"version\":1}'", ()).unwrap();
    drop(ledger);
    stand.serve();
    assert!(stand.log().contains("what was learned of calls cannot be taken up"));
    assert_eq!(observations(&silent(&stand, &ask).await), 0);
}

#[tokio::test]
async fn what_one_server_has_learned_the_next_knows_by_their_ledger() {
    let cluster = Cluster::start();
    let url = "TOKENMETER_STAND_POSTGRES";
    let stopped = |node: &str| {
        let head = format!("[ledger]\npostgres_url_env = \"{url}\"\nnode = \"{node}\"\n");
        let mut stand = Stand::stopped(|base| format!("{head}{}{PAYERS}", upstreams(base)));
        stand.set(url, cluster.url());
        stand
    };
    let ask = chat(30);
    let mut one = stopped("one");
    one.serve();
    let known = observations(&taught(&one, &ask).await);
    one.terminate();
    assert_eq!(one.wait(), Some(0), "{}", one.log());
    let mut other = stopped("other");
    other.serve();
    assert!(observations(&silent(&other, &ask).await) >= known);
    reported(&other, 4).await;
    other.terminate();
    assert_eq!(other.wait(), Some(0));
    let nodes = "SELECT string_agg(DISTINCT node, ' ' ORDER BY node) FROM tokenmeter.calibration";
    assert!(cluster.sql("usage", nodes).starts_with("one"));
}
