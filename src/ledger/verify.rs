//! Verify: derives everything anew from the records, and compares.

use std::cmp::Ordering;
use std::fmt;

use super::buckets::{BucketKey, Counts};
use super::{LedgerError, buckets};
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
pub struct Difference(pub(super) String);

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Compares every bucket as the records make it with every bucket as it is kept, both in the order of their keys.
pub(super) fn compare_all(
    mut derived: impl Iterator<Item = Result<(BucketKey, Counts), LedgerError>>,
    mut kept: impl Iterator<Item = Result<(BucketKey, Counts), LedgerError>>,
) -> Result<Result<Verified, Difference>, LedgerError> {
    let mut verified = Verified::default();
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
