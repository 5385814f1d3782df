//! Recorded traffic of real providers passes through the running binary unchanged and is counted to the token.
//!
//! `TOKENMETER_CORPUS` names the folder of `dev.jsonl.gz`; without it the story says so and is skipped.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::io::Write as _;
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

/// Families, their wire, and the path where none that says what it is was recorded.
const FAMILIES: [(&str, &str, &str); 6] = [
    ("anthropic.messages", "anthropic", "/v1/messages"),
    ("gemini.generate", "gemini", "/v1beta/models/gemini-2.5-flash:generateContent"),
    ("openai.chat", "openai", "/v1/chat/completions"),
    ("openai.completions", "openai", "/v1/completions"),
    ("openai.embeddings", "openai", "/v1/embeddings"),
    ("openai.responses", "openai", "/v1/responses"),
];

/// Paths of demo servers and of one provider's own gateway: no API that anyone could know by its path.
const UNKNOWABLE_PATHS: [&str; 2] = ["/openai", "/v1/chat"];

/// The provider contradicts itself, so that the reference is one reading of several.
const CONTRADICTIONS: [&str; 3] = ["cached_gt_input", "reasoning_gt_output", "total_residual"];

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
    let rows: Vec<Row> = rows.into_iter().filter(|row| family(row).is_some()).collect();
    let begun = Instant::now();
    let seed = seed();
    let upstreams: BTreeSet<(&str, &str)> = rows.iter().map(|row| (row.provider.as_str(), wire(row))).collect();
    let stand = Stand::with(|base| {
        let mut text = String::new();
        for (provider, wire) in &upstreams {
            for (name, version, asks_usage) in UPSTREAMS {
                writeln!(text, "[[upstream]]\nname = \"{provider}-{wire}-{name}\"\nwire = \"{wire}\"").unwrap();
                writeln!(text, "provider = \"{provider}\"\nbase_url = \"{base}\"\nhttp_version = \"{version}\"")
                    .unwrap();
                if *wire == "openai" && !asks_usage {
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
        let sent = sent_body(row);
        let id = format!("row-{number}");
        stand.fake.respond_to(&id, canned(row, &sent, &mut dice));
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
                    records.get(id).map_or_else(|| vec!["no record".to_owned()], |it| differences(row, it));
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
    eprintln!("family | rows | exact | wrong counts | changed bytes");
    for (family, [all, exact, wrong, changed]) in &table {
        eprintln!("{family} | {all} | {exact} | {wrong} | {changed}");
    }
    let with_usage = rows.iter().filter(|row| row.usage_present).count();
    eprintln!("{with_usage} of {} rows with usage; {replayed:.1?}, {:.1?} with records", rows.len(), begun.elapsed());
    problems.sort();
    assert!(problems.is_empty(), "{} of {} rows:\n{}", problems.len(), rows.len(), problems.join("\n"));
}

fn family(row: &Row) -> Option<&(&'static str, &'static str, &'static str)> {
    FAMILIES.iter().find(|(family, ..)| *family == row.api_family)
}

fn wire(row: &Row) -> &'static str {
    family(row).unwrap().1
}

/// The row's request as it was recorded, but for host, framing and credentials, which are not in the corpus.
fn request(stand: &Stand, row: &Row, id: &str, upstream: &str) -> Request<Full<Bytes>> {
    let usual = family(row).unwrap().2;
    let path = row.url_path.as_deref().filter(|path| !UNKNOWABLE_PATHS.contains(&path.split('?').next().unwrap()));
    let path = path.unwrap_or(usual);
    let method: Method = row.method.as_deref().unwrap_or("POST").parse().unwrap();
    let mut request = Request::builder()
        .method(method)
        .uri(format!("{}/{}-{}-{upstream}{path}", stand.proxy(), row.provider, wire(row)))
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

/// The answer's body as it goes over the wire: compressed as it was first sent.
fn sent_body(row: &Row) -> Bytes {
    let body = row.body();
    let encoding = row.response_header("content-encoding").map(str::to_ascii_lowercase);
    match encoding.as_deref().filter(|_| !body.is_empty()) {
        Some("gzip") => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(&body).unwrap();
            encoder.finish().unwrap().into()
        }
        Some("br") => {
            let mut encoder = brotli::CompressorWriter::new(Vec::new(), 4096, 3, 20);
            encoder.write_all(&body).unwrap();
            encoder.into_inner().into()
        }
        None => body.into(),
        Some(other) => panic!("{}: content-encoding {other}", row.id),
    }
}

/// `sent`, cut at random places.
fn canned(row: &Row, sent: &Bytes, dice: &mut Dice) -> Canned {
    let mut headers = Vec::new();
    for name in ["content-type", "content-encoding"] {
        if let Some(value) = row.response_header(name) {
            headers.push((name.to_owned(), value.to_owned()));
        }
    }
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

/// What a record says that the reference parser does not.
fn differences(row: &Row, record: &Value) -> Vec<String> {
    let count = |name: &str| record["tokens"][name].as_u64();
    let input = ["input", "cache_read", "cache_write"].into_iter().filter_map(count).sum::<u64>();
    let mut wrong = Vec::new();
    if !row.metered && input + count("output").unwrap_or(0) > 0 {
        wrong.push(format!("counted although nothing was consumed: {}", record["tokens"]));
    }
    if !row.usage_present {
        return wrong;
    }
    let cached = row.expected("cached_input_tokens").unwrap_or(0) + row.expected("cache_write_tokens").unwrap_or(0);
    let is_contradiction = CONTRADICTIONS.iter().any(|flag| row.is_flagged(flag))
        || row.expected("input_tokens_total").is_some_and(|total| total < cached);
    let mut compare = |what: &str, ours: Option<u64>, theirs: Option<u64>| {
        if theirs.is_some() && ours.unwrap_or(0) != theirs.unwrap_or(0) {
            wrong.push(format!("{what} {ours:?}, expected {theirs:?}"));
        }
    };
    compare("input", Some(input), row.expected("input_tokens_total"));
    compare("output", count("output"), row.expected("output_tokens_total"));
    if !is_contradiction {
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
