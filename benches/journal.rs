//! What it costs to keep a call: `cargo bench --bench journal`.
//!
//! `append` is what the data path pays for a frame: a checksum and one `write`. `synced` is what a call waits for where
//! `durability` says so, with so many calls at once; a group shares one `fsync`, so more calls wait little longer.
//! The journal is where temporary files are: `TMPDIR=/the/disk` measures that disk.

#![expect(clippy::unwrap_used, reason = "what fails here fails the bench")]

use std::collections::BTreeMap;
use std::sync::Arc;

use divan::Bencher;
use divan::counter::ItemsCount;
use serde_json::json;
use tempfile::TempDir;
use tokenmeter::ids::{NodeId, RecordId};
use tokenmeter::journal::{Durability, Journal, SEGMENT_BYTES_MAX, Settings};
use tokenmeter::record::{Intent, Record};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

fn main() {
    divan::main();
}

fn journal(durability: Durability) -> (TempDir, Arc<Journal>) {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings {
        directory: folder.path().join("journal"),
        durability,
        segment_bytes_max: SEGMENT_BYTES_MAX,
        // Room for as many records as a bench appends.
        bytes_max: 1 << 40,
        node: Some(NodeId::parse("bench").unwrap()),
        seq_floors: BTreeMap::new(),
    };
    let journal = Arc::new(Journal::open(settings).unwrap().journal);
    (folder, journal)
}

fn intent() -> Intent {
    let at = "2026-11-22T13:22:01.123456Z".parse().unwrap();
    serde_json::from_value(json!({
        "id": RecordId::new(at), "started_at": at, "department": "customer-service", "team": "support-bot",
        "app": "chatbot", "key": "k_7f3a", "attributed_by": "key", "tags": {"env": "prod"}, "upstream": "openai",
        "wire": "openai", "provider": "openai", "operation": "chat", "model_requested": "gpt-5", "stream": true,
        "body_bytes": 1836, "is_consumption": true,
    }))
    .unwrap()
}

fn record() -> Record {
    let at: jiff::Timestamp = "2026-11-22T13:22:01.123456Z".parse().unwrap();
    serde_json::from_value(json!({
        "id": RecordId::new(at), "started_at": at, "ended_at": at, "department": "customer-service",
        "team": "support-bot", "app": "chatbot", "key": "k_7f3a", "attributed_by": "key", "tags": {"env": "prod"},
        "node": "bench", "seq": 0, "upstream": "openai", "wire": "openai", "provider": "openai", "operation": "chat",
        "model_requested": "gpt-5", "model": "gpt-5-2025-08-07", "stream": true, "status": 200, "outcome": "completed",
        "provenance": "reported", "tokens": {"input": 812, "cache_read": 1024, "output": 391, "reasoning": 128},
        "usage_raw": {"prompt_tokens": 1836, "completion_tokens": 391, "total_tokens": 2227,
            "prompt_tokens_details": {"cached_tokens": 1024}, "completion_tokens_details": {"reasoning_tokens": 128}},
        "cost_nanousd": 4_890_250, "price": "genai-prices 2026-11-10 openai/gpt-5", "time_to_first_byte_ms": 412,
        "duration_ms": 3377,
    }))
    .unwrap()
}

/// One intent.
#[divan::bench]
fn append_intent(bencher: Bencher<'_, '_>) {
    let (_folder, journal) = journal(Durability::Process);
    let intent = intent();
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| journal.append_intent(&intent).unwrap());
}

/// One record, beside so many threads that append too, each until the kernel has it.
#[divan::bench(threads = [1, 2, 8])]
fn append_record(bencher: Bencher<'_, '_>) {
    let (_folder, journal) = journal(Durability::Process);
    let record = record();
    bencher
        .counter(ItemsCount::new(1_usize))
        .with_inputs(|| record.clone())
        .bench_values(|record| journal.append_record(record).unwrap());
}

/// So many calls at once, `durability = "process"`.
#[divan::bench(args = [1, 8, 64])]
fn synced_process(bencher: Bencher<'_, '_>, calls: usize) {
    synced(bencher, calls, Durability::Process);
}

/// So many calls at once, `durability = "power"`.
#[divan::bench(args = [1, 8, 64])]
fn synced_power(bencher: Bencher<'_, '_>, calls: usize) {
    synced(bencher, calls, Durability::Power);
}

/// Calls, each until its record is as lasting as it is to be. The time is that of all of them.
fn synced(bencher: Bencher<'_, '_>, calls: usize, durability: Durability) {
    let (_folder, journal) = journal(durability);
    let runtime = Runtime::new().unwrap();
    let record = record();
    bencher.counter(ItemsCount::new(calls)).bench_local(|| {
        runtime.block_on(async {
            let mut waiting = JoinSet::new();
            for _ in 0..calls {
                let (journal, record) = (Arc::clone(&journal), record.clone());
                waiting.spawn(async move {
                    let (appended, _) = journal.submit_record(record).unwrap();
                    journal.synced(appended).await.unwrap();
                });
            }
            waiting.join_all().await
        });
    });
}
