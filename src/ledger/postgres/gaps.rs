//! Gaps in PostgreSQL: calls that passed unmetered.

use jiff::Timestamp;
use tokio_postgres::Transaction;

use super::{Instant, Postgres, READ_TIMEOUT};
use crate::ids::NodeId;
use crate::ledger::{LedgerError, count, integer};
use crate::period::{BUCKET_SECS, Bucket};
use crate::record::Gap;

/// Keeps `gap`; one that is there already stays as it is.
pub(super) async fn insert(transaction: &Transaction<'_>, node: &NodeId, gap: &Gap) -> Result<(), LedgerError> {
    let sql = "INSERT INTO gaps (node, began_at, ended_at, requests) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING";
    let requests = integer(gap.requests);
    transaction.execute(sql, &[&node.as_str(), &Instant(gap.from), &Instant(gap.to), &requests]).await?;
    Ok(())
}

fn begin_of(bucket: Bucket) -> Instant {
    let second = bucket.index().saturating_mul(BUCKET_SECS);
    let is_past = second > 0;
    Instant(Timestamp::from_second(second).unwrap_or(if is_past { Timestamp::MAX } else { Timestamp::MIN }))
}

impl Postgres {
    /// How many calls passed unmetered from `first` (included) to `end` (excluded).
    pub(in crate::ledger) fn unmetered_requests(&self, first: Bucket, end: Bucket) -> Result<u64, LedgerError> {
        let sql = "SELECT LEAST(COALESCE(SUM(requests), 0), 9223372036854775807)::BIGINT FROM gaps
                   WHERE began_at >= $1 AND began_at < $2";
        self.run(READ_TIMEOUT, async |client| {
            let row = client.query_one(sql, &[&begin_of(first), &begin_of(end)]).await?;
            Ok(count(row.try_get(0)?))
        })
    }
}
