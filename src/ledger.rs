//! Ledger: the database of records that the journal is applied to; the only place with SQL.
//!
//! In: frames of the journal, by the [`Applier`]. Out: sums by month and dimension, records in pages, keys. Records are
//! append-only; buckets are derived in the same transaction as their records, and [`Ledger::verify`] derives them again.

mod applier;
mod buckets;
mod catch_up;
mod chain;
mod feed;
mod jobs;
mod keys;
mod migrations;
mod records;
mod sqlite;
mod verify;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;

use crate::ids::NodeId;
use crate::journal::{JournalError, Position};

pub use applier::Applier;
pub use buckets::{Counts, Dimension, Row};
pub use catch_up::catch_up;
pub use chain::Link;
pub use keys::Key;
pub use records::{Cursor, Filter};
pub use verify::{Difference, Verified};

/// Why the ledger cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The database file cannot be used.
    #[error("cannot open ledger `{}`", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: rusqlite::Error,
    },
    /// Written by a newer binary.
    #[error("ledger `{}` has schema {found}, this binary knows {known}; upgrade tokenmeter", path.display())]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// The newest known here.
        known: i64,
    },
    /// There is no folder that could hold one.
    #[error("there is no data folder `{}`; start `tokenmeter serve` once, or set `ledger.directory`", directory.display())]
    NoData {
        /// The folder.
        directory: PathBuf,
    },
    /// `SQLite` refused: busy, full, damaged.
    #[error("the ledger refused a statement")]
    Statement(#[from] rusqlite::Error),
    /// The journal cannot be read.
    #[error("the journal cannot be applied")]
    Journal(#[from] JournalError),
    /// A frame or a row that this binary cannot read.
    #[error("{what} cannot be read")]
    Unreadable {
        /// Which.
        what: String,
        /// Why not.
        source: serde_json::Error,
    },
    /// The journal has another call at a place that is taken.
    #[error("record {seq} of node `{node}` is another in the ledger than in the journal; give this node another name")]
    Disagrees {
        /// The journal's node.
        node: NodeId,
        /// The place.
        seq: u64,
    },
    /// The server has not applied its journal in time.
    #[error("the server has not applied its journal within {} s; see its log, or try again", waited.as_secs())]
    Behind {
        /// How long was waited.
        waited: Duration,
    },
}

/// A connection to read by, and to change keys by. Records are written by the [`Applier`] alone.
#[derive(Debug)]
pub struct Ledger {
    connection: Connection,
}

impl Ledger {
    /// Opens the ledger in the file at `path`, makes it where its folder exists, and brings its schema up to date.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        Ok(Self { connection: sqlite::open(path)? })
    }

    /// The last seq of every node: where a journal must go on.
    pub fn last_seqs(&self) -> Result<BTreeMap<NodeId, u64>, LedgerError> {
        feed::last_seqs(&self.connection)
    }

    /// Up to where the journal is applied.
    pub fn position(&self) -> Result<Position, LedgerError> {
        feed::position(&self.connection)
    }
}

#[cfg(test)]
mod tests;
