//! Verify: derives everything anew from the records, and compares.

use std::cmp::Ordering;
use std::fmt;

use rusqlite::Connection;

use super::buckets::{BucketKey, Counts};
use super::{Ledger, LedgerError, buckets};
use crate::period::BUCKET_SECS;

/// What was found to be right.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Verified {
    /// Records.
    pub records: u64,
    /// Buckets, each the sum of its records.
    pub buckets: u64,
    /// Nodes, each with records from 1 to its last without a gap.
    pub nodes: u64,
    /// Tokens in all.
    pub tokens: i128,
}

/// The first thing that is not as the records say, in words.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Difference(String);

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Ledger {
    /// Recomputes buckets and totals from the records, and looks for gaps and damage. All in one view of the ledger,
    /// also while a server writes.
    pub fn verify(&self) -> Result<Result<Verified, Difference>, LedgerError> {
        let transaction = self.connection.unchecked_transaction()?;
        let verified = verify(&transaction)?;
        transaction.rollback()?;
        Ok(verified)
    }
}

fn verify(connection: &Connection) -> Result<Result<Verified, Difference>, LedgerError> {
    let integrity: String = connection.query_row("PRAGMA integrity_check(1)", (), |row| row.get(0))?;
    if integrity != "ok" {
        return Ok(Err(Difference(format!("the database file is damaged: {integrity}"))));
    }
    let nodes = match nodes(connection)? {
        Ok(nodes) => nodes,
        Err(difference) => return Ok(Err(difference)),
    };
    let (derived, kept) = buckets::statements();
    let mut derived = connection.prepare(&derived)?;
    let mut derived = derived.query_map((), buckets::read)?;
    let mut kept = connection.prepare(&kept)?;
    let mut kept = kept.query_map((), buckets::read)?;
    let mut verified = Verified { nodes, ..Verified::default() };
    loop {
        let (from_records, from_buckets) = (derived.next().transpose()?, kept.next().transpose()?);
        if from_records.is_none() && from_buckets.is_none() {
            return Ok(Ok(verified));
        }
        if let Some(difference) = compare(from_records.as_ref(), from_buckets.as_ref()) {
            return Ok(Err(difference));
        }
        if let Some((_, counts)) = from_records {
            verified.buckets = verified.buckets.saturating_add(1);
            verified.records = verified.records.saturating_add(u64::try_from(counts.requests).unwrap_or(0));
            verified.tokens = verified.tokens.saturating_add(counts.total_tokens());
        }
    }
}

fn compare(
    from_records: Option<&(BucketKey, Counts)>,
    from_buckets: Option<&(BucketKey, Counts)>,
) -> Option<Difference> {
    let order = match (from_records, from_buckets) {
        (Some((record, _)), Some((bucket, _))) => record.cmp(bucket),
        (None, Some(_)) => Ordering::Greater,
        (Some(_) | None, None) => Ordering::Less,
    };
    let (key, counts) = if order == Ordering::Greater { from_buckets? } else { from_records? };
    let name = name(key);
    match order {
        Ordering::Less => Some(Difference(format!("bucket {name} is missing: its {} records", counts.requests))),
        Ordering::Greater => {
            Some(Difference(format!("bucket {name} has no records, but {} requests", counts.requests)))
        }
        Ordering::Equal => {
            let (_, kept) = from_buckets?;
            let mut pairs = counts.named().zip(kept.named());
            let ((column, sum), (_, kept)) =
                pairs.find(|((_, sum), (_, kept))| i128::from(buckets::kept(*sum)) != *kept)?;
            Some(Difference(format!("bucket {name} has {column} = {kept}, its records sum to {sum}")))
        }
    }
}

fn name(key: &BucketKey) -> String {
    let begin = jiff::Timestamp::from_second(key.bucket.saturating_mul(BUCKET_SECS));
    let begin = begin.map_or_else(|_| key.bucket.to_string(), |begin| begin.to_string());
    format!("{begin} ({})", key.values.join(", "))
}

/// How many nodes there are, each with a record at every place of its order.
fn nodes(connection: &Connection) -> Result<Result<u64, Difference>, LedgerError> {
    let mut statement = connection.prepare(
        "WITH places AS (SELECT node, seq FROM records UNION ALL SELECT node, seq FROM duplicates),
              ends AS (SELECT node, COUNT(*) AS count, MIN(seq) AS first, MAX(seq) AS last FROM places GROUP BY node)
         SELECT node, count, first, last, last_seq FROM ends LEFT JOIN positions USING (node)
         UNION ALL
         SELECT node, 0, 0, 0, last_seq FROM positions WHERE node NOT IN (SELECT node FROM ends)
         ORDER BY node",
    )?;
    let mut rows = statement.query(())?;
    let mut nodes = 0_u64;
    while let Some(row) = rows.next()? {
        let node: String = row.get(0)?;
        let (count, first, last): (i64, i64, i64) = (row.get(1)?, row.get(2)?, row.get(3)?);
        let kept: Option<i64> = row.get(4)?;
        if kept != Some(last) {
            let kept = kept.map_or("nothing".to_owned(), |kept| format!("record {kept}"));
            return Ok(Err(Difference(format!(
                "node {node} is applied up to {kept} by its position, but its last record is {last}"
            ))));
        }
        if first != 1 || count != last {
            let gap = first_gap(connection, &node)?;
            return Ok(Err(Difference(format!("node {node} has no record {gap}, but one of {last}"))));
        }
        nodes = nodes.saturating_add(1);
    }
    Ok(Ok(nodes))
}

fn first_gap(connection: &Connection, node: &str) -> Result<i64, LedgerError> {
    let mut statement = connection.prepare(
        "SELECT seq FROM records WHERE node = ?1 UNION SELECT seq FROM duplicates WHERE node = ?1 ORDER BY 1",
    )?;
    let mut seqs = statement.query_map([node], |row| row.get::<_, i64>(0))?;
    let mut expected = 1_i64;
    while let Some(seq) = seqs.next().transpose()? {
        if seq != expected {
            break;
        }
        expected = expected.saturating_add(1);
    }
    Ok(expected)
}
