//! Hostile and broken: whatever an upstream sends and however a client behaves, bytes pass, memory is bounded, nothing
//! panics, and the record says what is known.

mod bodies;
mod connections;
mod crowds;
mod encodings;

use bytes::Bytes;
use serde_json::Value;

use crate::asks::Ask;
use crate::fake_upstream::Canned;
use crate::stand::{Reply, Stand};

/// Asks, is answered with `chunks`, sees them unchanged, and returns the record.
async fn record_of(stand: &Stand, ask: &Ask, headers: &[(&str, &str)], chunks: Vec<Bytes>) -> Value {
    let before = stand.records().len();
    let reply = answered(stand, ask, headers, chunks.clone()).await;
    assert!(reply.is_whole && reply.body == chunks.concat(), "{}: its bytes pass", ask.path);
    assert!(!stand.log().contains("panicked"));
    stand.records_when(before + 1).remove(before)
}

/// Asks, and is answered with `chunks`.
async fn answered(stand: &Stand, ask: &Ask, headers: &[(&str, &str)], chunks: Vec<Bytes>) -> Reply {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    stand.fake.respond_to("hostile", Canned { status: 200, headers, chunks });
    stand.ask(ask).header("x-fake-replay", "hostile").send().await
}

/// What a record knows: input and output, provenance, anomaly.
fn known(record: &Value) -> (Option<u64>, Option<u64>, &str, Option<&str>) {
    let count = |kind: &str| record["tokens"][kind].as_u64();
    (count("input"), count("output"), record["provenance"].as_str().unwrap(), record["anomaly"].as_str())
}
