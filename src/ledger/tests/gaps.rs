//! Calls that passed unmetered, in the ledger.

use super::{Data, fill};
use crate::journal::samples::at;
use crate::period::Bucket;
use crate::record::Gap;

#[test]
fn a_gap_is_counted_once_in_its_own_time_and_is_no_record() {
    let data = Data::new();
    let journal = data.journal();
    for gap in [Gap { from: at(0), to: at(5), requests: 3 }, Gap { from: at(1000), to: at(1000), requests: 4 }] {
        journal.append_gap(&gap).unwrap();
    }
    fill(&journal, 2);
    // Who dies behind the gaps, before there was a record to keep the position with, takes them again.
    let mut feed = data.feed().in_batches_of(1);
    feed.step().unwrap();
    feed.step().unwrap();
    drop(feed);
    data.apply();
    let sum = |from, to| data.ledger().unmetered_requests(Bucket::of(at(from)), Bucket::of(at(to))).unwrap();
    assert_eq!((sum(0, 900), sum(900, 1800), sum(0, 1800), sum(1800, 9000)), (3, 4, 7, 0));
    assert_eq!(data.ledger().verify().unwrap().unwrap().records, 2);
}
