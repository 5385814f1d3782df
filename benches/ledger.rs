//! What the ledger takes and gives, embedded and in PostgreSQL: `cargo bench --bench ledger`.
//!
//! Applied records a second from a journal that is full, the month's report, a team's records of a day, verification and
//! a backup, each on a ledger of `tests/support/calls.rs`. For ledgers of other sizes there is
//! `cargo run --release --example fill_ledger`. PostgreSQL is one of the bench's own, on this machine, and does not wait
//! for its disk.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what fails here fails the bench"
)]

#[path = "../tests/support/calls.rs"]
mod calls;
#[expect(dead_code, reason = "nothing is killed here")]
#[path = "../tests/support/cluster.rs"]
mod cluster;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cluster::Cluster;
use divan::Bencher;
use divan::counter::ItemsCount;
use jiff::tz::TimeZone;
use tempfile::TempDir;
use tokenmeter::ids::TeamId;
use tokenmeter::journal::Journal;
use tokenmeter::ledger::{Applier, Dimension, Filter, Ledger, Place, PostgresSettings};
use tokenmeter::period::Month;

/// Calls in the ledger that is read from.
const KEPT: u64 = 100_000;
/// Calls in the journal that is applied.
const APPLIED: u64 = 20_000;

/// PostgreSQL, and how many databases it has of ours.
static CLUSTER: Mutex<Option<(Cluster, u64)>> = Mutex::new(None);

fn main() {
    divan::main();
    drop(CLUSTER.lock().unwrap().take());
}

/// A ledger of [`KEPT`] calls, made once.
fn kept() -> &'static Path {
    static KEPT_IN: std::sync::OnceLock<TempDir> = std::sync::OnceLock::new();
    let folder = KEPT_IN.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        calls::fill(folder.path(), KEPT, |_| {});
        folder
    });
    folder.path()
}

/// An empty database.
fn postgres() -> Place {
    let mut cluster = CLUSTER.lock().unwrap();
    let (cluster, databases) = cluster.get_or_insert_with(|| (Cluster::start(), 0));
    *databases += 1;
    let name = format!("bench{databases}");
    cluster.sql("postgres", &format!("CREATE DATABASE {name}"));
    let url = cluster.url().replace("/usage", &format!("/{name}"));
    Place::Postgres(Arc::new(PostgresSettings::new(&url, None).unwrap()))
}

#[divan::bench(sample_count = 5, sample_size = 1)]
fn apply(bencher: Bencher<'_, '_>) {
    applied(bencher, calls::place);
}

#[divan::bench(sample_count = 5, sample_size = 1)]
fn apply_to_postgres(bencher: Bencher<'_, '_>) {
    applied(bencher, |_| postgres());
}

fn applied(bencher: Bencher<'_, '_>, place: impl Fn(&Path) -> Place) {
    let records: Vec<_> = (0..APPLIED).map(|number| calls::record(number, APPLIED)).collect();
    bencher
        .counter(ItemsCount::new(APPLIED))
        .with_inputs(|| {
            let folder = tempfile::tempdir().unwrap();
            // Before the journal: no ledger is made beside one.
            let place = place(folder.path());
            drop(Ledger::open(&place).unwrap());
            let journal = Arc::new(Journal::open(calls::settings(folder.path())).unwrap().journal);
            for record in &records {
                journal.append_record(record.clone()).unwrap();
            }
            (folder, journal, place)
        })
        .bench_local_values(|(folder, journal, place)| {
            let applier = Applier::start(journal, &place, None, || {}).unwrap();
            assert!(applier.stop(Duration::from_mins(5)));
            folder
        });
}

#[divan::bench(args = ["UTC", "Asia/Shanghai"])]
fn month_report(bencher: Bencher<'_, '_>, zone: &str) {
    let ledger = Ledger::open(&calls::place(kept())).unwrap();
    let (first, end) = Month::parse("2026-09").unwrap().buckets(&TimeZone::get(zone).unwrap());
    bencher.bench_local(|| ledger.month_rows(first, end, &[Dimension::Department, Dimension::Team]).unwrap());
}

#[divan::bench]
fn records_of_a_team_and_day(bencher: Bencher<'_, '_>) {
    let ledger = Ledger::open(&calls::place(kept())).unwrap();
    let at = |text: &str| Some(text.parse().unwrap());
    let filter = Filter {
        from: at("2026-09-15T00:00:00Z"),
        to: at("2026-09-16T00:00:00Z"),
        team: Some(TeamId::parse("team-3").unwrap()),
        ..Filter::default()
    };
    bencher.bench_local(|| ledger.records(&filter, None, usize::MAX).unwrap());
}

#[divan::bench(sample_count = 3, sample_size = 1)]
fn verify(bencher: Bencher<'_, '_>) {
    let ledger = Ledger::open(&calls::place(kept())).unwrap();
    bencher.counter(ItemsCount::new(KEPT)).bench_local(|| ledger.verify().unwrap().unwrap());
}

#[divan::bench(sample_count = 3, sample_size = 1)]
fn backup(bencher: Bencher<'_, '_>) {
    let ledger = Ledger::open(&calls::place(kept())).unwrap();
    bencher
        .counter(ItemsCount::new(KEPT))
        .with_inputs(|| tempfile::tempdir().unwrap())
        .bench_local_values(|folder| ledger.back_up(&folder.path().join("copy.db")).unwrap());
}
