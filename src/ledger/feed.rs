//! Feed: one batch of the journal into the ledger, exactly once whatever dies between.
//!
//! The position moves in the transaction of the records. A position that turns out not to fit its journal, which was
//! taken away or lost its end, is found by the gap in the seqs: then the whole journal is offered again, and what is
//! there already stays as it is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};

use super::{LedgerError, buckets, records, sqlite};
use crate::ids::NodeId;
use crate::journal::{Frame, JournalError, Kind, Limits, Position, Reader};
use crate::record::Record;
use crate::usage::Outcome;

/// One transaction's worth. Its fsync is shared by all of it; a reader waits for no more than it.
const BATCH: Limits = Limits { frames: 2_000, bytes: 1 << 20 };

/// Reads the journal, writes the ledger.
#[derive(Debug)]
pub(super) struct Feed {
    connection: Connection,
    directory: PathBuf,
    reader: Reader,
    position: Position,
    last_seqs: BTreeMap<NodeId, u64>,
    has_rewound: bool,
    batch: Limits,
}

/// What a step did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Step {
    /// Frames of any kind; 0: nothing whole follows yet.
    pub(super) frames: usize,
    /// Records among them.
    pub(super) records: usize,
}

impl Feed {
    /// Goes on where the ledger in `ledger` stands.
    pub(super) fn open(ledger: &Path, directory: &Path) -> Result<Self, LedgerError> {
        let connection = sqlite::open(ledger)?;
        let position = position(&connection)?;
        let last_seqs = last_seqs(&connection)?;
        let reader = Reader::open(directory, position)?;
        Ok(Self {
            connection,
            directory: directory.to_owned(),
            reader,
            position,
            last_seqs,
            has_rewound: false,
            batch: BATCH,
        })
    }

    /// The same in other batches.
    #[cfg(test)]
    pub(super) fn in_batches_of(mut self, frames: usize) -> Self {
        self.batch.frames = frames;
        self
    }

    /// Up to where everything is applied.
    pub(super) fn position(&self) -> Position {
        self.position
    }

    /// Applies the next batch. On an error nothing of it is applied, and the next step tries it again.
    pub(super) fn step(&mut self) -> Result<Step, LedgerError> {
        let outcome = self.try_step();
        if outcome.is_err() {
            self.reader = Reader::open(&self.directory, self.position)?;
        }
        outcome
    }

    fn try_step(&mut self) -> Result<Step, LedgerError> {
        let batch = match self.reader.next_batch(self.batch) {
            // Perhaps the position fell between two frames of a journal that was written anew.
            Err(JournalError::Broken { .. }) if !self.has_rewound => return self.rewind("the position fits no frame"),
            batch => batch?,
        };
        let Some((after, _)) = batch.last() else { return Ok(Step { frames: 0, records: 0 }) };
        let after = *after;
        let records = records_of(&batch)?;
        if records.is_empty() {
            self.position = after;
            return Ok(Step { frames: batch.len(), records: 0 });
        }
        let mut last_seqs = self.last_seqs.clone();
        for record in &records {
            let last = last_seqs.entry(record.node.clone()).or_default();
            if record.seq > last.saturating_add(1) {
                if !self.has_rewound {
                    return self.rewind("records are missing between the ledger and the journal");
                }
                tracing::error!(node = %record.node, from = *last, to = record.seq, "records are in neither journal nor ledger");
            }
            *last = (*last).max(record.seq);
        }
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        apply(&transaction, &records)?;
        if let Some(record) = records.last() {
            let last_seq = last_seqs.get(&record.node).copied().unwrap_or(0);
            keep_position(&transaction, &record.node, after, last_seq)?;
        }
        transaction.commit()?;
        self.last_seqs = last_seqs;
        self.position = after;
        Ok(Step { frames: batch.len(), records: records.len() })
    }

    fn rewind(&mut self, why: &'static str) -> Result<Step, LedgerError> {
        tracing::warn!(why, "applying the whole journal again");
        self.has_rewound = true;
        self.position = Position::START;
        self.reader = Reader::open(&self.directory, Position::START)?;
        self.try_step()
    }
}

fn records_of(batch: &[(Position, Frame)]) -> Result<Vec<Record>, LedgerError> {
    batch
        .iter()
        .filter(|(_, frame)| frame.kind == Kind::Record)
        .map(|(_, frame)| {
            frame.record().map(Record::into_kept).map_err(|source| LedgerError::Unreadable {
                what: format!("record {} of node `{}`", frame.seq, frame.node),
                source,
            })
        })
        .collect()
}

fn apply(transaction: &Transaction<'_>, records: &[Record]) -> Result<(), LedgerError> {
    let mut sums = buckets::Sums::default();
    let mut insertion = records::insertion(transaction)?;
    for record in records {
        if records::insert(&mut insertion, record)? {
            sums.add(record);
            continue;
        }
        let seq = sqlite::integer(record.seq);
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
    sums.write(transaction)
}

fn keep_position(
    transaction: &Transaction<'_>,
    node: &NodeId,
    position: Position,
    last_seq: u64,
) -> Result<(), LedgerError> {
    // There is one journal here. What other nodes' rows say of places was about one that is gone.
    transaction
        .execute("UPDATE positions SET segment = 0, \"offset\" = 0 WHERE node <> ? AND segment > 0", [node.as_str()])?;
    transaction
        .prepare_cached(
            "INSERT INTO positions (node, segment, \"offset\", last_seq) VALUES (?, ?, ?, ?) ON CONFLICT (node) \
             DO UPDATE SET segment = excluded.segment, \"offset\" = excluded.\"offset\", last_seq = excluded.last_seq",
        )?
        .execute((
            node.as_str(),
            sqlite::integer(position.segment),
            sqlite::integer(position.offset),
            sqlite::integer(last_seq),
        ))?;
    Ok(())
}

/// Up to where the journal is applied.
pub(super) fn position(connection: &Connection) -> Result<Position, LedgerError> {
    let row = connection
        .prepare_cached("SELECT segment, \"offset\" FROM positions ORDER BY segment DESC, \"offset\" DESC LIMIT 1")?
        .query_row((), |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    Ok(row.map_or(Position::START, |(segment, offset)| Position {
        segment: sqlite::count(segment),
        offset: sqlite::count(offset),
    }))
}

/// The last seq of every node.
pub(super) fn last_seqs(connection: &Connection) -> Result<BTreeMap<NodeId, u64>, LedgerError> {
    let mut statement = connection.prepare_cached("SELECT node, last_seq FROM positions")?;
    let rows = statement
        .query_map((), |row| Ok((sqlite::word(0, row.get(0)?)?, sqlite::count(row.get(1)?))))?
        .collect::<Result<_, _>>()?;
    Ok(rows)
}
