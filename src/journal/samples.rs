//! Samples: intents and records for tests.

use std::collections::BTreeMap;
use std::path::Path;

use jiff::Timestamp;

use super::{Durability, Journal, Opened, Settings};
use crate::ids::{AppId, DepartmentId, KeyId, NodeId, Provider, RecordId, TeamId, UpstreamName};
use crate::money::NanoUsd;
use crate::operation::Operation;
use crate::record::{AttributedBy, CostByKind, Intent, Progress, Record, Tags};
use crate::usage::{Anomaly, Estimate, Outcome, Provenance, TokenCounts, Units};

/// Settings of node `n1` in `directory`.
pub(crate) fn settings(directory: &Path) -> Settings {
    Settings {
        directory: directory.to_owned(),
        durability: Durability::Process,
        segment_bytes_max: super::SEGMENT_BYTES_MAX,
        bytes_max: super::BYTES_MAX,
        node: Some(NodeId::parse("n1").unwrap()),
        seq_floors: BTreeMap::new(),
    }
}

/// The journal in `directory`.
pub(crate) fn open(directory: &Path) -> Opened {
    Journal::open(settings(directory)).unwrap()
}

/// An instant of the test month, `second` seconds into it.
pub(crate) fn at(second: i64) -> Timestamp {
    let start: Timestamp = "2026-11-01T00:00:00Z".parse().unwrap();
    Timestamp::from_second(start.as_second() + second).unwrap()
}

/// A call that begins `second` seconds into the month.
pub(crate) fn intent(second: i64) -> Intent {
    Intent {
        id: RecordId::new(at(second)),
        started_at: at(second),
        department: DepartmentId::unattributed(),
        team: TeamId::unattributed(),
        app: None,
        key: None,
        attributed_by: AttributedBy::None,
        tags: Tags::new(),
        upstream: UpstreamName::parse("openai").unwrap(),
        wire: "openai".to_owned(),
        provider: Provider::parse("openai").unwrap(),
        operation: Operation::Chat,
        model_requested: None,
        stream: false,
        body_bytes: None,
        is_consumption: true,
    }
}

/// What that call has brought by `second`: so many tokens of text.
pub(crate) fn progress(intent: &Intent, second: i64, delivered_tokens: u64) -> Progress {
    Progress {
        id: intent.id,
        at: at(second),
        model: None,
        status: Some(200),
        is_reported: false,
        tokens: TokenCounts::default(),
        units: Units::new(),
        usage_raw: None,
        service_tier: None,
        anomaly: None,
        delivered_tokens,
        delivered_bytes: 0,
    }
}

/// The end of that call, with nothing known that may be unknown.
pub(crate) fn bare_record(intent: &Intent) -> Record {
    Record {
        id: intent.id,
        started_at: intent.started_at,
        ended_at: intent.started_at,
        department: intent.department.clone(),
        team: intent.team.clone(),
        app: intent.app.clone(),
        key: intent.key.clone(),
        attributed_by: intent.attributed_by,
        tags: intent.tags.clone(),
        node: NodeId::parse("n1").unwrap(),
        seq: 0,
        upstream: intent.upstream.clone(),
        wire: intent.wire.clone(),
        provider: intent.provider.clone(),
        operation: intent.operation,
        model_requested: None,
        model: None,
        stream: intent.stream,
        status: None,
        outcome: Outcome::UpstreamError,
        provenance: Provenance::Unknown,
        tokens: TokenCounts::default(),
        units: Units::new(),
        usage_raw: None,
        job: None,
        service_tier: None,
        estimate: None,
        delivered_output: None,
        anomaly: None,
        cost_nanousd: None,
        cost_nanousd_by_kind: CostByKind::default(),
        price: None,
        time_to_first_byte_ms: None,
        duration_ms: 0,
    }
}

/// The end of that call, with every member set, each to something else.
pub(crate) fn full_record(intent: &Intent) -> Record {
    Record {
        ended_at: Timestamp::from_microsecond(intent.started_at.as_microsecond() + 1_234_567).unwrap(),
        department: DepartmentId::parse("customer-service").unwrap(),
        team: TeamId::parse("support-bot").unwrap(),
        app: Some(AppId::parse("chatbot").unwrap()),
        key: Some(KeyId::parse("k_7f3a").unwrap()),
        attributed_by: AttributedBy::Key,
        tags: [("env".to_owned(), "prod".to_owned()), ("场".to_owned(), "客服".to_owned())].into(),
        model_requested: Some("gpt-5".to_owned()),
        model: Some("gpt-5-2025-08-07".to_owned()),
        stream: true,
        status: Some(200),
        outcome: Outcome::Completed,
        provenance: Provenance::Reported,
        tokens: TokenCounts {
            input: Some(812),
            cache_read: Some(1024),
            cache_write: Some(7),
            output: Some(391),
            reasoning: Some(128),
            cache_write_1h: Some(1),
            audio_input: Some(2),
            audio_output: Some(3),
            image_input: Some(4),
            image_output: Some(5),
        },
        units: [("searches".to_owned(), 2)].into(),
        usage_raw: Some(serde_json::value::RawValue::from_string(r#"{"z":1.50,"a":[null]}"#.to_owned()).unwrap()),
        job: Some("resp_7".to_owned()),
        service_tier: Some("flex".to_owned()),
        estimate: Some(Estimate { low: 1, high: 9, method: "o200k".to_owned(), observations: 3 }),
        delivered_output: Some(390),
        anomaly: Some(Anomaly::TotalDiffers),
        cost_nanousd: Some(NanoUsd::new(4_890_250)),
        cost_nanousd_by_kind: CostByKind {
            input: Some(NanoUsd::new(1_015_000)),
            cache_read: Some(NanoUsd::new(128_000)),
            cache_write: Some(NanoUsd::new(0)),
            output: Some(NanoUsd::new(3_747_250)),
        },
        price: Some("genai-prices 2026-11-10 openai/gpt-5".to_owned()),
        time_to_first_byte_ms: Some(412),
        duration_ms: 3377,
        ..bare_record(intent)
    }
}

/// What `records --format jsonl` prints of it: how two records are compared.
pub(crate) fn json(record: &Record) -> String {
    serde_json::to_string(record).unwrap()
}
