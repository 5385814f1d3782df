//! Feed: one batch of the journal into the ledger, exactly once whatever dies between.
//!
//! The position moves in the transaction of the records. A position that turns out not to fit its journal, which was
//! taken away or lost its end, is found by the gap in the seqs: then the whole journal is offered again, and what is
//! there already stays as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::{LedgerError, Place, Store};
use crate::ids::NodeId;
use crate::journal::{self, Frame, JournalError, Kind, Limits, Position, Reader};
use crate::record::Record;

/// One transaction's worth. Its fsync is shared by all of it; a reader waits for no more than it.
const BATCH: Limits = Limits { frames: 2_000, bytes: 1 << 20 };

/// How far a node's journal is applied.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Applied {
    /// Behind the last frame.
    pub(super) position: Position,
    /// The last record's place in the node's order.
    pub(super) last_seq: u64,
}

/// What a store takes in one transaction: all of one segment, so all of one node.
#[derive(Debug)]
pub(super) struct Batch {
    /// The node whose records they are.
    pub(super) node: NodeId,
    /// At least one, in the order of their seqs.
    pub(super) records: Vec<Record>,
    /// The node's last seq before them.
    pub(super) last_seq_before: u64,
    /// How far the journal is applied with them.
    pub(super) after: Applied,
}

/// Reads the journal, writes the ledger.
#[derive(Debug)]
pub(super) struct Feed {
    store: Store,
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
    /// Goes on where the ledger at `place` stands.
    pub(super) fn open(place: &Place, directory: &Path) -> Result<Self, LedgerError> {
        let nodes = journal::nodes(directory)?;
        let store = Store::open_to_write(place, &nodes)?;
        let applied = store.applied()?;
        let position = position_of(&applied, &nodes);
        let last_seqs = applied.into_iter().map(|(node, applied)| (node, applied.last_seq)).collect();
        let reader = Reader::open(directory, position)?;
        Ok(Self {
            store,
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

    /// Removes up to `limit` records that ended before `before`. How many; 0: there are no more.
    pub(super) fn remove_before(&mut self, before: Timestamp, limit: usize) -> Result<usize, LedgerError> {
        self.store.remove_before(before, limit)
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
        let count = records.len();
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
        if let Some(node) = records.last().map(|record| record.node.clone()) {
            let last_seq = last_seqs.get(&node).copied().unwrap_or(0);
            let last_seq_before = self.last_seqs.get(&node).copied().unwrap_or(0);
            self.store.apply(&Batch {
                node,
                records,
                last_seq_before,
                after: Applied { position: after, last_seq },
            })?;
        }
        self.last_seqs = last_seqs;
        self.position = after;
        Ok(Step { frames: batch.len(), records: count })
    }

    fn rewind(&mut self, why: &'static str) -> Result<Step, LedgerError> {
        tracing::warn!(why, "applying the whole journal again");
        self.has_rewound = true;
        self.position = Position::START;
        self.reader = Reader::open(&self.directory, Position::START)?;
        self.try_step()
    }
}

/// Up to where a journal is applied that has had the names `nodes`, one after the other. What is known of other nodes
/// is about other journals.
pub(super) fn position_of(applied: &BTreeMap<NodeId, Applied>, nodes: &BTreeSet<NodeId>) -> Position {
    let positions = nodes.iter().filter_map(|node| applied.get(node)).map(|applied| applied.position);
    positions.max().unwrap_or(Position::START)
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
