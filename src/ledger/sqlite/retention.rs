//! Retention in `SQLite`: old records leave from the front of their node's order, a few at a time. Their buckets stay.

use jiff::Timestamp;
use rusqlite::{Connection, TransactionBehavior, params_from_iter, types::Value};

use super::{Sqlite, buckets, verify};
use crate::ids::NodeId;
use crate::ledger::buckets::{COUNTS, kept};
use crate::ledger::retention::{self, Old};
use crate::ledger::{LedgerError, integer};

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
    let order = verify::order(connection, node)?;
    let old = verify::with_places(connection, &order, |places| retention::old(&order, places, before, limit))?;
    let Some(old) = old else { return Ok(0) };
    keep(connection, &order.node, before, &old)?;
    let removed = (order.node.as_str(), integer(old.seq));
    connection.prepare_cached("DELETE FROM records WHERE node = ? AND seq <= ?")?.execute(removed)?;
    connection.prepare_cached("DELETE FROM duplicates WHERE node = ? AND seq <= ?")?.execute(removed)?;
    Ok(old.places)
}

/// Keeps what verification needs of the records that go.
fn keep(connection: &Connection, node: &NodeId, before: Timestamp, old: &Old) -> Result<(), LedgerError> {
    let mut sums = old.sums;
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
        Value::from(integer(old.seq)),
        Value::from(old.link.as_bytes().to_vec()),
        Value::from(before.as_microsecond()),
    ];
    let sums = sums.named().map(|(_, sum)| Value::from(kept(sum)));
    writing.execute(params_from_iter(head.into_iter().chain(sums)))?;
    Ok(())
}
