//! Recorded traffic is read to the token, however it is cut.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail and report like the test")]

#[path = "support/observed.rs"]
mod observed;
#[path = "support/corpus.rs"]
mod support;

use std::collections::BTreeMap;

use observed::{exchange, observed};
use support::Row;
use tokenmeter::operation::Operation;
use tokenmeter::wires::{Consumption, Exchange, Reading, UsageSeen};

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

fn replay<'a>(row: &Row, exchange: &Exchange<'_>, chunks: impl Iterator<Item = &'a [u8]>) -> Reading {
    replay_encoded(row, exchange, None, chunks)
}

fn replay_encoded<'a>(
    row: &Row,
    exchange: &Exchange<'_>,
    encoding: Option<&str>,
    chunks: impl Iterator<Item = &'a [u8]>,
) -> Reading {
    observed(row, exchange, encoding, chunks).reading()
}

fn facts(reading: &Reading) -> String {
    format!(
        "{:?} {:?} {:?} {:?} {:?}",
        reading.model, reading.usage, reading.tokens, reading.usage_raw, reading.anomaly
    )
}

fn differences(row: &Row, reading: &Reading) -> Vec<String> {
    let tokens = &reading.tokens;
    let mut wrong = Vec::new();
    let mut compare = |what: &str, ours: Option<u64>, theirs: Option<u64>| {
        if theirs.is_some() && ours != theirs && ours.unwrap_or(0) != theirs.unwrap_or(0) {
            wrong.push(format!("{what} {ours:?}, expected {theirs:?}"));
        }
    };
    compare("input", Some(tokens.input_total()), row.expected("input_tokens_total"));
    compare("output", tokens.output, row.expected("output_tokens_total"));
    if !row.is_contradiction() {
        compare("cache_read", tokens.cache_read, row.expected("cached_input_tokens"));
        compare("cache_write", tokens.cache_write, row.expected("cache_write_tokens"));
        compare("cache_write_1h", tokens.cache_write_1h, row.expected("cache_write_1h_tokens"));
        compare("reasoning", tokens.reasoning, row.expected("reasoning_tokens"));
        compare("audio_input", tokens.audio_input, row.expected("input_audio_tokens"));
        compare("audio_output", tokens.audio_output, row.expected("output_audio_tokens"));
        // Cohere counts pictures beside its input.
        let image_input = tokens.image_input.or(reading.units.get("image_tokens").copied());
        compare("image_input", image_input, row.expected("input_image_tokens"));
        compare("image_output", tokens.image_output, row.expected("output_image_tokens"));
    }
    compare("searches", reading.units.get("searches").copied(), row.expected("web_search_requests"));
    compare("search_units", reading.units.get("search_units").copied(), row.expected("search_units"));
    compare("pages", reading.units.get("pages").copied(), row.expected("pages_processed"));
    let tier = row.expected.get("service_tier").and_then(serde_json::Value::as_str);
    if tier.is_some() && reading.service_tier.as_deref() != tier {
        wrong.push(format!("service_tier {:?}, expected {tier:?}", reading.service_tier));
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
    let mut table: BTreeMap<&String, [u64; 3]> = BTreeMap::new();
    let mut wrong_rows = Vec::new();
    for (number, row) in rows.iter().filter(|row| row.usage_present).enumerate() {
        let Some(exchange) = exchange(row) else { continue };
        let body = row.body();
        let whole = replay(row, &exchange, std::iter::once(body.as_slice()));
        let mut wrong = differences(row, &whole);
        let mut cuts = Cuts(0x9E37_79B9_7F4A_7C15 ^ u64::try_from(number).unwrap());
        let mut pieces = Vec::new();
        let mut rest = body.as_slice();
        while !rest.is_empty() {
            let (piece, after) = rest.split_at((1 + cuts.below(900)).min(rest.len()));
            pieces.push(piece);
            rest = after;
        }
        if facts(&replay(row, &exchange, pieces.into_iter())) != facts(&whole) {
            wrong.push("differs when cut at random".to_owned());
        }
        let mut rest = body.as_slice();
        let as_recorded = row.recorded_chunk_sizes.iter().flatten().map_while(|size| {
            let piece;
            (piece, rest) = rest.split_at_checked(*size)?;
            Some(piece)
        });
        let as_recorded: Vec<&[u8]> = as_recorded.collect();
        if as_recorded.concat() == body && facts(&replay(row, &exchange, as_recorded.into_iter())) != facts(&whole) {
            wrong.push("differs as it came".to_owned());
        }
        let encoding = support::ENCODINGS[number % support::ENCODINGS.len()];
        if number % 3 == 0 {
            let encoded = support::encoded(&body, encoding);
            let size = 1 + cuts.below(2000);
            if facts(&replay_encoded(row, &exchange, Some(encoding), encoded.chunks(size))) != facts(&whole) {
                wrong.push(format!("differs in {encoding}"));
            }
        }
        if number % 20 == 0 && facts(&replay(row, &exchange, body.chunks(1))) != facts(&whole) {
            wrong.push("differs byte by byte".to_owned());
        }
        let [total, exact, anomalies] = table.entry(&row.api_family).or_default();
        *total += 1;
        *exact += u64::from(wrong.is_empty());
        *anomalies += u64::from(whole.anomaly.is_some());
        if !wrong.is_empty() {
            wrong_rows.push(format!("{} {} {}: {}", row.id, row.provider, row.api_family, wrong.join("; ")));
        }
    }
    let lines =
        table.iter().map(|(family, [all, exact, anomalies])| format!("{family} | {all} | {exact} | {anomalies}"));
    let lines: Vec<String> = std::iter::once("family | rows | exact | anomalies".to_owned()).chain(lines).collect();
    support::say(&lines.join("\n"));
    assert!(wrong_rows.is_empty(), "{} rows are read wrongly:\n{}", wrong_rows.len(), wrong_rows.join("\n"));
}

/// A JSON answer that is long is reduced to what its wire wants; to read a small one as it comes must tell the same.
#[test]
fn a_small_answer_tells_what_it_tells_with_more_around_it() {
    let Some(rows) = support::rows() else { return };
    let (mut compared, mut wrong) = (0, Vec::new());
    for row in &rows {
        let Some(exchange) = exchange(row).filter(|exchange| exchange.wire.reads_small_whole()) else { continue };
        let body = row.body();
        let members = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&body);
        if exchange.operation == Operation::Batch || members.map_or(true, |members| members.is_empty()) {
            continue;
        }
        let inside = std::str::from_utf8(&body).unwrap().trim();
        let inside = inside.strip_prefix('{').unwrap().strip_suffix('}').unwrap();
        let more = format!("\"more\":\"{}\"", "x".repeat(16 << 10));
        let all = |body: &[u8]| {
            let mut observer = observed(row, &exchange, None, std::iter::once(body));
            format!("{:?} {:?} {}", observer.reading(), observer.delivered(), observer.is_terminal())
        };
        let told = all(&body);
        for body in [format!("{{{more},{inside}}}"), format!("{{{inside},{more}}}")] {
            if all(body.as_bytes()) != told {
                wrong.push(format!("{} {}", row.id, row.api_family));
            }
        }
        compared += 1;
    }
    assert!(compared > 500, "{compared} answers");
    assert!(wrong.is_empty(), "{} of {compared} are read otherwise:\n{}", wrong.len(), wrong.join("\n"));
}

/// What costs something by nature, and only that, is taken for consumption.
#[test]
fn recorded_requests_are_taken_for_consumption_or_not() {
    let Some(rows) = support::rows() else { return };
    let mut wrong = Vec::new();
    for row in &rows {
        // What an account has used is told of calls long counted; the reference took its path for the calls'.
        let is_of_account = row.path().contains("/organization/usage/");
        let Some(exchange) = exchange(row).filter(|_| !is_of_account) else { continue };
        let may_count = match exchange.consumption {
            Consumption::Now | Consumption::Result => true,
            Consumption::Stored | Consumption::None => false,
        };
        let is_read = exchange.operation != Operation::Other;
        if may_count != row.metered || (row.usage_present && row.metered && !is_read) {
            let operation = exchange.operation.as_str();
            let method = row.method.as_deref().unwrap_or("POST");
            wrong.push(format!("{} {method} {} {operation} {:?}", row.api_family, row.path(), exchange.consumption));
        }
    }
    wrong.sort();
    wrong.dedup();
    assert!(wrong.is_empty(), "taken for something else:\n{}", wrong.join("\n"));
}

/// Operations whose tokens are counted here where the provider reports none.
fn is_countable(operation: Operation) -> bool {
    [
        Operation::Chat,
        Operation::TextCompletion,
        Operation::Responses,
        Operation::Embeddings,
        Operation::GenerateContent,
        Operation::Interaction,
    ]
    .contains(&operation)
}

/// Whether the answer tells quantities, none of which is tokens: pictures, a price.
fn tells_units_alone(row: &Row) -> bool {
    !row.usage_present && row.expected.get("usage_raw").is_some()
}

/// Local counting needs the prompt of every request that it may have to estimate.
#[test]
fn recorded_prompts_are_read() {
    let Some(rows) = support::rows() else { return };
    let mut wrong = Vec::new();
    for row in rows.iter().filter(|row| row.metered && row.request_body.is_object() && row.status == Some(200)) {
        let Some(exchange) = exchange(row).filter(|exchange| is_countable(exchange.operation)) else { continue };
        // The text of a template, or of the responses before, is known to the provider alone.
        let is_template = row.request_body.get("prompt").is_some_and(serde_json::Value::is_object)
            || row.request_body.get("previous_response_id").is_some();
        let is_multipart =
            row.request_headers.iter().flatten().any(|(_, value)| value.to_string().contains("multipart"));
        let body = row.request_body.to_string();
        let prompt = exchange.wire.prompt(exchange.operation, body.as_bytes());
        let has_prompt = prompt.is_some_and(|prompt| {
            !prompt.messages.is_empty() || !prompt.texts.is_empty() || prompt.tokens > 0 || prompt.has_unseen
        });
        if !has_prompt && !is_template && !is_multipart && !tells_units_alone(row) {
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
        let Some(exchange) = exchange(row) else { continue };
        let reading = replay(row, &exchange, std::iter::once(row.body().as_slice()));
        let tells_usage = reading.usage != UsageSeen::Nothing && !tells_units_alone(row);
        if tells_usage || reading.tokens.total() > 0 {
            wrong.push(format!(
                "{} {} {} {:?} {:?}",
                row.id, row.provider, row.api_family, reading.tokens, reading.usage_raw
            ));
        }
    }
    assert!(wrong.is_empty(), "usage out of nothing:\n{}", wrong.join("\n"));
}
