//! What was learned is kept, and found again.

use jiff::{SignedDuration, Timestamp};
use rusqlite::Connection;

use super::Data;
use crate::ids::{NodeId, UpstreamName};
use crate::journal::samples::at;
use crate::operation::Operation;
use crate::tokenizer::calibration::{KEYS_MAX, Key, Row};

fn row(model: &str, observations: u64) -> Row {
    let upstream = UpstreamName::parse("openai").unwrap();
    let key = Key { upstream, model: model.to_owned(), operation: Operation::Chat };
    Row { key, state: format!("{{\"of\":{observations}}}"), observations }
}

fn keep(data: &Data, rows: &[Row], when: Timestamp) {
    data.ledger().keep_calibration(&NodeId::parse("n1").unwrap(), rows, when).unwrap();
}

#[test]
fn what_was_learned_last_is_what_is_known() {
    let data = Data::new();
    assert_eq!(data.ledger().calibration().unwrap(), []);
    keep(&data, &[row("a", 1), row("b", 2)], at(0));
    keep(&data, &[row("a", 30)], at(60));
    assert_eq!(data.ledger().calibration().unwrap(), [row("b", 2), row("a", 30)]);
}

#[test]
fn keys_that_nobody_asked_for_long_and_those_beyond_all_measure_are_let_go() {
    let data = Data::new();
    keep(&data, &[row("old", 1)], at(0));
    keep(&data, &[row("b", 2)], at(60));
    let later = at(30).checked_add(SignedDuration::from_hours(60 * 24)).unwrap();
    keep(&data, &[], later);
    assert_eq!(data.ledger().calibration().unwrap(), [row("b", 2)]);
    let many: Vec<Row> = (0..=KEYS_MAX).map(|model| row(&model.to_string(), 1)).collect();
    keep(&data, &many, later);
    assert_eq!(data.ledger().calibration().unwrap().len(), KEYS_MAX);
    assert!(!data.ledger().calibration().unwrap().contains(&row("b", 2)));
}

#[test]
fn a_row_of_another_binary_is_left_out() {
    let data = Data::new();
    keep(&data, &[row("a", 1)], at(0));
    let raw = Connection::open(data.ledger_path()).unwrap();
    raw.execute("INSERT INTO calibration VALUES ('openai', 'm', 'telepathy', '{}', 9, 9)", ()).unwrap();
    raw.execute("INSERT INTO calibration VALUES ('no upstream', 'm', 'chat', '{}', 9, 9)", ()).unwrap();
    assert_eq!(data.ledger().calibration().unwrap(), [row("a", 1)]);
}
