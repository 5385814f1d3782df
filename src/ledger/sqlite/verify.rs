//! Verify in `SQLite`: everything derived anew in one view of the file, also while a server writes.

use std::cell::RefCell;
use std::collections::BTreeSet;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Row};

use super::{Sqlite, buckets, instant, records, word};
use crate::ids::{NodeId, RecordId};
use crate::ledger::buckets::{BUCKETS_A_DAY, BucketKey};
use crate::ledger::verify::{self, ChainEnd, Fact, Order, Place};
use crate::ledger::{Counts, Difference, LedgerError, Link, Verified, count};
use crate::period::{BUCKET_SECS, Bucket};

impl Sqlite {
    /// Recomputes buckets and totals from the records, and looks for gaps, changes and damage. All in one view of the
    /// ledger, also while a server writes.
    pub(in crate::ledger) fn verify(&self) -> Result<Result<Verified, Difference>, LedgerError> {
        let transaction = self.connection.unchecked_transaction()?;
        let verified = verify(&transaction)?;
        transaction.rollback()?;
        Ok(verified)
    }

    /// Records that ended before this were removed because of their age.
    pub(in crate::ledger) fn removed_before(&self) -> Result<Option<Timestamp>, LedgerError> {
        removed_before(&self.connection)
    }
}

fn removed_before(connection: &Connection) -> Result<Option<Timestamp>, LedgerError> {
    let before: Option<i64> = connection.query_row("SELECT MAX(ended_before) FROM removed", (), |row| row.get(0))?;
    Ok(before.map(|before| instant(0, before)).transpose()?)
}

fn verify(connection: &Connection) -> Result<Result<Verified, Difference>, LedgerError> {
    let integrity: String = connection.query_row("PRAGMA integrity_check(1)", (), |row| row.get(0))?;
    if integrity != "ok" {
        return Ok(Err(Difference(format!("the database file is damaged: {integrity}"))));
    }
    let (mut records, mut ends) = (0_u64, Vec::new());
    for node in nodes(connection)? {
        let order = order(connection, node)?;
        match with_places(connection, &order, |places| verify::walk(&order, places))? {
            Ok(walked) => records = records.saturating_add(walked),
            Err(difference) => return Ok(Err(difference)),
        }
        let Order { node, last, .. } = order;
        ends.extend(last.map(|(seq, link)| ChainEnd { node, seq, link }));
    }
    let removed_before = removed_before(connection)?;
    let verified = match compare_buckets(connection, removed_before)? {
        Ok(verified) => verified,
        Err(difference) => return Ok(Err(difference)),
    };
    if let Some(difference) = compare_days(connection)? {
        return Ok(Err(difference));
    }
    let nodes = ends.len() as u64;
    let mut verified = Verified { records, nodes, ends, removed_before, ..verified };
    if let Some(before) = removed_before {
        match compare_removed(connection, before)? {
            Ok(tokens) => verified.tokens = verified.tokens.saturating_add(tokens),
            Err(difference) => return Ok(Err(difference)),
        }
    }
    Ok(Ok(verified))
}

/// Every node that any table knows.
fn nodes(connection: &Connection) -> Result<BTreeSet<NodeId>, LedgerError> {
    let mut nodes = BTreeSet::new();
    for table in ["positions", "removed", "records", "duplicates"] {
        // From one to the next: there are few, of many rows.
        let mut next = connection.prepare(&format!("SELECT MIN(node) FROM {table} WHERE node > ?"))?;
        let mut after = String::new();
        while let Some(node) = next.query_row([&after], |row| row.get::<_, Option<String>>(0))? {
            nodes.insert(word::<NodeId>(0, node.clone())?);
            after = node;
        }
    }
    Ok(nodes)
}

/// What is said of a node's order beside its records.
pub(super) fn order(connection: &Connection, node: NodeId) -> Result<Order, LedgerError> {
    let link = |row: &Row<'_>, column| Ok::<_, rusqlite::Error>(Link::from_bytes(row.get(column)?));
    let removed = connection
        .query_row("SELECT seq, chain FROM removed WHERE node = ?", [node.as_str()], |row| {
            Ok((count(row.get(0)?), link(row, 1)?))
        })
        .optional()?;
    let position = connection
        .query_row("SELECT last_seq, chain, chained_after FROM positions WHERE node = ?", [node.as_str()], |row| {
            Ok(((count(row.get(0)?), link(row, 1)?), count(row.get(2)?)))
        })
        .optional()?;
    let (removed, link) = removed.unwrap_or((0, Link::START));
    let chained_after = position.map_or(0, |(_, chained_after)| chained_after);
    Ok(Order { node, removed, link, chained_after, last: position.map(|(last, _)| last) })
}

/// Calls `read` with what stands at the places of `order`, from the first on.
pub(super) fn with_places<T>(
    connection: &Connection,
    order: &Order,
    read: impl FnOnce(&mut dyn Iterator<Item = Result<Place, LedgerError>>) -> Result<T, LedgerError>,
) -> Result<T, LedgerError> {
    let mut of_records = connection.prepare(&records::statement_in_order())?;
    let from = (order.node.as_str(), crate::ledger::integer(order.removed));
    let mut of_records = of_records.query_map(from, read_record)?.peekable();
    let mut of_duplicates =
        connection.prepare("SELECT seq, id, chain FROM duplicates WHERE node = ? AND seq > ? ORDER BY seq")?;
    let mut of_duplicates = of_duplicates.query_map(from, read_duplicate)?.peekable();
    let mut places = std::iter::from_fn(|| {
        let seq = |place: Option<&rusqlite::Result<Place>>| place.map(|place| place.as_ref().map_or(0, |one| one.seq));
        let is_duplicate = match (seq(of_records.peek()), seq(of_duplicates.peek())) {
            (Some(record), Some(duplicate)) => duplicate < record,
            (None, Some(_)) => true,
            (Some(_) | None, None) => false,
        };
        let next = if is_duplicate { of_duplicates.next() } else { of_records.next() };
        next.map(|place| Ok(place?))
    });
    read(&mut places)
}

fn read_record(row: &Row<'_>) -> rusqlite::Result<Place> {
    let fact = match records::read(row) {
        Ok(record) => Fact::Record(Box::new(record)),
        Err(rusqlite::Error::FromSqlConversionFailure(_, _, why)) => Fact::Unreadable(why.to_string()),
        Err(error) => return Err(error),
    };
    Ok(Place { seq: count(row.get(1)?), ..place(fact, records::read_link(row, records::LINK))? })
}

fn place(fact: Fact, link: rusqlite::Result<Option<Link>>) -> rusqlite::Result<Place> {
    match link {
        Err(rusqlite::Error::FromSqlConversionFailure(..)) => {
            let fact = Fact::Unreadable("its chain value has another length than 16 bytes".to_owned());
            Ok(Place { seq: 0, fact, link: None })
        }
        link => Ok(Place { seq: 0, fact, link: link? }),
    }
}

fn read_duplicate(row: &Row<'_>) -> rusqlite::Result<Place> {
    let fact = Fact::Duplicate(RecordId::from_bytes(row.get(1)?));
    Ok(Place { seq: count(row.get(0)?), ..place(fact, records::read_link(row, 2))? })
}

/// The buckets whose records are all there, as these make them and as they are kept.
fn compare_buckets(
    connection: &Connection,
    removed_before: Option<Timestamp>,
) -> Result<Result<Verified, Difference>, LedgerError> {
    let first = removed_before.map_or(i64::MIN, |before| Bucket::of(before).index());
    let from = removed_before.map_or(i64::MIN, Timestamp::as_microsecond);
    // A day at a time, so that sorting needs no more room than that.
    let day_micros = BUCKET_SECS.saturating_mul(BUCKETS_A_DAY).saturating_mul(1_000_000);
    let mut next_day = connection.prepare("SELECT MIN(ended_at) FROM records WHERE ended_at >= ?")?;
    let derived = RefCell::new(connection.prepare(&buckets::derived_statement())?);
    let mut from = Some(from);
    let derived = std::iter::from_fn(|| {
        let earliest = match next_day.query_row([from?], |row| row.get::<_, Option<i64>>(0)) {
            Ok(earliest) => earliest?,
            Err(error) => return Some(vec![Err(error.into())]),
        };
        let day = earliest.div_euclid(day_micros).saturating_mul(day_micros);
        let end = day.saturating_add(day_micros);
        let of_day = derived.borrow_mut().query_map((earliest, end), buckets::read_derived).and_then(Iterator::collect);
        from = Some(end);
        Some(of_day.map_or_else(
            |error| vec![Err(error.into())],
            |rows: Vec<(BucketKey, Counts)>| rows.into_iter().map(Ok).collect(),
        ))
    })
    .flatten();
    let mut kept = connection.prepare(&buckets::kept_statement(buckets::BUCKETS))?;
    let kept = kept.query_map([first], buckets::read_kept)?.map(|row| Ok(row?));
    verify::compare_all(derived, kept)
}

fn compare_days(connection: &Connection) -> Result<Option<Difference>, LedgerError> {
    let mut of_buckets = connection.prepare(&buckets::kept_statement(buckets::BUCKETS))?;
    let of_buckets = of_buckets.query_map([i64::MIN], buckets::read_kept)?.map(|row| Ok(row?));
    let mut kept = connection.prepare(&buckets::kept_statement(buckets::DAYS))?;
    let kept = kept.query_map([i64::MIN], buckets::read_kept)?.map(|row| Ok(row?));
    Ok(verify::compare_days(buckets::by_day(of_buckets), kept)?.err())
}

/// The buckets whose records were removed can only be compared in sum: the tokens of those, or the difference.
fn compare_removed(connection: &Connection, before: Timestamp) -> Result<Result<i128, Difference>, LedgerError> {
    let mut sums = Counts::default();
    let mut removed = connection.prepare(&format!("SELECT {} FROM removed", buckets::columns()))?;
    for counts in removed.query_map((), |row| buckets::read_counts(row, 0))? {
        sums += counts?;
    }
    let micros = before.as_microsecond();
    let left = format!("SELECT {} FROM records WHERE ended_at < ?", buckets::sums_of_records());
    sums += connection.query_row(&left, [micros], |row| buckets::read_sums(row, 0))?;
    let kept = format!("SELECT {} FROM buckets WHERE bucket < ?", buckets::sums_of_buckets());
    let kept = connection.query_row(&kept, [Bucket::of(before).index()], |row| buckets::read_sums(row, 0))?;
    Ok(verify::compare_removed(before, &sums, &kept))
}
