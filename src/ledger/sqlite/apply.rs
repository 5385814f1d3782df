//! Applying to `SQLite`: a batch of the journal in one transaction, with the position behind it.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior};

use super::{Sqlite, buckets, explained, gaps, records, word};
use crate::ids::NodeId;
use crate::journal::Position;
use crate::ledger::buckets::Sums;
use crate::ledger::feed::{Applied, Batch};
use crate::ledger::{LedgerError, Link, chain, count, integer};
use crate::record::Record;
use crate::usage::Outcome;

impl Sqlite {
    /// How far each node's journal is applied.
    pub(in crate::ledger) fn applied(&self) -> Result<BTreeMap<NodeId, Applied>, LedgerError> {
        let mut statement =
            self.connection.prepare_cached("SELECT node, segment, \"offset\", last_seq FROM positions")?;
        let rows = statement
            .query_map((), |row| {
                let position = Position { segment: count(row.get(1)?), offset: count(row.get(2)?) };
                Ok((word(0, row.get(0)?)?, Applied { position, last_seq: count(row.get(3)?) }))
            })?
            .collect::<Result<_, _>>()?;
        Ok(rows)
    }

    /// Applies `batch` whole or not at all. What is there already stays as it is.
    pub(in crate::ledger) fn apply(&mut self, batch: &Batch) -> Result<(), LedgerError> {
        apply(&mut self.connection, batch).map_err(|error| explained(error, self.files.path()))
    }
}

fn apply(connection: &mut Connection, batch: &Batch) -> Result<(), LedgerError> {
    let Batch { node, records, gaps, after } = batch;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for gap in gaps {
        gaps::insert(&transaction, node, gap)?;
    }
    if !records.is_empty() {
        let mut end = ChainEnd::read(&transaction, node)?;
        insert(&transaction, records, &mut end)?;
        keep_position(&transaction, node, *after, &end.link)?;
    }
    Ok(transaction.commit()?)
}

/// The end of a node's chain.
struct ChainEnd {
    seq: u64,
    link: Link,
    /// Up to here records were removed because of their age.
    removed: u64,
}

impl ChainEnd {
    fn read(transaction: &Transaction<'_>, node: &NodeId) -> Result<Self, LedgerError> {
        let removed = transaction
            .prepare_cached("SELECT seq, chain FROM removed WHERE node = ?")?
            .query_row([node.as_str()], |row| Ok((count(row.get(0)?), Link::from_bytes(row.get(1)?))))
            .optional()?;
        let (removed, behind_removed) = removed.unwrap_or((0, Link::START));
        let last = transaction
            .prepare_cached("SELECT last_seq, chain FROM positions WHERE node = ?")?
            .query_row([node.as_str()], |row| Ok((count(row.get(0)?), Link::from_bytes(row.get(1)?))))
            .optional()?;
        let (seq, link) = last.unwrap_or((removed, behind_removed));
        Ok(Self { seq, link, removed })
    }

    /// The link in front of the place `seq`.
    fn before(&self, transaction: &Transaction<'_>, node: &NodeId, seq: u64) -> Result<Link, LedgerError> {
        if seq > self.seq {
            return Ok(self.link);
        }
        // Offered again, or a place that was left out before.
        let link = transaction
            .prepare_cached(
                "SELECT chain FROM records WHERE node = ?1 AND seq = ?2 \
                 UNION ALL SELECT chain FROM duplicates WHERE node = ?1 AND seq = ?2 \
                 UNION ALL SELECT chain FROM removed WHERE node = ?1 AND seq = ?2",
            )?
            .query_row((node.as_str(), integer(seq.saturating_sub(1))), |row| records::read_link(row, 0))
            .optional()?;
        Ok(link.flatten().unwrap_or(Link::START))
    }

    /// The place `seq` is taken, by what is linked by `link`.
    fn goes_on(&mut self, seq: u64, link: Link) {
        if seq > self.seq {
            (self.seq, self.link) = (seq, link);
        }
    }
}

fn insert(transaction: &Transaction<'_>, records: &[Record], end: &mut ChainEnd) -> Result<(), LedgerError> {
    let mut sums = Sums::default();
    let mut insertion = records::insertion(transaction)?;
    // What was removed because of its age was counted before.
    let removed = end.removed;
    for record in records.iter().filter(|record| record.seq > removed) {
        let previous = end.before(transaction, &record.node, record.seq)?;
        let link = chain::link(&previous, record);
        if records::insert(&mut insertion, record, &link)? {
            sums.add(record);
            end.goes_on(record.seq, link);
            continue;
        }
        let seq = integer(record.seq);
        match records::place_of(transaction, &record.id)? {
            Some((node, there, kept)) if node == record.node.as_str() && there == seq => {
                end.goes_on(record.seq, kept.unwrap_or(Link::START));
            }
            Some((node, there, _)) => {
                if record.outcome == Outcome::Orphaned {
                    tracing::warn!(record = %record.id, "an orphan was settled before, it is counted once");
                } else {
                    tracing::error!(record = %record.id, node, seq = there, "a call was recorded twice, it is counted once");
                }
                let link = chain::link_duplicate(&previous, &record.id);
                transaction.execute(
                    "INSERT INTO duplicates (node, seq, id, chain) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                    (record.node.as_str(), seq, record.id.as_bytes(), link.as_bytes()),
                )?;
                end.goes_on(record.seq, link);
            }
            None => return Err(LedgerError::Disagrees { node: record.node.clone(), seq: record.seq }),
        }
    }
    buckets::write(&sums, transaction)
}

fn keep_position(
    transaction: &Transaction<'_>,
    node: &NodeId,
    applied: Applied,
    link: &Link,
) -> Result<(), LedgerError> {
    let Applied { position, last_seq } = applied;
    // There is one journal here. What other nodes' rows say of places was about one that is gone.
    transaction
        .execute("UPDATE positions SET segment = 0, \"offset\" = 0 WHERE node <> ? AND segment > 0", [node.as_str()])?;
    let position = (integer(position.segment), integer(position.offset));
    let changed = transaction
        .prepare_cached("UPDATE positions SET segment = ?, \"offset\" = ?, last_seq = ?, chain = ? WHERE node = ?")?
        .execute((position.0, position.1, integer(last_seq), link.as_bytes(), node.as_str()))?;
    if changed == 0 {
        // The node's first batch; or its row is gone, and with it where its chain began.
        transaction.execute(
            "INSERT INTO positions (node, segment, \"offset\", last_seq, chain, chained_after) VALUES (?1, ?2, ?3, ?4, ?5, \
             COALESCE((SELECT MAX(seq) FROM records WHERE node = ?1 AND chain IS NULL), 0))",
            (node.as_str(), position.0, position.1, integer(last_seq), link.as_bytes()),
        )?;
    }
    Ok(())
}
