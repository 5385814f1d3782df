use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::tz::TimeZone;
use proptest::prelude::*;
use rusqlite::Connection;

use super::feed::Feed;
use super::{Applier, Counts, Cursor, Dimension, Filter, Key, Ledger, LedgerError, Place, catch_up};
use crate::ids::{KeyId, NodeId, TeamId};
use crate::journal::samples::{at, bare_record, full_record, intent, json, settings};
use crate::journal::{Journal, Opened, Position};
use crate::money::NanoUsd;
use crate::period::{Bucket, Month};
use crate::record::Record;
use crate::usage::{Outcome, Provenance};

mod calibration;
mod chain;
mod gaps;
mod jobs;
mod retention;
mod verify;

const EVER: (Bucket, Bucket) = (Bucket::from_index(0), Bucket::from_index(i64::MAX));

/// A data folder.
struct Data {
    folder: tempfile::TempDir,
}

impl Data {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn journal_directory(&self) -> PathBuf {
        self.folder.path().join("journal")
    }

    fn ledger_path(&self) -> PathBuf {
        self.folder.path().join("ledger.db")
    }

    fn place(&self) -> Place {
        Place::Sqlite(self.ledger_path())
    }

    fn journal(&self) -> Journal {
        let seq_floors = self.ledger().last_seqs().unwrap();
        Journal::open(crate::journal::Settings { seq_floors, ..settings(&self.journal_directory()) }).unwrap().journal
    }

    fn ledger(&self) -> Ledger {
        Ledger::open(&self.place()).unwrap()
    }

    fn feed(&self) -> Feed {
        // A ledger comes before its journal.
        drop(self.ledger());
        Feed::open(&self.place(), &self.journal_directory()).unwrap()
    }

    fn apply(&self) {
        let mut feed = self.feed();
        while feed.step().unwrap().frames > 0 {}
    }

    /// A connection that may do what the ledger forbids.
    fn raw(&self) -> Connection {
        let connection = Connection::open(self.ledger_path()).unwrap();
        connection.execute_batch("DROP TRIGGER records_are_not_changed; DROP TRIGGER records_are_not_deleted").unwrap();
        connection
    }

    fn all_records(&self) -> Vec<Record> {
        self.ledger().records(&Filter::default(), None, usize::MAX).unwrap()
    }

    fn sums(&self, by: &[Dimension]) -> Vec<super::Row> {
        self.ledger().month_rows(EVER.0, EVER.1, by).unwrap()
    }
}

fn append(journal: &Journal, record: Record) -> Record {
    journal.append_record(record).unwrap().1
}

fn fill(journal: &Journal, calls: i64) -> Vec<Record> {
    (0..calls).map(|second| append(journal, full_record(&intent(second * 600)))).collect()
}

#[test]
fn a_record_is_read_back_as_it_was_written() {
    let data = Data::new();
    let journal = data.journal();
    let written = [append(&journal, full_record(&intent(0))), append(&journal, bare_record(&intent(5)))];
    data.apply();
    assert_eq!(data.all_records().iter().map(json).collect::<Vec<_>>(), written.iter().map(json).collect::<Vec<_>>());
}

#[test]
fn frames_applied_again_change_nothing() {
    let data = Data::new();
    let journal = data.journal();
    fill(&journal, 30);
    data.apply();
    let before = (data.all_records().len(), data.sums(&Dimension::ALL));
    assert_eq!(before.0, 30);
    // The position is lost, then even the knowledge of the last seq.
    for sql in ["UPDATE positions SET segment = 0, \"offset\" = 0", "DELETE FROM positions"] {
        Connection::open(data.ledger_path()).unwrap().execute_batch(sql).unwrap();
        data.apply();
        assert_eq!((data.all_records().len(), data.sums(&Dimension::ALL)), before);
        data.ledger().verify().unwrap().unwrap();
    }
}

#[test]
fn an_applier_that_dies_anywhere_goes_on_where_it_was() {
    let data = Data::new();
    let journal = data.journal();
    let intents: Vec<_> = (0..40).map(|second| intent(second * 300)).collect();
    for intent in &intents {
        journal.append_intent(intent).unwrap();
        append(&journal, full_record(intent));
    }
    for steps in 0.. {
        let mut feed = data.feed().in_batches_of(3);
        let applied = (0..steps).map(|_| feed.step().unwrap().frames).sum::<usize>();
        if steps > 0 && applied == 0 {
            break;
        }
    }
    assert_eq!(data.all_records().len(), 40);
    data.ledger().verify().unwrap().unwrap();
}

#[test]
fn a_position_that_points_too_far_loses_nothing() {
    let data = Data::new();
    let journal = data.journal();
    fill(&journal, 5);
    data.apply();
    let sql = "UPDATE positions SET \"offset\" = \"offset\" + 900";
    fill(&journal, 5);
    Connection::open(data.ledger_path()).unwrap().execute_batch(sql).unwrap();
    data.apply();
    assert_eq!(data.all_records().len(), 10);
    data.ledger().verify().unwrap().unwrap();
}

#[test]
fn a_position_that_skips_whole_records_loses_nothing() {
    let data = Data::new();
    let journal = data.journal();
    fill(&journal, 5);
    data.apply();
    fill(&journal, 3);
    let too_far = journal.end().offset;
    fill(&journal, 2);
    Connection::open(data.ledger_path())
        .unwrap()
        .execute("UPDATE positions SET \"offset\" = ?", [i64::try_from(too_far).unwrap()])
        .unwrap();
    data.apply();
    assert_eq!(data.all_records().len(), 10);
    data.ledger().verify().unwrap().unwrap();
}

#[test]
fn a_journal_taken_away_begins_behind_the_ledger() {
    let data = Data::new();
    fill(&data.journal(), 5);
    data.apply();
    std::fs::remove_dir_all(data.journal_directory()).unwrap();
    fill(&data.journal(), 3);
    data.apply();
    assert_eq!(data.all_records().len(), 8);
    assert_eq!(data.ledger().last_seqs().unwrap(), [(NodeId::parse("n1").unwrap(), 8)].into());
    data.ledger().verify().unwrap().unwrap();
}

#[test]
fn a_segment_that_has_the_name_of_one_that_was_lost_is_applied_from_its_beginning() {
    let data = Data::new();
    fill(&data.journal(), 3);
    data.apply();
    std::fs::remove_dir_all(data.journal_directory()).unwrap();
    // Records of the same length: the old position fits between two of them.
    fill(&data.journal(), 3);
    data.apply();
    assert_eq!(data.all_records().len(), 6);
    data.ledger().verify().unwrap().unwrap();
}

#[test]
fn a_journal_that_lost_its_end_to_a_power_cut_counts_each_call_once() {
    let data = Data::new();
    let call = intent(0);
    let journal = data.journal();
    journal.append_intent(&call).unwrap();
    let segment = data.journal_directory().join("00000001.journal");
    let lasting = std::fs::metadata(&segment).unwrap().len();
    append(&journal, full_record(&call));
    data.apply();
    drop(journal);
    std::fs::File::options().write(true).open(&segment).unwrap().set_len(lasting).unwrap();

    let seq_floors = data.ledger().last_seqs().unwrap();
    let settings = crate::journal::Settings { seq_floors, ..settings(&data.journal_directory()) };
    let Opened { journal, open_intents, .. } = Journal::open(settings).unwrap();
    assert_eq!(open_intents.len(), 1);
    append(&journal, Record { outcome: Outcome::Orphaned, ..bare_record(&call) });
    append(&journal, full_record(&intent(9)));
    data.apply();
    assert_eq!(data.all_records().iter().map(|record| record.seq).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(data.ledger().verify().unwrap().unwrap().records, 2);
}

#[test]
fn another_call_in_a_place_that_is_taken_stops_the_applier_loudly() {
    let data = Data::new();
    fill(&data.journal(), 1);
    data.apply();
    std::fs::remove_dir_all(data.journal_directory()).unwrap();
    let journal = Journal::open(settings(&data.journal_directory())).unwrap().journal;
    for second in 77..80 {
        append(&journal, bare_record(&intent(second)));
    }
    let error = data.feed().step().unwrap_err();
    assert!(matches!(error, LedgerError::Disagrees { seq: 1, .. }), "{error}");
}

#[test]
fn records_cannot_be_changed_or_deleted() {
    let data = Data::new();
    fill(&data.journal(), 1);
    data.apply();
    let connection = Connection::open(data.ledger_path()).unwrap();
    for sql in ["UPDATE records SET team = 'x'", "DELETE FROM records"] {
        let error = connection.execute(sql, ()).unwrap_err();
        assert!(error.to_string().contains("append-only"), "{error}");
    }
}

#[test]
fn a_month_is_cut_where_its_zone_says() {
    let data = Data::new();
    let journal = data.journal();
    // 16:00 UTC is midnight in Shanghai. 2,592,000 s: the end of November in UTC.
    let ends = [-8 * 3600 - 1, -8 * 3600, 0, 2_592_000 - 8 * 3600 - 1, 2_592_000 - 8 * 3600];
    for end in ends {
        let call = intent(end);
        append(&journal, Record { ended_at: at(end), ..full_record(&call) });
    }
    data.apply();
    let requests = |month: &str, zone: &str| {
        let (first, end) = Month::parse(month).unwrap().buckets(&TimeZone::get(zone).unwrap());
        data.ledger().month_rows(first, end, &[]).unwrap().first().map_or(0, |row| row.counts.requests)
    };
    assert_eq!(["2026-10", "2026-11", "2026-12"].map(|month| requests(month, "Asia/Shanghai")), [1, 3, 1]);
    assert_eq!(["2026-10", "2026-11", "2026-12"].map(|month| requests(month, "UTC")), [2, 3, 0]);
}

#[test]
fn counts_beyond_reason_neither_wrap_nor_stop_anything() {
    let data = Data::new();
    let journal = data.journal();
    for second in 0..3 {
        let mut record = full_record(&intent(second));
        record.tokens.output = Some(u64::MAX);
        record.cost_nanousd = Some(NanoUsd::new(i64::MAX));
        append(&journal, record);
    }
    // A bucket holds up to 2⁶³ - 1, and so does a day.
    let mut other = full_record(&intent(24 * 3600));
    other.tokens.output = Some(i64::MAX as u64);
    append(&journal, other);
    data.apply();
    let rows = data.sums(&[]);
    assert_eq!(rows[0].counts.output, 2 * i128::from(i64::MAX));
    assert_eq!(rows[0].counts.cost_nanousd, i128::from(i64::MAX) + 4_890_250);
    data.ledger().verify().unwrap().unwrap();
}

#[test]
fn records_come_in_pages_by_end() {
    let data = Data::new();
    let journal = data.journal();
    for second in [50, 10, 30, 10, 20, 30] {
        let call = intent(second);
        let team = if second == 30 { "thirty" } else { "other" };
        append(&journal, Record { ended_at: at(second), team: TeamId::parse(team).unwrap(), ..bare_record(&call) });
    }
    data.apply();
    let ledger = data.ledger();
    let read = |filter: &Filter| {
        let mut seqs = Vec::new();
        let mut after: Option<Cursor> = None;
        loop {
            let page = ledger.records(filter, after.as_ref(), 2).unwrap();
            let Some(last) = page.last() else { return seqs };
            after = Some(Cursor::of(last));
            seqs.extend(page.iter().map(|record| record.seq));
        }
    };
    assert_eq!(read(&Filter::default()), [2, 4, 5, 3, 6, 1]);
    let (from, to) = (Some(at(20)), Some(at(30)));
    assert_eq!(read(&Filter { from, to, ..Filter::default() }), [5]);
    assert_eq!(read(&Filter { team: Some(TeamId::parse("thirty").unwrap()), ..Filter::default() }), [3, 6]);
}

#[test]
fn a_running_applier_keeps_up_and_lets_go_of_segments() {
    let data = Data::new();
    drop(data.ledger());
    let settings = crate::journal::Settings { segment_bytes_max: 8 << 10, ..settings(&data.journal_directory()) };
    let journal = Arc::new(Journal::open(settings).unwrap().journal);
    let commits = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&commits);
    let applier = Applier::start(Arc::clone(&journal), &data.place(), None, move || {
        counted.fetch_add(1, Ordering::SeqCst);
    })
    .unwrap();
    fill(&journal, 50);
    wait_until(|| applier.applied() >= journal.end());
    assert_eq!((applier.records_applied(), applier.failures(), applier.lag()), (50, 0, Duration::ZERO));
    fill(&journal, 50);
    assert!(applier.stop(Duration::from_secs(20)));
    assert!(commits.load(Ordering::SeqCst) >= 2);
    assert!(journal.bytes() <= 16 << 10);
}

fn wait_until(condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(20));
        std::thread::yield_now();
    }
}

#[test]
fn a_locked_ledger_delays_records_and_loses_none() {
    let data = Data::new();
    let journal = Arc::new(data.journal());
    let other = Connection::open(data.ledger_path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let applier = Applier::start(Arc::clone(&journal), &data.place(), None, || {}).unwrap();
    fill(&journal, 10);
    wait_until(|| applier.lag() > Duration::from_millis(200));
    assert_eq!(applier.records_applied(), 0);
    other.execute_batch("ROLLBACK").unwrap();
    assert!(applier.stop(Duration::from_secs(20)));
    assert_eq!(data.all_records().len(), 10);
}

#[test]
fn a_reading_command_sees_what_the_journal_held() {
    let data = Data::new();
    let catch_up = |wait| catch_up(&data.journal_directory(), &data.place(), wait);
    catch_up(Duration::ZERO).unwrap();
    assert_eq!(data.all_records().len(), 0);
    assert!(!data.journal_directory().exists());
    let journal = Arc::new(data.journal());
    fill(&journal, 3);
    let error = catch_up(Duration::from_millis(50)).unwrap_err();
    assert!(matches!(error, LedgerError::Behind { .. }), "{error}");
    let applier = Applier::start(Arc::clone(&journal), &data.place(), None, || {}).unwrap();
    journal.append_intent(&intent(99)).unwrap();
    catch_up(Duration::from_secs(20)).unwrap();
    assert_eq!(data.all_records().len(), 3);
    assert!(applier.stop(Duration::from_secs(20)));
    append(&journal, full_record(&intent(99)));
    drop(journal);
    catch_up(Duration::ZERO).unwrap();
    assert_eq!(data.all_records().len(), 4);
}

#[test]
fn a_folder_that_is_missing_is_said_and_not_made() {
    let data = Data::new();
    let missing = data.folder.path().join("nowhere");
    let error =
        catch_up(&missing.join("journal"), &Place::Sqlite(missing.join("ledger.db")), Duration::ZERO).unwrap_err();
    assert!(error.to_string().contains("nowhere"), "{error}");
    assert!(!missing.exists());
}

#[test]
fn a_ledger_from_the_future_is_refused_by_name() {
    let data = Data::new();
    drop(data.ledger());
    Connection::open(data.ledger_path()).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let error = Ledger::open(&data.place()).unwrap_err();
    assert!(matches!(error, LedgerError::TooNew { found: 99, .. }), "{error}");
    assert!(error.to_string().contains("ledger.db"));
}

#[test]
fn keys_are_known_to_who_asks_for_the_version() {
    let data = Data::new();
    let (server, command) = (data.ledger(), data.ledger());
    let before = server.keys_version().unwrap();
    let key = Key {
        id: KeyId::parse("k_7f3a").unwrap(),
        sha256: [7; 32],
        team: TeamId::parse("support-bot").unwrap(),
        app: None,
        created_at: at(0),
        revoked_at: None,
    };
    command.insert_key(&key).unwrap();
    assert_eq!(server.keys().unwrap(), std::slice::from_ref(&key));
    let made = server.keys_version().unwrap();
    assert_ne!(made, before);
    assert!(command.revoke_key(&key.id, at(9)).unwrap());
    assert!(!command.revoke_key(&key.id, at(10)).unwrap());
    assert_ne!(server.keys_version().unwrap(), made);
    assert_eq!(server.keys().unwrap()[0].revoked_at, Some(at(9)));
    assert!(command.insert_key(&key).is_err());
}

#[test]
fn a_position_is_where_the_applier_stopped() {
    let data = Data::new();
    assert_eq!(data.feed().position(), Position::START);
    let journal = data.journal();
    fill(&journal, 2);
    data.apply();
    assert_eq!(data.feed().position(), journal.end());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn buckets_sum_to_their_records(
        calls in prop::collection::vec((0..9_000_i64, 0..3_usize, 0..5_usize, prop::option::of(0..1_000_u64), any::<bool>()), 1..40),
        batch in 1..20_usize,
    ) {
        let data = Data::new();
        let journal = data.journal();
        let mut sum = Counts::default();
        for (second, team, provenance, output, is_priced) in &calls {
            let mut record = full_record(&intent(*second));
            record.team = TeamId::parse(["a", "b", "c"][*team]).unwrap();
            record.model = [None, Some("m".to_owned()), Some(String::new())][*team].clone();
            record.app = None;
            record.provenance = [
                Provenance::Reported, Provenance::Partial, Provenance::Estimated, Provenance::Unknown, Provenance::None,
            ][*provenance];
            record.tokens.output = *output;
            if !is_priced {
                record.cost_nanousd = None;
            }
            sum += Counts::of(&append(&journal, record));
        }
        let mut feed = data.feed().in_batches_of(batch);
        while feed.step().unwrap().frames > 0 {}
        let mut rows = Counts::default();
        for row in data.sums(&[Dimension::Model, Dimension::Team]) {
            rows += row.counts;
        }
        prop_assert_eq!(rows, sum);
        prop_assert_eq!(data.sums(&[])[0].counts, sum);
        data.ledger().verify().unwrap().unwrap();
    }
}
