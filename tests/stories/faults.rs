//! Faults: whatever providers and clients do wrong, the ledger is what the provider reported.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::checker::place::Footprint;
use crate::checker::{self, Evidence, UNTAUGHT, place, sums};
use crate::machine::{is_long, seed};
use crate::oracle::{ANSWER_CANARY, Fault, Mix, Oracle, PROMPT_CANARY};
use crate::stand::{CREDENTIAL, PAYERS, Stand, upstreams};
use crate::storm::{self, Storm};

const CALLS: u64 = 50_000;

/// What the first calls leave behind stays: buffers, the pages of the ledger, the tables that text is counted by.
const WARM_CALLS: u64 = 5_000;

const CLIENTS: u64 = 48;

/// What of the memory that the calls took an allocator may keep.
const KEPT_KIB_MAX: u64 = 32 << 10;

#[tokio::test]
async fn fifty_thousand_calls_with_faults_are_the_providers_own_numbers() {
    let begun = Instant::now();
    let calls = if is_long() { CALLS * 4 } else { CALLS };
    let mix = Mix::new(seed());
    let oracle = Oracle::start(mix).unwrap();
    let mut stand = Stand::stopped(|_| format!("{UNTAUGHT}{}{PAYERS}", upstreams(&oracle.base_url())));
    stand.serve_as(stand.command(&["serve"]));
    let key = stand.key("lab").await;
    let next = Arc::new(AtomicU64::new(0));
    let storm = |end: u64| {
        let (proxies, key, next) = (vec![stand.proxy().to_owned()], key.clone(), Arc::clone(&next));
        Storm::start(storm::Settings { mix, proxies, key, clients: CLIENTS, next, end }).join()
    };
    let at_rest = Footprint::of(stand.pid());
    let mut seen = storm(WARM_CALLS);
    let warm = Footprint::of(stand.pid());
    // Each client took a number that it made no call of.
    let first = next.load(Ordering::Relaxed);
    seen.extend(storm(first + calls - WARM_CALLS));
    let raged = begun.elapsed();

    let attempts = oracle.attempts(0);
    let (rows, metrics) = checker::settled(&stand, &seen, &attempts).await;
    let evidence = Evidence { mix, attempts: &attempts, seen: &seen, rows: &rows, may_have_died: false };
    let mut violations = checker::calls(&evidence);
    violations.extend(checker::order(&rows));
    let report = stand.report(&["--by", "department,team,provider,model"]);
    violations.extend(sums::report(&rows, &report));
    violations.extend(sums::csv(&stand.run(&["report", "--format", "csv", "--by", "team"]), &report));
    violations.extend(sums::month(&rows, &metrics));
    violations.extend(sums::metrics(&rows, &[metrics]));
    violations.extend(checker::integrity(&stand.command(&["verify"]).output().unwrap()));
    drop(oracle);
    let expected = Footprint { resident_kib: warm.resident_kib, ..at_rest };
    violations.extend(expected.regained_by(stand.pid(), KEPT_KIB_MAX));
    let now = Footprint::of(stand.pid());
    stand.terminate();
    assert_eq!(stand.wait(), Some(0));
    violations.extend(place::secrets(stand.path(), &[PROMPT_CANARY, ANSWER_CANARY, CREDENTIAL, &key]));
    let http2 = seen.iter().filter(|seen| seen.is_http2).count();
    let faulted = seen.iter().filter(|seen| mix.call(seen.nonce).fault != Fault::None).count();
    let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
    for row in &rows {
        *kinds.entry(format!("{} {}", row.outcome, row.provenance)).or_default() += 1;
    }
    eprintln!(
        "{} calls in {raged:.1?}, {http2} over HTTP/2, {faulted} with a fault, {} reached the provider, {} records {kinds:?}; {at_rest:?}, {warm:?}, {now:?}; {:.1?}",
        seen.len(),
        attempts.len(),
        rows.len(),
        begun.elapsed()
    );
    checker::expect_none(&violations);
}
