//! Ledgers over the years: made by older releases, copied under load and put back, and rid of what is too old.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use jiff::{Timestamp, ToSpan as _};
use rusqlite::Connection;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::asks;
use crate::calls;
use crate::stand::{PATIENCE, PAYERS, Stand, upstreams};

fn failed(stand: &Stand, arguments: &[&str]) -> String {
    let Output { status, stderr, .. } = stand.command(arguments).output().unwrap();
    assert_eq!(status.code(), Some(1), "{arguments:?}");
    String::from_utf8(stderr).unwrap()
}

fn fixture(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/ledgers");
    std::fs::read_to_string(folder.join(name)).unwrap()
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A ledger that the release with `schema` made goes on: what it told is told again, and more is added.
async fn goes_on(schema: u32) {
    let mut stand = Stand::stopped(|base| format!("[ledger]\nnode = \"n1\"\n{}{PAYERS}", upstreams(base)));
    std::fs::create_dir(stand.data()).unwrap();
    Connection::open(stand.data().join("ledger.db"))
        .unwrap()
        .execute_batch(&fixture(&format!("schema_{schema}.sql")))
        .unwrap();
    let told = lines(&fixture(&format!("schema_{schema}.records.jsonl")));
    assert_eq!(told.len(), 38);
    let verified = stand.run(&["verify"]);
    assert!(verified.contains("38 records"), "{verified}");
    assert_eq!(stand.records(), told);
    let by = "department,team,app,key,provider,upstream,operation,model";
    let report = stand.report(&["--month", "2026-11", "--by", by]);
    let told: Value = serde_json::from_str(&fixture(&format!("schema_{schema}.report.json"))).unwrap();
    for member in ["month", "timezone", "by", "rows", "total"] {
        assert_eq!(report[member], told[member], "{member}");
    }
    let keys = stand.run(&["keys", "list"]);
    assert_eq!(keys.lines().filter(|line| line.starts_with("k_")).count(), 2, "{keys}");
    stand.serve();
    assert_eq!(stand.ask(&asks::chat()).send().await.status, 200);
    let records = stand.records_when(39);
    assert!(records.iter().any(|record| record["seq"] == 39), "it goes on behind what was there");
    let verified = stand.run(&["verify"]);
    assert!(verified.contains("39 records") && verified.contains("node n1: up to record 39"), "{verified}");
}

#[tokio::test]
async fn a_ledger_of_the_first_schema_goes_on() {
    goes_on(1).await;
}

#[tokio::test]
async fn a_ledger_of_the_second_schema_goes_on() {
    goes_on(2).await;
}

#[tokio::test]
async fn a_ledger_of_the_third_schema_goes_on() {
    goes_on(3).await;
}

#[test]
fn every_command_refuses_a_ledger_from_the_future_by_name() {
    let stand = Stand::stopped(|base| format!("{}{PAYERS}", upstreams(base)));
    std::fs::create_dir(stand.data()).unwrap();
    stand.run(&["records"]);
    let ledger = stand.data().join("ledger.db");
    Connection::open(&ledger).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let before = std::fs::read(&ledger).unwrap();
    for arguments in [
        &["serve"][..],
        &["report"],
        &["records"],
        &["verify"],
        &["backup", "copy.db"],
        &["keys", "list"],
        &["keys", "new", "--team", "lab"],
        &["keys", "revoke", "k_00000000"],
    ] {
        let said = failed(&stand, arguments);
        assert!(
            said.contains("ledger.db` has schema 99, this binary knows 4; upgrade tokenmeter"),
            "{arguments:?}: {said}"
        );
    }
    assert_eq!(std::fs::read(&ledger).unwrap(), before, "it is left as it is");
}

/// The last seq that a command told.
fn last_seq(told: &str) -> u64 {
    let (_, rest) = told.split_once("up to record ").expect("how far it goes");
    rest.split(',').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_backup_under_load_is_whole_and_goes_on_from_the_journal() {
    let mut stand = Stand::start();
    let (is_over, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut load = JoinSet::new();
    for _ in 0..4 {
        let (is_over, calls) = (Arc::clone(&is_over), Arc::clone(&calls));
        let client = crate::stand::http_with_pool();
        let call = stand.ask(&asks::chat()).header("x-tokenmeter-team", "lab").request();
        load.spawn(async move {
            while !is_over.load(Ordering::SeqCst) {
                let (parts, body) = call.clone().into_parts();
                let answer = client.request(http::Request::from_parts(parts, body)).await.unwrap();
                assert_eq!(answer.status(), 200);
                drop(http_body_util::BodyExt::collect(answer.into_body()).await.unwrap());
                calls.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    let copies: Vec<PathBuf> = (0..3).map(|number| stand.path().join(format!("copy-{number}.db"))).collect();
    let mut seqs = Vec::new();
    for copy in &copies {
        let before = calls.load(Ordering::SeqCst);
        while calls.load(Ordering::SeqCst) < before + 20 {
            tokio::task::yield_now().await;
        }
        let mut command = stand.command(&["backup", copy.to_str().unwrap()]);
        let Output { status, stdout, stderr } =
            tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        assert!(status.success(), "{}", String::from_utf8(stderr).unwrap());
        seqs.push(last_seq(&String::from_utf8(stdout).unwrap()));
    }
    assert!(seqs[0] >= 20 && seqs.is_sorted() && seqs[0] < seqs[2], "{seqs:?}");
    is_over.store(true, Ordering::SeqCst);
    load.join_all().await;
    stand.terminate();
    assert_eq!(stand.wait(), Some(0));
    let all = stand.records();
    assert_eq!(all.len(), calls.load(Ordering::SeqCst));
    // Put back in the place of the ledger, the oldest copy takes from the journal what it has not.
    for suffix in ["", "-wal", "-shm"] {
        drop(std::fs::remove_file(stand.data().join(format!("ledger.db{suffix}"))));
    }
    let elsewhere = Stand::stopped(upstreams);
    std::fs::create_dir(elsewhere.data()).unwrap();
    std::fs::copy(&copies[0], elsewhere.data().join("ledger.db")).unwrap();
    let verified = elsewhere.run(&["verify"]);
    assert!(verified.contains(&format!("up to record {}, chain ", seqs[0])), "{verified}");
    std::fs::copy(&copies[0], stand.data().join("ledger.db")).unwrap();
    assert_eq!(stand.records(), all);
    stand.serve();
    assert_eq!(stand.ask(&asks::chat()).send().await.status, 200);
    stand.records_when(all.len() + 1);
    assert!(stand.run(&["verify"]).contains(&format!("{} records", all.len() + 1)));
}

#[test]
fn a_backup_overwrites_nothing_and_leaves_nothing_unfinished() {
    let stand = Stand::stopped(upstreams);
    std::fs::create_dir(stand.data()).unwrap();
    let copy = stand.path().join("copy.db");
    std::fs::write(&copy, "precious").unwrap();
    let said = failed(&stand, &["backup", copy.to_str().unwrap()]);
    assert!(said.contains("cannot overwrite") && said.contains("copy.db"), "{said}");
    assert_eq!(std::fs::read_to_string(&copy).unwrap(), "precious");
    let said = failed(&stand, &["backup", "nowhere/copy.db"]);
    assert!(said.contains("nowhere/copy.db"), "{said}");
    let before = std::fs::read_dir(stand.path()).unwrap().count();
    stand.run(&["backup", "fresh.db"]);
    assert_eq!(std::fs::read_dir(stand.path()).unwrap().count(), before + 1, "the copy and nothing beside it");
    failed(&stand, &["backup", "fresh.db"]);
}

#[tokio::test]
async fn records_that_are_too_old_go_while_the_server_runs_and_their_report_stays() {
    let mut stand =
        Stand::stopped(|base| format!("[ledger]\nnode = \"n1\"\nkeep_records_days = 60\n{}", upstreams(base)));
    calls::fill(&stand.data(), 3_000, |_| {});
    let reports = |stand: &Stand| {
        ["2026-08", "2026-09", "2026-10"].map(|month| stand.report(&["--month", month, "--by", "team,model"]))
    };
    let before = reports(&stand);
    let all = stand.records().len();
    stand.serve();
    let begun = std::time::Instant::now();
    let young = loop {
        // Calls are answered and recorded meanwhile.
        assert_eq!(stand.ask(&asks::chat()).send().await.status, 200);
        let records = stand.records();
        let ended_at = |record: &Value| record["ended_at"].as_str().unwrap().parse::<Timestamp>().unwrap();
        // What is kept is kept to the quarter of an hour.
        let oldest = ended_at(&records[records.len() - 1]) - (60 * 24).hours() - 15.minutes();
        let is_old = |record: &Value| ended_at(record) < oldest;
        if !records.iter().any(is_old) {
            break records.len();
        }
        assert!(begun.elapsed() < PATIENCE, "{} records are left", records.len());
    };
    assert!(young < all, "nothing was removed");
    assert_eq!(reports(&stand), before);
    let verified = stand.run(&["verify"]);
    assert!(verified.contains("were removed, their sums are kept"), "{verified}");
    let said = stand.command(&["records", "--from", "2026-08-01T00:00:00Z"]).output().unwrap().stderr;
    assert!(String::from_utf8(said).unwrap().contains("were removed (`ledger.keep_records_days`)"));
    let said = stand.command(&["records", "--from", "9000-01-01T00:00:00Z"]).output().unwrap().stderr;
    assert_eq!(String::from_utf8(said).unwrap(), "");
}
