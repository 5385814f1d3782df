//! Faults: whatever providers and clients do wrong, the ledger is what the provider reported.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use crate::checker::{self, Evidence, place, sums};
use crate::machine::seed;
use crate::oracle::{ANSWER_CANARY, Mix, Oracle, PROMPT_CANARY};
use crate::stand::{CREDENTIAL, PAYERS, Stand, upstreams};
use crate::storm::{Settings, Storm};

const CALLS: u64 = 50_000;
const CLIENTS: u64 = 48;

#[tokio::test]
async fn fifty_thousand_calls_with_faults_are_the_providers_own_numbers() {
    let seed = seed();
    let mix = Mix::new(seed);
    let oracle = Oracle::start(mix).unwrap();
    let mut stand = Stand::stopped(|_| format!("{}{PAYERS}", upstreams(&oracle.base_url())));
    let command = stand.command(&["serve"]);
    stand.serve_as(command);
    let key = stand.key("lab").await;
    let calls = std::env::var("CALLS").ok().map_or(CALLS, |calls| calls.parse().unwrap());
    let begun = Instant::now();
    let settings = Settings {
        mix,
        proxies: vec![stand.proxy().to_owned()],
        key: key.clone(),
        clients: CLIENTS,
        next: Arc::new(AtomicU64::new(0)),
        end: calls,
    };
    let seen = Storm::start(settings).join();
    eprintln!("{calls} calls in {:.1?}", begun.elapsed());
    let attempts = oracle.attempts(0);
    drop(oracle);
    let (rows, metrics) = checker::settled(&stand, &seen, &attempts).await;
    eprintln!("{} records read: {:.1?}", rows.len(), begun.elapsed());
    let evidence = Evidence { mix, attempts: &attempts, seen: &seen, rows: &rows, may_have_died: false };
    let mut violations = checker::calls(&evidence);
    violations.extend(checker::order(&rows));
    eprintln!("calls checked: {:.1?}", begun.elapsed());
    let report = stand.report(&["--by", "department,team,provider,model"]);
    violations.extend(sums::report(&rows, &report));
    let csv = stand.run(&["report", "--format", "csv", "--by", "team"]);
    violations.extend(sums::csv(&csv, &report));
    violations.extend(sums::metrics(&rows, &[metrics]));
    violations.extend(checker::integrity(&stand.command(&["verify"]).output().unwrap()));
    violations.extend(place::secrets(stand.path(), &[PROMPT_CANARY, ANSWER_CANARY, CREDENTIAL, &key]));
    eprintln!("all checked: {:.1?}", begun.elapsed());
    let mut by = std::collections::BTreeMap::new();
    for row in &rows {
        *by.entry((row.outcome.clone(), row.provenance.clone())).or_insert(0) += 1;
    }
    eprintln!("{by:#?}");
    checker::expect_none(&violations);
}
