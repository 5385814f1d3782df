//! Verify: whatever is changed with plain SQL, by somebody who drops the triggers first, is found and named.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::Connection;

use super::{Data, append, fill};
use crate::journal::samples::{bare_record, full_record, intent};
use crate::ledger::{ChainEnd, Link};
use crate::record::Record;
use crate::usage::Outcome;

const FIRST: &str =
    "2026-11-01T00:00:00Z (customer-service, support-bot, chatbot, k_7f3a, openai, openai, chat, gpt-5-2025-08-07)";

/// What is found once `sql` was run on a ledger of four records in three buckets of a day.
fn found(sql: &str) -> String {
    let data = Data::new();
    fill(&data.journal(), 4);
    data.apply();
    let verified = data.ledger().verify().unwrap().unwrap();
    assert_eq!((verified.records, verified.nodes, verified.buckets), (4, 1, 3));
    assert_eq!(verified.tokens, 4 * (812 + 1024 + 7 + 391));
    assert_eq!(verified.ends.iter().map(|end| (end.node.as_str(), end.seq)).collect::<Vec<_>>(), [("n1", 4)]);
    data.raw().execute_batch(sql).unwrap();
    data.ledger().verify().unwrap().unwrap_err().to_string()
}

#[test]
fn a_bucket_that_was_changed_is_found() {
    let first = "WHERE bucket = (SELECT MIN(bucket) FROM buckets)";
    assert_eq!(
        found(&format!("UPDATE buckets SET output = output + 1 {first}")),
        format!("bucket {FIRST} has output = 783, its records sum to 782")
    );
    assert_eq!(found(&format!("DELETE FROM buckets {first}")), format!("bucket {FIRST} is missing: its 2 records"));
    assert_eq!(
        found("UPDATE buckets SET bucket = 7 WHERE bucket = (SELECT MAX(bucket) FROM buckets)"),
        format!(
            "bucket {} has no records, but 1 requests",
            FIRST.replace("2026-11-01T00:00:00Z", "1970-01-01T01:45:00Z")
        )
    );
}

#[test]
fn a_day_that_was_changed_is_found() {
    assert_eq!(found("UPDATE days SET input = 7"), format!("day {FIRST} has input = 7, its buckets sum to 3248"));
    assert_eq!(found("DELETE FROM days"), format!("day {FIRST} is missing: its 4 records"));
}

#[test]
fn a_record_that_was_changed_is_found() {
    let changed = |seq: u64| format!("record {seq} of node n1 was changed: its chain value does not fit it");
    for (column, value) in [
        ("team", "'x'"),
        ("input", "813"),
        ("input", "NULL"),
        ("cost_nanousd", "1"),
        ("usage_raw", "'{}'"),
        ("tags", "NULL"),
        ("price", "'another'"),
        ("duration_ms", "duration_ms + 1"),
        ("id", "x'0193a7000000700080000000000000aa'"),
    ] {
        assert_eq!(found(&format!("UPDATE records SET {column} = {value} WHERE seq = 3")), changed(3), "{column}");
    }
    // The last, and with its buckets in step.
    assert_eq!(found("UPDATE records SET input = 813 WHERE seq = 4"), changed(4));
    let in_step = "UPDATE records SET input = input + 1 WHERE seq = 1;
         UPDATE buckets SET input = input + 1, reported_tokens = reported_tokens + 1
             WHERE bucket = (SELECT MIN(bucket) FROM buckets);
         UPDATE days SET input = input + 1, reported_tokens = reported_tokens + 1";
    assert_eq!(found(in_step), changed(1));
    let error = found("UPDATE records SET outcome = 'lost' WHERE seq = 2");
    assert!(error.starts_with("record 2 of node n1 was changed: unknown variant `lost`"), "{error}");
}

#[test]
fn a_record_that_was_deleted_is_found() {
    assert_eq!(found("DELETE FROM records WHERE seq = 1"), "node n1 has no record 1, but one of 4");
    assert_eq!(found("DELETE FROM records WHERE seq = 2"), "node n1 has no record 2, but one of 4");
    assert_eq!(
        found("DELETE FROM records WHERE seq = 4"),
        "node n1 is applied up to record 4 by its position, but its last record is 3"
    );
    assert_eq!(
        found("DELETE FROM records; DELETE FROM buckets; DELETE FROM days"),
        "node n1 is applied up to record 4 by its position, but its last record is 0"
    );
    // Where the others move up into its place.
    let closed = "DELETE FROM records WHERE seq = 2; UPDATE records SET seq = seq - 1 WHERE seq > 2;
         UPDATE positions SET last_seq = 3";
    assert_eq!(found(closed), "record 2 of node n1 is not the one that was written there: the chain breaks");
}

#[test]
fn a_position_that_was_moved_is_found() {
    assert_eq!(
        found("UPDATE positions SET last_seq = 9"),
        "node n1 is applied up to record 9 by its position, but its last record is 4"
    );
    assert_eq!(
        found("DELETE FROM positions"),
        "node n1 is applied up to nothing by its position, but its last record is 4"
    );
    let cut = "DELETE FROM records WHERE seq = 4; UPDATE positions SET last_seq = 3";
    assert!(found(cut).starts_with("the chain of node n1 ends in "), "{}", found(cut));
}

#[test]
fn a_link_that_was_changed_is_found() {
    for seq in [1, 3, 4] {
        assert_eq!(
            found(&format!("UPDATE records SET chain = zeroblob(16) WHERE seq = {seq}")),
            format!("the chain value of record {seq} of node n1 was changed")
        );
    }
    assert_eq!(found("UPDATE records SET chain = NULL WHERE seq = 2"), "record 2 of node n1 has no chain value");
    let error = found("UPDATE records SET chain = x'00' WHERE seq = 2");
    assert_eq!(error, "record 2 of node n1 was changed: its chain value has another length than 16 bytes");
    assert!(found("UPDATE positions SET chain = zeroblob(16)").starts_with("the chain of node n1 ends in "));
}

#[test]
fn records_that_were_swapped_are_found() {
    let swap = |seq: u64, with: u64| {
        format!(
            "UPDATE records SET seq = -1 WHERE seq = {seq}; UPDATE records SET seq = {seq} WHERE seq = {with};
             UPDATE records SET seq = {with} WHERE seq = -1"
        )
    };
    for (one, other) in [(1, 2), (2, 3), (1, 4)] {
        let error = found(&swap(one, other));
        assert!(error.starts_with(&format!("record {one} of node n1 ")), "{error}");
    }
    // With their links left where they were.
    let links = "CREATE TEMP TABLE links AS SELECT seq, chain FROM records;";
    let back = "UPDATE records SET chain = (SELECT chain FROM links WHERE links.seq = records.seq)";
    let error = found(&format!("{links}{};{back}", swap(2, 3)));
    assert!(error.starts_with("record 2 of node n1 "), "{error}");
}

#[test]
fn a_place_taken_by_a_call_that_stands_elsewhere_is_part_of_the_chain() {
    let data = Data::new();
    let journal = data.journal();
    let call = intent(0);
    append(&journal, full_record(&call));
    append(&journal, Record { outcome: Outcome::Orphaned, ..bare_record(&call) });
    fill(&journal, 2);
    data.apply();
    assert_eq!(data.ledger().verify().unwrap().unwrap().records, 3);
    let connection = data.raw();
    connection.execute_batch("UPDATE duplicates SET id = x'0193a7000000700080000000000000aa'").unwrap();
    assert_eq!(
        data.ledger().verify().unwrap().unwrap_err().to_string(),
        "record 2 of node n1 was changed: its chain value does not fit it"
    );
    connection.execute_batch("DELETE FROM duplicates").unwrap();
    assert_eq!(data.ledger().verify().unwrap().unwrap_err().to_string(), "node n1 has no record 2, but one of 4");
}

#[test]
fn a_chain_goes_on_where_it_ended_whatever_is_forgotten() {
    let data = Data::new();
    let journal = data.journal();
    let end = || data.ledger().verify().unwrap().unwrap().ends.remove(0);
    fill(&journal, 3);
    data.apply();
    let third = end();
    fill(&journal, 3);
    data.apply();
    assert_ne!(end().link, third.link);
    let sixth = end();
    for sql in ["UPDATE positions SET segment = 0, \"offset\" = 0", "DELETE FROM positions"] {
        Connection::open(data.ledger_path()).unwrap().execute_batch(sql).unwrap();
        data.apply();
        assert_eq!(end(), sixth);
    }
    // Deleted, and offered again by a journal that still holds it.
    data.raw().execute_batch("DELETE FROM records WHERE seq = 2; UPDATE positions SET segment = 0").unwrap();
    data.apply();
    let error = data.ledger().verify().unwrap().unwrap_err().to_string();
    assert!(error.contains("has requests = 5, its records sum to 4"), "{error}");
}

#[test]
fn the_same_calls_make_the_same_chain_in_any_batches() {
    let data = Data::new();
    let journal = data.journal();
    fill(&journal, 25);
    let mut ends: Vec<ChainEnd> = Vec::new();
    for batch in [1, 3, 100] {
        for suffix in ["", "-wal", "-shm"] {
            drop(std::fs::remove_file(format!("{}{suffix}", data.ledger_path().display())));
        }
        let mut feed = data.feed().in_batches_of(batch);
        while feed.step().unwrap().frames > 0 {}
        ends.extend(data.ledger().verify().unwrap().unwrap().ends);
    }
    assert_eq!(ends.len(), 3);
    assert!(ends.iter().all(|end| *end == ends[0] && end.link != Link::START), "{ends:?}");
}

#[test]
fn verify_sees_one_state_while_records_come_in() {
    let data = Data::new();
    let journal = data.journal();
    let is_done = Arc::new(AtomicBool::new(false));
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut feed = data.feed();
            for _ in 0..150 {
                fill(&journal, 7);
                feed.step().unwrap();
            }
            is_done.store(true, Ordering::SeqCst);
        });
        let ledger = data.ledger();
        let (mut seen, mut rounds) = (0, 0);
        while !is_done.load(Ordering::SeqCst) {
            let verified = ledger.verify().unwrap().unwrap();
            assert!(verified.records >= seen);
            seen = verified.records;
            rounds += 1;
        }
        writer.join().unwrap();
        assert!(rounds > 1, "nothing was verified meanwhile");
    });
    assert_eq!(data.ledger().verify().unwrap().unwrap().records, 1050);
}
