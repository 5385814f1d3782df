//! Report: the monthly token consumption, as a table, CSV or JSON; and records in the same forms.
//!
//! In: rows of the ledger. Out: text. The total row is the sum of the rows, always, in every format.

pub mod csv;
pub mod figures;
pub mod json;
pub mod records;
pub mod table;

use jiff::tz::TimeZone;

use crate::ledger::{Counts, Dimension, Ledger, LedgerError, Row};
use crate::period::Month;

/// What a month is broken down by where nothing else is asked for.
pub const DEFAULT_BY: [Dimension; 2] = [Dimension::Department, Dimension::Team];

/// How months are cut. `config` fills it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The time zone whose calendar the company goes by.
    pub timezone: TimeZone,
}

/// What was consumed in a month.
#[derive(Clone, Debug, PartialEq)]
pub struct MonthReport {
    /// The month.
    pub month: Month,
    /// The IANA name of the time zone that it was cut in.
    pub timezone: String,
    /// What the rows are broken down by.
    pub by: Vec<Dimension>,
    /// One row for each combination of values that occurs, ordered by them.
    pub rows: Vec<Row>,
    /// The sum of the rows.
    pub total: Counts,
    /// Calls that passed without a record: they are in no row.
    pub unmetered_requests: u64,
}

impl MonthReport {
    /// The report of `month`, read from the ledger.
    pub fn read(ledger: &Ledger, month: Month, settings: &Settings, by: &[Dimension]) -> Result<Self, LedgerError> {
        let (first, end) = month.buckets(&settings.timezone);
        let rows = ledger.month_rows(first, end, by)?;
        let unmetered_requests = ledger.unmetered_requests(first, end)?;
        Ok(Self { unmetered_requests, ..Self::of(month, settings, by, rows) })
    }

    /// The report that `rows` make, where no call passed unmetered.
    pub fn of(month: Month, settings: &Settings, by: &[Dimension], rows: Vec<Row>) -> Self {
        let mut total = Counts::default();
        for row in &rows {
            total += row.counts;
        }
        let timezone = settings.timezone.iana_name().unwrap_or("UTC").to_owned();
        Self { month, timezone, by: by.to_vec(), rows, total, unmetered_requests: 0 }
    }

    /// The sum of the rows that nobody is known to pay for; `None` where the report is broken down by neither team
    /// nor department.
    pub fn unattributed(&self) -> Option<Counts> {
        let is_payer = |dimension: &&Dimension| matches!(dimension, Dimension::Department | Dimension::Team);
        // By team where there is one: a team without a department is known all the same.
        let payer = self.by.iter().filter(is_payer).max()?;
        let column = self.by.iter().position(|dimension| dimension == payer)?;
        let mut sum = Counts::default();
        for row in &self.rows {
            if row.values.get(column).is_some_and(|value| value == crate::ids::UNATTRIBUTED) {
                sum += row.counts;
            }
        }
        Some(sum)
    }
}

/// The cost of some records; `None` where none of them has a price.
pub fn cost_nanousd(counts: &Counts) -> Option<i128> {
    (counts.priced_requests > 0).then_some(counts.cost_nanousd)
}

#[cfg(test)]
mod tests;
