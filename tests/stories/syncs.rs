//! What waits for the disk with `durability = "power"`, and what happens when the disk says no.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde_json::Value;
use tokio::task::JoinSet;

use crate::asks;
use crate::machine::tool;
use crate::power::{TRACED, ends, requests};
use crate::stand::{PATIENCE, Reply, Stand, http_with_pool, read, upstreams};
use crate::strace::{Syscall, WHOLE, syscalls, traced};

fn power(base: &str) -> String {
    format!("[ledger]\ndurability = \"power\"\n{}", upstreams(base))
}

#[tokio::test]
async fn nothing_is_asked_and_nothing_ends_before_it_is_on_the_disk_and_many_calls_share_a_sync() {
    const CALLS: usize = 64;
    let Some(strace) = tool("STRACE") else { return };
    let mut stand = Stand::stopped(power);
    let log = stand.path().join("trace");
    // A disk that takes its time, so that calls gather whatever else the machine does.
    let slowly = ["-e", TRACED, "-e", "inject=fdatasync:delay_exit=100000"];
    let options: Vec<&str> = WHOLE.iter().chain(&slowly).copied().collect();
    stand.serve_as(traced(&strace, &log, &options, &stand.command(&["serve"])));
    let (proxy, upstream) = (stand.proxy().replace("http://", ""), stand.fake.address().to_string());
    let http = http_with_pool();
    let mut calls = JoinSet::new();
    for client in 0..32 {
        let requests: Vec<_> = (0..CALLS / 32)
            .map(|number| {
                let ask = if client % 2 == 0 { asks::chat() } else { asks::messages_stream() };
                let call = format!("{client}-{number}");
                let request =
                    stand.ask(&ask).header("x-call", &call).header("x-tokenmeter-tags", &format!("call={call}"));
                request.request()
            })
            .collect();
        let http = http.clone();
        calls.spawn(async move {
            for request in requests {
                assert!(read(http.request(request).await.unwrap()).await.is_whole);
            }
        });
    }
    calls.join_all().await;
    stand.terminate();
    assert_eq!(stand.wait(), Some(0));
    let syscalls = syscalls(&stand.traced(&log));

    // Where the log shows the intent and the record of a call written to a file of the journal, and synced.
    let mut intents: HashMap<String, usize> = HashMap::new();
    let mut records: HashMap<String, usize> = HashMap::new();
    for write in syscalls.iter().filter(|one| one.name == "pwrite64" && one.described().ends_with(".journal")) {
        let synced = synced_after(&syscalls, write);
        for payload in payloads(&write.data()) {
            let is_intent = payload.get("outcome").is_none();
            let key = if is_intent { &payload["tags"]["call"] } else { &payload["id"] };
            let of_kind = if is_intent { &mut intents } else { &mut records };
            of_kind.insert(key.as_str().unwrap().to_owned(), synced);
        }
    }
    let asked = requests(&syscalls, &upstream);
    let ended = ends(&syscalls, &proxy);
    assert_eq!((asked.len(), ended.len()), (CALLS, CALLS));
    for (line, call) in asked {
        assert!(intents[&call] < line, "call {call} was asked at {line}, its intent synced at {}", intents[&call]);
    }
    for (line, id) in ended {
        assert!(records[&id] < line, "the end of {id} went at {line}, its record was synced at {}", records[&id]);
    }
    // Each call has two things to sync.
    let syncs = syscalls.iter().filter(|one| one.name == "fdatasync" && one.described().ends_with(".journal")).count();
    eprintln!("{CALLS} calls, {syncs} syncs of the journal");
    assert!(syncs < CALLS, "{syncs} syncs for {CALLS} calls");
}

/// The line by which what `write` wrote was synced; past all where it never was.
fn synced_after(syscalls: &[Syscall], write: &Syscall) -> usize {
    let file = write.described();
    let is_sync = |one: &&Syscall| ["fsync", "fdatasync"].contains(&one.name.as_str()) && one.result == 0;
    let mut syncs = syscalls.iter().filter(is_sync).filter(|one| one.begun >= write.ended && one.described() == file);
    syncs.next().map_or(usize::MAX, |sync| sync.ended)
}

/// How a run under a fault went.
#[derive(Debug, Default)]
struct Fate {
    /// Record ids of the answers that came to their end.
    acknowledged: Vec<String>,
    /// The server did not start.
    has_not_started: bool,
    /// Why the server was not ready, once it took no call any more.
    unready: Option<String>,
    /// How the server ended where it did so by itself.
    exit: Option<i32>,
}

#[tokio::test]
async fn after_a_failed_sync_no_call_is_acknowledged_until_the_journal_was_opened_again() {
    let Some(strace) = tool("STRACE") else { return };
    // Counted by thread: the first ones of each are the start's, the journal's and the ledger's.
    let faults: Vec<String> = (1..=14)
        .map(|number| format!("inject=fsync:error=EIO:when={number}"))
        .chain((1..=7).map(|number| format!("inject=fdatasync:error=EIO:when={number}")))
        .collect();
    let mut stopped = 0;
    for faults in faults.chunks(4) {
        let mut runs = JoinSet::new();
        for fault in faults {
            let (strace, fault) = (strace.clone(), fault.clone());
            runs.spawn(async move {
                let fate = run_under(&strace, &fault, "power").await;
                (fault, fate)
            });
        }
        for (fault, fate) in runs.join_all().await {
            eprintln!("{fault}: {} acknowledged, {}", fate.acknowledged.len(), told(&fate));
            stopped += usize::from(fate.unready.is_some());
        }
    }
    assert!(stopped >= 5, "{stopped} of the faults met the running journal");
}

#[tokio::test]
async fn a_journal_that_cannot_be_synced_ends_the_server_whether_or_not_calls_wait_for_it() {
    let Some(strace) = tool("STRACE") else { return };
    for durability in ["process", "power"] {
        let fate = run_to_its_end_under(&strace, "inject=fdatasync:error=EIO:when=2", durability).await;
        assert!(fate.unready.is_some(), "{durability}: {fate:?}");
        // So that whoever looks after it starts the next, which writes again what may be lost.
        assert_eq!(fate.exit, Some(1), "{durability}: {fate:?}");
    }
}

#[tokio::test]
async fn a_sync_that_fails_while_a_torn_tail_is_cut_off_is_not_forgotten_by_the_next_start() {
    let Some(strace) = tool("STRACE") else { return };
    let mut refused = 0;
    for number in 1..=6 {
        let fault = format!("inject=fsync:error=EIO:when={number}+");
        let mut stand = Stand::with(power);
        assert_eq!(stand.ask(&asks::chat()).send().await.status, 200);
        stand.kill();
        let journal = stand.data().join("journal");
        let file = journal.join("00000001.journal");
        let mut torn = fs::read(&file).unwrap();
        torn.extend([9; 40]);
        fs::write(&file, torn).unwrap();
        let log = stand.path().join("trace");
        let command = stand.command(&["serve"]);
        stand.try_serve_as(traced(&strace, &log, &["-e", "trace=fsync", "-e", &fault], &command));
        if !stand.is_serving() && stand.log().contains(&format!("`{}`", file.display())) {
            assert!(journal.join("sync-failed").exists(), "{fault}: {}", stand.log());
            refused += 1;
        }
        if stand.is_serving() {
            stand.kill();
        }
        stand.serve();
        stand.records_when(1);
        stand.kill();
    }
    assert!(refused > 0, "no fault met the file that was cut");
}

/// The payloads of the frames in one write: what waited behind another write is written together.
fn payloads(mut frames: &[u8]) -> Vec<Value> {
    let mut payloads = Vec::new();
    while let Some((head, rest)) = frames.split_first_chunk::<17>() {
        let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let Some((payload, behind)) = rest.split_at_checked(length) else { break };
        let Ok(payload) = serde_json::from_slice(payload) else { break };
        payloads.push(payload);
        frames = behind;
    }
    payloads
}

fn told(fate: &Fate) -> String {
    match &fate.unready {
        _ if fate.has_not_started => "did not start".to_owned(),
        Some(why) => why.clone(),
        None => "went on".to_owned(),
    }
}

async fn run_under(strace: &Path, fault: &str, durability: &str) -> Fate {
    let mut stand = faulty(strace, fault, durability);
    let fate = serve_under(&mut stand, false).await;
    if !fate.has_not_started {
        stand.kill();
    }
    restarted(stand, fate).await
}

async fn run_to_its_end_under(strace: &Path, fault: &str, durability: &str) -> Fate {
    let mut stand = faulty(strace, fault, durability);
    let mut fate = serve_under(&mut stand, true).await;
    fate.exit = stand.wait();
    restarted(stand, fate).await
}

/// A stand whose server is about to meet `fault`.
fn faulty(strace: &Path, fault: &str, durability: &str) -> Stand {
    let mut stand = Stand::stopped(|base| power(base).replace("power", durability));
    let command = stand.command(&["serve"]);
    let log = stand.path().join("trace");
    let traced: Command = traced(strace, &log, &["-e", "trace=fsync,fdatasync", "-e", fault], &command);
    stand.try_serve_as(traced);
    stand
}

/// Calls one after the other, for as long as all the syncs may take to come; with `must_refuse` until one is refused.
async fn serve_under(stand: &mut Stand, must_refuse: bool) -> Fate {
    let mut fate = Fate { has_not_started: !stand.is_serving(), ..Fate::default() };
    if fate.has_not_started {
        return fate;
    }
    let begun = Instant::now();
    // As many calls as each thread needs to come to the last of the faults, and then some time for the ledger.
    for number in 0.. {
        if number >= 20 && (!must_refuse || fate.unready.is_some() || begun.elapsed() > PATIENCE) {
            break;
        }
        let Reply { status, headers, body, is_whole } = stand.ask(&asks::chat()).send().await;
        if status == 200 && is_whole {
            assert_eq!(fate.unready, None, "a call was acknowledged after it");
            fate.acknowledged.push(headers["x-tokenmeter-record"].to_str().unwrap().to_owned());
            // The ledger takes what comes together in one step: let it come to its own syncs, and the tick to its.
            tokio::time::sleep(std::time::Duration::from_millis(60)).await;
        } else if status == 503 {
            let body: Value = serde_json::from_slice(&body).unwrap();
            assert!(body["error"]["message"].as_str().unwrap().contains("cannot be recorded"), "{body}");
            let ready = stand.get(&format!("{}/readyz", stand.admin())).await;
            // What was to be synced at the start may be the space set aside: nothing is in it, so it is made again.
            let is_made_again = ready.status == 200 || ready.text().contains("cannot be written");
            if !(fate.acknowledged.is_empty() && is_made_again) {
                assert_eq!(ready.status, 503);
                assert!(ready.text().contains("could not be synced"), "{}", ready.text());
                fate.unready = Some(ready.text());
            }
        } else {
            // The one whose own record could not be synced is cut off: its client must not take it for acknowledged.
            assert!(!is_whole, "{status}");
        }
        if fate.unready.is_some() && begun.elapsed() > PATIENCE {
            break;
        }
    }
    fate
}

/// Starts the server anew, without a fault: what was acknowledged must be there.
async fn restarted(mut stand: Stand, fate: Fate) -> Fate {
    stand.serve();
    let reply = stand.ask(&asks::chat()).send().await;
    assert!(reply.status == 200 && reply.is_whole);
    stand.terminate();
    assert_eq!(stand.wait(), Some(0));
    stand.run(&["verify"]);
    let records = stand.records();
    for id in fate.acknowledged.iter().chain([&reply.record_id()]) {
        let found: Vec<_> = records.iter().filter(|record| record["id"] == id.as_str()).collect();
        assert_eq!(found.len(), 1, "{id} was acknowledged");
        assert_eq!((&found[0]["outcome"], &found[0]["provenance"]), (&"completed".into(), &"reported".into()));
    }
    let reached = stand.fake.requests().len();
    assert!(records.len() >= reached, "{reached} calls reached the upstream, {} have a record", records.len());
    fate
}
