//! Jobs in PostgreSQL: what the records of all nodes say of work that outlives its call.

use jiff::Timestamp;

use super::{Instant, Postgres, READ_TIMEOUT, word};
use crate::ledger::LedgerError;
use crate::record::JobSeen;

/// The condition is that of the index.
const SEEN: &str = "SELECT provider, job, provenance FROM records \
     WHERE job IS NOT NULL AND provenance <> 'none' AND ended_at >= $1 \
     ORDER BY ended_at DESC, node DESC, seq DESC LIMIT $2";

impl Postgres {
    /// What the last `limit` records since `since` that began or counted a job say, in the order in which they ended.
    pub(in crate::ledger) fn jobs_seen(&self, since: Timestamp, limit: usize) -> Result<Vec<JobSeen>, LedgerError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.run(READ_TIMEOUT, async |client| {
            let rows = client.query(SEEN, &[&Instant(since), &limit]).await?;
            let read = |row| Ok(JobSeen { provider: word(row, 0)?, job: row.try_get(1)?, provenance: word(row, 2)? });
            rows.iter().rev().map(read).collect()
        })
    }
}
