//! Intents: what stands in a journal before a call's record.

use jiff::Timestamp;
use tokenmeter::ids::RecordId;
use tokenmeter::record::{Intent, Progress, Record};
use tokenmeter::usage::{TokenCounts, Units};

/// The intent of the call that `record` ends.
pub(crate) fn intent(record: &Record) -> Intent {
    Intent {
        id: record.id,
        started_at: record.started_at,
        department: record.department.clone(),
        team: record.team.clone(),
        app: record.app.clone(),
        key: record.key.clone(),
        attributed_by: record.attributed_by,
        tags: record.tags.clone(),
        upstream: record.upstream.clone(),
        wire: record.wire.clone(),
        provider: record.provider.clone(),
        operation: record.operation,
        model_requested: record.model_requested.clone(),
        stream: record.stream,
        body_bytes: Some(2_000),
        is_consumption: true,
    }
}

/// What the call `id` has brought by `at`: so many tokens of text.
pub(crate) fn progress(id: RecordId, at: Timestamp, delivered_tokens: u64) -> Progress {
    Progress {
        id,
        at,
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
