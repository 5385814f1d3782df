//! Buckets: sums of the records that ended within fifteen minutes, by every dimension of a report.

use std::collections::BTreeMap;
use std::ops::AddAssign;

use rusqlite::{Connection, OptionalExtension, Row as SqlRow, params_from_iter, types::Value};

use super::{Ledger, LedgerError, sqlite};
use crate::period::Bucket;
use crate::record::Record;
use crate::usage::Provenance;

/// What a report can be broken down by.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Dimension {
    /// The department that pays.
    Department,
    /// The team that pays.
    Team,
    /// The team's application.
    App,
    /// The virtual key.
    Key,
    /// The vendor.
    Provider,
    /// The configured endpoint.
    Upstream,
    /// What was asked.
    Operation,
    /// The model that answered.
    Model,
}

impl Dimension {
    /// Every dimension, in the order of the ledger's columns.
    pub const ALL: [Self; 8] = [
        Self::Department,
        Self::Team,
        Self::App,
        Self::Key,
        Self::Provider,
        Self::Upstream,
        Self::Operation,
        Self::Model,
    ];

    /// Its name in reports, and its column.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Department => "department",
            Self::Team => "team",
            Self::App => "app",
            Self::Key => "key",
            Self::Provider => "provider",
            Self::Upstream => "upstream",
            Self::Operation => "operation",
            Self::Model => "model",
        }
    }

    /// The dimension of that name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dimension| dimension.as_str() == name)
    }
}

/// Sums over records. As wide as it takes that no sum of counts wraps.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// Records.
    pub requests: i128,
    /// Uncached input tokens.
    pub input: i128,
    /// Input tokens read from the cache.
    pub cache_read: i128,
    /// Input tokens written to the cache.
    pub cache_write: i128,
    /// Generated tokens.
    pub output: i128,
    /// Of `output`: reasoning.
    pub reasoning: i128,
    /// Cost of the priced records in nano-dollars.
    pub cost_nanousd: i128,
    /// Records with a price.
    pub priced_requests: i128,
    /// Tokens of records without a price.
    pub unpriced_tokens: i128,
    /// Tokens of records whose counts are the provider's.
    pub reported_tokens: i128,
    /// Tokens of records whose counts are partly ours.
    pub partial_tokens: i128,
    /// Tokens of records whose counts are ours.
    pub estimated_tokens: i128,
    /// Records that may have cost something, nobody knows how much.
    pub unknown_requests: i128,
}

/// The columns of [`Counts`], in its order.
const COUNTS: [&str; 13] = [
    "requests",
    "input",
    "cache_read",
    "cache_write",
    "output",
    "reasoning",
    "cost_nanousd",
    "priced_requests",
    "unpriced_tokens",
    "reported_tokens",
    "partial_tokens",
    "estimated_tokens",
    "unknown_requests",
];

const TOTAL: &str = "(COALESCE(input, 0) + COALESCE(cache_read, 0) + COALESCE(cache_write, 0) + COALESCE(output, 0))";

impl Counts {
    /// What one record adds.
    pub fn of(record: &Record) -> Self {
        let tokens = &record.tokens;
        let count = |count: Option<u64>| i128::from(sqlite::integer(count.unwrap_or(0)));
        let total = i128::from(sqlite::integer(tokens.total()));
        let total_if = |condition: bool| if condition { total } else { 0 };
        Self {
            requests: 1,
            input: count(tokens.input),
            cache_read: count(tokens.cache_read),
            cache_write: count(tokens.cache_write),
            output: count(tokens.output),
            reasoning: count(tokens.reasoning),
            cost_nanousd: record.cost_nanousd.map_or(0, |cost| i128::from(cost.as_i64())),
            priced_requests: i128::from(record.cost_nanousd.is_some()),
            unpriced_tokens: total_if(record.cost_nanousd.is_none()),
            reported_tokens: total_if(record.provenance == Provenance::Reported),
            partial_tokens: total_if(record.provenance == Provenance::Partial),
            estimated_tokens: total_if(record.provenance == Provenance::Estimated),
            unknown_requests: i128::from(record.provenance == Provenance::Unknown),
        }
    }

    /// `input + cache_read + cache_write + output`.
    pub fn total_tokens(&self) -> i128 {
        [self.input, self.cache_read, self.cache_write, self.output].into_iter().fold(0, i128::saturating_add)
    }

    /// The counts with their columns.
    pub(super) fn named(&self) -> impl Iterator<Item = (&'static str, i128)> {
        let values = [
            self.requests,
            self.input,
            self.cache_read,
            self.cache_write,
            self.output,
            self.reasoning,
            self.cost_nanousd,
            self.priced_requests,
            self.unpriced_tokens,
            self.reported_tokens,
            self.partial_tokens,
            self.estimated_tokens,
            self.unknown_requests,
        ];
        COUNTS.into_iter().zip(values)
    }

    fn of_values(mut next: impl FnMut() -> rusqlite::Result<i128>) -> rusqlite::Result<Self> {
        Ok(Self {
            requests: next()?,
            input: next()?,
            cache_read: next()?,
            cache_write: next()?,
            output: next()?,
            reasoning: next()?,
            cost_nanousd: next()?,
            priced_requests: next()?,
            unpriced_tokens: next()?,
            reported_tokens: next()?,
            partial_tokens: next()?,
            estimated_tokens: next()?,
            unknown_requests: next()?,
        })
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        let mut others = other.named().map(|(_, value)| value);
        let mut add = |count: &mut i128| *count = count.saturating_add(others.next().unwrap_or(0));
        add(&mut self.requests);
        add(&mut self.input);
        add(&mut self.cache_read);
        add(&mut self.cache_write);
        add(&mut self.output);
        add(&mut self.reasoning);
        add(&mut self.cost_nanousd);
        add(&mut self.priced_requests);
        add(&mut self.unpriced_tokens);
        add(&mut self.reported_tokens);
        add(&mut self.partial_tokens);
        add(&mut self.estimated_tokens);
        add(&mut self.unknown_requests);
    }
}

/// One row of a month.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Row {
    /// The dimensions asked for, in the order asked; empty where a record has none (app, key, model).
    pub values: Vec<String>,
    /// The sums.
    pub counts: Counts,
}

impl Ledger {
    /// The sums from `first` (included) to `end` (excluded) by `by`, ordered by it.
    pub fn month_rows(&self, first: Bucket, end: Bucket, by: &[Dimension]) -> Result<Vec<Row>, LedgerError> {
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

/// What names a bucket: its number, and the dimensions in their order.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct BucketKey {
    pub(super) bucket: i64,
    pub(super) values: [String; 8],
}

impl BucketKey {
    fn of(record: &Record) -> Self {
        let value = |dimension| match dimension {
            Dimension::Department => record.department.as_str(),
            Dimension::Team => record.team.as_str(),
            Dimension::App => record.app.as_ref().map_or("", |app| app.as_str()),
            Dimension::Key => record.key.as_ref().map_or("", |key| key.as_str()),
            Dimension::Provider => record.provider.as_str(),
            Dimension::Upstream => record.upstream.as_str(),
            Dimension::Operation => record.operation.as_str(),
            Dimension::Model => record.model.as_deref().unwrap_or(""),
        };
        Self {
            bucket: Bucket::of(record.ended_at).index(),
            values: Dimension::ALL.map(|dimension| value(dimension).to_owned()),
        }
    }

    fn params(&self) -> impl Iterator<Item = Value> {
        std::iter::once(Value::from(self.bucket)).chain(self.values.iter().cloned().map(Value::from))
    }
}

/// What a batch of records adds to the buckets.
#[derive(Debug, Default)]
pub(super) struct Sums(BTreeMap<BucketKey, Counts>);

impl Sums {
    pub(super) fn add(&mut self, record: &Record) {
        *self.0.entry(BucketKey::of(record)).or_default() += Counts::of(record);
    }

    /// Adds the sums to the buckets, in the transaction that is open.
    pub(super) fn write(&self, connection: &Connection) -> Result<(), LedgerError> {
        let names: Vec<&str> = Dimension::ALL.iter().map(|dimension| dimension.as_str()).collect();
        let condition = names.join(" = ? AND ");
        let columns = COUNTS.join(", ");
        let mut reading = connection
            .prepare_cached(&format!("SELECT {columns} FROM buckets WHERE bucket = ? AND {condition} = ?"))?;
        let places = vec!["?"; 1 + names.len() + COUNTS.len()].join(", ");
        let mut writing = connection.prepare_cached(&format!(
            "INSERT OR REPLACE INTO buckets (bucket, {}, {columns}) VALUES ({places})",
            names.join(", ")
        ))?;
        for (key, added) in &self.0 {
            let mut counts = reading
                .query_row(params_from_iter(key.params()), |row| {
                    let mut columns = 0..;
                    Counts::of_values(|| Ok(i128::from(row.get::<_, i64>(columns.next().unwrap_or(0))?)))
                })
                .optional()?
                .unwrap_or_default();
            counts += *added;
            let counts = counts.named().map(|(_, count)| Value::from(kept(count)));
            writing.execute(params_from_iter(key.params().chain(counts)))?;
        }
        Ok(())
    }
}

/// A sum as a bucket keeps it. Addition in SQL would turn into a float past 2⁶³.
pub(super) fn kept(sum: i128) -> i64 {
    i64::try_from(sum).unwrap_or(if sum < 0 { i64::MIN } else { i64::MAX })
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
