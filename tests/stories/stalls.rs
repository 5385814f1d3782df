//! A disk that does not take writes for a while costs the calls that must be recorded, and nobody else; a ledger that
//! takes no records costs a longer journal, which has a bound.
//!
//! A file system of its own is mounted and frozen for it: these stories need root.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::asks::{self, Ask};
use crate::stand::{PATIENCE, PAYERS, Stand, http_with_pool, read, upstreams};

/// Streams that are under way.
const STREAMS: usize = 8;
/// What each brings while the disk is frozen: three seconds of twenty a second.
const CHUNKS: u64 = 60;

/// A disk that can be told to take no writes: a file system in a file.
struct Disk {
    directory: TempDir,
}

impl Disk {
    fn new() -> Self {
        let disk = Self { directory: tempfile::tempdir().unwrap() };
        let image = disk.directory.path().join("image");
        std::fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
        std::fs::create_dir(disk.mounted()).unwrap();
        run("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), &image]);
        run("mount", &["-o".as_ref(), "loop".as_ref(), &image, &disk.mounted()]);
        disk
    }

    fn mounted(&self) -> PathBuf {
        self.directory.path().join("mounted")
    }

    /// It takes no writes until what is returned is dropped: also where the story fails, for a server that is stuck in a
    /// write cannot even be killed.
    fn freeze(&self) -> Frozen {
        run("fsfreeze", &["-f".as_ref(), &self.mounted()]);
        Frozen(self.mounted())
    }

    /// A stand whose data is kept here. To be dropped first.
    fn stand(&self, more: &str) -> Stand {
        let mut stand = Stand::stopped(|base| format!("{more}{}{PAYERS}", upstreams(base)));
        std::os::unix::fs::symlink(self.mounted(), stand.data()).unwrap();
        stand.serve();
        stand
    }
}

/// A disk that takes no writes.
struct Frozen(PathBuf);

impl Drop for Frozen {
    fn drop(&mut self) {
        drop(Command::new("fsfreeze").arg("-u").arg(&self.0).output());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(self.mounted()).output());
    }
}

fn run(program: &str, arguments: &[&Path]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    let why = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "`{program}` failed ({why}): these stories need root");
}

/// A call as its client sees it.
struct Seen {
    chunks: Arc<AtomicU64>,
    /// The record's id and the whole text.
    reading: JoinHandle<(String, String)>,
}

type Http = Client<HttpConnector, Full<Bytes>>;

#[expect(clippy::disallowed_methods, reason = "a story's own calls end with it")]
fn call(stand: &Stand, http: &Http, ask: &Ask, script: &str) -> Seen {
    let request = stand.ask(ask).fake(script).request();
    let (http, chunks) = (http.clone(), Arc::new(AtomicU64::new(0)));
    let seen = Arc::clone(&chunks);
    let reading = tokio::spawn(async move {
        let response = http.request(request).await.unwrap();
        assert_eq!(response.status(), 200);
        let record = response.headers()["x-tokenmeter-record"].to_str().unwrap().to_owned();
        let (mut body, mut text) = (response.into_body(), String::new());
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.unwrap().into_data() else { continue };
            text.push_str(std::str::from_utf8(&data).unwrap());
            seen.store(text.matches("\n\n").count() as u64, Ordering::SeqCst);
        }
        (record, text)
    });
    Seen { chunks, reading }
}

fn chunks<'a>(calls: impl IntoIterator<Item = &'a Seen>) -> Vec<u64> {
    calls.into_iter().map(|call| call.chunks.load(Ordering::SeqCst)).collect()
}

/// Waits until each of `calls` has brought `more` chunks than it had `before`.
async fn bring(calls: &[Seen], before: &[u64], more: u64) {
    let begun = Instant::now();
    while chunks(calls).iter().zip(before).any(|(now, before)| now - before < more) {
        assert!(begun.elapsed() < PATIENCE, "streams stand still: {:?}, {before:?} before", chunks(calls));
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

async fn streams_flow_while_the_disk_is_frozen(http: Http, durability: &str) {
    let disk = Disk::new();
    let stand = disk.stand(&format!("[ledger]\ndurability = \"{durability}\"\n"));
    let (whole, stream) = (asks::chat(), asks::chat_stream());
    let streams: Vec<Seen> = (0..STREAMS).map(|_| call(&stand, &http, &stream, "words=80;delay_ms=50")).collect();
    let answered = call(&stand, &http, &whole, "hold=answered");
    let ending = call(&stand, &http, &stream, "words=5;stall_before_last;hold=ending");
    bring(&streams, &[0; STREAMS], 3).await;
    bring(std::slice::from_ref(&ending), &[0], 3).await;
    let asked = stand.fake.wait_for(|received| received.len() == STREAMS + 2).await.len();

    let frozen = disk.freeze();
    let begun = chunks(&streams);
    // The first is stuck in its write. The others wait: one before it ends, one before it begins.
    stand.fake.release("answered");
    bring(&streams, &begun, CHUNKS / 2).await;
    stand.fake.release("ending");
    let begins = call(&stand, &http, &stream, "words=3");
    bring(&streams, &begun, CHUNKS).await;
    assert!(!answered.reading.is_finished() && !ending.reading.is_finished(), "an end came before its record");
    assert_eq!(stand.fake.requests().len(), asked, "a call was made that is not recorded");
    assert!(stand.metric("tokenmeter_journal_queued_frames", &[]).await >= 1.0);
    drop(frozen);

    let mut told = Vec::new();
    for seen in streams.into_iter().chain([answered, ending, begins]) {
        let (record, text) = tokio::time::timeout(PATIENCE, seen.reading).await.unwrap().unwrap();
        assert!(text.ends_with("data: [DONE]\n\n") || text.ends_with('}'), "{text}");
        told.push(record);
    }
    let records = stand.records_when(told.len());
    let mut recorded: Vec<_> = records.iter().map(|record| record["id"].as_str().unwrap().to_owned()).collect();
    recorded.sort_unstable();
    told.sort_unstable();
    assert_eq!(recorded, told);
    assert!(records.iter().all(|record| record["provenance"] == "reported" && record["outcome"] == "completed"));
    stand.run(&["verify"]);
    assert!(stand.metric("tokenmeter_journal_queued_frames", &[]).await.abs() < f64::EPSILON);
}

#[tokio::test]
async fn streams_flow_while_the_disk_takes_no_writes() {
    streams_flow_while_the_disk_is_frozen(http_with_pool(), "process").await;
}

#[tokio::test]
async fn streams_flow_while_the_disk_neither_takes_writes_nor_syncs() {
    streams_flow_while_the_disk_is_frozen(http_with_pool(), "power").await;
}

#[tokio::test]
async fn streams_of_one_http2_connection_flow_while_the_disk_takes_no_writes() {
    let http = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    streams_flow_while_the_disk_is_frozen(http, "process").await;
}

#[tokio::test]
async fn a_journal_that_the_ledger_leaves_to_grow_is_full_at_its_bound_and_takes_calls_again_behind_it() {
    let bytes_max = 1 << 20;
    let ledger = format!("[ledger]\njournal_bytes_max = {bytes_max}\n");
    let stand = Stand::with(|base| format!("{ledger}{}{PAYERS}", upstreams(base)));
    let http = http_with_pool();
    let in_flight = call(&stand, &http, &asks::chat_stream(), "words=9;stall_after=4;hold=end");
    bring(std::slice::from_ref(&in_flight), &[0], 3).await;
    let lock = rusqlite::Connection::open(stand.data().join("ledger.db")).unwrap();
    lock.busy_timeout(PATIENCE).unwrap();
    lock.execute_batch("BEGIN EXCLUSIVE").unwrap();

    let refused = loop {
        let reply = read(http.request(stand.ask(&asks::chat()).request()).await.unwrap()).await;
        if reply.status != 200 {
            break reply;
        }
    };
    assert_eq!((refused.status.as_u16(), &refused.json()["error"]["code"]), (503, &"journal".into()));
    let asked = stand.fake.requests().len();
    let metric = async |name: &str| stand.metric(name, &[]).await;
    assert!((metric("tokenmeter_journal_bytes_max").await - f64::from(bytes_max)).abs() < f64::EPSILON);
    assert!(metric("tokenmeter_journal_bytes").await > 0.9 * f64::from(bytes_max));
    stand.metric_becomes("tokenmeter_journal_seconds_left", &[], 0.0).await;
    assert!(stand.get(&format!("{}/readyz", stand.admin())).await.text().contains("ledger.journal_bytes_max"));
    stand.fake.release("end");
    let (record, text) = tokio::time::timeout(PATIENCE, in_flight.reading).await.unwrap().unwrap();
    assert!(text.ends_with("data: [DONE]\n\n"), "what is in flight still comes to its end");

    lock.execute_batch("ROLLBACK").unwrap();
    let begun = Instant::now();
    while stand.ask(&asks::chat()).send().await.status != 200 {
        assert!(begun.elapsed() < PATIENCE, "no call is taken although the ledger takes records");
    }
    let records = stand.records_when(asked + 1);
    assert!(records.iter().any(|one| one["id"] == *record));
    assert!(metric("tokenmeter_journal_bytes").await < f64::from(bytes_max));
    stand.run(&["verify"]);
}
