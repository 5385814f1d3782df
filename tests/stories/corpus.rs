//! Recorded traffic of real providers passes through the running binary unchanged and is counted to the token.
//!
//! `TOKENMETER_CORPUS` names the folder of `dev.jsonl.gz`; without it the story says so and is skipped.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt::Write as _;
use std::time::Instant;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::fake_upstream::Canned;
use crate::machine::{Dice, seed};
use crate::recorded::{self, Row};
use crate::stand::{Stand, read};

/// How the upstream is configured: a name, the version of HTTP, and whether it is left to the defaults to ask for a
/// stream's usage, which by a recorded answer shows only if something is taken out that the provider sent unasked.
/// Clients speak either version too: each row has some of each.
const UPSTREAMS: [(&str, &str, bool); 3] = [("http1", "1.1", false), ("http2", "2", false), ("defaults", "1.1", true)];

const CALLS_AT_ONCE: usize = 16;
/// Pieces of one answer.
const PIECES_MAX: usize = 200;

#[tokio::test]
async fn recorded_traffic_passes_unchanged_and_is_counted_to_the_token() {
    let Some(rows) = recorded::rows() else { return };
    let rows: Vec<Row> = rows.into_iter().filter(|row| row.wire().is_some()).collect();
    let begun = Instant::now();
    let seed = seed();
    let upstreams: BTreeSet<(&str, &str)> =
        rows.iter().map(|row| (row.provider.as_str(), row.wire().unwrap())).collect();
    let stand = Stand::with(|base| {
        let mut text = String::new();
        for (provider, wire) in &upstreams {
            for (name, version, asks_usage) in UPSTREAMS {
                writeln!(text, "[[upstream]]\nname = \"{provider}-{wire}-{name}\"\nwire = \"{wire}\"").unwrap();
                writeln!(text, "provider = \"{provider}\"\nbase_url = \"{base}\"\nhttp_version = \"{version}\"")
                    .unwrap();
                if !asks_usage {
                    text.push_str("add_stream_usage = false\n");
                }
            }
        }
        text
    });

    let clients = [false, true].map(|http2| Client::builder(TokioExecutor::new()).http2_only(http2).build_http());
    let mut results: Vec<(usize, Result<String, String>)> = Vec::new();
    let mut running = JoinSet::new();
    for (number, row) in rows.iter().enumerate() {
        if running.len() >= CALLS_AT_ONCE {
            results.push(running.join_next().await.unwrap().unwrap());
        }
        let mut dice = Dice::new(seed.wrapping_add(number as u64));
        let encoding = encoding(row, &mut dice);
        let body = row.body();
        let sent: Bytes = encoding.as_deref().map_or(body.clone(), |how| recorded::encoded(&body, how)).into();
        let id = format!("row-{number}");
        stand.fake.respond_to(&id, canned(row, encoding.as_deref(), &sent, &mut dice));
        let (http, upstream) = (dice.one_of(&clients).clone(), dice.one_of(&UPSTREAMS));
        let request = request(&stand, row, &id, upstream.0);
        let status = row.status.unwrap_or(200);
        running.spawn(async move { (number, replay(http, request, status, sent).await) });
    }
    results.extend(running.join_all().await);
    let replayed = begun.elapsed();

    let records: HashMap<String, Value> = stand
        .records_when(rows.len())
        .into_iter()
        .map(|record| (record["id"].as_str().unwrap().to_owned(), record))
        .collect();
    let with = |provenance: &str| {
        let records = records.values().filter(|record| record["provenance"] == provenance);
        records.filter_map(|record| record["job"].as_str()).collect()
    };
    let jobs = Jobs { begun: with("unknown"), counted: with("reported") };
    let mut table: BTreeMap<&str, [usize; 4]> = BTreeMap::new();
    let mut problems = Vec::new();
    for (number, result) in &results {
        let row = &rows[*number];
        let [all, exact, wrong, changed] = table.entry(row.api_family.as_str()).or_default();
        *all += 1;
        match result {
            Err(how) => {
                *changed += 1;
                problems.push(format!("{} {} {}: {how}", row.id, row.provider, row.api_family));
            }
            Ok(id) => {
                let differences =
                    records.get(id).map_or_else(|| vec!["no record".to_owned()], |it| differences(row, it, &jobs));
                if differences.is_empty() {
                    *exact += 1;
                } else {
                    *wrong += 1;
                    problems.push(format!(
                        "{} {} {}: {}",
                        row.id,
                        row.provider,
                        row.api_family,
                        differences.join("; ")
                    ));
                }
            }
        }
    }
    let mut said = "family | rows | exact | wrong counts | changed bytes\n".to_owned();
    for (family, [all, exact, wrong, changed]) in &table {
        writeln!(said, "{family} | {all} | {exact} | {wrong} | {changed}").unwrap();
    }
    let with_usage = rows.iter().filter(|row| row.usage_present).count();
    let whole = begun.elapsed();
    recorded::say(&format!(
        "{said}{with_usage} of {} rows with usage; {replayed:.1?}, {whole:.1?} with records",
        rows.len()
    ));
    problems.sort();
    assert!(problems.is_empty(), "{} of {} rows:\n{}", problems.len(), rows.len(), problems.join("\n"));
}

/// The row's request as it was recorded, but for host, framing and credentials, which are not in the corpus.
fn request(stand: &Stand, row: &Row, id: &str, upstream: &str) -> Request<Full<Bytes>> {
    // Where a place was blanked out, no URL can hold what stands for it.
    let path = row.path().replace('<', "%3C").replace('>', "%3E");
    let method: Method = row.method.as_deref().unwrap_or("POST").parse().unwrap();
    let mut request = Request::builder()
        .method(method)
        .uri(format!("{}/{}-{}-{upstream}{path}", stand.proxy(), row.provider, row.wire().unwrap()))
        .header("x-fake-replay", id);
    for (name, value) in row.request_headers.iter().flatten() {
        let name = name.to_ascii_lowercase();
        let is_kept =
            !["host", "content-length", "transfer-encoding", "connection", "authorization"].contains(&name.as_str());
        if let Some(value) = value.as_str().filter(|_| is_kept) {
            request = request.header(name, value);
        }
    }
    let body = if row.request_body.is_null() { String::new() } else { row.request_body.to_string() };
    request.body(Full::new(body.into())).unwrap()
}

/// How the answer's body goes over the wire: compressed as it was first sent; of the others, some are compressed too.
fn encoding(row: &Row, dice: &mut Dice) -> Option<String> {
    let recorded = row.response_header("content-encoding").map(str::to_ascii_lowercase);
    let encoding = recorded.or_else(|| (dice.below(8) == 0).then(|| (*dice.one_of(&recorded::ENCODINGS)).to_owned()));
    encoding.filter(|_| !row.body().is_empty())
}

/// `sent`, cut at random places.
fn canned(row: &Row, encoding: Option<&str>, sent: &Bytes, dice: &mut Dice) -> Canned {
    let mut headers = Vec::new();
    for (name, _) in row.response_headers.iter().flatten() {
        let name = name.to_ascii_lowercase();
        // Framing is the fake's, and so is the encoding.
        let is_kept =
            !["content-encoding", "content-length", "transfer-encoding", "connection"].contains(&name.as_str());
        if let Some(value) = row.response_header(&name).filter(|_| is_kept) {
            headers.push((name, value.to_owned()));
        }
    }
    headers.extend(encoding.map(|encoding| ("content-encoding".to_owned(), encoding.to_owned())));
    if row.response_header("transfer-encoding").is_none() {
        headers.push(("content-length".to_owned(), sent.len().to_string()));
    }
    let usual = *dice.one_of(&[3_usize, 40, 400, 4000]);
    let limit = usual.max(2 * sent.len().div_ceil(PIECES_MAX)) as u64;
    let mut rest = sent.clone();
    let mut chunks = Vec::new();
    while !rest.is_empty() {
        let length = usize::try_from(1 + dice.below(limit)).unwrap();
        chunks.push(rest.split_to(length.min(rest.len())));
    }
    Canned { status: row.status.unwrap_or(200), headers, chunks }
}

/// Calls, and compares what comes with what was sent. The record's id.
async fn replay(
    http: Client<HttpConnector, Full<Bytes>>,
    request: Request<Full<Bytes>>,
    status: u16,
    sent: Bytes,
) -> Result<String, String> {
    let response = http.request(request).await.map_err(|error| format!("no answer: {error:?}"))?;
    let reply = read(response).await;
    if reply.status.as_u16() != status {
        return Err(format!("status {} instead of {status}: {:?}", reply.status, reply.body));
    }
    if !reply.is_whole || reply.body != sent {
        return Err(format!("{} bytes (whole: {}) instead of {}", reply.body.len(), reply.is_whole, sent.len()));
    }
    Ok(reply.record_id())
}

/// Work of the replayed traffic that outlived its call.
struct Jobs<'a> {
    begun: HashSet<&'a str>,
    counted: HashSet<&'a str>,
}

/// What a record says that the reference parser does not. What was fetched twice is counted once.
fn differences(row: &Row, record: &Value, jobs: &Jobs<'_>) -> Vec<String> {
    let count = |name: &str| record["tokens"][name].as_u64();
    let input = ["input", "cache_read", "cache_write"].into_iter().filter_map(count).sum::<u64>();
    let mut wrong = Vec::new();
    let job = record["job"].as_str();
    let is_fetched = row.method.as_deref() == Some("GET");
    // The result of a recorded background response is consumption where the call that began it was replayed too.
    let is_result = is_fetched && job.is_some_and(|job| jobs.begun.contains(job));
    if !row.metered && !is_result && input + count("output").unwrap_or(0) > 0 {
        wrong.push(format!("counted although nothing was consumed: {}", record["tokens"]));
    }
    let was_counted = record["provenance"] == "none" && job.is_some_and(|job| jobs.counted.contains(job));
    if !row.metered || !row.usage_present || (is_fetched && was_counted) {
        return wrong;
    }
    let mut compare = |what: &str, ours: Option<u64>, theirs: Option<u64>| {
        if theirs.is_some() && ours.unwrap_or(0) != theirs.unwrap_or(0) {
            wrong.push(format!("{what} {ours:?}, expected {theirs:?}"));
        }
    };
    compare("input", Some(input), row.expected("input_tokens_total"));
    compare("output", count("output"), row.expected("output_tokens_total"));
    if !row.is_contradiction() {
        compare("cache_read", count("cache_read"), row.expected("cached_input_tokens"));
        compare("cache_write", count("cache_write"), row.expected("cache_write_tokens"));
        compare("reasoning", count("reasoning"), row.expected("reasoning_tokens"));
    }
    let model = row.expected.get("model").and_then(Value::as_str);
    if model.is_some() && record["model"].as_str() != model {
        wrong.push(format!("model {}, expected {model:?}", record["model"]));
    }
    let provenance = &record["provenance"];
    if provenance != "reported" && provenance != "partial" {
        wrong.push(format!("provenance {provenance}"));
    }
    wrong
}
