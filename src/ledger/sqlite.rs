//! `SQLite`: the ledger in one file, for one machine. How a connection is opened, and how values are kept.

mod apply;
mod backup;
mod buckets;
mod calibration;
mod files;
mod gaps;
mod jobs;
mod keys;
mod migrations;
mod records;
mod retention;
mod verify;

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::types::Type;
use rusqlite::{Connection, ErrorCode};
use serde::de::DeserializeOwned;

use self::files::Files;
use super::LedgerError;

/// How long a statement waits for another process's transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection with the current schema.
#[derive(Debug)]
pub(super) struct Sqlite {
    connection: Connection,
    files: Files,
}

impl Sqlite {
    /// Opens the file at `path`, and makes it where its folder exists.
    pub(super) fn open(path: &Path) -> Result<Self, LedgerError> {
        let is_new = !path.exists();
        let connection = open(path).map_err(|error| explained(error, path))?;
        if is_new {
            // Its name must last as long as the journal's, which is begun behind it.
            sync_directory_of(path).map_err(|source| LedgerError::Deleted { path: path.to_owned(), source })?;
        }
        Ok(Self { connection, files: Files::of(path) })
    }

    /// Whether the files that are open are those that are there.
    pub(super) fn is_in_place(&self) -> bool {
        self.files.are_in_place()
    }

    /// Looks whether they are, and writes back what was deleted. An error means that the file must be opened anew.
    pub(super) fn look(&self) -> Result<(), LedgerError> {
        if self.files.look()? {
            return Ok(());
        }
        let path = self.files.path().to_owned();
        match self.files.write_back(|to| self.back_up(to).map(drop)) {
            Ok(()) => Err(LedgerError::WrittenBack { path }),
            Err(source) => Err(LedgerError::Deleted { path, source }),
        }
    }
}

/// Says of a damaged file that it is.
#[expect(clippy::wildcard_enum_match_arm, reason = "every other error says what is wrong as it is")]
fn explained(error: LedgerError, path: &Path) -> LedgerError {
    match error {
        LedgerError::Statement(source) | LedgerError::Open { source, .. }
            if matches!(source.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)) =>
        {
            LedgerError::Damaged { path: path.to_owned(), source: Some(source) }
        }
        error => error,
    }
}

/// Makes the name of the file at `path` as lasting as the file.
fn sync_directory_of(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}

fn open(path: &Path) -> Result<Connection, LedgerError> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !directory.is_dir() {
        return Err(LedgerError::NoData { directory: directory.to_owned() });
    }
    let failed = |source| LedgerError::Open { path: path.to_owned(), source };
    let mut connection = Connection::open(path).map_err(failed)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
    connection.set_prepared_statement_cache_capacity(32);
    connection.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
    migrations::migrate(&mut connection, path)?;
    Ok(connection)
}

/// An instant of the ledger.
fn instant(column: usize, microseconds: i64) -> rusqlite::Result<Timestamp> {
    Timestamp::from_microsecond(microseconds).map_err(|error| unreadable(column, error))
}

/// A closed word of the ledger, or JSON.
fn json<T: DeserializeOwned>(column: usize, text: &str) -> rusqlite::Result<T> {
    serde_json::from_str(text).map_err(|error| unreadable(column, error))
}

/// A closed word of the ledger: the value that JSON writes as the string `text`.
fn word<T: DeserializeOwned>(column: usize, text: String) -> rusqlite::Result<T> {
    serde_json::from_value(serde_json::Value::String(text)).map_err(|error| unreadable(column, error))
}

/// A column that does not hold what it should.
fn unreadable(column: usize, error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error))
}
