//! Catching up: what a reading command does first, so that it sees what the journal held when it began.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::feed::{self, Feed};
use super::{LedgerError, Place, Store};
use crate::ids::NodeId;
use crate::journal::{self, Kind, Limits, Lock, Position, Reader};

const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Waits until what the journal in `journal` holds now is in the ledger at `ledger`. With no server running, applies it
/// itself; else waits for the server, for at most `wait`. Nothing is made outside the ledger's folder, which must exist.
pub fn catch_up(journal: &Path, ledger: &Place, wait: Duration) -> Result<(), LedgerError> {
    ledger.check(journal)?;
    let store = Store::open(ledger)?;
    if !journal.is_dir() {
        return Ok(());
    }
    if let Some(lock) = Lock::take(journal)? {
        let seq_floors = store.applied()?.into_iter().map(|(node, applied)| (node, applied.last_seq)).collect();
        lock.cut_torn_tail(journal, &seq_floors)?;
        let mut feed = open_feed(ledger, journal, wait)?;
        while feed.step()?.frames > 0 {}
        return Ok(());
    }
    let position = feed::position_of(&store.applied()?, &journal::nodes(journal)?, journal)?;
    let Some((node, seq)) = last_record(journal, position)? else { return Ok(()) };
    let begun = Instant::now();
    while store.applied()?.get(&node).is_none_or(|applied| applied.last_seq < seq) {
        if begun.elapsed() >= wait {
            return Err(LedgerError::Behind { waited: wait });
        }
        thread::sleep(LOOK_AGAIN);
    }
    Ok(())
}

/// A server that was just stopped may still be known to a shared ledger.
fn open_feed(ledger: &Place, journal: &Path, wait: Duration) -> Result<Feed, LedgerError> {
    let begun = Instant::now();
    loop {
        match Feed::open(ledger, journal) {
            Err(LedgerError::NodeTaken { .. }) if begun.elapsed() < wait => thread::sleep(LOOK_AGAIN),
            opened => return opened,
        }
    }
}

/// The node and seq of the last record after `from` that is there now.
fn last_record(journal: &Path, from: Position) -> Result<Option<(NodeId, u64)>, LedgerError> {
    let mut reader = Reader::open(journal, from)?;
    let mut last = None;
    loop {
        let batch = reader.next_batch(Limits { frames: 10_000, bytes: 4 << 20 })?;
        if batch.is_empty() {
            return Ok(last);
        }
        if let Some((_, frame)) = batch.into_iter().rev().find(|(_, frame)| frame.kind == Kind::Record) {
            last = Some((NodeId::clone(&frame.node), frame.seq));
        }
    }
}
