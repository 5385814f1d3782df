//! Retention in the shared ledger: old records go, their sums stay, and what is left can still be verified.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp, ToSpan as _};
use serde_json::Value;
use tokenmeter::ids::NodeId;
use tokenmeter::journal::{self, Journal};
use tokenmeter::ledger::{Applier, Dimension, Filter, Ledger, LedgerError, Place, PostgresSettings, Retention, Row};
use tokenmeter::period::Bucket;
use tokio::task::JoinSet;

use super::{lag_ends, stopped};
use crate::asks;
use crate::calls;
use crate::cluster::Cluster;
use crate::stand::{PATIENCE, Stand};

/// Calls of August, September and October, twenty a day.
const CALLS: u64 = 92 * 20;
/// What is kept of them at the end of October begins here.
const CUTOFF: &str = "2026-09-02T00:00:00Z";
/// Those before it.
const OLD: u64 = 32 * 20;

const SIXTY_DAYS: Retention =
    Retention { keep: SignedDuration::from_hours(60 * 24), now: || "2026-11-01T00:00:00Z".parse().unwrap() };
/// All that there is now will be old once.
const YEARS_LATER: Retention = Retention { now: || "2030-01-01T00:00:00Z".parse().unwrap(), ..SIXTY_DAYS };

/// One server's journal, in a folder like a server's own, and the ledger that it shares.
struct Node {
    name: &'static str,
    directory: PathBuf,
    place: Place,
}

impl Node {
    fn new(name: &'static str, directory: &Path, cluster: &Cluster) -> Self {
        let place = Place::Postgres(Arc::new(PostgresSettings::new(&cluster.url(), None).unwrap()));
        Self { name, directory: directory.to_owned(), place }
    }

    fn ledger(&self) -> Ledger {
        Ledger::open(&self.place).unwrap()
    }

    fn journal(&self) -> Arc<Journal> {
        let settings = journal::Settings {
            node: Some(NodeId::parse(self.name).unwrap()),
            seq_floors: self.ledger().last_seqs().unwrap(),
            keep: Duration::from_hours(24),
            segment_bytes_max: 64 << 10,
            ..journal::Settings::at(self.directory.join("journal"))
        };
        Arc::new(Journal::open(settings).unwrap().journal)
    }

    fn start(&self, retention: Option<Retention>) -> Applier {
        let (journal, begun) = (self.journal(), Instant::now());
        loop {
            match Applier::start(Arc::clone(&journal), &self.place, retention, || {}) {
                // PostgreSQL may not have noticed yet that the connection before is gone.
                Err(LedgerError::NodeTaken { .. }) if begun.elapsed() < PATIENCE => {}
                started => return started.unwrap(),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Records `calls` and applies them.
    fn record(&self, calls: Range<u64>) {
        let journal = self.journal();
        for number in calls {
            journal.append_record(calls::record(number, CALLS)).unwrap();
        }
        drop(journal);
        assert!(self.start(None).stop(PATIENCE));
    }

    /// Removes what is old by `retention`, until the node has no more than `left` records.
    fn remove(&self, retention: Retention, left: u64) {
        let applier = self.start(Some(retention));
        wait(|| self.seqs().len() as u64 <= left);
        assert!(applier.stop(PATIENCE));
    }

    /// What is left, by its place.
    fn seqs(&self) -> Vec<u64> {
        let records = self.ledger().records(&Filter::default(), None, usize::MAX).unwrap();
        let mut seqs: Vec<u64> =
            records.iter().filter(|record| record.node.as_str() == self.name).map(|record| record.seq).collect();
        seqs.sort_unstable();
        seqs
    }

    fn sums(&self) -> Vec<Row> {
        self.ledger().month_rows(Bucket::from_index(0), Bucket::from_index(i64::MAX), &Dimension::ALL).unwrap()
    }
}

fn wait(mut until: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !until() {
        assert!(begun.elapsed() < PATIENCE, "what must happen does not");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// Whether August has a table of its own.
fn august_is_there(cluster: &Cluster) -> bool {
    cluster.sql("usage", "SELECT to_regclass('tokenmeter.records_2026_08') IS NOT NULL") == "t"
}

#[test]
fn old_records_go_from_postgres_and_every_sum_stays() {
    let (cluster, folder) = (Cluster::start(), tempfile::tempdir().unwrap());
    let node = Node::new("n1", folder.path(), &cluster);
    let verified = || node.ledger().verify().unwrap().unwrap();
    node.record(0..CALLS);
    let (sums, before) = (node.sums(), verified());
    assert_eq!((before.records, before.removed_before), (CALLS, None));
    node.remove(SIXTY_DAYS, CALLS - OLD);
    assert_eq!(node.seqs(), (OLD + 1..=CALLS).collect::<Vec<_>>());
    assert_eq!(node.sums(), sums);
    let after = verified();
    assert_eq!((after.records, after.nodes), (CALLS - OLD, 1));
    assert_eq!((after.tokens, &after.ends), (before.tokens, &before.ends));
    assert_eq!(after.removed_before, Some(CUTOFF.parse().unwrap()));
    assert_eq!(node.ledger().removed_before().unwrap(), after.removed_before);
    // The chain goes on over it, also where nothing is left.
    node.record(CALLS..CALLS + 3);
    assert_eq!((verified().records, verified().ends[0].seq), (CALLS - OLD + 3, CALLS + 3));
    node.remove(YEARS_LATER, 0);
    assert_eq!((verified().records, verified().ends[0].seq), (0, CALLS + 3));
    node.record(CALLS + 3..CALLS + 5);
    assert_eq!(node.seqs(), [CALLS + 4, CALLS + 5]);
    verified();
    // Nothing but what is old goes, and what was removed stays so.
    for (sql, said) in [
        ("DELETE FROM records", "append-only"),
        ("TRUNCATE records", "append-only"),
        ("UPDATE records SET seq = 1", "append-only"),
        ("DELETE FROM removed", "stays removed"),
        ("TRUNCATE removed", "stays removed"),
        ("UPDATE removed SET seq = seq - 1", "stays removed"),
    ] {
        let error = cluster.try_sql("usage", &format!("SET search_path TO tokenmeter; {sql}")).unwrap_err();
        assert!(error.contains(said), "{sql}: {error}");
    }
    // And what is changed of it shows.
    let freely = "SET search_path TO tokenmeter; SET session_replication_role TO replica;";
    for (change, back, found) in [
        (
            "UPDATE removed SET input = input + 1",
            "UPDATE removed SET input = input - 1",
            "their records, most of them removed, summed to",
        ),
        (
            "UPDATE buckets SET output = output + 1 WHERE bucket = (SELECT MIN(bucket) FROM buckets)",
            "UPDATE buckets SET output = output - 1 WHERE bucket = (SELECT MIN(bucket) FROM buckets)",
            "their records, most of them removed, summed to",
        ),
        ("UPDATE removed SET seq = seq - 1", "UPDATE removed SET seq = seq + 1", "node n1 has no record 1843"),
        (
            "UPDATE positions SET node = 'n2'",
            "UPDATE positions SET node = 'n1'",
            "node n1 is applied up to nothing by its position",
        ),
    ] {
        cluster.sql("usage", &format!("{freely} {change}"));
        let difference = node.ledger().verify().unwrap().unwrap_err().to_string();
        assert!(difference.contains(found), "{change}: {difference}");
        cluster.sql("usage", &format!("{freely} {back}"));
    }
    verified();
}

#[test]
fn no_server_removes_anothers_records_nor_the_month_that_holds_them() {
    let cluster = Cluster::start();
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (one, other) = (Node::new("n1", folders[0].path(), &cluster), Node::new("n2", folders[1].path(), &cluster));
    one.record(0..CALLS);
    other.record(0..CALLS);
    let sums = one.sums();
    let beside = other.start(None);
    one.remove(SIXTY_DAYS, CALLS - OLD);
    assert!(beside.stop(PATIENCE));
    assert_eq!(other.seqs(), (1..=CALLS).collect::<Vec<_>>());
    assert!(august_is_there(&cluster));
    assert_eq!(one.ledger().verify().unwrap().unwrap().records, 2 * CALLS - OLD);
    // Both at once, one of them a day's records more.
    let later = Retention { now: || "2026-11-02T00:00:00Z".parse().unwrap(), ..SIXTY_DAYS };
    let beside = one.start(Some(later));
    other.remove(SIXTY_DAYS, CALLS - OLD);
    wait(|| one.seqs().len() as u64 == CALLS - OLD - 20);
    assert!(beside.stop(PATIENCE));
    assert_eq!(other.seqs(), (OLD + 1..=CALLS).collect::<Vec<_>>());
    assert_eq!(one.seqs(), (OLD + 21..=CALLS).collect::<Vec<_>>());
    assert_eq!(one.sums(), sums);
    one.ledger().verify().unwrap().unwrap();
}

#[test]
fn a_removal_that_dies_anywhere_goes_on_where_it_was() {
    let (mut cluster, folder) = (Cluster::start(), tempfile::tempdir().unwrap());
    let node = Node::new("n1", folder.path(), &cluster);
    node.record(0..CALLS);
    // All but one step's worth is old.
    for turn in 1..5 {
        node.record(CALLS * turn..CALLS * (turn + 1));
    }
    let sums = node.sums();
    let mut left = node.seqs().len();
    for round in 0..4 {
        let applier = node.start(Some(YEARS_LATER));
        wait(|| node.seqs().len() < left);
        if round % 2 == 0 {
            cluster.kill();
            cluster.restart();
        }
        drop(applier);
        let seqs = node.seqs();
        left = seqs.len();
        assert_eq!(seqs, (CALLS * 5 - left as u64 + 1..=CALLS * 5).collect::<Vec<_>>());
        assert_eq!(node.ledger().verify().unwrap().unwrap().records, left as u64);
        assert_eq!(node.sums(), sums);
    }
    assert!(left > 0, "nothing was left to die over");
    node.remove(YEARS_LATER, 0);
    assert_eq!(node.sums(), sums);
    node.ledger().verify().unwrap().unwrap();
}

#[test]
fn an_empty_months_table_goes_without_holding_up_who_writes() {
    // What vacuums a table is in the way too.
    let cluster = Cluster::with(|_| vec!["autovacuum=off".to_owned()]);
    let folder = tempfile::tempdir().unwrap();
    let node = Node::new("n1", folder.path(), &cluster);
    node.record(0..CALLS);
    // Somebody reads, for as long as he likes.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut connections = JoinSet::new();
    let reader = runtime.block_on(async {
        let (client, connection) = tokio_postgres::connect(&cluster.url(), tokio_postgres::NoTls).await.unwrap();
        connections.spawn(connection);
        client.batch_execute("BEGIN; SELECT FROM tokenmeter.records LIMIT 1").await.unwrap();
        client
    });
    let journal = node.journal();
    let applier = Applier::start(Arc::clone(&journal), &node.place, Some(SIXTY_DAYS), || {}).unwrap();
    wait(|| cluster.log().contains("canceling statement due to lock timeout"));
    journal.append_record(calls::record(CALLS, CALLS)).unwrap();
    wait(|| applier.applied() >= journal.end());
    assert_eq!(applier.failures(), 0);
    assert!(applier.stop(PATIENCE));
    drop(journal);
    assert!(august_is_there(&cluster));
    runtime.block_on(reader.batch_execute("COMMIT")).unwrap();
    let applier = node.start(Some(SIXTY_DAYS));
    wait(|| !august_is_there(&cluster));
    assert!(applier.stop(PATIENCE));
    // September is kept; a late record of August has its place.
    assert_eq!(node.seqs(), (OLD + 1..=CALLS + 1).collect::<Vec<_>>());
    node.record(7..8);
    assert_eq!(node.seqs(), (OLD + 1..=CALLS + 2).collect::<Vec<_>>());
    node.ledger().verify().unwrap().unwrap();
}

#[test]
fn a_ledger_of_the_first_schema_goes_on_and_its_old_records_go() {
    let (cluster, folder) = (Cluster::start(), tempfile::tempdir().unwrap());
    let node = Node::new("n1", folder.path(), &cluster);
    node.record(0..CALLS);
    let (sums, end) = (node.sums(), node.ledger().verify().unwrap().unwrap().ends);
    // As the release with that schema made it.
    let tables = ["records", "buckets", "positions"];
    let aside = tables.map(|table| format!("CREATE TABLE aside.{table} AS SELECT * FROM tokenmeter.{table};"));
    let back = tables.map(|table| format!("INSERT INTO {table} SELECT * FROM aside.{table};"));
    cluster.sql(
        "usage",
        &format!(
            "CREATE SCHEMA aside; {} DROP SCHEMA tokenmeter CASCADE; CREATE SCHEMA tokenmeter;
             SET search_path TO tokenmeter; SET TIME ZONE 'UTC';
             CREATE TABLE schema_version (version BIGINT NOT NULL); INSERT INTO schema_version VALUES (1); {}
             CREATE TABLE records_2026_08 PARTITION OF records FOR VALUES FROM ('2026-08-01') TO ('2026-09-01');
             CREATE UNIQUE INDEX records_2026_08_by_place ON records_2026_08 (node, seq); {}",
            aside.join(" "),
            include_str!("../../../src/ledger/postgres/schema_1.sql"),
            back.join(" "),
        ),
    );
    assert_eq!(node.ledger().verify().unwrap().unwrap().ends, end);
    node.remove(SIXTY_DAYS, CALLS - OLD);
    assert_eq!(node.seqs(), (OLD + 1..=CALLS).collect::<Vec<_>>());
    assert_eq!((node.sums(), node.ledger().verify().unwrap().unwrap().ends), (sums, end));
}

/// A stand whose shared ledger holds the three months' calls, of which the server keeps sixty days.
fn with_old_records(cluster: &Cluster) -> Stand {
    let stand = stopped(cluster, "node = \"n1\"\nkeep_records_days = 60\njournal_segment_bytes_max = 65536");
    std::fs::create_dir(stand.data()).unwrap();
    Node::new("n1", &stand.data(), cluster).record(0..CALLS);
    stand
}

fn ended_at(record: &Value) -> Timestamp {
    record["ended_at"].as_str().unwrap().parse().unwrap()
}

/// Waits until the server, which has just answered a call, has removed all that is old by then. What is left.
fn old_are_gone(stand: &Stand) -> usize {
    let begun = Instant::now();
    loop {
        let records = stand.records();
        // What is kept is kept to the quarter of an hour.
        let oldest = ended_at(&records[records.len() - 1]) - (60 * 24).hours() - 15.minutes();
        if records.iter().all(|record| ended_at(record) >= oldest) {
            return records.len();
        }
        assert!(begun.elapsed() < PATIENCE, "{} records are left\n{}", records.len(), stand.log());
    }
}

fn ask(stand: &Stand) {
    assert_eq!(block_on(stand.ask(&asks::chat()).send()).status, 200);
}

#[test]
fn records_that_are_too_old_leave_postgres_while_the_server_runs_and_their_report_stays() {
    let cluster = Cluster::start();
    let mut stand = with_old_records(&cluster);
    let reports = |stand: &Stand| {
        ["2026-08", "2026-09", "2026-10"].map(|month| stand.report(&["--month", month, "--by", "team,model"]))
    };
    let before = reports(&stand);
    stand.serve();
    ask(&stand);
    assert!((old_are_gone(&stand) as u64) < CALLS, "nothing was removed");
    assert_eq!(reports(&stand), before);
    let verified = stand.run(&["verify"]);
    assert!(verified.contains("were removed, their sums are kept"), "{verified}");
    let said = stand.command(&["records", "--from", "2026-08-01T00:00:00Z"]).output().unwrap().stderr;
    assert!(String::from_utf8(said).unwrap().contains("were removed (`ledger.keep_records_days`)"));
    let said = stand.command(&["records", "--from", "9000-01-01T00:00:00Z"]).output().unwrap().stderr;
    assert_eq!(String::from_utf8(said).unwrap(), "");
}

#[test]
fn an_edited_record_stays_in_postgres_and_is_named() {
    let cluster = Cluster::start();
    let mut stand = with_old_records(&cluster);
    let freely = "SET search_path TO tokenmeter; SET session_replication_role TO replica;";
    cluster.sql("usage", &format!("{freely} UPDATE records SET duration_ms = duration_ms + 1 WHERE seq = 600"));
    stand.serve();
    wait(|| stand.log().contains("records that are too old stay in the ledger"));
    assert!(stand.log().contains("record 600 of node n1 was changed: its chain value does not fit it"));
    ask(&stand);
    block_on(lag_ends(&stand));
    stand.kill();
    // Those before it went at once, five hundred at a time.
    let seqs = Node::new("n1", &stand.data(), &cluster).seqs();
    assert_eq!(seqs, (501..=CALLS + 1).collect::<Vec<_>>());
    let said = stand.run_failing(&["verify"]);
    assert!(said.contains("record 600 of node n1 was changed"), "{said}");
    cluster.sql("usage", &format!("{freely} UPDATE records SET duration_ms = duration_ms - 1 WHERE seq = 600"));
    stand.serve();
    old_are_gone(&stand);
    assert!(stand.run(&["verify"]).starts_with("the ledger adds up"));
}

#[test]
fn what_was_removed_does_not_come_back_when_a_standby_is_told_everything_again() {
    let mut cluster = Cluster::start();
    let mut stand = with_old_records(&cluster);
    stand.serve();
    ask(&stand);
    old_are_gone(&stand);
    let left = stand.records();
    assert!(stand.data().join("journal/kept/00000001.journal").exists(), "the old records are offered again");
    block_on(lag_ends(&stand));
    cluster.stop_at_once();
    cluster.save("standby");
    cluster.restart();
    for _ in 0..5 {
        ask(&stand);
    }
    block_on(lag_ends(&stand));
    let report = stand.report(&["--month", "2026-08"]);
    stand.terminate();
    assert_eq!(stand.wait(), Some(0));
    cluster.kill();
    cluster.put_back("standby");
    cluster.restart();
    // It even lost up to where it had the journal.
    cluster.sql("usage", "UPDATE tokenmeter.positions SET segment = 0, \"offset\" = 0");
    // What was logged while there was no database is another matter.
    let logged = stand.log().len();
    stand.serve();
    block_on(lag_ends(&stand));
    let records = stand.records();
    // Another may have become old since, where a quarter of an hour began.
    let old = ended_at(&records[records.len() - 1]) - (60 * 24).hours();
    let (gone, kept): (Vec<&Value>, Vec<&Value>) = left.iter().partition(|record| !records.contains(record));
    assert!(gone.len() <= 1 && gone.iter().all(|record| ended_at(record) < old), "{gone:?} should be there");
    assert_eq!(records.len(), kept.len() + 5);
    assert_eq!(stand.report(&["--month", "2026-08"]), report);
    assert!(stand.run(&["verify"]).starts_with("the ledger adds up"));
    let log = stand.log().split_off(logged);
    assert!(!log.contains("was deleted from the ledger") && !log.contains("stay in the ledger"), "{log}");
}
