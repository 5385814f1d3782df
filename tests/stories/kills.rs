//! Killed again and again under load, tokenmeter loses no call and counts none twice.
//!
//! Every round ends in a `kill -9` at some instant; the next server finds what is left and is held to it. What is asked,
//! what goes wrong and when the server is killed is `TOKENMETER_SEED`'s; the machine's timing is its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::checker::{self, Evidence, Row, UNTAUGHT, place, sums};
use crate::machine::{Dice, is_long, now, seed};
use crate::oracle::{ANSWER_CANARY, Mix, Oracle, PROMPT_CANARY};
use crate::stand::{CREDENTIAL, PAYERS, Stand, upstreams};
use crate::storm::{self, Seen, Storm};

const CLIENTS: u64 = 16;

/// Calls of the last round, in which nobody kills.
const LAST_CALLS: u64 = 200;

#[tokio::test]
async fn a_hundred_and_forty_kills_under_load_lose_no_call_and_count_none_twice() {
    killed_under_load(140, "process").await;
}

#[tokio::test]
async fn ten_kills_lose_nothing_either_where_every_call_waits_for_the_disk() {
    killed_under_load(10, "power").await;
}

async fn killed_under_load(kills: u64, durability: &str) {
    let kills = if is_long() { kills * 10 } else { kills };
    let begun = Instant::now();
    let seed = seed();
    let mut dice = Dice::new(seed);
    let mix = Mix { faulted_percent: 20, slow_percent: 60, leaving_percent: 10, ..Mix::new(seed) };
    let oracle = Oracle::start(mix).unwrap();
    let ledger = format!("[ledger]\ndurability = \"{durability}\"\n");
    let mut stand = Stand::stopped(|_| format!("{ledger}{UNTAUGHT}{}{PAYERS}", upstreams(&oracle.base_url())));
    stand.serve_as(stand.command(&["serve"]));
    let key = stand.key("lab").await;
    let next = Arc::new(AtomicU64::new(0));
    let storm = |stand: &Stand, end: u64| {
        let (proxies, key, next) = (vec![stand.proxy().to_owned()], key.clone(), Arc::clone(&next));
        Storm::start(storm::Settings { mix, proxies, key, clients: CLIENTS, next, end })
    };
    let (mut calls, mut attempted, mut slowest) = (0, 0, Duration::ZERO);
    let mut check = |stand: &Stand, seen: &[Seen], since: Timestamp| {
        let attempts = oracle.attempts(attempted);
        (calls, attempted) = (calls + seen.len(), attempted + attempts.len());
        let rows = checker::rows(&stand.run(&["records", "--from", &since.to_string()]));
        let evidence = Evidence { mix, attempts: &attempts, seen, rows: &rows, may_have_died: true };
        checker::expect_none(&checker::calls(&evidence));
    };
    let mut served_since = now();
    for _ in 0..kills {
        let since = now();
        let raging = storm(&stand, u64::MAX);
        // Now and then long enough for what is counted here to be counted.
        let life = if dice.once_in(20) { 1_200 } else { 20 + dice.below(230) };
        tokio::time::sleep(Duration::from_millis(life)).await;
        stand.kill();
        // Sometimes the next one dies young: while it recovers the journal, settles orphans or catches up.
        while dice.once_in(5) {
            stand.serve_shortly(Duration::from_millis(dice.below(120)));
        }
        let seen = raging.join();
        served_since = now();
        let starting = Instant::now();
        stand.serve_as(stand.command(&["serve"]));
        slowest = slowest.max(starting.elapsed());
        check(&stand, &seen, since);
    }
    let since = now();
    let end = next.load(Ordering::Relaxed) + LAST_CALLS;
    let seen = storm(&stand, end).join();
    let (rows, metrics) = checker::settled(&stand, &seen, &oracle.attempts(0)).await;
    check(&stand, &seen, since);
    let of_the_last: Vec<Row> = rows.iter().filter(|row| row.ended_at >= served_since).cloned().collect();
    let mut violations = checker::order(&rows);
    violations.extend(sums::month(&rows, &metrics));
    violations.extend(sums::metrics(&of_the_last, &[metrics]));
    // Whatever is still finished in the background comes to its record before the server ends.
    stand.terminate();
    assert_eq!(stand.wait(), Some(0));
    let by = ["--by", "department,team,provider,model"];
    let report = stand.report(&by);
    violations.extend(sums::report(&rows, &report));
    violations.extend(sums::csv(&stand.run(&["report", "--format", "csv"]), &report));
    violations.extend(checker::integrity(&stand.command(&["verify"]).output().unwrap()));
    violations.extend(place::secrets(stand.path(), &[PROMPT_CANARY, ANSWER_CANARY, CREDENTIAL, &key]));
    checker::expect_none(&violations);
    let mut outcomes: BTreeMap<&str, u64> = BTreeMap::new();
    for row in &rows {
        *outcomes.entry(&row.outcome).or_default() += 1;
    }
    assert!(outcomes.get("orphaned").is_some_and(|count| *count > 0), "no kill met a call in flight: {outcomes:?}");
    eprintln!(
        "{kills} kills, {durability}: {calls} calls, {attempted} reached the provider, {} records {outcomes:?}; slowest start {slowest:.1?}; {:.1?}",
        rows.len(),
        begun.elapsed()
    );
}
