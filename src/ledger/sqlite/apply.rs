//! Applying to `SQLite`: a batch of the journal in one transaction, with the position behind it.

use std::collections::BTreeMap;

use rusqlite::{Transaction, TransactionBehavior};

use super::{Sqlite, buckets, records, word};
use crate::ids::NodeId;
use crate::journal::Position;
use crate::ledger::buckets::Sums;
use crate::ledger::feed::{Applied, Batch};
use crate::ledger::{LedgerError, count, integer};
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

    /// Writes everything from the log to the database and syncs that, as far as no reader is in the way; whether it
    /// is. After a failed sync a later one proves nothing of what was written before it: who opens the log anew finds
    /// transactions in it that are in the kernel's memory alone.
    pub(in crate::ledger) fn make_lasting(&self) -> Result<bool, LedgerError> {
        let (frames, written): (i64, i64) =
            self.connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", (), |row| Ok((row.get(1)?, row.get(2)?)))?;
        Ok(frames == written)
    }

    /// Applies `batch` whole or not at all. What is there already stays as it is.
    pub(in crate::ledger) fn apply(&mut self, batch: &Batch) -> Result<(), LedgerError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        apply(&transaction, &batch.records)?;
        keep_position(&transaction, &batch.node, batch.after)?;
        Ok(transaction.commit()?)
    }
}

fn apply(transaction: &Transaction<'_>, records: &[Record]) -> Result<(), LedgerError> {
    let mut sums = Sums::default();
    let mut insertion = records::insertion(transaction)?;
    for record in records {
        if records::insert(&mut insertion, record)? {
            sums.add(record);
            continue;
        }
        let seq = integer(record.seq);
        match records::place_of(transaction, &record.id)? {
            Some((node, there)) if node == record.node.as_str() && there == seq => {}
            Some((node, there)) => {
                if record.outcome == Outcome::Orphaned {
                    tracing::warn!(record = %record.id, "an orphan was settled before, it is counted once");
                } else {
                    tracing::error!(record = %record.id, node, seq = there, "a call was recorded twice, it is counted once");
                }
                transaction.execute(
                    "INSERT INTO duplicates (node, seq, id) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                    (record.node.as_str(), seq, record.id.as_bytes()),
                )?;
            }
            None => return Err(LedgerError::Disagrees { node: record.node.clone(), seq: record.seq }),
        }
    }
    buckets::write(&sums, transaction)
}

fn keep_position(transaction: &Transaction<'_>, node: &NodeId, applied: Applied) -> Result<(), LedgerError> {
    let Applied { position, last_seq } = applied;
    // There is one journal here. What other nodes' rows say of places was about one that is gone.
    transaction
        .execute("UPDATE positions SET segment = 0, \"offset\" = 0 WHERE node <> ? AND segment > 0", [node.as_str()])?;
    transaction
        .prepare_cached(
            "INSERT INTO positions (node, segment, \"offset\", last_seq) VALUES (?, ?, ?, ?) ON CONFLICT (node) \
             DO UPDATE SET segment = excluded.segment, \"offset\" = excluded.\"offset\", last_seq = excluded.last_seq",
        )?
        .execute((node.as_str(), integer(position.segment), integer(position.offset), integer(last_seq)))?;
    Ok(())
}
