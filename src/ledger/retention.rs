//! Retention: which records are too old, and whether they are as they were written.
//!
//! What is removed is checked before: a record that was changed, or one that is missing, stops the removal, so that the
//! evidence stays.

use jiff::Timestamp;

use super::LedgerError;
use super::buckets::Counts;
use super::chain::Link;
use super::verify::{Fact, Order, Place, walk};

/// The front of a node's order, as far as it goes.
#[derive(Debug)]
pub(super) struct Old {
    /// How many places.
    pub(super) places: usize,
    /// The last of them.
    pub(super) seq: u64,
    /// Its link: the chain goes on from it.
    pub(super) link: Link,
    /// What their records sum to.
    pub(super) sums: Counts,
}

/// Up to `limit` places from the front of `order` whose records ended before `before`, which begins a bucket. `None`:
/// there are no more.
pub(super) fn old(
    order: &Order,
    places: impl Iterator<Item = Result<Place, LedgerError>>,
    before: Timestamp,
    limit: usize,
) -> Result<Option<Old>, LedgerError> {
    let is_old = |place: &Result<Place, LedgerError>| match place {
        Ok(Place { fact: Fact::Record(record), .. }) => record.ended_at < before,
        Ok(Place { fact: Fact::Duplicate(_) | Fact::Unreadable(_), .. }) | Err(_) => true,
    };
    let mut places = places.take(limit).take_while(is_old).collect::<Result<Vec<_>, _>>()?;
    // What stands in the place of a record goes with the record behind it.
    while places.pop_if(|place| matches!(place.fact, Fact::Duplicate(_))).is_some() {}
    let Some(last) = places.last() else { return Ok(None) };
    let mut old =
        Old { places: places.len(), seq: last.seq, link: last.link.unwrap_or(Link::START), sums: Counts::default() };
    for place in &places {
        if let Fact::Record(record) = &place.fact {
            old.sums += Counts::of(record);
        }
    }
    let front = Order { last: Some((old.seq, old.link)), ..order.clone() };
    walk(&front, places.into_iter().map(Ok))?.map_err(|difference| LedgerError::Untrue { difference })?;
    Ok(Some(old))
}
