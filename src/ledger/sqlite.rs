//! `SQLite`: the ledger in one file, for one machine. How a connection is opened, and how values are kept.

mod apply;
mod backup;
mod buckets;
mod jobs;
mod keys;
mod migrations;
mod records;
mod retention;
mod verify;

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::Connection;
use rusqlite::types::Type;
use serde::de::DeserializeOwned;

use super::LedgerError;

/// How long a statement waits for another process's transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection with the current schema.
#[derive(Debug)]
pub(super) struct Sqlite {
    connection: Connection,
}

impl Sqlite {
    /// Opens the file at `path`, and makes it where its folder exists.
    pub(super) fn open(path: &Path) -> Result<Self, LedgerError> {
        Ok(Self { connection: open(path)? })
    }
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
