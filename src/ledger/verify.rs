//! Verify: derives everything anew from the records, and compares.

use std::cmp::Ordering;
use std::fmt;

use jiff::Timestamp;

use super::buckets::{BucketKey, Counts};
use super::chain::{self, Link};
use super::{LedgerError, buckets};
use crate::ids::{NodeId, RecordId};
use crate::period::BUCKET_SECS;
use crate::record::Record;

/// What was found to be right.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Verified {
    /// Records.
    pub records: u64,
    /// Buckets, each the sum of its records.
    pub buckets: u64,
    /// Nodes, each with records from 1, or from those removed, to its last without a gap.
    pub nodes: u64,
    /// Tokens in all.
    pub tokens: i128,
    /// The end of each node's chain. Whoever notes it elsewhere can show later that nothing up to it was changed.
    pub ends: Vec<ChainEnd>,
    /// Records that ended before this were removed because of their age; their sums are kept. `None`: none were.
    pub removed_before: Option<Timestamp>,
}

/// The last place of a node's order.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ChainEnd {
    /// The node.
    pub node: NodeId,
    /// The place.
    pub seq: u64,
    /// What stands for everything up to it.
    pub link: Link,
}

/// The first thing that is not as the records say, in words.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Difference(pub(super) String);

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// What a node's order must be like, as the ledger says beside the records themselves.
#[derive(Clone, Debug)]
pub(super) struct Order {
    pub(super) node: NodeId,
    /// Up to here records were removed because of their age.
    pub(super) removed: u64,
    /// The link behind those.
    pub(super) link: Link,
    /// Up to here places are older than the chain and have no link.
    pub(super) chained_after: u64,
    /// The last place and its link; `None`: nothing is said of it.
    pub(super) last: Option<(u64, Link)>,
}

/// What stands at a place of a node's order, and its link.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) seq: u64,
    pub(super) fact: Fact,
    pub(super) link: Option<Link>,
}

/// What stands at a place.
#[derive(Debug)]
pub(super) enum Fact {
    Record(Box<Record>),
    /// A call that stands elsewhere already.
    Duplicate(RecordId),
    /// A row that is no record; why not.
    Unreadable(String),
}

impl Fact {
    fn link(&self, previous: &Link) -> Link {
        match self {
            Self::Record(record) => chain::link(previous, record),
            Self::Duplicate(id) => chain::link_duplicate(previous, id),
            Self::Unreadable(_) => *previous,
        }
    }
}

/// A place whose link does not follow from what stands there. What comes next tells which of the two was changed.
struct Suspect {
    seq: u64,
    derived: Link,
    kept: Link,
}

impl Suspect {
    fn difference(&self, node: &NodeId, next_follows: impl Fn(&Link) -> bool) -> Difference {
        let seq = self.seq;
        if next_follows(&self.derived) {
            Difference(format!("the chain value of record {seq} of node {node} was changed"))
        } else if next_follows(&self.kept) {
            Difference(format!("record {seq} of node {node} was changed: its chain value does not fit it"))
        } else {
            Difference(format!("record {seq} of node {node} is not the one that was written there: the chain breaks"))
        }
    }
}

/// Walks a node's order from its first place to its last: no gap, and each link follows from the one before. The
/// number of records.
pub(super) fn walk(
    order: &Order,
    places: impl Iterator<Item = Result<Place, LedgerError>>,
) -> Result<Result<u64, Difference>, LedgerError> {
    let Order { node, removed, link, chained_after, last } = order;
    let (mut seq, mut link, mut records) = (*removed, *link, 0_u64);
    let mut suspect: Option<Suspect> = None;
    for place in places {
        let place = place?;
        let expected = seq.saturating_add(1);
        if place.seq != expected {
            let last = last.map_or(place.seq, |(last, _)| last.max(place.seq));
            return Ok(Err(Difference(if place.seq > expected {
                format!("node {node} has no record {expected}, but one of {last}")
            } else {
                format!("node {node} has two records {}", place.seq)
            })));
        }
        seq = place.seq;
        if let Fact::Unreadable(why) = &place.fact {
            return Ok(Err(Difference(format!("record {seq} of node {node} was changed: {why}"))));
        }
        records = records.saturating_add(u64::from(matches!(place.fact, Fact::Record(_))));
        if seq <= *chained_after {
            continue;
        }
        let Some(kept) = place.link else {
            return Ok(Err(Difference(format!("record {seq} of node {node} has no chain value"))));
        };
        if let Some(suspect) = suspect {
            return Ok(Err(suspect.difference(node, |link| place.fact.link(link) == kept)));
        }
        let derived = place.fact.link(&link);
        suspect = (derived != kept).then_some(Suspect { seq, derived, kept });
        link = kept;
    }
    let Some((last, end)) = *last else {
        return Ok(Err(Difference(format!(
            "node {node} is applied up to nothing by its position, but its last record is {seq}"
        ))));
    };
    if seq != last {
        return Ok(Err(Difference(format!(
            "node {node} is applied up to record {last} by its position, but its last record is {seq}"
        ))));
    }
    if let Some(suspect) = suspect {
        return Ok(Err(suspect.difference(node, |link| *link == end)));
    }
    if link != end {
        return Ok(Err(Difference(format!(
            "the chain of node {node} ends in {link} at record {seq}, but in {end} by its position"
        ))));
    }
    Ok(Ok(records))
}

/// What was removed, and what is left that is as old, must be what the old buckets sum to: their tokens. A sum that is as
/// large as a bucket can hold is not compared.
pub(super) fn compare_removed(
    before: Timestamp,
    removed_and_left: &Counts,
    buckets: &Counts,
) -> Result<i128, Difference> {
    let limit = i128::from(i64::MAX);
    let mut pairs = removed_and_left.named().zip(buckets.named());
    match pairs.find(|((_, sum), (_, kept))| sum != kept && *sum < limit && *kept < limit) {
        None => Ok(buckets.total_tokens()),
        Some(((column, sum), (_, kept))) => Err(Difference(format!(
            "the buckets before {before} have {column} = {kept}, their records, most of them removed, summed to {sum}"
        ))),
    }
}

/// How sums and what they are of are called.
struct Words {
    sum: &'static str,
    parts: &'static str,
    secs: i64,
}

/// Compares every day as the buckets make it with every day as it is kept, both in the order of their keys.
pub(super) fn compare_days(
    derived: impl Iterator<Item = Result<(BucketKey, Counts), LedgerError>>,
    kept: impl Iterator<Item = Result<(BucketKey, Counts), LedgerError>>,
) -> Result<Result<Verified, Difference>, LedgerError> {
    let secs = BUCKET_SECS.saturating_mul(buckets::BUCKETS_A_DAY);
    compare_sums(&Words { sum: "day", parts: "buckets", secs }, derived, kept)
}

/// Compares every bucket as the records make it with every bucket as it is kept, both in the order of their keys.
pub(super) fn compare_all(
    derived: impl Iterator<Item = Result<(BucketKey, Counts), LedgerError>>,
    kept: impl Iterator<Item = Result<(BucketKey, Counts), LedgerError>>,
) -> Result<Result<Verified, Difference>, LedgerError> {
    compare_sums(&Words { sum: "bucket", parts: "records", secs: BUCKET_SECS }, derived, kept)
}

fn compare_sums(
    words: &Words,
    mut derived: impl Iterator<Item = Result<(BucketKey, Counts), LedgerError>>,
    mut kept: impl Iterator<Item = Result<(BucketKey, Counts), LedgerError>>,
) -> Result<Result<Verified, Difference>, LedgerError> {
    let mut verified = Verified::default();
    loop {
        let (from_records, from_buckets) = (derived.next().transpose()?, kept.next().transpose()?);
        if from_records.is_none() && from_buckets.is_none() {
            return Ok(Ok(verified));
        }
        if let Some(difference) = compare(words, from_records.as_ref(), from_buckets.as_ref()) {
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
    words: &Words,
    from_records: Option<&(BucketKey, Counts)>,
    from_buckets: Option<&(BucketKey, Counts)>,
) -> Option<Difference> {
    let order = match (from_records, from_buckets) {
        (Some((record, _)), Some((bucket, _))) => record.cmp(bucket),
        (None, Some(_)) => Ordering::Greater,
        (Some(_) | None, None) => Ordering::Less,
    };
    let (key, counts) = if order == Ordering::Greater { from_buckets? } else { from_records? };
    let Words { sum: kind, parts, secs } = words;
    let name = name(key, *secs);
    match order {
        Ordering::Less => Some(Difference(format!("{kind} {name} is missing: its {} records", counts.requests))),
        Ordering::Greater => {
            Some(Difference(format!("{kind} {name} has no {parts}, but {} requests", counts.requests)))
        }
        Ordering::Equal => {
            let (_, kept) = from_buckets?;
            let mut pairs = counts.named().zip(kept.named());
            let ((column, sum), (_, kept)) =
                pairs.find(|((_, sum), (_, kept))| i128::from(buckets::kept(*sum)) != *kept)?;
            Some(Difference(format!("{kind} {name} has {column} = {kept}, its {parts} sum to {sum}")))
        }
    }
}

fn name(key: &BucketKey, secs: i64) -> String {
    let begin = Timestamp::from_second(key.bucket.saturating_mul(secs));
    let begin = begin.map_or_else(|_| key.bucket.to_string(), |begin| begin.to_string());
    format!("{begin} ({})", key.values.join(", "))
}
