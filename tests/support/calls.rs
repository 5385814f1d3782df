//! Calls: records as a company of twenty departments makes them in three months, through the real journal and applier.
//!
//! The same number makes the same call, but for its id. `examples/fill_ledger.rs` fills a folder with them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::value::RawValue;
use tokenmeter::ids::{AppId, DepartmentId, KeyId, NodeId, Provider, RecordId, TeamId, UpstreamName};
use tokenmeter::journal::{self, Durability, Journal};
use tokenmeter::ledger::{Applier, Ledger, Place};
use tokenmeter::money::NanoUsd;
use tokenmeter::operation::Operation;
use tokenmeter::record::{AttributedBy, CostByKind, Record, Tags};
use tokenmeter::usage::{Outcome, Provenance, TokenCounts, Units};

/// When the three months begin.
pub(crate) const BEGIN: &str = "2026-08-01T00:00:00Z";
/// Their length: August, September, October.
const SPAN_SECS: u64 = 92 * 24 * 3600;
/// Records that the journal may be ahead of the ledger.
const AHEAD_MAX: u64 = 50_000;

/// Provider, model as asked for, model as answered, nano-dollars a token of input and of output.
const MODELS: [(&str, &str, &str, u64, u64); 8] = [
    ("openai", "gpt-5", "gpt-5-2025-08-07", 1_250, 10_000),
    ("openai", "gpt-5-mini", "gpt-5-mini-2025-08-07", 250, 2_000),
    ("openai", "gpt-4o-mini", "gpt-4o-mini-2024-07-18", 150, 600),
    ("anthropic", "claude-sonnet-4-5", "claude-sonnet-4-5-20250929", 3_000, 15_000),
    ("anthropic", "claude-haiku-4-5", "claude-haiku-4-5-20251001", 1_000, 5_000),
    ("anthropic", "claude-opus-4-1", "claude-opus-4-1-20250805", 15_000, 75_000),
    ("gemini", "gemini-2.5-flash", "gemini-2.5-flash", 300, 2_500),
    ("gemini", "gemini-2.5-pro", "gemini-2.5-pro", 1_250, 10_000),
];

/// A number below `limit` that follows from the call's number and what it is for.
fn throw(number: u64, what: u64, limit: u64) -> u64 {
    let mut bits = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ what.wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (bits ^ (bits >> 31)) % limit
}

/// The call `number` of `count`. A hundred teams, the first the busiest, with three keys each that use two models.
pub(crate) fn record(number: u64, count: u64) -> Record {
    let begin: Timestamp = BEGIN.parse().unwrap();
    let micros = u128::from(number) * u128::from(SPAN_SECS) * 1_000_000 / u128::from(count.max(1));
    let ended_at = Timestamp::from_microsecond(begin.as_microsecond() + i64::try_from(micros).unwrap()).unwrap();
    let duration_ms = 200 + throw(number, 1, 12_000);
    let started_at = Timestamp::from_microsecond(
        ended_at.as_microsecond() - i64::try_from(duration_ms * 1_000 + throw(number, 2, 1_000)).unwrap(),
    )
    .unwrap();
    let team = throw(number, 3, 100).min(throw(number, 4, 100));
    let key = team * 3 + throw(number, 5, 3);
    let model = usize::try_from((key + throw(number, 6, 2)) % MODELS.len() as u64).unwrap();
    let (provider, asked, answered, input_price, output_price) = MODELS[model];
    let (input, output) = (20 + throw(number, 7, 6_000), 5 + throw(number, 8, 1_500));
    let cache_read = if throw(number, 9, 3) == 0 { throw(number, 10, 20_000) } else { 0 };
    let reasoning = if throw(number, 11, 4) == 0 { output / 2 } else { 0 };
    let stream = throw(number, 12, 3) > 0;
    let (is_refused, is_cut) = (throw(number, 13, 50) == 0, throw(number, 14, 60) == 0);
    let nano = |amount: u64| Some(NanoUsd::new(i64::try_from(amount).unwrap()));
    let costs = [input * input_price, cache_read * input_price / 10, output * output_price];
    let mut record = Record {
        id: RecordId::new(started_at),
        started_at,
        ended_at,
        department: DepartmentId::parse(&format!("department-{}", team / 5)).unwrap(),
        team: TeamId::parse(&format!("team-{team}")).unwrap(),
        app: Some(AppId::parse(&format!("app-{}", key % 2)).unwrap()),
        key: Some(KeyId::parse(&format!("k_{key:08x}")).unwrap()),
        attributed_by: AttributedBy::Key,
        tags: if throw(number, 15, 4) == 0 { [("env".into(), "prod".into())].into() } else { Tags::new() },
        node: NodeId::unassigned(),
        seq: 0,
        upstream: UpstreamName::parse(provider).unwrap(),
        wire: provider.to_owned(),
        provider: Provider::parse(provider).unwrap(),
        operation: if provider == "gemini" { Operation::GenerateContent } else { Operation::Chat },
        model_requested: Some(asked.to_owned()),
        model: Some(answered.to_owned()),
        stream,
        status: Some(200),
        outcome: Outcome::Completed,
        provenance: Provenance::Reported,
        tokens: TokenCounts {
            input: Some(input),
            cache_read: Some(cache_read),
            output: Some(output),
            reasoning: Some(reasoning),
            ..TokenCounts::default()
        },
        units: Units::new(),
        usage_raw: Some(usage_raw(provider, input, cache_read, output, reasoning)),
        job: None,
        service_tier: (provider == "openai").then(|| "default".to_owned()),
        estimate: None,
        delivered_output: None,
        anomaly: None,
        cost_nanousd: nano(costs.iter().sum()),
        cost_nanousd_by_kind: CostByKind {
            input: nano(costs[0]),
            cache_read: nano(costs[1]),
            cache_write: None,
            output: nano(costs[2]),
        },
        price: Some(format!("genai-prices 2026-08-01 {provider}/{asked}")),
        time_to_first_byte_ms: Some(100 + throw(number, 16, 900)),
        duration_ms,
    };
    if is_refused {
        record.status = Some(429);
        (record.outcome, record.provenance) = (Outcome::UpstreamError, Provenance::None);
        (record.tokens, record.cost_nanousd_by_kind) = (TokenCounts::default(), CostByKind::default());
        (record.usage_raw, record.cost_nanousd, record.price) = (None, None, None);
    } else if is_cut {
        (record.outcome, record.provenance) = (Outcome::ClientClosed, Provenance::Estimated);
        record.usage_raw = None;
    }
    record
}

/// What providers report, of the length that they report it in.
fn usage_raw(provider: &str, input: u64, cache_read: u64, output: u64, reasoning: u64) -> Box<RawValue> {
    let (prompt, total) = (input + cache_read, input + cache_read + output);
    let text = match provider {
        "openai" => format!(
            r#"{{"prompt_tokens":{prompt},"completion_tokens":{output},"total_tokens":{total},"prompt_tokens_details":{{"cached_tokens":{cache_read},"audio_tokens":0}},"completion_tokens_details":{{"reasoning_tokens":{reasoning},"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}}}"#
        ),
        "anthropic" => format!(
            r#"{{"input_tokens":{input},"cache_creation_input_tokens":0,"cache_read_input_tokens":{cache_read},"cache_creation":{{"ephemeral_5m_input_tokens":0,"ephemeral_1h_input_tokens":0}},"output_tokens":{output},"service_tier":"standard"}}"#
        ),
        _ => format!(
            r#"{{"promptTokenCount":{prompt},"candidatesTokenCount":{output},"totalTokenCount":{total},"cachedContentTokenCount":{cache_read},"promptTokensDetails":[{{"modality":"TEXT","tokenCount":{prompt}}}]}}"#
        ),
    };
    RawValue::from_string(text).unwrap()
}

/// The settings of node `n1` with its journal in `directory`.
pub(crate) fn settings(directory: &Path) -> journal::Settings {
    journal::Settings {
        directory: directory.join("journal"),
        durability: Durability::Process,
        segment_bytes_max: journal::SEGMENT_BYTES_MAX,
        bytes_max: journal::BYTES_MAX,
        node: Some(NodeId::parse("n1").unwrap()),
        seq_floors: BTreeMap::new(),
    }
}

/// The ledger's place in `directory`.
pub(crate) fn place(directory: &Path) -> Place {
    Place::Sqlite(directory.join("ledger.db"))
}

/// Puts `count` calls into the journal and the ledger in `directory`, as a server of that `ledger.directory` would.
/// `tell` hears how many are in the ledger.
pub(crate) fn fill(directory: &Path, count: u64, mut tell: impl FnMut(u64)) {
    std::fs::create_dir_all(directory).unwrap();
    let seq_floors = Ledger::open(&place(directory)).unwrap().last_seqs().unwrap();
    let opened = Journal::open(journal::Settings { seq_floors, ..settings(directory) }).unwrap();
    let journal = Arc::new(opened.journal);
    let (committed, commits) = mpsc::channel();
    let applier =
        Applier::start(Arc::clone(&journal), &place(directory), None, move || committed.send(()).unwrap_or(()))
            .unwrap();
    for number in 0..count {
        journal.append_record(record(number, count)).unwrap();
        while number > applier.records_applied() + AHEAD_MAX {
            commits.recv().unwrap();
            tell(applier.records_applied());
        }
    }
    assert!(applier.stop(Duration::from_mins(10)), "the ledger takes too long");
}
