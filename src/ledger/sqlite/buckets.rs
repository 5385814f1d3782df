//! Buckets in `SQLite`: sums halved for reading, since `SUM` of whole integers fails past 2⁶³.

use rusqlite::{Connection, OptionalExtension, Row as SqlRow, params_from_iter, types::Value};

use super::Sqlite;
use crate::ledger::buckets::{BucketKey, COUNTS, Sums, kept};
use crate::ledger::{Counts, Dimension, LedgerError, Row};
use crate::period::Bucket;

const TOTAL: &str = "(COALESCE(input, 0) + COALESCE(cache_read, 0) + COALESCE(cache_write, 0) + COALESCE(output, 0))";

impl Sqlite {
    /// The sums from `first` (included) to `end` (excluded) by `by`, ordered by it.
    pub(in crate::ledger) fn month_rows(
        &self,
        first: Bucket,
        end: Bucket,
        by: &[Dimension],
    ) -> Result<Vec<Row>, LedgerError> {
        let by: Vec<&str> = by.iter().map(|dimension| dimension.as_str()).collect();
        let sums: Vec<String> = COUNTS.iter().map(|column| exact_sum(column)).collect();
        let columns: Vec<&str> = by.iter().copied().chain(sums.iter().map(String::as_str)).collect();
        let mut sql = format!("SELECT {} FROM buckets WHERE bucket >= ? AND bucket < ?", columns.join(", "));
        if by.is_empty() {
            sql.push_str(" HAVING COUNT(*) > 0");
        } else {
            sql = format!("{sql} GROUP BY {0} ORDER BY {0}", by.join(", "));
        }
        let mut statement = self.connection.prepare_cached(&sql)?;
        let rows = statement
            .query_map((first.index(), end.index()), |row| {
                let values = (0..by.len()).map(|column| row.get(column)).collect::<Result<_, _>>()?;
                Ok(Row { values, counts: read_sums(row, by.len())? })
            })?
            .collect::<Result<_, _>>()?;
        Ok(rows)
    }
}

/// The upper and the lower half of a sum: `SUM` of whole integers fails past 2⁶³.
fn exact_sum(expression: &str) -> String {
    format!("SUM({expression} >> 32), SUM({expression} & 4294967295)")
}

fn read_sums(row: &SqlRow<'_>, mut column: usize) -> rusqlite::Result<Counts> {
    Counts::of_values(|| {
        let (high, low): (i64, i64) = (row.get(column)?, row.get(column.saturating_add(1))?);
        column = column.saturating_add(2);
        Ok((i128::from(high) << 32) + i128::from(low))
    })
}

/// Adds the sums to the buckets, in the transaction that is open.
pub(super) fn write(sums: &Sums, connection: &Connection) -> Result<(), LedgerError> {
    let names: Vec<&str> = Dimension::ALL.iter().map(|dimension| dimension.as_str()).collect();
    let condition = names.join(" = ? AND ");
    let columns = COUNTS.join(", ");
    let mut reading =
        connection.prepare_cached(&format!("SELECT {columns} FROM buckets WHERE bucket = ? AND {condition} = ?"))?;
    let places = vec!["?"; 1 + names.len() + COUNTS.len()].join(", ");
    let mut writing = connection.prepare_cached(&format!(
        "INSERT OR REPLACE INTO buckets (bucket, {}, {columns}) VALUES ({places})",
        names.join(", ")
    ))?;
    for (key, added) in sums.iter() {
        let mut counts = reading
            .query_row(params_from_iter(params(key)), |row| {
                let mut columns = 0..;
                Counts::of_values(|| Ok(i128::from(row.get::<_, i64>(columns.next().unwrap_or(0))?)))
            })
            .optional()?
            .unwrap_or_default();
        counts += *added;
        let counts = counts.named().map(|(_, count)| Value::from(kept(count)));
        writing.execute(params_from_iter(params(key).chain(counts)))?;
    }
    Ok(())
}
fn params(key: &BucketKey) -> impl Iterator<Item = Value> {
    std::iter::once(Value::from(key.bucket)).chain(key.values.iter().cloned().map(Value::from))
}

/// Every bucket as the records make it, and as it is kept, in the order of their keys.
pub(super) fn statements() -> (String, String) {
    let names: Vec<&str> = Dimension::ALL.iter().map(|dimension| dimension.as_str()).collect();
    let values: Vec<String> = names.iter().map(|name| format!("COALESCE({name}, '')")).collect();
    let micros = crate::period::BUCKET_SECS.saturating_mul(1_000_000);
    let when = |condition: &str, value: &str| format!("CASE WHEN {condition} THEN {value} ELSE 0 END");
    let sums: Vec<String> = COUNTS
        .iter()
        .map(|column| match *column {
            "requests" => "1".to_owned(),
            "priced_requests" => when("cost_nanousd IS NOT NULL", "1"),
            "unpriced_tokens" => when("cost_nanousd IS NULL", TOTAL),
            "reported_tokens" => when("provenance = 'reported'", TOTAL),
            "partial_tokens" => when("provenance = 'partial'", TOTAL),
            "estimated_tokens" => when("provenance = 'estimated'", TOTAL),
            "unknown_requests" => when("provenance = 'unknown'", "1"),
            count => format!("COALESCE({count}, 0)"),
        })
        .map(|expression| exact_sum(&expression))
        .collect();
    let derived = format!(
        // Rounded down, also before 1970.
        "SELECT (ended_at - ((ended_at % {micros}) + {micros}) % {micros}) / {micros}, {}, {} FROM records \
         GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9 ORDER BY 1, 2, 3, 4, 5, 6, 7, 8, 9",
        values.join(", "),
        sums.join(", "),
    );
    let sums: Vec<String> = COUNTS.iter().map(|column| format!("{column} >> 32, {column} & 4294967295")).collect();
    let kept = format!(
        "SELECT bucket, {}, {} FROM buckets ORDER BY 1, 2, 3, 4, 5, 6, 7, 8, 9",
        names.join(", "),
        sums.join(", ")
    );
    (derived, kept)
}

/// A row of either of [`statements`].
pub(super) fn read(row: &SqlRow<'_>) -> rusqlite::Result<(BucketKey, Counts)> {
    let mut values: [String; 8] = Default::default();
    for (column, value) in (1..).zip(&mut values) {
        *value = row.get(column)?;
    }
    Ok((BucketKey { bucket: row.get(0)?, values }, read_sums(row, 9)?))
}
