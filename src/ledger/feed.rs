//! Feed: one batch of the journal into the ledger, exactly once whatever dies between.
//!
//! The position moves in the transaction of the records. A position that turns out not to fit its journal, which was
//! taken away or lost its end, is found by the gap in the seqs: then the whole journal is offered again, and what is
//! there already stays as it is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::{LedgerError, Place, Store};
use crate::ids::NodeId;
use crate::journal::{self, Frame, JournalError, Kind, Limits, Position, Reader};
use crate::record::{Gap, Record};

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
    /// In the order of their seqs.
    pub(super) records: Vec<Record>,
    /// Calls of that node that have no record.
    pub(super) gaps: Vec<Gap>,
    /// The node's last seq before them.
    pub(super) last_seq_before: u64,
    /// How far the journal is applied with the records; to be kept with them, where there is one.
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
        place.check(directory)?;
        let nodes = journal::nodes(directory)?;
        let store = Store::open_to_write(place, &nodes.keys().cloned().collect())?;
        let applied = store.applied()?;
        // A node's first segment begins behind what was applied and removed. A file that never heard of it is another. A
        // database may be a standby's, and no reason to refuse calls.
        for (node, first) in &nodes {
            if *first > 1 && !applied.contains_key(node) && !place.may_be_away() {
                let (applied, journal) = (first.saturating_sub(1), directory.to_owned());
                return Err(LedgerError::Emptied { node: node.clone(), applied, journal });
            }
        }
        let position = position_of(&applied, &nodes, directory)?;
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

    /// Looks whether the ledger is still there. An error means that it must be opened anew.
    pub(super) fn look(&self) -> Result<(), LedgerError> {
        self.store.look()
    }

    /// Whether the place of the ledger leads to what is open here.
    pub(super) fn is_in_place(&self) -> bool {
        self.store.is_in_place()
    }

    /// Says which records are gone: neither in the ledger, such as a backup that was put back, nor in the journal.
    pub(super) fn tell_lost(&self) -> Result<(), LedgerError> {
        for (node, first) in journal::nodes(&self.directory)? {
            let last = self.last_seqs.get(&node).copied().unwrap_or(0);
            if first > last.saturating_add(1) {
                let (from, to) = (last.saturating_add(1), first.saturating_sub(1));
                tracing::error!(%node, from, to, "records are in neither journal nor ledger; a later backup may have them");
            }
        }
        Ok(())
    }

    /// Up to where everything is applied.
    pub(super) fn position(&self) -> Position {
        self.position
    }

    /// Sees to it that what is applied is on the disk, also where a sync before failed. False: not yet, ask again.
    pub(super) fn make_lasting(&self) -> Result<bool, LedgerError> {
        self.store.make_lasting()
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
        let Some((after, Frame { node, .. })) = batch.last() else { return Ok(Step { frames: 0, records: 0 }) };
        let after = *after;
        let (records, gaps) = (records_of(&batch)?, gaps_of(&batch)?);
        if records.is_empty() && gaps.is_empty() {
            self.position = after;
            return Ok(Step { frames: batch.len(), records: 0 });
        }
        let (count, node) = (records.len(), NodeId::clone(node));
        let last_seq_before = self.last_seqs.get(&node).copied().unwrap_or(0);
        let mut last_seq = last_seq_before;
        for record in &records {
            if record.seq > last_seq.saturating_add(1) {
                if !self.has_rewound {
                    return self.rewind("records are missing between the ledger and the journal");
                }
                tracing::error!(%node, from = last_seq, to = record.seq, "records are in neither journal nor ledger");
            }
            last_seq = last_seq.max(record.seq);
        }
        let applied = Applied { position: after, last_seq };
        self.store.apply(&Batch { node: node.clone(), records, gaps, last_seq_before, after: applied })?;
        self.last_seqs.insert(node, last_seq);
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
pub(super) fn position_of(
    applied: &BTreeMap<NodeId, Applied>,
    nodes: &BTreeMap<NodeId, u64>,
    directory: &Path,
) -> Result<Position, LedgerError> {
    let newest = nodes.keys().filter_map(|node| applied.get(node)).max_by_key(|applied| applied.position);
    let Some(Applied { position, last_seq }) = newest.copied() else { return Ok(Position::START) };
    // The power failed before the name of the segment was on the disk, and another has it now.
    let is_another = journal::first_seq(directory, position.segment)?.is_some_and(|first| first > last_seq);
    Ok(if is_another { Position::START } else { position })
}

fn gaps_of(batch: &[(Position, Frame)]) -> Result<Vec<Gap>, LedgerError> {
    let frames = batch.iter().map(|(_, frame)| frame).filter(|frame| frame.kind == Kind::Gap);
    let unreadable = |source| LedgerError::Unreadable { what: "a gap".to_owned(), source };
    frames.map(|frame| frame.gap().map_err(unreadable)).collect()
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
