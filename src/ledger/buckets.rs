//! Buckets: sums of the records that ended within fifteen minutes, by every dimension of a report.

use std::collections::BTreeMap;
use std::ops::AddAssign;

use super::integer;
use crate::period::{BUCKET_SECS, Bucket};
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
pub(super) const COUNTS: [&str; 13] = [
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

impl Counts {
    /// What one record adds.
    pub fn of(record: &Record) -> Self {
        let tokens = &record.tokens;
        let count = |count: Option<u64>| i128::from(integer(count.unwrap_or(0)));
        let total = i128::from(integer(tokens.total()));
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

    /// The counts whose values come in the order of their columns.
    pub(super) fn of_values<E>(mut next: impl FnMut() -> Result<i128, E>) -> Result<Self, E> {
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

/// Buckets of a day in UTC.
pub(super) const BUCKETS_A_DAY: i64 = 24 * 3600 / BUCKET_SECS;

/// What names a bucket: its number, and the dimensions in their order; borrowed from a record, or read from a row.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct BucketKey<S = String> {
    pub(super) bucket: i64,
    pub(super) values: [S; 8],
}

impl<'a> BucketKey<&'a str> {
    fn of(record: &'a Record) -> Self {
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
        Self { bucket: Bucket::of(record.ended_at).index(), values: Dimension::ALL.map(value) }
    }
}

/// What a batch of records adds to the buckets.
#[derive(Debug)]
pub(super) struct Sums<S>(BTreeMap<BucketKey<S>, Counts>);

impl<S> Default for Sums<S> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<'a> Sums<&'a str> {
    pub(super) fn add(&mut self, record: &'a Record) {
        self.add_counts(BucketKey::of(record), Counts::of(record));
    }
}

impl<S: Clone + Ord> Sums<S> {
    /// What is added to a bucket, or to a day, as a whole.
    pub(super) fn add_counts(&mut self, key: BucketKey<S>, counts: Counts) {
        *self.0.entry(key).or_default() += counts;
    }

    /// The same by day in UTC: the keys' numbers are those of days since 1970.
    pub(super) fn by_day(&self) -> Self {
        let mut days = Self::default();
        for (key, counts) in &self.0 {
            let day = key.bucket.div_euclid(BUCKETS_A_DAY);
            days.add_counts(BucketKey { bucket: day, values: key.values.clone() }, *counts);
        }
        days
    }

    /// Every bucket that something is added to, in their order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&BucketKey<S>, &Counts)> {
        self.0.iter()
    }
}

/// A sum as a bucket keeps it. Addition in SQL would turn into a float past 2⁶³.
pub(super) fn kept(sum: i128) -> i64 {
    i64::try_from(sum).unwrap_or(if sum < 0 { i64::MIN } else { i64::MAX })
}
