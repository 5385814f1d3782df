//! Buckets in `SQLite`, and their sums by day. No sum is left to `SUM` as a whole, which fails past 2⁶³.

use std::collections::{BTreeMap, VecDeque};

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row as SqlRow, Transaction, params_from_iter};

use super::Sqlite;
use crate::ledger::buckets::{BUCKETS_A_DAY, BucketKey, COUNTS, Sums, kept};
use crate::ledger::{Counts, Dimension, LedgerError, Row};
use crate::period::{BUCKET_SECS, Bucket};

const TOTAL: &str = "(COALESCE(input, 0) + COALESCE(cache_read, 0) + COALESCE(cache_write, 0) + COALESCE(output, 0))";

/// The sums of fifteen minutes.
pub(super) const BUCKETS: Table = Table { name: "buckets", number: "bucket" };
/// The sums of their days in UTC.
pub(super) const DAYS: Table = Table { name: "days", number: "day" };

/// A table of sums.
#[derive(Clone, Copy)]
pub(super) struct Table {
    name: &'static str,
    /// Its first column.
    number: &'static str,
}

impl Sqlite {
    /// The sums from `first` (included) to `end` (excluded) by `by`, ordered by it.
    pub(in crate::ledger) fn month_rows(
        &self,
        first: Bucket,
        end: Bucket,
        by: &[Dimension],
    ) -> Result<Vec<Row>, LedgerError> {
        let transaction = self.connection.unchecked_transaction()?;
        let mut rows = BTreeMap::new();
        for (table, first, end) in parts(first.index(), end.index()) {
            add_rows(&transaction, table, (first, end), by, &mut rows)?;
        }
        Ok(rows.into_iter().map(|(values, counts)| Row { values, counts }).collect())
    }
}

/// Whole days, and buckets on both sides of them.
fn parts(first: i64, end: i64) -> Vec<(Table, i64, i64)> {
    let first_day = first.saturating_add(BUCKETS_A_DAY.saturating_sub(1)).div_euclid(BUCKETS_A_DAY);
    let end_day = end.div_euclid(BUCKETS_A_DAY);
    if first_day >= end_day {
        return vec![(BUCKETS, first, end)];
    }
    vec![
        (BUCKETS, first, first_day.saturating_mul(BUCKETS_A_DAY)),
        (DAYS, first_day, end_day),
        (BUCKETS, end_day.saturating_mul(BUCKETS_A_DAY), end),
    ]
}

/// Adds what `table` holds from `first` to `end` to `rows`. Summed here: `SUM` of whole integers fails past 2⁶³.
fn add_rows(
    connection: &Connection,
    table: Table,
    (first, end): (i64, i64),
    by: &[Dimension],
    rows: &mut BTreeMap<Vec<String>, Counts>,
) -> Result<(), LedgerError> {
    let Table { name, number } = table;
    let columns: Vec<&str> = by.iter().map(|dimension| dimension.as_str()).chain(COUNTS).collect();
    let mut statement = connection
        .prepare_cached(&format!("SELECT {} FROM {name} WHERE {number} >= ? AND {number} < ?", columns.join(", ")))?;
    let mut found = statement.query((first, end))?;
    while let Some(row) = found.next()? {
        let values = (0..by.len()).map(|column| row.get(column)).collect::<Result<Vec<String>, _>>()?;
        *rows.entry(values).or_default() += read_counts(row, by.len())?;
    }
    Ok(())
}

/// The counts of a row of sums, from `column` on.
pub(super) fn read_counts(row: &SqlRow<'_>, mut column: usize) -> rusqlite::Result<Counts> {
    Counts::of_values(|| {
        let count: i64 = row.get(column)?;
        column = column.saturating_add(1);
        Ok(i128::from(count))
    })
}

/// Adds the sums to the buckets and to their days, in the transaction that is open.
pub(super) fn write(sums: &Sums<&str>, connection: &Connection) -> Result<(), LedgerError> {
    write_to(BUCKETS, sums, connection)?;
    write_to(DAYS, &sums.by_day(), connection)
}

fn write_to<S: AsRef<str> + Clone + Ord>(
    table: Table,
    sums: &Sums<S>,
    connection: &Connection,
) -> Result<(), LedgerError> {
    let Table { name, number } = table;
    let names: Vec<&str> = Dimension::ALL.iter().map(|dimension| dimension.as_str()).collect();
    let condition = names.join(" = ? AND ");
    let columns = columns();
    let mut reading =
        connection.prepare_cached(&format!("SELECT {columns} FROM {name} WHERE {number} = ? AND {condition} = ?"))?;
    let places = vec!["?"; 1 + names.len() + COUNTS.len()].join(", ");
    let mut writing = connection.prepare_cached(&format!(
        "INSERT OR REPLACE INTO {name} ({number}, {}, {columns}) VALUES ({places})",
        names.join(", ")
    ))?;
    for (key, added) in sums.iter() {
        let mut counts =
            reading.query_row(params_from_iter(params(key)), |row| read_counts(row, 0)).optional()?.unwrap_or_default();
        counts += *added;
        let counts = counts.named().map(|(_, count)| Value::from(kept(count)));
        writing.execute(params_from_iter(params(key).chain(counts)))?;
    }
    Ok(())
}

fn params<S: AsRef<str>>(key: &BucketKey<S>) -> impl Iterator<Item = Value> {
    std::iter::once(Value::from(key.bucket))
        .chain(key.values.iter().map(|value| Value::from(value.as_ref().to_owned())))
}

/// Fills the days from the buckets.
pub(super) fn sum_up_days(connection: &Transaction<'_>) -> Result<(), LedgerError> {
    let mut buckets = connection.prepare(&kept_statement(BUCKETS))?;
    for day in by_day(buckets.query_map([i64::MIN], read_kept)?.map(|row| Ok(row?))) {
        let (key, counts) = day?;
        let mut sums = Sums::default();
        sums.add_counts(key, counts);
        write_to(DAYS, &sums, connection)?;
    }
    Ok(())
}

/// Sums of days, from buckets in the order of their keys.
pub(super) fn by_day(
    buckets: impl Iterator<Item = Result<(BucketKey, Counts), LedgerError>>,
) -> impl Iterator<Item = Result<(BucketKey, Counts), LedgerError>> {
    let day_of = |key: &BucketKey| key.bucket.div_euclid(BUCKETS_A_DAY);
    let mut buckets = buckets.peekable();
    let mut summed = VecDeque::new();
    std::iter::from_fn(move || {
        if summed.is_empty() {
            let mut sums = Sums::default();
            let day = buckets.peek().and_then(|next| next.as_ref().ok()).map(|(key, _)| day_of(key));
            while let Some(next) =
                buckets.next_if(|next| next.as_ref().map_or(true, |(key, _)| Some(day_of(key)) == day))
            {
                match next {
                    Ok((key, counts)) => sums.add_counts(key, counts),
                    Err(error) => return Some(Err(error)),
                }
            }
            summed.extend(sums.by_day().iter().map(|(key, counts)| (key.clone(), *counts)));
        }
        summed.pop_front().map(Ok)
    })
}

/// The buckets that the records make which ended from one instant (included) to another (excluded), in the order of
/// their keys.
pub(super) fn derived_statement() -> String {
    let names = Dimension::ALL.map(|dimension| format!("COALESCE({}, '')", dimension.as_str()));
    let micros = BUCKET_SECS.saturating_mul(1_000_000);
    format!(
        // Rounded down, also before 1970.
        "SELECT (ended_at - ((ended_at % {micros}) + {micros}) % {micros}) / {micros}, {}, {} FROM records \
         WHERE ended_at >= ? AND ended_at < ? GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9 ORDER BY 1, 2, 3, 4, 5, 6, 7, 8, 9",
        names.join(", "),
        sums_of_records(),
    )
}

/// What [`Counts::of`] says of records, summed. Each sum is its upper and its lower half.
pub(super) fn sums_of_records() -> String {
    let when = |condition: &str, value: &str| format!("CASE WHEN {condition} THEN {value} ELSE 0 END");
    let expressions = COUNTS.map(|column| match column {
        "requests" => "1".to_owned(),
        "priced_requests" => when("cost_nanousd IS NOT NULL", "1"),
        "unpriced_tokens" => when("cost_nanousd IS NULL", TOTAL),
        "reported_tokens" => when("provenance = 'reported'", TOTAL),
        "partial_tokens" => when("provenance = 'partial'", TOTAL),
        "estimated_tokens" => when("provenance = 'estimated'", TOTAL),
        "unknown_requests" => when("provenance = 'unknown'", "1"),
        count => format!("COALESCE({count}, 0)"),
    });
    expressions.map(|expression| exact_sum(&expression)).join(", ")
}

/// The columns of [`Counts`].
pub(super) fn columns() -> String {
    COUNTS.join(", ")
}

/// The same of buckets.
pub(super) fn sums_of_buckets() -> String {
    COUNTS.map(exact_sum).join(", ")
}

/// The upper and the lower half of a sum: `SUM` of whole integers fails past 2⁶³.
fn exact_sum(expression: &str) -> String {
    format!("SUM({expression} >> 32), SUM({expression} & 4294967295)")
}

/// Halves of sums, from `column` on; of no rows: nothing.
pub(super) fn read_sums(row: &SqlRow<'_>, mut column: usize) -> rusqlite::Result<Counts> {
    Counts::of_values(|| {
        let (high, low): (Option<i64>, Option<i64>) = (row.get(column)?, row.get(column.saturating_add(1))?);
        column = column.saturating_add(2);
        Ok((i128::from(high.unwrap_or(0)) << 32) + i128::from(low.unwrap_or(0)))
    })
}

/// What a table of sums holds from a number on, in the order of the keys.
pub(super) fn kept_statement(table: Table) -> String {
    let Table { name, number } = table;
    let columns: Vec<&str> = Dimension::ALL.iter().map(|dimension| dimension.as_str()).chain(COUNTS).collect();
    format!(
        "SELECT {number}, {} FROM {name} WHERE {number} >= ? ORDER BY 1, 2, 3, 4, 5, 6, 7, 8, 9",
        columns.join(", ")
    )
}

/// A row of [`derived_statement`].
pub(super) fn read_derived(row: &SqlRow<'_>) -> rusqlite::Result<(BucketKey, Counts)> {
    Ok((read_key(row)?, read_sums(row, 9)?))
}

/// A row of [`kept_statement`].
pub(super) fn read_kept(row: &SqlRow<'_>) -> rusqlite::Result<(BucketKey, Counts)> {
    Ok((read_key(row)?, read_counts(row, 9)?))
}

fn read_key(row: &SqlRow<'_>) -> rusqlite::Result<BucketKey> {
    let mut values: [String; 8] = Default::default();
    for (column, value) in (1..).zip(&mut values) {
        *value = row.get(column)?;
    }
    Ok(BucketKey { bucket: row.get(0)?, values })
}
