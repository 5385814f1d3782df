//! Buckets in PostgreSQL: one row for each node, so that no two nodes write the same.

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use tokio_postgres::{Row as SqlRow, Transaction};

use super::{Postgres, READ_TIMEOUT};
use crate::ledger::buckets::{BucketKey, COUNTS, Sums, kept};
use crate::ledger::{Counts, Dimension, LedgerError, Row};
use crate::period::{BUCKET_SECS, Bucket};

impl Postgres {
    /// The sums from `first` (included) to `end` (excluded) by `by`, ordered by it.
    pub(in crate::ledger) fn month_rows(
        &self,
        first: Bucket,
        end: Bucket,
        by: &[Dimension],
    ) -> Result<Vec<Row>, LedgerError> {
        let by: Vec<&str> = by.iter().map(|dimension| dimension.as_str()).collect();
        let sums = sums();
        let columns: Vec<&str> = by.iter().copied().chain([sums.as_str()]).collect();
        let mut sql = format!("SELECT {} FROM buckets WHERE bucket >= $1 AND bucket < $2", columns.join(", "));
        if by.is_empty() {
            sql.push_str(" HAVING COUNT(*) > 0");
        } else {
            sql = format!("{sql} GROUP BY {0} ORDER BY {0}", by.join(", "));
        }
        self.run(READ_TIMEOUT, async |client| {
            let rows = client.query(&sql, &[&first.index(), &end.index()]).await?;
            rows.iter()
                .map(|row| {
                    let values = (0..by.len()).map(|column| row.try_get(column)).collect::<Result<_, _>>()?;
                    Ok(Row { values, counts: read_sums(row, by.len())? })
                })
                .collect()
        })
    }
}

/// Adds the sums to the node's buckets.
pub(super) async fn write(transaction: &Transaction<'_>, node: &str, sums: &Sums<&str>) -> Result<(), LedgerError> {
    let mut buckets: Vec<i64> = Vec::new();
    let mut hashes: Vec<Vec<u8>> = Vec::new();
    let mut names: [Vec<&str>; 8] = Default::default();
    let mut counts: [Vec<i64>; COUNTS.len()] = Default::default();
    for (key, added) in sums.iter() {
        buckets.push(key.bucket);
        hashes.push(hash(key));
        for (column, value) in names.iter_mut().zip(&key.values) {
            column.push(value);
        }
        for (column, (_, count)) in counts.iter_mut().zip(added.named()) {
            column.push(kept(count));
        }
    }
    let dimensions = Dimension::ALL.map(Dimension::as_str).join(", ");
    let texts = (4..12).map(|place| format!("${place}::TEXT[]"));
    let bigints = (12..25).map(|place| format!("${place}::BIGINT[]"));
    let arrays: Vec<String> = texts.chain(bigints).collect();
    let sql = format!(
        "INSERT INTO buckets (node, bucket, names_hash, {dimensions}, {columns}) \
         SELECT $1, * FROM UNNEST($2::BIGINT[], $3::BYTEA[], {arrays}) \
         ON CONFLICT (bucket, node, names_hash) DO UPDATE SET {sums}",
        columns = COUNTS.join(", "),
        arrays = arrays.join(", "),
        sums = added_to("buckets"),
    );
    let mut values: Vec<&(dyn tokio_postgres::types::ToSql + Sync)> = vec![&node, &buckets, &hashes];
    for column in &names {
        values.push(column);
    }
    for column in &counts {
        values.push(column);
    }
    transaction.execute(&sql, &values).await?;
    Ok(())
}

/// What an upsert sets: each count of the row of `table` with that which was to be inserted.
pub(super) fn added_to(table: &str) -> String {
    COUNTS.map(|column| format!("{column} = sum_within_bigint({table}.{column}, excluded.{column})")).join(", ")
}

/// Half a SHA-256 of the names, each behind its length.
fn hash(key: &BucketKey<&str>) -> Vec<u8> {
    let mut hash = Sha256::new();
    for value in &key.values {
        hash.update((value.len() as u64).to_be_bytes());
        hash.update(value);
    }
    hash.finalize().into_iter().take(16).collect()
}

/// A sum as text: one of many counts is longer than any integer here.
fn exact_sum(expression: impl std::fmt::Display) -> String {
    format!("COALESCE(SUM({expression}), 0)::TEXT")
}

/// The sums of a table that has a column for each count.
pub(super) fn sums() -> String {
    COUNTS.map(exact_sum).join(", ")
}

/// Sums of a row, from `column` on.
pub(super) fn read_sums(row: &SqlRow, column: usize) -> Result<Counts, LedgerError> {
    let mut columns = column..;
    Counts::of_values(|| {
        let column = columns.next().unwrap_or(0);
        let sum: &str = row.try_get(column)?;
        sum.parse().map_err(|_| super::unreadable(row, column, serde::de::Error::custom(sum)))
    })
}

/// What [`Counts::of`] says of records, summed.
pub(super) fn sums_of_records() -> String {
    // What a call has in all counts up to 2⁶³, as its record says.
    let total = "LEAST(COALESCE(input, 0)::NUMERIC + COALESCE(cache_read, 0) + COALESCE(cache_write, 0) \
                 + COALESCE(output, 0), 9223372036854775807)";
    let when = |condition: &str, value: &str| format!("CASE WHEN {condition} THEN {value} ELSE 0 END");
    let expressions = COUNTS.map(|column| match column {
        "requests" => "1".to_owned(),
        "priced_requests" => when("cost_nanousd IS NOT NULL", "1"),
        "unpriced_tokens" => when("cost_nanousd IS NULL", total),
        "reported_tokens" => when("provenance = 'reported'", total),
        "partial_tokens" => when("provenance = 'partial'", total),
        "estimated_tokens" => when("provenance = 'estimated'", total),
        "unknown_requests" => when("provenance = 'unknown'", "1"),
        count => format!("COALESCE({count}, 0)"),
    });
    expressions.map(exact_sum).join(", ")
}

/// The buckets whose records are all there, as these make them and as they are kept, in the order of their keys. Where
/// some were removed, all that ended `from` an instant on are there.
pub(super) fn statements(from: Option<Timestamp>) -> (String, String) {
    let names = Dimension::ALL.map(Dimension::as_str);
    let values = names.map(|name| format!("COALESCE({name}, '')"));
    let order = "GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9 ORDER BY 1, 2, 3, 4, 5, 6, 7, 8, 9";
    let (from, first) = from.map_or(("TRUE".to_owned(), "TRUE".to_owned()), |from| {
        (format!("ended_at >= '{from}'"), format!("bucket >= {}", Bucket::of(from).index()))
    });
    let derived = format!(
        "SELECT FLOOR(EXTRACT(EPOCH FROM ended_at) / {BUCKET_SECS})::BIGINT, {}, {} FROM records WHERE {from} {order}",
        values.join(", "),
        sums_of_records(),
    );
    let kept = format!("SELECT bucket, {}, {} FROM buckets WHERE {first} {order}", names.join(", "), sums());
    (derived, kept)
}

/// A row of either of [`statements`].
pub(super) fn read(row: &SqlRow) -> Result<(BucketKey, Counts), LedgerError> {
    let mut values: [String; 8] = Default::default();
    for (column, value) in (1..).zip(&mut values) {
        *value = row.try_get(column)?;
    }
    Ok((BucketKey { bucket: row.try_get(0)?, values }, read_sums(row, 9)?))
}
