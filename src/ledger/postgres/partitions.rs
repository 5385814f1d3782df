//! Partitions: a table of records a month, made before the month begins, dropped when all of its records were removed.
//!
//! A record of another month gets one when it comes. Where none can be made, there is a table for all other months: a
//! record is never refused for when it ended.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::time::Duration;
use std::time::Instant as Moment;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};
use tokio_postgres::{Client, Row};

use super::{ASK_TIMEOUT, Instant, Postgres, READ_TIMEOUT};
use crate::ledger::LedgerError;
use crate::record::Record;

/// How many months are made ahead of the newest record.
const AHEAD: i32 = 2;
/// How long making one may wait for who reads: those who come meanwhile wait behind it.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// How long dropping one may wait for who reads or writes: those who come meanwhile wait behind it.
const DROP_LOCK_TIMEOUT: Duration = Duration::from_millis(100);
/// How long it may then take, which is a moment.
const DROP_TIMEOUT: Duration = Duration::from_secs(2);
/// How often months are looked for that are empty.
const DROP_EVERY: Duration = Duration::from_hours(1);

/// What is known of them.
#[derive(Debug, Default)]
pub(super) struct Partitions {
    /// Months that need no look any more: their table is there, or could not be made. One that another server has
    /// dropped meanwhile is missing: a late record of it goes to the table of other months.
    known: RefCell<BTreeSet<Date>>,
    /// When empty ones were looked for.
    looked_at: Cell<Option<Moment>>,
}

impl Postgres {
    /// Makes the tables that `records` and those of the next months go to.
    pub(super) fn make_partitions(&self, records: &[Record]) -> Result<(), LedgerError> {
        let mut months: BTreeSet<Date> = records.iter().map(|record| month_of(record.ended_at)).collect();
        let newest = months.last().copied();
        months.extend((1..=AHEAD).filter_map(|ahead| newest?.checked_add(ahead.months()).ok()));
        months.retain(|month| !self.partitions.known.borrow().contains(month));
        for month in months {
            let Ok(end) = month.checked_add(1.month()) else { continue };
            match self.run(ASK_TIMEOUT, async |client| make(client, month, end).await) {
                Err(LedgerError::Postgres(error)) if error.as_db_error().is_some() => tracing::warn!(
                    month = %month.strftime("%Y-%m"),
                    error = %error.as_db_error().map_or("", |error| error.message()),
                    "no table for a month's records can be made, they go to that of other months"
                ),
                made => made?,
            }
            self.partitions.known.borrow_mut().insert(month);
        }
        Ok(())
    }

    /// Drops, now and then, the tables of months that were over before `before` and have no record any more: whoever
    /// removed the last one, it is the only way in which its disk space comes back whole.
    ///
    /// Records can be neither read nor written at that moment. It comes only if it comes at once, otherwise at another time.
    /// Without any lock of all records (`DETACH … CONCURRENTLY`) it cannot be done, since there is a table for other
    /// months.
    pub(super) fn drop_partitions(&self, before: Timestamp) -> Result<(), LedgerError> {
        if self.partitions.looked_at.get().is_some_and(|at| at.elapsed() < DROP_EVERY) {
            return Ok(());
        }
        self.partitions.looked_at.set(Some(Moment::now()));
        let first_kept = month_of(before);
        let sql = r"SELECT relname::TEXT FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
                   WHERE inhparent = 'records'::REGCLASS AND relname ~ '^records_\d{4}_\d{2}$' AND relname < $1
                   ORDER BY relname";
        let names: Vec<String> = self.run(READ_TIMEOUT, async |client| {
            let rows = client.query(sql, &[&name_of(first_kept)]).await?;
            rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
        })?;
        for name in names {
            self.run(READ_TIMEOUT, async |client| match drop_if_empty(client, &name).await {
                Err(LedgerError::Postgres(error)) if error.as_db_error().is_some() => {
                    let error = error.as_db_error().map_or("", |error| error.message());
                    tracing::info!(table = name, error, "an empty month's table is in use, it is dropped another time");
                    Ok(())
                }
                done => done,
            })?;
        }
        self.partitions.known.borrow_mut().retain(|month| *month >= first_kept);
        Ok(())
    }
}

async fn drop_if_empty(client: &mut Client, name: &str) -> Result<(), LedgerError> {
    // By the index on it, from its end: the youngest record goes last, and what an index still has of those that are
    // gone it forgets when that is read. So the second time, when everybody waits, takes no time.
    let newest = format!("SELECT MAX(ended_at) FROM {name}");
    let is_empty = |row: &Row| Ok::<_, LedgerError>(row.try_get::<_, Option<Instant>>(0)?.is_none());
    if !is_empty(&client.query_one(&newest, &[]).await?)? {
        return Ok(());
    }
    let transaction = client.transaction().await?;
    let lock = format!(
        "SET LOCAL lock_timeout TO {lock_ms}; SET LOCAL statement_timeout TO {drop_ms};
         LOCK TABLE ONLY records IN ACCESS EXCLUSIVE MODE",
        lock_ms = DROP_LOCK_TIMEOUT.as_millis(),
        drop_ms = DROP_TIMEOUT.as_millis(),
    );
    transaction.batch_execute(&lock).await?;
    if is_empty(&transaction.query_one(&newest, &[]).await?)? {
        transaction.batch_execute(&format!("DROP TABLE {name}")).await?;
        tracing::info!(table = name, "a month's records were all removed, its table is dropped");
    }
    Ok(transaction.commit().await?)
}

fn name_of(month: Date) -> String {
    month.strftime("records_%Y_%m").to_string()
}

fn month_of(at: Timestamp) -> Date {
    at.to_zoned(TimeZone::UTC).date().first_of_month()
}

async fn make(client: &mut Client, month: Date, end: Date) -> Result<(), LedgerError> {
    // Before year 1 and after 9999 the name of a table would be no name.
    if !(1..=9998).contains(&month.year()) {
        return Ok(());
    }
    let name = name_of(month);
    let there = client.query_one("SELECT to_regclass($1) IS NOT NULL", &[&name]).await?;
    if there.try_get::<_, bool>(0)? {
        return Ok(());
    }
    let transaction = client.transaction().await?;
    transaction.execute("SELECT pg_advisory_xact_lock(hashtextextended('tokenmeter partitions', 0))", &[]).await?;
    let sql = format!(
        "SET LOCAL lock_timeout TO {lock_ms};
         CREATE TABLE IF NOT EXISTS {name} PARTITION OF records
             FOR VALUES FROM ('{month} 00:00:00+00') TO ('{end} 00:00:00+00');
         CREATE UNIQUE INDEX IF NOT EXISTS {name}_by_place ON {name} (node, seq);",
        lock_ms = LOCK_TIMEOUT.as_millis(),
    );
    transaction.batch_execute(&sql).await?;
    Ok(transaction.commit().await?)
}
