//! Recorded traffic is read to the token, however it is cut.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail and report like the test")]

#[path = "support/corpus.rs"]
mod support;

use std::collections::BTreeMap;

use http::Method;
use support::Row;
use tokenmeter::framing::Framer;
use tokenmeter::operation::Operation;
use tokenmeter::wires::{self, Reading, UsageSeen};

/// Families, the wire that reads them, and the operation where the path was not recorded.
const FAMILIES: [(&str, &str, Operation); 10] = [
    ("openai.chat", "openai", Operation::Chat),
    ("openai.completions", "openai", Operation::TextCompletion),
    ("openai.responses", "openai", Operation::Responses),
    ("openai.embeddings", "openai", Operation::Embeddings),
    ("anthropic.messages", "anthropic", Operation::Chat),
    ("gemini.generate", "gemini", Operation::GenerateContent),
    ("gemini.embed", "gemini", Operation::Embeddings),
    ("vertex.generate", "gemini", Operation::GenerateContent),
    ("vertex.anthropic", "anthropic", Operation::Chat),
    ("openai.responses_compact", "openai", Operation::Responses),
];

/// The provider contradicts itself, so that the reference is one reading of several.
const CONTRADICTIONS: [&str; 3] = ["cached_gt_input", "reasoning_gt_output", "total_residual"];

/// A small generator of cuts: the same every time.
struct Cuts(u64);

impl Cuts {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(limit.max(1)).unwrap()).unwrap()
    }
}

fn replay<'a>(row: &Row, wire: &str, operation: Operation, chunks: impl Iterator<Item = &'a [u8]>) -> Reading {
    let wire = wires::by_name(wire).unwrap();
    let mut observer = wire.observer(operation, &row.provider);
    let content_type = row.response_header("content-type").map(str::as_bytes);
    let mut framer = Framer::new(content_type, None, wire.members());
    for chunk in chunks {
        framer.feed(chunk, &mut |unit| observer.unit(unit));
    }
    framer.end(&mut |unit| observer.unit(unit));
    observer.reading()
}

fn facts(reading: &Reading) -> String {
    format!(
        "{:?} {:?} {:?} {:?} {:?}",
        reading.model, reading.usage, reading.tokens, reading.usage_raw, reading.anomaly
    )
}

fn differences(row: &Row, reading: &Reading) -> Vec<String> {
    let tokens = &reading.tokens;
    let cached = row.expected("cached_input_tokens").unwrap_or(0) + row.expected("cache_write_tokens").unwrap_or(0);
    let is_contradiction = CONTRADICTIONS.iter().any(|flag| row.is_flagged(flag))
        || row.expected("input_tokens_total").is_some_and(|total| total < cached);
    let mut wrong = Vec::new();
    let mut compare = |what: &str, ours: Option<u64>, theirs: Option<u64>| {
        if theirs.is_some() && ours != theirs && ours.unwrap_or(0) != theirs.unwrap_or(0) {
            wrong.push(format!("{what} {ours:?}, expected {theirs:?}"));
        }
    };
    compare("input", Some(tokens.input_total()), row.expected("input_tokens_total"));
    compare("output", tokens.output, row.expected("output_tokens_total"));
    if !is_contradiction {
        compare("cache_read", tokens.cache_read, row.expected("cached_input_tokens"));
        compare("cache_write", tokens.cache_write, row.expected("cache_write_tokens"));
        compare("cache_write_1h", tokens.cache_write_1h, row.expected("cache_write_1h_tokens"));
        compare("reasoning", tokens.reasoning, row.expected("reasoning_tokens"));
    }
    let model = row.expected.get("model").and_then(serde_json::Value::as_str);
    if model.is_some() && reading.model.as_deref() != model {
        wrong.push(format!("model {:?}, expected {model:?}", reading.model));
    }
    if reading.usage == UsageSeen::Nothing {
        wrong.push("no usage seen".to_owned());
    }
    if reading.usage_raw.as_ref().is_none_or(|raw| raw.get().contains('\n')) {
        wrong.push("usage_raw is not one line".to_owned());
    }
    wrong
}

#[test]
fn recorded_answers_are_read_to_the_token_however_they_are_cut() {
    let Some(rows) = support::rows() else { return };
    let mut table: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    let mut wrong_rows = Vec::new();
    for (number, row) in rows.iter().filter(|row| row.usage_present).enumerate() {
        let Some((family, wire, operation)) = FAMILIES.iter().find(|(family, ..)| *family == row.api_family) else {
            continue;
        };
        // Vertex's `predict` is another API that embeds.
        let source = row.expected.get("usage_source").and_then(serde_json::Value::as_str);
        if source.is_some_and(|source| source.starts_with("predictions")) {
            continue;
        }
        let body = row.body();
        let whole = replay(row, wire, *operation, std::iter::once(body.as_slice()));
        let mut wrong = differences(row, &whole);
        let mut cuts = Cuts(0x9E37_79B9_7F4A_7C15 ^ u64::try_from(number).unwrap());
        let mut pieces = Vec::new();
        let mut rest = body.as_slice();
        while !rest.is_empty() {
            let (piece, after) = rest.split_at((1 + cuts.below(900)).min(rest.len()));
            pieces.push(piece);
            rest = after;
        }
        if facts(&replay(row, wire, *operation, pieces.into_iter())) != facts(&whole) {
            wrong.push("differs when cut at random".to_owned());
        }
        let mut rest = body.as_slice();
        let as_recorded = row.recorded_chunk_sizes.iter().flatten().map_while(|size| {
            let piece;
            (piece, rest) = rest.split_at_checked(*size)?;
            Some(piece)
        });
        let as_recorded: Vec<&[u8]> = as_recorded.collect();
        if as_recorded.concat() == body
            && facts(&replay(row, wire, *operation, as_recorded.into_iter())) != facts(&whole)
        {
            wrong.push("differs as it came".to_owned());
        }
        if number % 20 == 0 && facts(&replay(row, wire, *operation, body.chunks(1))) != facts(&whole) {
            wrong.push("differs byte by byte".to_owned());
        }
        let (total, exact) = table.entry(family).or_default();
        *total += 1;
        *exact += u64::from(wrong.is_empty());
        if !wrong.is_empty() {
            wrong_rows.push(format!("{} {} {}: {}", row.id, row.provider, family, wrong.join("; ")));
        }
    }
    eprintln!("family | rows | exact | wrong");
    for (family, (total, exact)) in &table {
        eprintln!("{family} | {total} | {exact} | {}", total - exact);
    }
    assert!(wrong_rows.is_empty(), "{} rows are read wrongly:\n{}", wrong_rows.len(), wrong_rows.join("\n"));
}

/// What the paths of recorded requests are taken for.
#[test]
fn recorded_paths_are_recognised() {
    let Some(rows) = support::rows() else { return };
    let upstream = wires::by_name("openai").unwrap();
    let mut wrong = Vec::new();
    for row in rows.iter().filter(|row| row.usage_present && row.method.as_deref() == Some("POST")) {
        let Some((_, wire, operation)) = FAMILIES.iter().find(|(family, ..)| *family == row.api_family) else {
            continue;
        };
        let Some(path) = row.url_path.as_deref().and_then(|path| path.split('?').next()) else { continue };
        let exchange = wires::recognise(upstream, &Method::POST, path);
        if exchange.operation != *operation || exchange.wire.name() != *wire {
            wrong.push(format!("{path} {} {}", exchange.wire.name(), exchange.operation.as_str()));
        }
    }
    wrong.sort();
    wrong.dedup();
    // A demo server, a file of one provider's own gateway: no API that anyone could know by its path.
    wrong.retain(|wrong| !wrong.starts_with("/openai openai") && !wrong.starts_with("/v1/chat openai"));
    assert!(wrong.is_empty(), "taken for something else:\n{}", wrong.join("\n"));
}

/// Local counting needs the prompt of every request that it may have to estimate.
#[test]
fn recorded_prompts_are_read() {
    let Some(rows) = support::rows() else { return };
    let mut wrong = Vec::new();
    for row in rows.iter().filter(|row| row.metered && row.request_body.is_object() && row.status == Some(200)) {
        let Some((_, wire, operation)) = FAMILIES.iter().find(|(family, ..)| *family == row.api_family) else {
            continue;
        };
        // The text of a template, or of the responses before, is known to the provider alone.
        let is_template = row.request_body.get("prompt").is_some_and(serde_json::Value::is_object)
            || row.request_body.get("previous_response_id").is_some();
        let is_multipart =
            row.request_headers.iter().flatten().any(|(_, value)| value.to_string().contains("multipart"));
        let body = row.request_body.to_string();
        let prompt = wires::by_name(wire).unwrap().prompt(*operation, body.as_bytes());
        let has_prompt = prompt.is_some_and(|prompt| !prompt.text.is_empty() || prompt.tokens > 0);
        if !has_prompt && !is_template && !is_multipart {
            wrong.push(format!("{} {} {:?} {}", row.id, row.framing, row.streaming, body.get(..200).unwrap_or(&body)));
        }
    }
    assert!(wrong.is_empty(), "no prompt in:\n{}", wrong.join("\n"));
}

/// What tells no usage is not made to.
#[test]
fn recorded_answers_without_usage_yield_none() {
    let Some(rows) = support::rows() else { return };
    let mut wrong = Vec::new();
    for row in rows.iter().filter(|row| row.metered && !row.usage_present) {
        let Some((_, wire, operation)) = FAMILIES.iter().find(|(family, ..)| *family == row.api_family) else {
            continue;
        };
        let reading = replay(row, wire, *operation, std::iter::once(row.body().as_slice()));
        if reading.usage != UsageSeen::Nothing || reading.tokens.total() > 0 {
            wrong.push(format!(
                "{} {} {} {:?} {:?}",
                row.id, row.provider, row.api_family, reading.tokens, reading.usage_raw
            ));
        }
    }
    assert!(wrong.is_empty(), "usage out of nothing:\n{}", wrong.join("\n"));
}
