//! Jobs: what the records say of work that outlives its call.

use jiff::Timestamp;

use super::{Ledger, LedgerError, sqlite};
use crate::record::JobSeen;

/// The condition is that of the index.
pub(super) const SEEN: &str = "SELECT provider, job, provenance FROM records \
     WHERE job IS NOT NULL AND provenance <> 'none' AND ended_at >= ? \
     ORDER BY ended_at DESC, node DESC, seq DESC LIMIT ?";

impl Ledger {
    /// What the last `limit` records since `since` that began or counted a job say, in the order in which they ended.
    pub fn jobs_seen(&self, since: Timestamp, limit: usize) -> Result<Vec<JobSeen>, LedgerError> {
        let mut statement = self.connection.prepare_cached(SEEN)?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = statement.query_map((since.as_microsecond(), limit), |row| {
            Ok(JobSeen {
                provider: sqlite::word(0, row.get(0)?)?,
                job: row.get(1)?,
                provenance: sqlite::word(2, row.get(2)?)?,
            })
        })?;
        let mut seen = rows.collect::<Result<Vec<_>, _>>()?;
        seen.reverse();
        Ok(seen)
    }
}
