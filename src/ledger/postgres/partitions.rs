//! Partitions: a table of records a month, made before the month begins.
//!
//! A record of another month gets one when it comes. Where none can be made, there is a table for all other months: a
//! record is never refused for when it ended.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};
use tokio_postgres::Client;

use super::{ASK_TIMEOUT, Postgres};
use crate::ledger::LedgerError;
use crate::record::Record;

/// How many months are made ahead of the newest record.
const AHEAD: i32 = 2;
/// How long making one may wait for who reads: those who come meanwhile wait behind it.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// Months that need no look any more: their table is there, or could not be made.
#[derive(Debug, Default)]
pub(super) struct Partitions {
    known: RefCell<BTreeSet<Date>>,
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
}

fn month_of(at: Timestamp) -> Date {
    at.to_zoned(TimeZone::UTC).date().first_of_month()
}

async fn make(client: &mut Client, month: Date, end: Date) -> Result<(), LedgerError> {
    // Before year 1 and after 9999 the name of a table would be no name.
    if !(1..=9998).contains(&month.year()) {
        return Ok(());
    }
    let name = month.strftime("records_%Y_%m").to_string();
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
