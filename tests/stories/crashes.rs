//! Killed again and again under load, tokenmeter loses no call and counts none twice.
//!
//! `TOKENMETER_SEED` replays what was asked and when the server was killed; the machine's timing is its own.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::asks::{self, Ask};
use crate::machine::{Dice, seed};
use crate::stand::{PAYERS, Stand, http_with_pool, upstreams};

const CLIENTS: u64 = 10;

/// A call as its client knows it.
#[derive(Debug)]
struct Seen {
    ask: Ask,
    script: String,
    /// The record's id, where a head came.
    record: Option<String>,
    /// Whether the client saw the answer's end.
    has_ended: bool,
}

/// A client's own end of a call.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Manners {
    /// Reads to the end.
    Patient,
    /// Leaves after so many frames.
    LeavesAfter(u64),
    /// Leaves when no head came for so long.
    LeavesIn(Duration),
}

#[tokio::test]
async fn twenty_kills_under_load_lose_no_call_and_count_none_twice() {
    killed_under_load(20, "process").await;
}

#[tokio::test]
async fn kills_lose_nothing_either_where_every_call_waits_for_the_disk() {
    killed_under_load(5, "power").await;
}

async fn killed_under_load(kills: u64, durability: &str) {
    let begun = Instant::now();
    let seed = seed();
    let mut dice = Dice::new(seed);
    let ledger = format!("[ledger]\ndurability = \"{durability}\"\n");
    let mut stand = Stand::with(|base| format!("{ledger}{}{PAYERS}", upstreams(base)));
    let nonce = Arc::new(AtomicU64::new(0));
    let mut seen: HashMap<String, Seen> = HashMap::new();
    for round in 0..=kills {
        let is_last = round == kills;
        let mut clients = JoinSet::new();
        for client in 0..CLIENTS {
            let dice = Dice::new(seed ^ (round * CLIENTS + client + 1) << 20);
            // Nobody kills in the last round: its clients come to an end by themselves.
            let calls = if is_last { 10 } else { u64::MAX };
            clients.spawn(load(stand.proxy().to_owned(), dice, Arc::clone(&nonce), calls));
        }
        if !is_last {
            // Now and then long enough for what is counted locally to be counted.
            let milliseconds = if dice.once_in(4) { 1500 } else { 30 + dice.below(400) };
            tokio::time::sleep(Duration::from_millis(milliseconds)).await;
            stand.kill();
            // Sometimes the next one dies young: while it recovers the journal, settles orphans or catches up.
            while dice.once_in(3) {
                stand.serve_shortly(Duration::from_millis(dice.below(120)));
            }
        }
        seen.extend(clients.join_all().await.into_iter().flatten());
        if !is_last {
            stand.serve();
        }
    }
    let received: Vec<String> =
        stand.fake.requests().iter().map(|received| received.header("x-call").unwrap().to_owned()).collect();
    // Whatever is still counted or finished in the background comes to its record before the server ends.
    stand.terminate();
    assert_eq!(stand.wait(), Some(0));

    let records = stand.records();
    let mut by_call: HashMap<&str, &Value> = HashMap::new();
    for record in &records {
        let call = record["tags"]["call"].as_str().unwrap();
        assert!(by_call.insert(call, record).is_none(), "call {call} has two records");
        assert!(seen.contains_key(call), "{record} is of no call");
    }
    for call in &received {
        assert!(by_call.contains_key(call.as_str()), "call {call} reached the provider and has no record");
    }
    let mut ended = 0;
    for (call, seen) in &seen {
        let Some(id) = &seen.record else { continue };
        let record = by_call.get(call.as_str()).unwrap_or_else(|| panic!("{call} was told {id}: {seen:?}"));
        assert_eq!(record["id"], id.as_str());
        if seen.has_ended {
            ended += 1;
            assert_eq!(
                (&record["outcome"], &record["provenance"]),
                (&"completed".into(), &"reported".into()),
                "{record} {seen:?}"
            );
        }
    }
    let mut outcomes: BTreeMap<&str, u64> = BTreeMap::new();
    let mut tokens = 0;
    for (call, record) in &by_call {
        let outcome = record["outcome"].as_str().unwrap();
        *outcomes.entry(outcome).or_default() += 1;
        let count = |name: &str| record["tokens"][name].as_u64().unwrap_or(0);
        tokens += count("input") + count("cache_read") + count("cache_write") + count("output");
        let truth = seen[*call].ask.promise(&seen[*call].script);
        if outcome == "completed" {
            let ours = [count("input"), count("cache_read"), count("cache_write"), count("output"), count("reasoning")];
            let theirs = [truth.input, truth.cache_read, truth.cache_write, truth.output, truth.reasoning];
            assert_eq!(ours, theirs, "{record} {:?}", seen[*call]);
        }
        if outcome == "orphaned" {
            assert_eq!(record["provenance"], "estimated", "{record}");
            assert!(count("input") > 0, "{record}");
        }
    }
    let mut seqs: Vec<u64> = records.iter().map(|record| record["seq"].as_u64().unwrap()).collect();
    seqs.sort_unstable();
    assert!(seqs.windows(2).all(|pair| pair[1] == pair[0] + 1), "a gap or a double in {seqs:?}");
    stand.run(&["verify"]);
    assert_eq!(stand.report(&[])["total"]["tokens"]["total"], tokens);
    assert!(outcomes.get("orphaned").is_some_and(|count| *count > 0), "no kill met a call in flight: {outcomes:?}");
    eprintln!(
        "{kills} kills, {durability}: {} calls, {} reached the provider, {ended} seen to their end, {} records {outcomes:?}; {:.1?}",
        seen.len(),
        received.len(),
        records.len(),
        begun.elapsed()
    );
}

/// Calls one after the other until the server is gone.
async fn load(proxy: String, mut dice: Dice, nonce: Arc<AtomicU64>, calls: u64) -> Vec<(String, Seen)> {
    let http = http_with_pool();
    let mut all = Vec::new();
    for _ in 0..calls {
        let call = nonce.fetch_add(1, Ordering::Relaxed).to_string();
        let (ask, script, manners) = some_call(&mut dice);
        let request = Request::post(format!("{proxy}{}", ask.path))
            .header("content-type", "application/json")
            .header("x-tokenmeter-team", "lab")
            .header("x-tokenmeter-tags", format!("call={call}"))
            .header("x-call", &call)
            .header("x-fake", &script)
            .body(Full::from(ask.body.to_string()))
            .unwrap();
        let (record, has_ended, is_gone) = make(&http, request, manners).await;
        all.push((call, Seen { ask, script, record, has_ended }));
        if is_gone {
            break;
        }
    }
    all
}

/// Some API, some answer, some client.
fn some_call(dice: &mut Dice) -> (Ask, String, Manners) {
    let is_stream = !dice.once_in(3);
    let ask = if is_stream { dice.one_of(&asks::streams()).clone() } else { dice.one_of(&asks::whole()).clone() };
    let mut script = format!("words={};cached={}", 1 + dice.below(30), dice.below(4));
    let slowly = format!(";delay_ms={}", 1 + dice.below(8));
    let mut manners = Manners::Patient;
    match dice.below(10) {
        0 => script.push_str(";cut_after=2"),
        1 => script.push_str(";cut_after_bytes=60;reset"),
        2 => {
            script.push_str(&slowly);
            manners = Manners::LeavesAfter(1 + dice.below(3));
        }
        3 => {
            script.push_str(";delay_ms=40");
            manners = Manners::LeavesIn(Duration::from_millis(5 + dice.below(30)));
        }
        4..=6 => script.push_str(&slowly),
        _ => {}
    }
    (ask, script, manners)
}

/// Makes a call. What it was told, whether it saw the end, whether the server is gone.
async fn make(
    http: &Client<HttpConnector, Full<Bytes>>,
    request: Request<Full<Bytes>>,
    manners: Manners,
) -> (Option<String>, bool, bool) {
    let patience = if let Manners::LeavesIn(patience) = manners { patience } else { Duration::from_mins(1) };
    let response = match tokio::time::timeout(patience, http.request(request)).await {
        Err(_) => return (None, false, false),
        Ok(Err(_)) => return (None, false, true),
        Ok(Ok(response)) => response,
    };
    let record = response.headers().get("x-tokenmeter-record").map(|id| id.to_str().unwrap().to_owned());
    // What tokenmeter answers in the upstream's place ends, but is no answer of the provider.
    let is_answer = response.status() == 200 && record.is_some();
    let is_stream = is_event_stream(response.headers());
    let mut body = response.into_body();
    let (mut bytes, mut frames) = (Vec::new(), 0);
    let is_whole = loop {
        match body.frame().await {
            None => break true,
            Some(Err(_)) => break false,
            Some(Ok(frame)) => bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
        }
        frames += 1;
        if manners == Manners::LeavesAfter(frames) {
            return (record, false, false);
        }
    };
    let text = String::from_utf8(bytes).unwrap();
    let terminal = ["data: [DONE]\n\n", "{\"type\":\"message_stop\"}\n\n"];
    let has_ended = is_whole || (is_stream && terminal.iter().any(|terminal| text.ends_with(terminal)));
    (record, is_answer && has_ended, false)
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    headers.get("content-type").is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"))
}
