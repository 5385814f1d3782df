//! PostgreSQL: the ledger that several servers share.
//!
//! Each server applies its own journal, alone: its node is claimed by a lock of its connection. Rows are never fought
//! over: records, buckets and positions are each written by one node.

mod apply;
mod buckets;
mod calibration;
mod connection;
mod gaps;
mod jobs;
mod keys;
mod migrations;
mod partitions;
mod records;
mod retention;
mod settings;
mod tls;
mod verify;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, accepts, to_sql_checked};
use tokio_postgres::{Client, Row};

pub use settings::{BadUrl, Settings};

use self::connection::Connection;
use super::LedgerError;
use crate::ids::NodeId;

/// How long a question about a few rows may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a question about many rows may take: a little more than the server itself allows.
const READ_TIMEOUT: Duration = Duration::from_secs(35);

/// A ledger in PostgreSQL, over one connection.
#[derive(Debug)]
pub(super) struct Postgres {
    settings: Arc<Settings>,
    connection: RefCell<Connection>,
    partitions: partitions::Partitions,
}

impl Postgres {
    /// Connects, to read.
    pub(super) fn open(settings: &Arc<Settings>) -> Result<Self, LedgerError> {
        Self::connect(settings, Vec::new())
    }

    /// Connects, to write records of `nodes`, which nobody else may meanwhile.
    pub(super) fn open_to_write(settings: &Arc<Settings>, nodes: &BTreeSet<NodeId>) -> Result<Self, LedgerError> {
        Self::connect(settings, nodes.iter().cloned().collect())
    }

    fn connect(settings: &Arc<Settings>, nodes: Vec<NodeId>) -> Result<Self, LedgerError> {
        let store = Self {
            settings: Arc::clone(settings),
            connection: RefCell::new(Connection::new(settings, nodes)?),
            partitions: partitions::Partitions::default(),
        };
        store.run(READ_TIMEOUT, async |client| migrations::migrate(client, &store.settings).await)?;
        Ok(store)
    }

    fn run<T>(
        &self,
        within: Duration,
        work: impl AsyncFnOnce(&mut Client) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        self.connection.borrow_mut().run(within, work)
    }
}

/// An instant as PostgreSQL keeps it: microseconds since 2000.
#[derive(Clone, Copy, Debug)]
struct Instant(Timestamp);

/// From 1970 to 2000, in microseconds.
const EPOCH: i64 = 946_684_800_000_000;
/// The first instant that PostgreSQL knows, in 4714 BC: it refuses those before.
const FIRST: i64 = -211_813_488_000_000_000;

impl ToSql for Instant {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        let microsecond = self.0.as_microsecond().saturating_sub(EPOCH).max(FIRST);
        out.extend_from_slice(&microsecond.to_be_bytes());
        Ok(IsNull::No)
    }

    accepts!(TIMESTAMPTZ);
    to_sql_checked!();
}

impl<'a> FromSql<'a> for Instant {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        let microsecond = i64::from_be_bytes(raw.try_into()?).saturating_add(EPOCH);
        Ok(Self(Timestamp::from_microsecond(microsecond)?))
    }

    accepts!(TIMESTAMPTZ);
}

/// A closed word of the ledger: the value that JSON writes as the string in `column`.
fn word<T: DeserializeOwned>(row: &Row, column: usize) -> Result<T, LedgerError> {
    optional_word(row, column)?.ok_or_else(|| unreadable(row, column, serde::de::Error::custom("it is empty")))
}

/// The same where there may be none.
fn optional_word<T: DeserializeOwned>(row: &Row, column: usize) -> Result<Option<T>, LedgerError> {
    let text: Option<String> = row.try_get(column)?;
    text.map(|text| serde_json::from_value(serde_json::Value::String(text)))
        .transpose()
        .map_err(|source| unreadable(row, column, source))
}

/// A value of the ledger that is kept as JSON.
fn json<T: DeserializeOwned>(row: &Row, column: usize) -> Result<Option<T>, LedgerError> {
    let text: Option<&str> = row.try_get(column)?;
    text.map(serde_json::from_str).transpose().map_err(|source| unreadable(row, column, source))
}

fn unreadable(row: &Row, column: usize, source: serde_json::Error) -> LedgerError {
    let name = row.columns().get(column).map_or("?", |column| column.name());
    LedgerError::Unreadable { what: format!("column `{name}` of the ledger"), source }
}
