//! Records: which of them are asked for, and in which order they come.

use jiff::Timestamp;

use crate::ids::{AppId, DepartmentId, KeyId, NodeId, Provider, TeamId, UpstreamName};
use crate::record::Record;

/// The columns of a record in the table `records` of either store, without the chain's.
pub(super) const COLUMNS: &str = "node, seq, id, started_at, ended_at, department, team, app, key, attributed_by, tags, \
     upstream, wire, provider, operation, model_requested, model, stream, status, outcome, provenance, \
     input, cache_read, cache_write, output, reasoning, cache_write_1h, audio_input, audio_output, image_input, \
     image_output, units, usage_raw, service_tier, estimate, delivered_output, anomaly, cost_nanousd, \
     cost_input_nanousd, cost_cache_read_nanousd, cost_cache_write_nanousd, cost_output_nanousd, price, \
     time_to_first_byte_ms, duration_ms, job";

/// Which records. `None` stands for all.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Ended at this instant or later.
    pub from: Option<Timestamp>,
    /// Ended before this instant.
    pub to: Option<Timestamp>,
    /// Of this department.
    pub department: Option<DepartmentId>,
    /// Of this team.
    pub team: Option<TeamId>,
    /// Of this application.
    pub app: Option<AppId>,
    /// With this key.
    pub key: Option<KeyId>,
    /// To this upstream.
    pub upstream: Option<UpstreamName>,
    /// To this provider.
    pub provider: Option<Provider>,
    /// Answered by this model.
    pub model: Option<String>,
}

impl Filter {
    /// The columns of a record that are compared with a word, each with the word asked for.
    pub(super) fn words(&self) -> impl Iterator<Item = (&'static str, &str)> {
        [
            ("department", self.department.as_ref().map(DepartmentId::as_str)),
            ("team", self.team.as_ref().map(TeamId::as_str)),
            ("app", self.app.as_ref().map(AppId::as_str)),
            ("key", self.key.as_ref().map(KeyId::as_str)),
            ("upstream", self.upstream.as_ref().map(UpstreamName::as_str)),
            ("provider", self.provider.as_ref().map(Provider::as_str)),
            ("model", self.model.as_deref()),
        ]
        .into_iter()
        .filter_map(|(column, word)| Some((column, word?)))
    }
}

/// A record's place in the order in which records are read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cursor {
    /// When it ended.
    pub ended_at: Timestamp,
    /// Its node.
    pub node: NodeId,
    /// Its place in the node's order.
    pub seq: u64,
}

impl Cursor {
    /// The place of `record`.
    pub fn of(record: &Record) -> Self {
        Self { ended_at: record.ended_at, node: record.node.clone(), seq: record.seq }
    }
}

/// The first microsecond that is not before `instant`.
pub(super) fn not_before(instant: Timestamp) -> i64 {
    let microsecond = instant.as_microsecond();
    let is_whole = instant.as_nanosecond() <= i128::from(microsecond).saturating_mul(1_000);
    if is_whole { microsecond } else { microsecond.saturating_add(1) }
}
