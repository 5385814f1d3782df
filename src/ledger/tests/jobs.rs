//! Jobs in the ledger, and ledgers made before there were any.

use rusqlite::Connection;

use super::{Data, append};
use crate::journal::samples::{at, full_record, intent, json};
use crate::ledger::{Filter, Ledger};
use crate::record::{JobSeen, Record};
use crate::usage::Provenance;

/// A ledger as the first release made it, with a record.
fn first_ledger(data: &Data) {
    let connection = Connection::open(data.ledger_path()).unwrap();
    connection.execute_batch(include_str!("../sqlite/schema_1.sql")).unwrap();
    connection
        .execute_batch(
            "INSERT INTO records (node, seq, id, started_at, ended_at, department, team, attributed_by, upstream, \
             wire, provider, operation, stream, status, outcome, provenance, input, output, duration_ms) VALUES \
             ('n1', 1, x'0193a7000000700080000000000000aa', 1793491200000000, 1793491201000000, 'unattributed', \
             'unattributed', 'none', 'openai', 'openai', 'openai', 'chat', 0, 200, 'completed', 'reported', 3, 4, 1000);
             INSERT INTO positions VALUES ('n1', 1, 60, 1)",
        )
        .unwrap();
    connection.pragma_update(None, "user_version", 1).unwrap();
}

#[test]
fn a_ledger_of_the_first_release_goes_on_with_what_it_holds() {
    let data = Data::new();
    first_ledger(&data);
    let old = data.ledger().records(&Filter::default(), None, 10).unwrap();
    assert_eq!(
        old.iter().map(|record| (record.seq, record.tokens.total(), &record.job)).collect::<Vec<_>>(),
        [(1, 7, &None)]
    );
    assert_eq!(data.ledger().jobs_seen(at(0), 10).unwrap(), []);
    let connection = Connection::open(data.ledger_path()).unwrap();
    assert_eq!(connection.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0)).unwrap(), 4);
    let error = connection.execute("UPDATE records SET job = 'x'", ()).unwrap_err();
    assert!(error.to_string().contains("append-only"), "{error}");
    // Opened again, nothing is left to do.
    drop(Ledger::open(&data.place()).unwrap());
    let new = append(&data.journal(), full_record(&intent(1)));
    data.apply();
    let all = data.all_records();
    assert!(all.iter().any(|record| json(record) == json(&new)), "{all:?}");
}

#[test]
fn what_records_say_of_jobs_is_read_in_order_and_polls_are_left_out() {
    let data = Data::new();
    let journal = data.journal();
    let say = |second, job: Option<&str>, provenance| {
        let record = full_record(&intent(second));
        append(&journal, Record { job: job.map(str::to_owned), provenance, ended_at: at(second), ..record });
    };
    say(10, Some("resp_1"), Provenance::Unknown);
    say(20, Some("resp_1"), Provenance::None);
    say(40, Some("resp_1"), Provenance::Reported);
    say(30, Some("resp_2"), Provenance::Unknown);
    say(50, None, Provenance::Reported);
    data.apply();
    let read = |from, limit| -> Vec<(String, Provenance)> {
        let seen = data.ledger().jobs_seen(at(from), limit).unwrap().into_iter();
        seen.map(|JobSeen { job, provenance, .. }| (job, provenance)).collect()
    };
    let said = [
        ("resp_1".to_owned(), Provenance::Unknown),
        ("resp_2".to_owned(), Provenance::Unknown),
        ("resp_1".to_owned(), Provenance::Reported),
    ];
    assert_eq!(read(0, 10), said);
    assert_eq!(read(30, 10), said[1..], "only the later");
    assert_eq!(read(0, 1), said[2..], "of too many the newest");
}
