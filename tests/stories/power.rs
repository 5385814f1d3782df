//! The power fails: what was acknowledged is there, once, whatever the disk made of the rest.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokenmeter::ids::RecordId;
use tokenmeter::journal::{Durability, Journal, JournalError, Opened, Settings};
use tokenmeter::ledger::{Applier, Filter, Ledger, Place, Verified};
use tokenmeter::meter::{self, Meter, Moment};
use tokenmeter::metrics::{Limits, Metrics};
use tokenmeter::pricing::PriceBook;
use tokenmeter::record::{Intent, Record};
use tokenmeter::usage::Outcome;
use tokio::task::JoinSet;

use crate::asks;
use crate::crash_states::{Recording, State};
use crate::machine::{Dice, is_long, seed, tool};
use crate::stand::{PATIENCE, PAYERS, Stand, http_with_pool, read, upstreams};
use crate::strace::{Syscall, WHOLE, syscalls, traced};

const CLIENTS: u64 = 12;
/// So small that files of the journal come and go with every few calls.
const SEGMENT_BYTES_MAX: u64 = 8 << 10;
/// What is traced of a run that is to be recorded.
pub(crate) const TRACED: &str = "trace=openat,mkdir,mkdirat,lseek,write,writev,pwrite64,pwritev,pwritev2,sendto,sendmsg,ftruncate,\
     truncate,fallocate,rename,renameat,renameat2,unlink,unlinkat,link,fsync,fdatasync,sync_file_range,close";

/// A recorded run: what it did to the disk, and what others were told meanwhile.
struct Run {
    recording: Recording,
    /// Record ids whose client was let see the end, and the line of the log.
    acknowledged: Vec<(usize, String)>,
    /// Calls whose request had begun to leave for the upstream, and the line of the log.
    asked: Vec<(usize, String)>,
    /// The records at the end as JSON, by id.
    records: BTreeMap<String, String>,
}

#[tokio::test]
async fn whatever_the_disk_made_of_it_what_was_acknowledged_is_there_once() {
    let Some(strace) = tool("STRACE") else { return };
    let seed = seed();
    let begun = Instant::now();
    let run = record(&strace, "power", &[]).await;
    let recorded = begun.elapsed();
    let trying = Instant::now();
    let states = if is_long() { 10_000 } else { 2_000 };
    let is_promised = |line: usize, moment: usize| line <= moment;
    let tried = try_states(&run, states, seed, &is_promised);
    eprintln!(
        "{tried} crash states of {} syncs, {} journal files removed, {} writes to the database file; {} calls \
         acknowledged, {} records; recorded in {recorded:.1?}, tried in {:.1?}",
        run.recording.syncs(),
        run.recording.removed(|path| path.ends_with(".journal")),
        run.recording.writes_to("data/ledger.db"),
        run.acknowledged.len(),
        run.records.len(),
        trying.elapsed(),
    );
    assert!(run.acknowledged.len() > 150, "{} calls were acknowledged", run.acknowledged.len());
    assert!(run.recording.removed(|path| path.ends_with(".journal")) > 5, "the journal's files stay");
    assert!(run.recording.writes_to("data/ledger.db") > 20, "the ledger was never checkpointed");
}

#[tokio::test]
async fn a_ledger_that_does_not_wait_for_the_disk_opens_after_a_power_cut_too() {
    let Some(strace) = tool("STRACE") else { return };
    let seed = seed();
    let run = record(&strace, "process", &[]).await;
    // Nothing is promised but order: what is there is right, and it goes on.
    let tried = try_states(&run, if is_long() { 10_000 } else { 100 }, seed, &|_, _| false);
    eprintln!("{tried} crash states, {} records", run.records.len());
}

#[tokio::test]
async fn what_the_ledger_could_not_sync_stays_in_the_journal() {
    let Some(strace) = tool("STRACE") else { return };
    let seed = seed();
    // Counted by thread, and only the one that applies comes so far.
    let run = record(&strace, "power", &["-e", "inject=fsync:error=EIO:when=60+5"]).await;
    let tried = try_states(&run, if is_long() { 10_000 } else { 150 }, seed, &|line, moment| line <= moment);
    let failed = run.recording.failed_syncs();
    eprintln!("{tried} crash states, {failed} syncs failed, {} records", run.records.len());
    assert!(failed > 5, "{failed} syncs failed");
}

/// Serves calls until it is killed, then again until it is told to stop.
async fn record(strace: &Path, durability: &str, faults: &[&str]) -> Run {
    let ledger = format!("[ledger]\ndurability = \"{durability}\"\njournal_segment_bytes_max = {SEGMENT_BYTES_MAX}\n");
    let mut stand = Stand::stopped(|base| format!("{ledger}{}{PAYERS}", upstreams(base)));
    let mut recording = Recording::of(stand.path());
    let (mut acknowledged, mut asked) = (Vec::new(), Vec::new());
    for round in 0..2_u64 {
        let log = stand.path().join(format!("trace-{round}"));
        let command = stand.command(&["serve"]);
        let options: Vec<&str> = WHOLE.iter().chain(&["-e", TRACED]).chain(faults).copied().collect();
        stand.serve_as(traced(strace, &log, &options, &command));
        let mut clients = JoinSet::new();
        for client in 0..CLIENTS {
            clients.spawn(load(stand.proxy().to_owned(), Dice::new(round * CLIENTS + client), round, client));
        }
        let proxy = stand.proxy().replace("http://", "");
        if round == 0 {
            // In the midst of it; what its clients still wait for becomes orphans.
            stand.fake.wait_for(|received| received.len() > 100).await;
            stand.kill();
        }
        clients.join_all().await;
        if round == 1 {
            stand.terminate();
            assert_eq!(stand.wait(), Some(0));
        }
        let log = stand.traced(&log);
        let syscalls = syscalls(&log);
        let base = recording.add(&syscalls);
        acknowledged.extend(ends(&syscalls, &proxy).into_iter().map(|(line, id)| (base + line, id)));
        asked.extend(
            requests(&syscalls, &stand.fake.address().to_string()).into_iter().map(|(line, call)| (base + line, call)),
        );
    }
    let records = stand.run(&["records", "--format", "jsonl"]);
    let id = |line: &str| serde_json::from_str::<Value>(line).unwrap()["id"].as_str().unwrap().to_owned();
    let records = records.lines().map(|line| (id(line), line.to_owned())).collect();
    Run { recording, acknowledged, asked, records }
}

/// Calls one after the other: whole answers and streams, some of them slow.
async fn load(proxy: String, mut dice: Dice, round: u64, client: u64) {
    let http = http_with_pool();
    for number in 0..14_u64 {
        let ask = if dice.once_in(2) { asks::chat() } else { asks::messages_stream() };
        let slowly = if dice.once_in(4) { ";delay_ms=20" } else { "" };
        let request = http::Request::post(format!("{proxy}{}", ask.path))
            .header("content-type", "application/json")
            .header("x-tokenmeter-team", if dice.once_in(2) { "lab" } else { "support-bot" })
            .header("x-tokenmeter-tags", format!("call={round}-{client}-{number}"))
            .header("x-call", format!("{round}-{client}-{number}"))
            .header("x-fake", format!("words={}{slowly}", 1 + dice.below(9)))
            .body(http_body_util::Full::from(ask.body.to_string()))
            .unwrap();
        let Ok(response) = http.request(request).await else { return };
        read(response).await;
    }
}

/// The record ids of the answers whose end was written to a client, and where in the log.
pub(crate) fn ends(syscalls: &[Syscall], proxy: &str) -> Vec<(usize, String)> {
    let here = format!("TCP:[{proxy}->");
    let mut answers: HashMap<i64, (Vec<u8>, bool)> = HashMap::new();
    let mut ends = Vec::new();
    for syscall in syscalls {
        let Some(descriptor) = syscall.descriptor() else { continue };
        if syscall.name == "close" {
            answers.remove(&descriptor);
        }
        if !is_write(syscall) || !syscall.described().starts_with(&here) {
            continue;
        }
        let (bytes, is_told) = answers.entry(descriptor).or_default();
        bytes.extend(syscall.data());
        let text = std::str::from_utf8(bytes).unwrap();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let header = |name: &str| head.split("\r\n").find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let is_whole = match header("content-length") {
            Some(length) => body.len() == length.parse::<usize>().unwrap(),
            None => body.ends_with("0\r\n\r\n"),
        };
        if !*is_told && (is_whole || body.contains("message_stop\"}")) {
            *is_told = true;
            ends.push((syscall.begun, header("x-tokenmeter-record").unwrap().to_owned()));
        }
        if is_whole {
            answers.remove(&descriptor);
        }
    }
    ends
}

/// The calls whose request was written to the upstream, and where in the log.
pub(crate) fn requests(syscalls: &[Syscall], upstream: &str) -> Vec<(usize, String)> {
    let there = format!("->{upstream}]");
    let to_upstream = syscalls.iter().filter(|syscall| is_write(syscall) && syscall.described().ends_with(&there));
    let call = |syscall: &Syscall| {
        let data = syscall.data();
        let (_, rest) = std::str::from_utf8(&data).unwrap().split_once("x-call: ")?;
        Some((syscall.begun, rest.split_once("\r\n")?.0.to_owned()))
    };
    to_upstream.filter_map(call).collect()
}

fn is_write(syscall: &Syscall) -> bool {
    syscall.result > 0 && ["write", "writev", "sendto", "sendmsg"].contains(&syscall.name.as_str())
}

/// Makes `count` states and tries what comes back of each. `is_promised` says whether what others were told at a line
/// must be kept at a moment.
fn try_states(run: &Run, count: usize, seed: u64, is_promised: &(dyn Fn(usize, usize) -> bool + Sync)) -> usize {
    let prices = Arc::new(PriceBook::bundled());
    let next = AtomicUsize::new(0);
    let wrong = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                // In memory where that is possible: every state is synced.
                let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    let mut dice = Dice::new(seed.wrapping_add((number as u64) << 24));
                    let moment = run.recording.moment(&mut dice);
                    let (state, story) = run.recording.state_at(moment, &mut dice);
                    let promised = |line: &usize| is_promised(*line, moment);
                    if let Err(what) = try_state(run, &state, folder.path(), &prices, &promised) {
                        wrong.lock().unwrap().insert(number, format!("{what}\n    after: {story}"));
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    let examples: Vec<String> = wrong.iter().take(5).map(|(number, what)| format!("state {number}: {what}")).collect();
    assert!(wrong.is_empty(), "{} of {count} states are not as promised:\n{}", wrong.len(), examples.join("\n"));
    count
}

/// Opens what was found after the power came back, as `serve` does, and holds it against what was promised.
fn try_state(
    run: &Run,
    state: &State,
    root: &Path,
    prices: &Arc<PriceBook>,
    is_promised: &dyn Fn(&usize) -> bool,
) -> Result<(), String> {
    state.write_to(root);
    let (found, verified) = open(root, prices)?;
    let mut calls = BTreeMap::new();
    for (id, record) in &found {
        let call = record.tags.get("call").map_or("", String::as_str);
        if let Some(other) = calls.insert(call, id) {
            return Err(format!("call {call} has two records, {other} and {id}"));
        }
        if record.outcome != Outcome::Orphaned && run.records.get(id) != Some(&json(record)) {
            return Err(format!("{} is not what was recorded: {:?}", json(record), run.records.get(id)));
        }
    }
    for (_, id) in run.acknowledged.iter().filter(|(line, _)| is_promised(line)) {
        let found = found.get(id).map(json);
        if found.as_ref() != run.records.get(id) {
            return Err(format!("{id} was acknowledged and is {found:?}"));
        }
    }
    for (_, call) in run.asked.iter().filter(|(line, _)| is_promised(line)) {
        if !calls.contains_key(call.as_str()) {
            return Err(format!("call {call} reached the upstream and has no record"));
        }
    }
    // It went on, by one call more, which is an orphan of the first opening; who opens it again finds the same.
    let (_, again) = open(root, prices)?;
    if again.records != verified.records + 1 {
        return Err(format!("{verified:?} is {again:?} when it is opened again"));
    }
    Ok(())
}

fn json(record: &Record) -> String {
    serde_json::to_string(record).unwrap()
}

/// A call that nobody asked for.
fn one_more() -> Intent {
    let now = Moment::now().at;
    serde_json::from_value(json!({
        "id": RecordId::new(now), "started_at": now, "department": "research", "team": "lab", "attributed_by": "none",
        "upstream": "openai", "wire": "openai", "provider": "openai", "operation": "chat", "stream": false,
        "is_consumption": true,
    }))
    .unwrap()
}

/// The records in the ledger below `root`, once everything is applied and every open call settled. Leaves one open.
fn open(root: &Path, prices: &Arc<PriceBook>) -> Result<(BTreeMap<String, Record>, Verified), String> {
    let told = |error: &dyn std::error::Error| {
        let causes = std::iter::successors(error.source(), |error| error.source());
        causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
    };
    let data = root.join("data");
    std::fs::create_dir_all(&data).unwrap();
    let place = Place::Sqlite(data.join("ledger.db"));
    let ledger = Ledger::open(&place).map_err(|error| told(&error))?;
    let settings = Settings {
        durability: Durability::Power,
        segment_bytes_max: SEGMENT_BYTES_MAX,
        seq_floors: ledger.last_seqs().map_err(|error| told(&error))?,
        ..Settings::at(data.join("journal"))
    };
    // A process that another story has just begun holds for a moment what was open here, the lock that was let go too.
    let begun = Instant::now();
    let opened = loop {
        match Journal::open(settings.clone()) {
            Err(JournalError::InUse { .. }) if begun.elapsed() < PATIENCE => std::thread::yield_now(),
            opened => break opened.map_err(|error| told(&error))?,
        }
    };
    let Opened { journal, open_intents, mut progress, .. } = opened;
    let journal = Arc::new(journal);
    let meter = Meter::start(
        Arc::clone(&journal),
        Arc::clone(prices),
        Arc::new(Metrics::new(Limits::default())),
        &meter::Settings::default(),
    )
    .unwrap();
    for intent in open_intents {
        let brought = progress.remove(&intent.id);
        meter.close_orphan(intent, brought, Moment::now());
    }
    meter.stop(Duration::from_secs(1));
    let applier = Applier::start(Arc::clone(&journal), &place, None, || {}).map_err(|error| told(&error))?;
    if !applier.stop(Duration::from_secs(20)) {
        return Err("the journal cannot be applied".to_owned());
    }
    let verified = ledger.verify().map_err(|error| told(&error))?.map_err(|difference| difference.to_string())?;
    let records = ledger.records(&Filter::default(), None, usize::MAX).map_err(|error| told(&error))?;
    journal.append_intent(&one_more()).map_err(|error| told(&error))?;
    Ok((records.into_iter().map(|record| (record.id.to_string(), record)).collect(), verified))
}
