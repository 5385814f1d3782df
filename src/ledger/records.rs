//! Records: which of them are asked for, and in which order they come.

use jiff::Timestamp;

use crate::ids::{AppId, DepartmentId, KeyId, NodeId, Provider, TeamId, UpstreamName};
use crate::record::Record;

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
