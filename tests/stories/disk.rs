//! The disk is full, broken, taken away or somebody else's: no call costs money that is not recorded, what was recorded
//! stays, and all goes on by itself when the disk does.
//!
//! File systems are mounted for it: these stories need root. `TOKENMETER_LONG=1` repeats them more often.

mod faults;
mod gone;
mod unmetered;

use std::collections::HashMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::HeaderMap;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::asks::{self, Ask};
use crate::machine::{Dice, seed};
use crate::stand::{PATIENCE, PAYERS, Reply, Stand, http_with_pool, read, upstreams};

/// A record's or an intent's journal file begins with so many bytes that are no frame.
const SEGMENT_HEADER_BYTES: usize = 89;
/// In front of a frame's payload.
const FRAME_HEAD_BYTES: usize = 17;

/// How soon calls are taken again once nothing stands in their way, and time for a busy machine to notice.
const RECOVERY: Duration = Duration::from_millis(1500);

/// A file system of a few megabytes.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn at(path: &Path, megabytes: u32) -> Self {
        std::fs::create_dir_all(path).unwrap();
        let size = format!("size={megabytes}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(path).output().unwrap();
        let why = String::from_utf8(mounted.stderr).unwrap();
        assert!(mounted.status.success(), "a small disk cannot be mounted ({why}): run these stories as root");
        Self(path.to_owned())
    }

    /// Leaves no room on it.
    fn fill(&self) {
        let mut file = std::fs::File::options().create(true).append(true).open(self.0.join("filler")).unwrap();
        for block in [vec![0; 1 << 20], vec![0; 4096], vec![0; 1]] {
            while file.write_all(&block).is_ok() {}
        }
    }

    fn empty(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

fn stopped() -> Stand {
    Stand::stopped(|base| format!("{}{PAYERS}", upstreams(base)))
}

/// Whether `TOKENMETER_LONG` asks for more.
#[expect(clippy::disallowed_methods, reason = "how long the tests run is the machine's business")]
fn is_long() -> bool {
    std::env::var("TOKENMETER_LONG").is_ok_and(|long| long == "1")
}

/// Asserts that `reply` refuses for want of a journal, as the provider of `ask` would say it.
fn assert_refused(ask: &Ask, reply: &Reply) {
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert_eq!(reply.headers["retry-after"], "1");
    assert!(!reply.headers.contains_key("x-tokenmeter-record"));
    let error = reply.json();
    match ask.path.split('/').nth(1).unwrap() {
        "anthropic" => assert_eq!((&error["type"], &error["error"]["code"]), (&json!("error"), &json!("journal"))),
        "gemini" => {
            assert_eq!((&error["error"]["code"], &error["error"]["status"]), (&json!(503), &json!("UNAVAILABLE")));
        }
        _ => assert_eq!(error["error"]["code"], "journal"),
    }
}

/// Asks until `status` comes; how long that took.
async fn until_status(stand: &Stand, ask: &Ask, status: u16) -> Duration {
    let began = Instant::now();
    loop {
        let reply = stand.ask(ask).send().await;
        if reply.status == status {
            return began.elapsed();
        }
        assert!(began.elapsed() < PATIENCE, "{} is not followed by {status}: {}", reply.status, reply.text());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until the server logged `text` `times` times.
async fn logged(stand: &Stand, text: &str, times: usize) {
    let began = Instant::now();
    while stand.log().matches(text).count() < times {
        assert!(began.elapsed() < PATIENCE, "the log does not say {text:?} {times} times");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Asserts that every call that the provider received has a record, and one only, and that the ledger adds up.
fn assert_all_recorded(stand: &Stand) {
    let received = stand.fake.requests().len();
    let records = stand.records_when(received);
    let ids: std::collections::HashSet<&str> = records.iter().map(|record| record["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), received);
    stand.run(&["verify"]);
}

/// The journal's files, oldest first.
fn segments(journal: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(journal).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = entries.filter(|path| path.extension().is_some_and(|it| it == "journal")).collect();
    paths.sort();
    paths
}

/// Where the last whole frame of a journal file ends, by the lengths in the frames' heads.
fn end_of_frames(bytes: &[u8]) -> usize {
    let mut end = SEGMENT_HEADER_BYTES;
    while let Some(length) = bytes.get(end..end + 4) {
        let next = end + FRAME_HEAD_BYTES + usize::try_from(u32::from_le_bytes(length.try_into().unwrap())).unwrap();
        if next > bytes.len() {
            break;
        }
        end = next;
    }
    end
}

#[tokio::test]
async fn a_full_disk_refuses_calls_before_they_cost_and_loses_none_in_flight() {
    const IN_FLIGHT: usize = 24;
    let mut stand = stopped();
    let disk = SmallDisk::at(&stand.data().join("journal"), 3);
    stand.serve();
    let mut in_flight = Vec::new();
    for _ in 0..IN_FLIGHT {
        in_flight.push(stand.ask(&asks::chat_stream()).fake("stall_after=3;words=9").begin().await);
    }
    disk.fill();
    until_status(&stand, &asks::chat(), 503).await;
    let passed = stand.fake.requests().len();
    for ask in [asks::chat(), asks::messages(), asks::generate()] {
        assert_refused(&ask, &stand.ask(&ask).send().await);
    }
    assert_eq!(stand.fake.requests().len(), passed, "a refused call reached the provider");
    let journal = segments(&disk.0).pop().unwrap();
    let bytes = std::fs::read(&journal).unwrap();
    assert_eq!(end_of_frames(&bytes), bytes.len(), "half a frame is left in {}", journal.display());
    assert!(stand.metric("tokenmeter_refused_total", &[r#"reason="journal""#]).await >= 3.0);
    let ready = stand.get(&format!("{}/readyz", stand.admin())).await;
    assert_eq!(ready.status, 503, "{}", ready.text());

    stand.fake.release("stall");
    for answer in in_flight {
        assert!(read(answer).await.is_whole);
    }
    let records = stand.records_when(passed);
    assert!(records.iter().all(|record: &Value| record["provenance"] == "reported"));

    disk.empty();
    let recovered = until_status(&stand, &asks::chat(), 200).await;
    assert!(recovered < RECOVERY, "{recovered:?}");
    assert_all_recorded(&stand);
    stand.kill();
}

#[tokio::test]
async fn a_disk_that_is_full_again_and_again_under_load_costs_no_record() {
    full_again_and_again(20, "process").await;
}

#[tokio::test]
async fn a_full_disk_costs_no_record_either_where_every_call_waits_for_it() {
    full_again_and_again(5, "power").await;
}

async fn full_again_and_again(cycles: u64, durability: &str) {
    const CLIENTS: u64 = 6;
    let cycles = if is_long() { cycles * 5 } else { cycles };
    let mut dice = Dice::new(seed());
    let ledger = format!("[ledger]\ndurability = \"{durability}\"\n");
    let mut stand = Stand::stopped(|base| format!("{ledger}{}{PAYERS}", upstreams(base)));
    // Journal and ledger share it, so that they fight for the last page.
    let disk = SmallDisk::at(&stand.data(), if is_long() { 256 } else { 96 });
    stand.serve();
    let (is_over, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let dice = Dice::new(dice.below(u64::MAX) ^ client);
        clients.spawn(load(stand.proxy().to_owned(), dice, Arc::clone(&calls), Arc::clone(&is_over)));
    }
    let mut slowest = Duration::ZERO;
    for _ in 0..cycles {
        disk.fill();
        until_status(&stand, &asks::chat(), 503).await;
        tokio::time::sleep(Duration::from_millis(dice.below(400))).await;
        disk.empty();
        slowest = slowest.max(until_status(&stand, &asks::chat(), 200).await);
        tokio::time::sleep(Duration::from_millis(dice.below(200))).await;
    }
    is_over.store(true, Ordering::Relaxed);
    let seen: HashMap<String, Seen> = clients.join_all().await.into_iter().flatten().collect();
    stand.terminate();
    assert_eq!(stand.wait(), Some(0));

    let records = stand.records();
    assert_eq!(records.len(), stand.fake.requests().len(), "records, and calls that the provider received");
    let by_id: HashMap<&str, &Value> = records.iter().map(|record| (record["id"].as_str().unwrap(), record)).collect();
    assert_eq!(by_id.len(), records.len(), "a call has two records");
    assert!(records.iter().all(|record| record["outcome"] != "orphaned"), "a call in flight was not settled");
    let mut refused = 0;
    for (call, seen) in &seen {
        let Some(id) = &seen.record else {
            refused += 1;
            continue;
        };
        let record = by_id.get(id.as_str()).unwrap_or_else(|| panic!("{call} was told {id}"));
        assert_eq!(record["provenance"], "reported", "{record}");
        assert_eq!(record["tokens"]["output"], seen.output, "{record}");
    }
    stand.run(&["verify"]);
    assert!(slowest < RECOVERY, "it took {slowest:?} until calls were taken again");
    eprintln!(
        "{cycles} times full: {} calls, {refused} refused, all others recorded; taken again within {slowest:.1?}",
        seen.len()
    );
}

/// What a client saw of a call.
struct Seen {
    /// The record's id, where it was not refused.
    record: Option<String>,
    /// Tokens that the provider generated for it.
    output: u64,
}

/// Calls one after the other, some of them slow, until it is over.
async fn load(proxy: String, mut dice: Dice, calls: Arc<AtomicU64>, is_over: Arc<AtomicBool>) -> Vec<(String, Seen)> {
    let http = http_with_pool();
    let mut all = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        let call = calls.fetch_add(1, Ordering::Relaxed).to_string();
        let ask =
            if dice.once_in(2) { dice.one_of(&asks::streams()).clone() } else { dice.one_of(&asks::whole()).clone() };
        let delay = if dice.once_in(3) { format!(";delay_ms={}", 10 + dice.below(40)) } else { String::new() };
        let script = format!("words={}{delay}", 1 + dice.below(12));
        let request = http::Request::post(format!("{proxy}{}", ask.path))
            .header("content-type", "application/json")
            .header("x-fake", &script)
            .body(ask.body.to_string().into())
            .unwrap();
        let reply = read(http.request(request).await.unwrap()).await;
        assert!(reply.is_whole, "an answer was cut: {}", reply.text());
        let record = id_of(&reply.headers);
        assert_eq!(record.is_none(), reply.status == 503, "{} {}", reply.status, reply.text());
        let output = ask.promise(&script).output;
        all.push((call, Seen { record, output }));
        tokio::time::sleep(Duration::from_millis(10 + dice.below(30))).await;
    }
    all
}

fn id_of(headers: &HeaderMap) -> Option<String> {
    headers.get("x-tokenmeter-record").map(|id| id.to_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_ledger_whose_disk_is_full_costs_a_longer_journal_and_no_call() {
    let mut stand = stopped();
    let of_ledger = SmallDisk::at(&stand.data(), 2);
    let _of_journal = SmallDisk::at(&stand.data().join("journal"), 64);
    stand.serve();
    assert_eq!(stand.ask(&asks::chat()).send().await.status, 200);
    stand.records_when(1);
    of_ledger.fill();
    let mut asked = 1;
    while stand.metric("tokenmeter_ledger_failures_total", &[]).await < 2.0 {
        let reply = stand.ask(&asks::messages()).send().await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        asked += 1;
        assert!(asked < 3_000, "the ledger finds room on a full disk");
    }
    for _ in 0..50 {
        assert_eq!(stand.ask(&asks::chat()).send().await.status, 200);
        asked += 1;
    }
    assert_eq!(stand.get(&format!("{}/readyz", stand.admin())).await.status, 200);
    assert!(stand.log().contains("the disk of the ledger is full"), "the log says why");
    of_ledger.empty();
    let began = Instant::now();
    stand.metric_becomes("tokenmeter_ledger_applied_records_total", &[], f64::from(asked)).await;
    assert!(began.elapsed() < PATIENCE / 2, "{:?}", began.elapsed());
    assert_all_recorded(&stand);
    stand.kill();
}
