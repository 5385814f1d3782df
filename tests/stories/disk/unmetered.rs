//! Told to pass what cannot be recorded, tokenmeter lets traffic through and says how much of it.

use std::time::{Duration, Instant};

use crate::asks;
use crate::stand::{PATIENCE, PAYERS, Stand, upstreams};

use super::{SmallDisk, until_status};

#[tokio::test]
async fn told_to_pass_calls_go_on_unmetered_and_are_counted_in_metric_and_report() {
    let mut stand = Stand::stopped(|base| format!("[ledger]\non_failure = \"pass\"\n{}{PAYERS}", upstreams(base)));
    let disk = SmallDisk::at(&stand.data().join("journal"), 3);
    stand.serve();
    let recorded = stand.ask(&asks::chat()).send().await.record_id();
    disk.fill();
    let began = Instant::now();
    let mut metered = 1_u32;
    while stand.ask(&asks::messages()).send().await.headers.contains_key("x-tokenmeter-record") {
        metered += 1;
        assert!(began.elapsed() < PATIENCE, "a full disk takes every record");
    }
    let mut unmetered = 1_u32;
    for ask in [asks::chat(), asks::generate_stream(), asks::messages_stream(), asks::chat_stream_with_usage()] {
        let reply = stand.ask(&ask).header("x-tokenmeter-team", "lab").send().await;
        assert!(reply.status == 200 && reply.is_whole, "{}", reply.text());
        assert!(!reply.headers.contains_key("x-tokenmeter-record"));
        // The stream is the client's as it is, also where we asked for more than it did.
        assert_eq!(reply.body, stand.ask_directly(&ask).send().await.body);
        unmetered += 1;
    }
    let ready = stand.get(&format!("{}/readyz", stand.admin())).await;
    assert_eq!(ready.status, 200);
    assert!(ready.text().contains("pass unmetered") && ready.text().contains("space"), "{}", ready.text());
    stand.metric_becomes("tokenmeter_unmetered_requests_total", &[], f64::from(unmetered)).await;
    stand.metric_becomes("tokenmeter_unmetered_requests_total", &[r#"team="lab""#], 4.0).await;

    disk.empty();
    let began = Instant::now();
    while stand.report(&[])["unmetered_requests"] != unmetered {
        assert!(began.elapsed() < PATIENCE, "the report does not tell of {unmetered} calls: {}", stand.report(&[]));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(stand.report(&[])["total"]["requests"], metered);
    let said = format!("Passed unmetered, and in no row: {unmetered} requests.");
    assert!(stand.run(&["report"]).contains(&said));
    let csv = stand.command(&["report", "--format", "csv"]).output().unwrap();
    assert!(String::from_utf8(csv.stderr).unwrap().contains(&said));
    assert_eq!(stand.report(&["--month", "2020-01"])["unmetered_requests"], 0);

    assert!(stand.ask(&asks::chat()).send().await.headers.contains_key("x-tokenmeter-record"));
    // Kept, and counted once, whoever dies.
    stand.kill();
    stand.serve();
    until_status(&stand, &asks::chat(), 200).await;
    assert_eq!(stand.report(&[])["unmetered_requests"], unmetered);
    let records = stand.records_when(usize::try_from(metered).unwrap() + 2);
    assert_eq!(records[0]["id"], recorded);
    stand.run(&["verify"]);
    stand.kill();
}
