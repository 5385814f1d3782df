//! Retention in `SQLite`: old records leave from the front of their node's order, a few at a time. Their buckets stay.
//!
//! What is removed is checked before: a record that was changed, or one that is missing, stops the removal, so that the
//! evidence stays.

use jiff::Timestamp;
use rusqlite::{Connection, TransactionBehavior, params_from_iter, types::Value};

use super::{Sqlite, buckets, verify};
use crate::ids::NodeId;
use crate::ledger::buckets::{COUNTS, Counts, kept};
use crate::ledger::verify::{Fact, Place, walk};
use crate::ledger::{LedgerError, Link, integer};

impl Sqlite {
    /// Removes up to `limit` places of a node's order whose records ended before `before`, which begins a bucket. How
    /// many; 0: there are no more.
    pub(in crate::ledger) fn remove_before(&mut self, before: Timestamp, limit: usize) -> Result<usize, LedgerError> {
        let nodes = self.applied()?.into_keys();
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for node in nodes {
            let removed = remove(&transaction, node, before, limit)?;
            if removed > 0 {
                transaction.commit()?;
                return Ok(removed);
            }
        }
        Ok(0)
    }
}

fn remove(connection: &Connection, node: NodeId, before: Timestamp, limit: usize) -> Result<usize, LedgerError> {
    let mut order = verify::order(connection, node)?;
    let mut places = verify::with_places(connection, &order, |places| {
        let is_old = |place: &Result<Place, LedgerError>| match place {
            Ok(Place { fact: Fact::Record(record), .. }) => record.ended_at < before,
            Ok(Place { fact: Fact::Duplicate(_) | Fact::Unreadable(_), .. }) | Err(_) => true,
        };
        places.take(limit).take_while(is_old).collect::<Result<Vec<_>, _>>()
    })?;
    // What stands in the place of a record goes with the record behind it.
    while places.pop_if(|place| matches!(place.fact, Fact::Duplicate(_))).is_some() {}
    let Some(last) = places.last() else { return Ok(0) };
    let (count, seq, link) = (places.len(), last.seq, last.link.unwrap_or(Link::START));
    let mut sums = Counts::default();
    for place in &places {
        if let Fact::Record(record) = &place.fact {
            sums += Counts::of(record);
        }
    }
    let node = order.node.clone();
    order.last = Some((seq, link));
    walk(&order, places.into_iter().map(Ok))?.map_err(|difference| LedgerError::Untrue { difference })?;
    keep(connection, &node, (seq, link), before, sums)?;
    connection
        .prepare_cached("DELETE FROM records WHERE node = ? AND seq <= ?")?
        .execute((node.as_str(), integer(seq)))?;
    connection
        .prepare_cached("DELETE FROM duplicates WHERE node = ? AND seq <= ?")?
        .execute((node.as_str(), integer(seq)))?;
    Ok(count)
}

/// Keeps what verification needs of the records that go.
fn keep(
    connection: &Connection,
    node: &NodeId,
    (seq, link): (u64, Link),
    before: Timestamp,
    mut sums: Counts,
) -> Result<(), LedgerError> {
    let columns = buckets::columns();
    let mut found = connection.prepare_cached(&format!("SELECT {columns} FROM removed WHERE node = ?"))?;
    for counts in found.query_map([node.as_str()], |row| buckets::read_counts(row, 0))? {
        sums += counts?;
    }
    let places = vec!["?"; 4 + COUNTS.len()].join(", ");
    let sets = COUNTS.map(|column| format!("{column} = excluded.{column}")).join(", ");
    let mut writing = connection.prepare_cached(&format!(
        "INSERT INTO removed (node, seq, chain, ended_before, {columns}) VALUES ({places}) ON CONFLICT (node) DO UPDATE \
         SET seq = excluded.seq, chain = excluded.chain, ended_before = MAX(ended_before, excluded.ended_before), {sets}"
    ))?;
    let head = [
        Value::from(node.as_str().to_owned()),
        Value::from(integer(seq)),
        Value::from(link.as_bytes().to_vec()),
        Value::from(before.as_microsecond()),
    ];
    let sums = sums.named().map(|(_, sum)| Value::from(kept(sum)));
    writing.execute(params_from_iter(head.into_iter().chain(sums)))?;
    Ok(())
}
