//! Retention: old records go, their sums stay, and what is left can still be verified.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use rusqlite::Connection;

use super::{Applier, Data, append, fill};
use crate::journal::samples::{at, bare_record, full_record, intent};
use crate::ledger::{Dimension, LedgerError, Retention};
use crate::record::Record;
use crate::usage::Outcome;

const HOUR: i64 = 3600;

/// A ledger of calls that end every ten minutes from the month's begin.
fn filled(calls: i64) -> Data {
    let data = Data::new();
    fill(&data.journal(), calls);
    data.apply();
    data
}

fn remove(data: &Data, before: Timestamp, limit: usize) -> Result<usize, LedgerError> {
    data.feed().remove_before(before, limit)
}

/// What is left, by its place.
fn seqs(data: &Data) -> Vec<u64> {
    data.all_records().iter().map(|record| record.seq).collect()
}

#[test]
fn old_records_go_and_every_sum_stays() {
    let data = filled(20);
    let sums = data.sums(&Dimension::ALL);
    // Six end in the first hour; the seventh begins with the second.
    assert_eq!(remove(&data, at(HOUR), 4).unwrap(), 4);
    assert_eq!(data.ledger().verify().unwrap().unwrap().records, 16);
    assert_eq!(remove(&data, at(HOUR), 4).unwrap(), 2);
    assert_eq!(remove(&data, at(HOUR), 4).unwrap(), 0);
    assert_eq!(seqs(&data), (7..=20).collect::<Vec<_>>());
    assert_eq!(data.sums(&Dimension::ALL), sums);
    let verified = data.ledger().verify().unwrap().unwrap();
    assert_eq!((verified.records, verified.removed_before), (14, Some(at(HOUR))));
    assert_eq!(verified.tokens, 20 * (812 + 1024 + 7 + 391));
    assert_eq!(data.ledger().removed_before().unwrap(), Some(at(HOUR)));
}

#[test]
fn the_chain_goes_on_over_what_was_removed() {
    let data = filled(20);
    let end = || data.ledger().verify().unwrap().unwrap().ends.remove(0);
    let before = end();
    remove(&data, at(HOUR), 100).unwrap();
    assert_eq!(end(), before);
    append(&data.journal(), full_record(&intent(20 * 600)));
    data.apply();
    assert_eq!(end().seq, 21);
    // Everything, and on again.
    remove(&data, at(24 * HOUR), 100).unwrap();
    assert_eq!(seqs(&data), [] as [u64; 0]);
    assert_eq!(end().seq, 21);
    append(&data.journal(), full_record(&intent(30 * HOUR)));
    data.apply();
    assert_eq!(end().seq, 22);
}

#[test]
fn what_was_removed_is_not_counted_again_when_the_journal_offers_it_again() {
    let data = filled(20);
    let sums = data.sums(&Dimension::ALL);
    remove(&data, at(HOUR), 100).unwrap();
    for sql in ["UPDATE positions SET segment = 0, \"offset\" = 0", "DELETE FROM positions"] {
        Connection::open(data.ledger_path()).unwrap().execute_batch(sql).unwrap();
        data.apply();
        assert_eq!(seqs(&data), (7..=20).collect::<Vec<_>>());
        assert_eq!(data.sums(&Dimension::ALL), sums);
        data.ledger().verify().unwrap().unwrap();
    }
}

#[test]
fn only_the_front_of_a_nodes_order_goes() {
    let data = Data::new();
    let journal = data.journal();
    // By their ends: the second is young, the third is old.
    for end in [0, 5 * HOUR, 600, 6 * HOUR] {
        append(&journal, Record { ended_at: at(end), ..full_record(&intent(0)) });
    }
    data.apply();
    assert_eq!(remove(&data, at(HOUR), 100).unwrap(), 1);
    assert_eq!(data.ledger().verify().unwrap().unwrap().records, 3);
    let mut left = seqs(&data);
    left.sort_unstable();
    assert_eq!(left, [2, 3, 4]);
    assert_eq!(remove(&data, at(6 * HOUR), 100).unwrap(), 2);
    assert_eq!(seqs(&data), [4]);
    data.ledger().verify().unwrap().unwrap();
}

#[test]
fn a_place_without_a_record_of_its_own_goes_with_the_record_behind_it() {
    let data = Data::new();
    let journal = data.journal();
    let call = intent(0);
    append(&journal, full_record(&call));
    append(&journal, Record { outcome: Outcome::Orphaned, ..bare_record(&call) });
    append(&journal, full_record(&intent(5 * HOUR)));
    data.apply();
    assert_eq!(remove(&data, at(HOUR), 100).unwrap(), 1);
    assert_eq!(remove(&data, at(HOUR), 100).unwrap(), 0);
    data.ledger().verify().unwrap().unwrap();
    assert_eq!(remove(&data, at(6 * HOUR), 100).unwrap(), 2);
    let left: i64 = data.raw().query_row("SELECT COUNT(*) FROM duplicates", (), |row| row.get(0)).unwrap();
    assert_eq!(left, 0);
    data.ledger().verify().unwrap().unwrap();
}

#[test]
fn evidence_of_a_change_is_not_removed() {
    for (sql, said) in [
        ("UPDATE records SET input = 813 WHERE seq = 3", "record 3 of node n1 was changed"),
        ("UPDATE records SET input = 813 WHERE seq = 6", "record 6 of node n1 was changed"),
        ("DELETE FROM records WHERE seq = 3", "node n1 has no record 3, but one of 6"),
    ] {
        let data = filled(20);
        data.raw().execute_batch(sql).unwrap();
        let error = remove(&data, at(HOUR), 100).unwrap_err();
        assert!(matches!(error, LedgerError::Untrue { .. }), "{error}");
        assert!(error.to_string().contains(said), "{error}");
        assert!(seqs(&data).len() >= 19);
    }
}

#[test]
fn what_was_changed_after_a_removal_is_found() {
    let found = |sql: &str| {
        let data = filled(20);
        remove(&data, at(HOUR), 100).unwrap();
        let connection = data.raw();
        connection.execute_batch("DROP TRIGGER removed_goes_on; DROP TRIGGER removed_is_not_deleted").unwrap();
        connection.execute_batch(sql).unwrap();
        data.ledger().verify().unwrap().unwrap_err().to_string()
    };
    assert_eq!(found("DELETE FROM records WHERE seq = 7"), "node n1 has no record 7, but one of 20");
    assert_eq!(
        found("UPDATE buckets SET input = 1 WHERE bucket = (SELECT MIN(bucket) FROM buckets)"),
        "day 2026-11-01T00:00:00Z (customer-service, support-bot, chatbot, k_7f3a, openai, openai, chat, \
         gpt-5-2025-08-07) has input = 16240, its buckets sum to 14617"
    );
    assert_eq!(
        found(
            "UPDATE buckets SET input = 1 WHERE bucket = (SELECT MIN(bucket) FROM buckets);
             UPDATE days SET input = 14617"
        ),
        "the buckets before 2026-11-01T01:00:00Z have input = 3249, their records, most of them removed, summed to 4872"
    );
    assert_eq!(found("DELETE FROM removed"), "node n1 has no record 1, but one of 20");
    assert_eq!(found("UPDATE removed SET seq = 5"), "node n1 has no record 6, but one of 20");
    let error = found("UPDATE removed SET chain = zeroblob(16)");
    assert!(error.starts_with("record 7 of node n1 "), "{error}");
}

#[test]
fn triggers_let_nothing_go_but_what_is_old() {
    let data = filled(20);
    remove(&data, at(HOUR), 100).unwrap();
    let connection = Connection::open(data.ledger_path()).unwrap();
    for (sql, said) in [
        ("DELETE FROM records WHERE seq = 7", "append-only"),
        ("DELETE FROM records", "append-only"),
        ("UPDATE records SET seq = 3 WHERE seq = 7", "append-only"),
        ("DELETE FROM removed", "stays removed"),
        ("UPDATE removed SET seq = seq - 1", "stays removed"),
    ] {
        let error = connection.execute(sql, ()).unwrap_err();
        assert!(error.to_string().contains(said), "{sql}: {error}");
    }
}

#[test]
fn an_older_ledgers_records_go_too() {
    let data = filled(20);
    // As the migration leaves them: all twenty are older than the chain.
    data.raw()
        .execute_batch(
            "UPDATE records SET chain = NULL;
             UPDATE positions SET chained_after = 20, chain = zeroblob(16)",
        )
        .unwrap();
    append(&data.journal(), full_record(&intent(20 * 600)));
    data.apply();
    assert_eq!(data.ledger().verify().unwrap().unwrap().records, 21);
    remove(&data, at(HOUR), 100).unwrap();
    assert_eq!(data.ledger().verify().unwrap().unwrap().records, 15);
    remove(&data, at(24 * HOUR), 100).unwrap();
    append(&data.journal(), full_record(&intent(30 * HOUR)));
    data.apply();
    assert_eq!(data.ledger().verify().unwrap().unwrap().records, 1);
}

#[test]
fn the_applier_removes_what_is_old_whenever_it_has_caught_up() {
    let data = Data::new();
    let journal = Arc::new(data.journal());
    fill(&journal, 1200);
    // Two days are kept, to the quarter of an hour before.
    let retention = Retention { keep: SignedDuration::from_hours(48), now: || at(7 * 24 * HOUR + 1) };
    let applier = Applier::start(Arc::clone(&journal), &data.place(), Some(retention), || {}).unwrap();
    let begun = Instant::now();
    let cutoff = at(5 * 24 * HOUR);
    while data.ledger().removed_before().unwrap() != Some(cutoff) || data.all_records().len() > 480 {
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", data.ledger().removed_before());
        std::thread::yield_now();
    }
    append(&journal, full_record(&intent(1200 * 600)));
    assert!(applier.stop(Duration::from_secs(20)));
    let left = data.all_records();
    assert_eq!(left.len(), 481);
    assert!(left.iter().all(|record| record.ended_at >= cutoff));
    assert_eq!(data.ledger().verify().unwrap().unwrap().records, 481);
    assert_eq!(data.sums(&[])[0].counts.requests, 1201);
}
