//! Jobs in `SQLite`: what the records say of work that outlives its call.

use jiff::Timestamp;

use super::{Sqlite, word};
use crate::ledger::LedgerError;
use crate::record::JobSeen;

/// The condition is that of the index.
const SEEN: &str = "SELECT provider, job, provenance FROM records \
     WHERE job IS NOT NULL AND provenance <> 'none' AND ended_at >= ? \
     ORDER BY ended_at DESC, node DESC, seq DESC LIMIT ?";

impl Sqlite {
    /// What the last `limit` records since `since` that began or counted a job say, in the order in which they ended.
    pub(in crate::ledger) fn jobs_seen(&self, since: Timestamp, limit: usize) -> Result<Vec<JobSeen>, LedgerError> {
        let mut statement = self.connection.prepare_cached(SEEN)?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = statement.query_map((since.as_microsecond(), limit), |row| {
            Ok(JobSeen { provider: word(0, row.get(0)?)?, job: row.get(1)?, provenance: word(2, row.get(2)?)? })
        })?;
        let mut seen = rows.collect::<Result<Vec<_>, _>>()?;
        seen.reverse();
        Ok(seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asking_for_jobs_does_not_read_every_record() {
        let folder = tempfile::tempdir().unwrap();
        let store = Sqlite::open(&folder.path().join("ledger.db")).unwrap();
        let plan: String =
            store.connection.query_row(&format!("EXPLAIN QUERY PLAN {SEEN}"), (5, 9), |row| row.get(3)).unwrap();
        assert!(plan.contains("records_of_jobs"), "{plan}");
    }
}
