//! Gaps in `SQLite`: calls that passed unmetered.

use rusqlite::Connection;

use super::Sqlite;
use crate::ids::NodeId;
use crate::ledger::{LedgerError, count, integer};
use crate::period::{BUCKET_SECS, Bucket};
use crate::record::Gap;

/// Keeps `gap`; one that is there already stays as it is.
pub(super) fn insert(connection: &Connection, node: &NodeId, gap: &Gap) -> Result<(), LedgerError> {
    connection
        .prepare_cached(
            "INSERT INTO gaps (node, began_at, ended_at, requests) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
        )?
        .execute((node.as_str(), gap.from.as_microsecond(), gap.to.as_microsecond(), integer(gap.requests)))?;
    Ok(())
}

fn micros_of(bucket: Bucket) -> i64 {
    bucket.index().saturating_mul(BUCKET_SECS).saturating_mul(1_000_000)
}

impl Sqlite {
    /// How many calls passed unmetered from `first` (included) to `end` (excluded).
    pub(in crate::ledger) fn unmetered_requests(&self, first: Bucket, end: Bucket) -> Result<u64, LedgerError> {
        let sum = self
            .connection
            .prepare_cached("SELECT COALESCE(SUM(requests), 0) FROM gaps WHERE began_at >= ? AND began_at < ?")?
            .query_row((micros_of(first), micros_of(end)), |row| row.get(0))?;
        Ok(count(sum))
    }
}
