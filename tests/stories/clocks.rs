//! Clocks that step, differ or pass a month's end spoil no order, no duration and no sum.
//!
//! The real binary under libfaketime, which gives it a wall clock of our own; its monotonic clock is the machine's.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::asks;
use crate::machine::tool;
use crate::stand::{PATIENCE, PAYERS, Stand, read, upstreams};

/// A wall clock that can be moved while programs look at it.
struct Wall {
    library: PathBuf,
    file: PathBuf,
}

impl Wall {
    /// A clock of `stand`'s, showing the machine's time; `None` where libfaketime is not installed.
    fn of(stand: &Stand) -> Option<Self> {
        let wall = Self { library: tool("FAKETIME")?, file: stand.path().join("wall") };
        wall.shift(0);
        Some(wall)
    }

    /// From now on it shows the machine's time and `seconds` more.
    fn shift(&self, seconds: i64) {
        let next = self.file.with_extension("next");
        std::fs::write(&next, format!("{seconds:+}\n")).unwrap();
        std::fs::rename(next, &self.file).unwrap();
    }

    /// `command`, which is to look at this clock.
    fn seen_by(&self, mut command: Command) -> Command {
        command.env("LD_PRELOAD", &self.library).env("FAKETIME_TIMESTAMP_FILE", &self.file);
        command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("NO_FAKE_STAT", "1");
        command
    }
}

/// How far a machine's time is from `at`, in whole seconds.
fn seconds_until(at: &str) -> i64 {
    let at: Timestamp = at.parse().unwrap();
    at.duration_since(machine_time()).as_secs()
}

#[expect(clippy::disallowed_methods, reason = "what the moved clock is held against")]
fn machine_time() -> Timestamp {
    Timestamp::now()
}

fn time(record: &Value, name: &str) -> Timestamp {
    record[name].as_str().unwrap().parse().unwrap()
}

fn seqs(records: &[Value]) -> Vec<u64> {
    let mut seqs: Vec<u64> = records.iter().map(|record| record["seq"].as_u64().unwrap()).collect();
    seqs.sort_unstable();
    seqs
}

#[tokio::test]
async fn a_clock_that_steps_back_spoils_no_order_no_duration_and_no_record() {
    const HOUR: i64 = 3600;
    let begun = Instant::now();
    let mut stand = Stand::stopped(|base| format!("{}{PAYERS}", upstreams(base)));
    let Some(wall) = Wall::of(&stand) else { return };
    stand.serve_as(wall.seen_by(stand.command(&["serve", "--log", "debug"])));
    // By how much each step goes back, and whether the clock stands still for it. The last goes forward again.
    let steps = [(-3, true), (-HOUR, false), (-25 * HOUR, false), (0, false)];
    let mut ids = Vec::new();
    for (number, (shift, _)) in steps.iter().enumerate() {
        let gate = format!("step{number}");
        let script = format!("hold={gate};stall_before_last");
        let answer = stand.ask(&asks::chat_stream_with_usage()).fake(&script).begin().await;
        stand.fake.wait_for(|all| all.iter().any(|one| one.stalled.as_deref() == Some(&gate))).await;
        wall.shift(*shift);
        stand.fake.release(&gate);
        let crossing = read(answer).await;
        assert!(crossing.is_whole, "{}", crossing.text());
        ids.push(crossing.record_id());
        // One that begins and ends after the step, before anybody else looks at the clock.
        ids.push(stand.ask(&asks::chat()).send().await.record_id());
    }
    let elapsed = u64::try_from(begun.elapsed().as_millis()).unwrap();
    let records = stand.records_when(ids.len());
    let by_id: BTreeMap<&str, &Value> = records.iter().map(|one| (one["id"].as_str().unwrap(), one)).collect();
    assert_eq!(by_id.len(), ids.len(), "an id came twice");
    for (id, (shift, is_held)) in ids.iter().zip(steps.iter().flat_map(|step| [step, step])) {
        let record = by_id[id.as_str()];
        assert!(record["duration_ms"].as_u64().unwrap() <= elapsed, "{shift} s: {record:#}");
        let (started, ended) = (time(record, "started_at"), time(record, "ended_at"));
        assert!(!is_held || ended >= started, "{shift} s: the clock did not stand still: {record:#}");
    }
    // Records tell the corrected time, in the order of the calls whatever it is.
    let ended = |id: &String| time(by_id[id.as_str()], "ended_at");
    assert!(ended(&ids[2]).duration_since(ended(&ids[1])) < SignedDuration::from_mins(-58), "{records:#?}");
    assert!(ended(&ids[4]).duration_since(ended(&ids[3])) < SignedDuration::from_hours(-23), "{records:#?}");
    let in_order: Vec<u64> = ids.iter().map(|id| by_id[id.as_str()]["seq"].as_u64().unwrap()).collect();
    assert_eq!(in_order, (1..=ids.len() as u64).collect::<Vec<_>>());
    stand.metric_becomes("tokenmeter_clock_steps_back_total", &[], 2.0).await;
    assert_eq!(stand.log().matches("the wall clock went back").count(), 2, "{}", stand.log());

    // What was in flight when the process died began later than it is now.
    let dying = stand.ask(&asks::chat_stream()).fake("hold=never;stall_before_last").begin().await;
    let orphan = dying.headers()["x-tokenmeter-record"].to_str().unwrap().to_owned();
    stand.kill();
    wall.shift(-2 * HOUR);
    stand.serve_as(wall.seen_by(stand.command(&["serve", "--log", "debug"])));
    stand.ask(&asks::chat()).send().await;
    let records = stand.records_when(ids.len() + 2);
    let orphan = records.iter().find(|record| record["id"] == orphan.as_str()).unwrap();
    assert_eq!((&orphan["outcome"], &orphan["duration_ms"]), (&"orphaned".into(), &0.into()), "{orphan:#}");
    assert_eq!(seqs(&records), (1..=records.len() as u64).collect::<Vec<_>>());
    stand.run(&["verify"]);
}

#[tokio::test]
async fn a_key_made_or_revoked_by_another_clock_works_and_ends_at_once() {
    let stand = Stand::start();
    let Some(wall) = Wall::of(&stand) else { return };
    let run = |arguments: &[&str]| {
        let output = wall.seen_by(stand.command(arguments)).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    wall.shift(86_400);
    let key = run(&["keys", "new", "--team", "lab"]).trim().to_owned();
    let becomes = async |status: u16| {
        let begun = Instant::now();
        let call = || stand.ask(&asks::chat()).header("authorization", &format!("Bearer {key}")).send();
        while call().await.status != status {
            assert!(begun.elapsed() < PATIENCE, "the key does not come to {status}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    becomes(200).await;
    let keys = run(&["keys", "list"]);
    let id = keys.split_whitespace().find(|word| word.starts_with("k_")).unwrap();
    // Revoked before it was made, by that clock.
    wall.shift(-86_400);
    run(&["keys", "revoke", id]);
    becomes(401).await;
}

/// Calls one after the other until `seconds` have passed; how many were made.
async fn load(stand: &Stand, seconds: f64) -> u64 {
    let begun = Instant::now();
    let mut calls = 0;
    while begun.elapsed().as_secs_f64() < seconds {
        let reply = stand.ask(&asks::chat()).header("x-tokenmeter-team", "lab").send().await;
        assert_eq!(reply.status, 200);
        calls += 1;
    }
    calls
}

#[tokio::test]
async fn a_month_that_ends_under_load_has_each_call_once_whatever_another_server_s_clock_shows() {
    // Midnight in Kathmandu, whose offset is 5:45.
    const MIDNIGHT: &str = "2026-11-30T18:15:00Z";
    let config = |base: &str| format!("[report]\ntimezone = \"Asia/Kathmandu\"\n{}{PAYERS}", upstreams(base));
    // One shows two seconds before midnight, and another, 30 seconds ahead, the new month.
    let mut stands = [Stand::stopped(config), Stand::stopped(config)];
    let shift = seconds_until(MIDNIGHT);
    for (stand, ahead) in stands.iter_mut().zip([0, 30]) {
        let Some(wall) = Wall::of(stand) else { return };
        wall.shift(shift - 3 + ahead);
        stand.serve_as(wall.seen_by(stand.command(&["serve"])));
    }
    let [behind, ahead] = &stands;
    let crossing = behind.ask(&asks::chat_stream_with_usage()).fake("hold=midnight;stall_before_last").begin().await;
    let loads = async { tokio::join!(load(behind, 5.0), load(behind, 5.0), load(behind, 5.0), load(ahead, 1.0)) };
    let (one, two, three, of_ahead) = loads.await;
    behind.fake.release("midnight");
    assert!(read(crossing).await.is_whole);
    let calls = one + two + three + 1;

    let records = behind.records_when(usize::try_from(calls).unwrap());
    let midnight: Timestamp = MIDNIGHT.parse().unwrap();
    let is_new = |record: &&Value| time(record, "ended_at") >= midnight;
    let new: Vec<&Value> = records.iter().filter(is_new).collect();
    assert!(!new.is_empty() && new.len() < records.len(), "{} of {} are in the new month", new.len(), records.len());
    let begun_before = new.iter().filter(|record| time(record, "started_at") < midnight).count();
    assert!(begun_before >= 1, "a call that began before midnight and ended behind it is in the new month");
    let sums = ["2026-11", "2026-12"].map(|month| {
        let total = behind.report(&["--month", month])["total"].clone();
        (total["requests"].as_u64().unwrap(), total["tokens"]["total"].as_u64().unwrap())
    });
    assert_eq!([sums[0].0, sums[1].0], [calls - new.len() as u64, new.len() as u64]);
    let tokens_of = |record: &Value| {
        ["input", "cache_read", "cache_write", "output"]
            .iter()
            .filter_map(|kind| record["tokens"][kind].as_u64())
            .sum::<u64>()
    };
    assert_eq!(sums[0].1 + sums[1].1, records.iter().map(tokens_of).sum::<u64>());
    // The gauges show the new month alone.
    #[expect(clippy::cast_precision_loss, reason = "a few thousand tokens")]
    behind.metric_becomes("tokenmeter_month_tokens", &[], sums[1].1 as f64).await;
    let ids: BTreeSet<&str> = records.iter().map(|record| record["id"].as_str().unwrap()).collect();
    assert_eq!((ids.len(), seqs(&records).len()), (records.len(), records.len()));

    ahead.records_when(usize::try_from(of_ahead).unwrap());
    let sums = ["2026-11", "2026-12"].map(|month| ahead.report(&["--month", month])["total"]["requests"].clone());
    assert_eq!(sums, [serde_json::json!(0), serde_json::json!(of_ahead)]);
    for stand in &stands {
        stand.run(&["verify"]);
    }
}
