//! Ledger: the database of records that the journal is applied to; the only place with SQL.
//!
//! In: frames of the journal, by the [`Applier`]. Out: sums by month and dimension, records in pages, keys. Records are
//! append-only; buckets are derived in the same transaction as their records, and [`Ledger::verify`] derives them again.

mod applier;
mod buckets;
mod calibration;
mod catch_up;
mod chain;
mod feed;
mod keys;
mod postgres;
mod records;
mod retention;
mod sqlite;
mod verify;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::ErrorCode;

use self::feed::{Applied, Batch};
use self::postgres::Postgres;
use self::sqlite::Sqlite;
use crate::ids::{KeyId, NodeId};
use crate::journal::{self, JournalError};
use crate::period::Bucket;
use crate::record::{JobSeen, Record};
use crate::tokenizer::calibration::Row as CalibrationRow;

pub use applier::{Applier, Retention};
pub use buckets::{Counts, Dimension, Row};
pub use catch_up::catch_up;
pub use chain::Link;
pub use keys::{CopyError, Key, read_copy, write_copy};
pub use postgres::{BadUrl, Settings as PostgresSettings};
pub use records::{Cursor, Filter};
pub use verify::{ChainEnd, Difference, Verified};

/// Why the ledger cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The database file cannot be used.
    #[error("cannot open ledger `{}`{}", path.display(), hint(source))]
    Open {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: rusqlite::Error,
    },
    /// Written by a newer binary.
    #[error("ledger `{ledger}` has schema {found}, this binary knows {known}; upgrade tokenmeter")]
    TooNew {
        /// The file, or the database and its server.
        ledger: String,
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
    /// The file is not there, or empty, although a journal goes on from it.
    #[error(
        "ledger `{}` is gone or empty, but journal `{}` goes on from it; put the ledger or a backup of it there, or move the journal away to begin anew",
        path.display(),
        journal.display()
    )]
    Gone {
        /// The file.
        path: PathBuf,
        /// The journal's folder.
        journal: PathBuf,
    },
    /// The ledger is not the one that the journal was applied to.
    #[error(
        "the ledger knows nothing of node `{node}`, but {applied} of its records were applied and removed from journal `{}`; put the ledger that holds them or a backup of it there, or move the journal away to begin anew",
        journal.display()
    )]
    Emptied {
        /// The journal's node.
        node: NodeId,
        /// How many.
        applied: u64,
        /// The journal's folder.
        journal: PathBuf,
    },
    /// Another file took the name of the one that is open.
    #[error(
        "ledger `{}` was replaced while it was open; put the file that was there back, or restart tokenmeter to go on with the one that is there now",
        path.display()
    )]
    Replaced {
        /// The file.
        path: PathBuf,
    },
    /// What was open was deleted, and is there again.
    #[error("ledger `{}` or a file beside it was deleted while it was open; it was written back", path.display())]
    WrittenBack {
        /// The file.
        path: PathBuf,
    },
    /// What is open was deleted, or cannot be reached, and cannot be written back.
    #[error("ledger `{}` or a file beside it was deleted, or cannot be reached, and cannot be written back", path.display())]
    Deleted {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// What the file holds is no ledger any more.
    #[error(
        "ledger `{}` is damaged; stop tokenmeter and put a backup in its place: what the journal holds beyond it is applied again",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How it was found out; `None`: it is empty.
        source: Option<rusqlite::Error>,
    },
    /// `SQLite` refused: busy, full.
    #[error("{}", refused(.0))]
    Statement(#[from] rusqlite::Error),
    /// PostgreSQL cannot be reached, or refused.
    #[error("PostgreSQL cannot be used")]
    Postgres(#[from] tokio_postgres::Error),
    /// PostgreSQL has ended the connection.
    #[error("PostgreSQL has closed the connection")]
    Closed,
    /// PostgreSQL has not answered in time.
    #[error("PostgreSQL has not answered within {} s", waited.as_secs())]
    Silent {
        /// How long was waited.
        waited: Duration,
    },
    /// TLS to PostgreSQL cannot be set up.
    #[error("TLS cannot be set up")]
    Tls {
        /// Why not.
        source: rustls::Error,
    },
    /// The authorities to believe cannot be read.
    #[error("`{}` (`ledger.postgres_ca_file`) cannot be used: {why}", path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// The database cannot hold every text.
    #[error("database `{ledger}` has the encoding {encoding}; make one with ENCODING 'UTF8'")]
    Encoding {
        /// The database and its server.
        ledger: String,
        /// Its encoding.
        encoding: String,
    },
    /// What copies a file copies no server.
    #[error("a ledger in PostgreSQL is backed up by PostgreSQL's own means, such as pg_dump or pg_basebackup")]
    NoBackup,
    /// The operating system gave no means to wait for PostgreSQL.
    #[error("cannot prepare to connect to PostgreSQL")]
    Thread {
        /// Why not.
        source: std::io::Error,
    },
    /// Two processes have one name.
    #[error("another process writes records of node `{node}`; give each its own name in `ledger.node`, or none")]
    NodeTaken {
        /// The name.
        node: NodeId,
    },
    /// The ledger has moved on, or back, since it was last read.
    #[error("the ledger's position of node `{node}` has changed meanwhile")]
    Moved {
        /// The journal's node.
        node: NodeId,
    },
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
    /// Records that do not add up are not removed because of their age.
    #[error("old records stay, since they do not add up: {difference}; `tokenmeter verify` looks at all of them")]
    Untrue {
        /// What is not as it should be.
        difference: Difference,
    },
    /// A backup cannot be written.
    #[error("cannot {what} `{}`", path.display())]
    BackUp {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The server has not applied its journal in time.
    #[error("the server has not applied its journal within {} s; see its log, or try again", waited.as_secs())]
    Behind {
        /// How long was waited.
        waited: Duration,
    },
}

impl LedgerError {
    /// Whether waiting does not mend it: somebody has to do something.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Open { .. }
            | Self::TooNew { .. }
            | Self::NoData { .. }
            | Self::Gone { .. }
            | Self::Emptied { .. }
            | Self::Replaced { .. }
            | Self::Deleted { .. }
            | Self::Damaged { .. }
            | Self::Unreadable { .. }
            | Self::Disagrees { .. }
            | Self::Tls { .. }
            | Self::CaFile { .. }
            | Self::Encoding { .. }
            | Self::NoBackup
            | Self::Untrue { .. }
            | Self::BackUp { .. }
            | Self::NodeTaken { .. } => true,
            Self::Statement(_)
            | Self::Postgres(_)
            | Self::Closed
            | Self::Silent { .. }
            | Self::Thread { .. }
            | Self::Moved { .. }
            | Self::WrittenBack { .. }
            | Self::Journal(_)
            | Self::Behind { .. } => false,
        }
    }

    /// Whether the ledger, or the journal that it is fed by, is not what it was. A person must see to it.
    pub fn is_loss(&self) -> bool {
        matches!(
            self,
            Self::Gone { .. }
                | Self::Emptied { .. }
                | Self::Replaced { .. }
                | Self::Deleted { .. }
                | Self::Damaged { .. }
                | Self::Journal(JournalError::Broken { .. } | JournalError::TooNew { .. })
        )
    }
}

/// What may help to open a file.
fn hint(error: &rusqlite::Error) -> &'static str {
    match error.sqlite_error_code() {
        Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            "; whoever runs this must be able to write it and its folder, also to read"
        }
        _ => "",
    }
}

/// What a refused statement means to who reads of it.
fn refused(error: &rusqlite::Error) -> &'static str {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "the ledger is locked by another process, such as a sqlite3 shell; try again when that has let go"
        }
        Some(ErrorCode::DiskFull) => "the disk of the ledger is full",
        Some(ErrorCode::ReadOnly) => "the ledger may not be written",
        _ => "the ledger refused a statement",
    }
}

/// Which ledger.
#[derive(Clone, Debug)]
pub enum Place {
    /// `SQLite`, in the file of this path.
    Sqlite(PathBuf),
    /// PostgreSQL, shared by any number of servers.
    Postgres(Arc<PostgresSettings>),
}

impl Place {
    /// Whether it is elsewhere: then it may be away, its records come from many servers, and so do its keys.
    pub fn may_be_away(&self) -> bool {
        match self {
            Self::Sqlite(_) => false,
            Self::Postgres(_) => true,
        }
    }

    /// Whether there may be a ledger: opening it makes nothing that was not there.
    pub fn exists(&self) -> bool {
        match self {
            Self::Sqlite(path) => path.exists(),
            Self::Postgres(_) => true,
        }
    }

    /// Whether the ledger takes space from the disk of `journal`.
    fn shares_disk_with(&self, journal: &Path) -> bool {
        let device = |path: &Path| std::fs::metadata(path).ok().map(|metadata| metadata.dev());
        match self {
            Self::Sqlite(path) => device(path) == device(journal),
            Self::Postgres(_) => false,
        }
    }

    /// Whether the ledger is where the journal in `journal` can go on from it. One that is gone is not made anew beside
    /// a journal: what it held, keys too, would be missing without a word.
    pub fn check(&self, journal: &Path) -> Result<(), LedgerError> {
        match self {
            Self::Sqlite(path) => {
                let is_empty = std::fs::metadata(path).map_or_else(|_| !path.exists(), |metadata| metadata.len() == 0);
                if is_empty && !journal::nodes(journal)?.is_empty() {
                    return Err(LedgerError::Gone { path: path.clone(), journal: journal.to_owned() });
                }
                Ok(())
            }
            Self::Postgres(_) => Ok(()),
        }
    }
}

/// The databases that a ledger can be kept in. Each knows its own SQL; what is around them knows none.
#[derive(Debug)]
enum Store {
    Sqlite(Sqlite),
    Postgres(Box<Postgres>),
}

impl Store {
    fn open(place: &Place) -> Result<Self, LedgerError> {
        match place {
            Place::Sqlite(path) => Ok(Self::Sqlite(Sqlite::open(path)?)),
            Place::Postgres(settings) => Ok(Self::Postgres(Box::new(Postgres::open(settings)?))),
        }
    }

    /// The same, to write records of `nodes`, which nobody else may meanwhile. A file has one journal beside it, whose
    /// lock is enough.
    fn open_to_write(place: &Place, nodes: &BTreeSet<NodeId>) -> Result<Self, LedgerError> {
        match place {
            Place::Sqlite(_) => Self::open(place),
            Place::Postgres(settings) => Ok(Self::Postgres(Box::new(Postgres::open_to_write(settings, nodes)?))),
        }
    }

    /// How far each node's journal is applied.
    fn applied(&self) -> Result<BTreeMap<NodeId, Applied>, LedgerError> {
        match self {
            Self::Sqlite(store) => store.applied(),
            Self::Postgres(store) => store.applied(),
        }
    }

    fn is_in_place(&self) -> bool {
        match self {
            Self::Sqlite(store) => store.is_in_place(),
            Self::Postgres(_) => true,
        }
    }

    /// Looks whether the ledger is still there, and puts it back where that is possible. An error means that it must be
    /// opened anew.
    fn look(&self) -> Result<(), LedgerError> {
        match self {
            Self::Sqlite(store) => store.look(),
            Self::Postgres(_) => Ok(()),
        }
    }

    /// Sees to it that what it shows is on the disk, also where a sync before failed. False: not yet, ask again.
    fn make_lasting(&self) -> Result<bool, LedgerError> {
        match self {
            Self::Sqlite(store) => store.make_lasting(),
            Self::Postgres(_) => Ok(true),
        }
    }

    /// Applies `batch` whole or not at all. What is there already stays as it is.
    fn apply(&mut self, batch: &Batch) -> Result<(), LedgerError> {
        match self {
            Self::Sqlite(store) => store.apply(batch),
            Self::Postgres(store) => store.apply(batch),
        }
    }

    /// Removes up to `limit` of the oldest records of the nodes written here that ended before `before`, which begins a
    /// bucket; their buckets stay. How many; 0: there are no more.
    fn remove_before(&mut self, before: Timestamp, limit: usize) -> Result<usize, LedgerError> {
        match self {
            Self::Sqlite(store) => store.remove_before(before, limit),
            Self::Postgres(store) => store.remove_before(before, limit),
        }
    }
}

/// A connection to read by, and to change keys by. Records are written by the [`Applier`] alone.
#[derive(Debug)]
pub struct Ledger {
    store: Store,
}

impl Ledger {
    /// Opens the ledger at `place`, makes it where it can be made, and brings its schema up to date.
    pub fn open(place: &Place) -> Result<Self, LedgerError> {
        Ok(Self { store: Store::open(place)? })
    }

    /// The last seq of every node: where a journal must go on.
    pub fn last_seqs(&self) -> Result<BTreeMap<NodeId, u64>, LedgerError> {
        Ok(self.store.applied()?.into_iter().map(|(node, applied)| (node, applied.last_seq)).collect())
    }

    /// Whether the place still leads to what is open here.
    pub fn is_in_place(&self) -> bool {
        self.store.is_in_place()
    }

    /// How many calls passed unmetered from `first` (included) to `end` (excluded).
    pub fn unmetered_requests(&self, first: Bucket, end: Bucket) -> Result<u64, LedgerError> {
        match &self.store {
            Store::Sqlite(store) => store.unmetered_requests(first, end),
            Store::Postgres(store) => store.unmetered_requests(first, end),
        }
    }

    /// The sums from `first` (included) to `end` (excluded) by `by`, ordered by it.
    pub fn month_rows(&self, first: Bucket, end: Bucket, by: &[Dimension]) -> Result<Vec<Row>, LedgerError> {
        match &self.store {
            Store::Sqlite(store) => store.month_rows(first, end, by),
            Store::Postgres(store) => store.month_rows(first, end, by),
        }
    }

    /// Up to `limit` records after `after`, by `ended_at`, then (node, seq). Empty: there are no more.
    pub fn records(&self, filter: &Filter, after: Option<&Cursor>, limit: usize) -> Result<Vec<Record>, LedgerError> {
        match &self.store {
            Store::Sqlite(store) => store.records(filter, after, limit),
            Store::Postgres(store) => store.records(filter, after, limit),
        }
    }

    /// Writes a copy of the ledger as it is now to the new file `to`. The copy is whole and lasting before it has that
    /// name. Records go on being applied meanwhile. What the copy holds: how far each node's records go.
    pub fn back_up(&self, to: &Path) -> Result<Vec<ChainEnd>, LedgerError> {
        match &self.store {
            Store::Sqlite(store) => store.back_up(to),
            Store::Postgres(_) => Err(LedgerError::NoBackup),
        }
    }

    /// Recomputes buckets and totals from the records, and looks for gaps, changes and damage. All in one view of the
    /// ledger, also while a server writes.
    pub fn verify(&self) -> Result<Result<Verified, Difference>, LedgerError> {
        match &self.store {
            Store::Sqlite(store) => store.verify(),
            Store::Postgres(store) => store.verify(),
        }
    }

    /// Records that ended before this were removed because of their age; their sums are kept. `None`: none were.
    pub fn removed_before(&self) -> Result<Option<Timestamp>, LedgerError> {
        match &self.store {
            Store::Sqlite(store) => store.removed_before(),
            Store::Postgres(store) => store.removed_before(),
        }
    }

    /// What the last `limit` records since `since` that began or counted a job say, in the order in which they ended.
    pub fn jobs_seen(&self, since: Timestamp, limit: usize) -> Result<Vec<JobSeen>, LedgerError> {
        match &self.store {
            Store::Sqlite(store) => store.jobs_seen(since, limit),
            Store::Postgres(store) => store.jobs_seen(since, limit),
        }
    }

    /// What calls with reported usage taught, a row a key; of several nodes' rows that of most lessons. The rows of the
    /// last lessons are last.
    pub fn calibration(&self) -> Result<Vec<CalibrationRow>, LedgerError> {
        match &self.store {
            Store::Sqlite(store) => store.calibration(),
            Store::Postgres(store) => store.calibration(),
        }
    }

    /// Keeps what `node` has learned by `at` in the place of what it knew before, and lets go of what is old.
    pub fn keep_calibration(
        &mut self,
        node: &NodeId,
        rows: &[CalibrationRow],
        at: Timestamp,
    ) -> Result<(), LedgerError> {
        match &mut self.store {
            Store::Sqlite(store) => store.keep_calibration(rows, at),
            Store::Postgres(store) => store.keep_calibration(node, rows, at),
        }
    }

    /// Keeps a new key. Works beside a running server.
    pub fn insert_key(&self, key: &Key) -> Result<(), LedgerError> {
        match &self.store {
            Store::Sqlite(store) => store.insert_key(key),
            Store::Postgres(store) => store.insert_key(key),
        }
    }

    /// Every key, the revoked ones too, oldest first.
    pub fn keys(&self) -> Result<Vec<Key>, LedgerError> {
        match &self.store {
            Store::Sqlite(store) => store.keys(),
            Store::Postgres(store) => store.keys(),
        }
    }

    /// Revokes the key `id` as of `at`. False: no such key, or it was revoked before.
    pub fn revoke_key(&self, id: &KeyId, at: Timestamp) -> Result<bool, LedgerError> {
        match &self.store {
            Store::Sqlite(store) => store.revoke_key(id, at),
            Store::Postgres(store) => store.revoke_key(id, at),
        }
    }

    /// Another number whenever a key was made or revoked, by any process. Cheap.
    pub fn keys_version(&self) -> Result<i64, LedgerError> {
        match &self.store {
            Store::Sqlite(store) => store.keys_version(),
            Store::Postgres(store) => store.keys_version(),
        }
    }
}

/// A count as a database keeps it. Past 2⁶³ it is that: no call is so large, and the record says that it is invalid.
fn integer(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// A count of a database.
fn count(integer: i64) -> u64 {
    u64::try_from(integer).unwrap_or(0)
}

#[cfg(test)]
mod tests;
