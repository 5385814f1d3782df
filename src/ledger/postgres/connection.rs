//! Connection: one to PostgreSQL, for one thread, with an end to every wait.
//!
//! The server's own timeouts do not help where the server has stopped, and TCP's do not where its kernel still answers:
//! so every piece of work has a time within which it must be done. After any error the connection is let go, since
//! nobody knows in which state it was left; the next piece of work begins on another.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio_postgres::Client;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{Settings, tls};
use crate::ids::NodeId;
use crate::ledger::LedgerError;

/// How long it may take to be connected: TCP, TLS, password and all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What every session begins with. The server gives up what we have given up before, and lets go of a session, its
/// locks with it, whose client is gone without a word.
const SESSION: &str = "
    SET search_path TO tokenmeter;
    SET TIME ZONE 'UTC';
    SET statement_timeout TO '30s';
    SET idle_in_transaction_session_timeout TO '30s';
    SET tcp_keepalives_idle TO 10;
    SET tcp_keepalives_interval TO 5;
    SET tcp_keepalives_count TO 3;
";

/// Makes an advisory lock ours among those of other users of the database.
const LOCKS: &str = "tokenmeter";

/// A connection, or the next one.
pub(super) struct Connection {
    settings: Arc<Settings>,
    runtime: Runtime,
    /// Nodes that this connection alone may write records of.
    claimed: Vec<NodeId>,
    open: Option<Open>,
}

struct Open {
    client: Client,
    /// Moves bytes while somebody waits for an answer; ends with the connection.
    driving: Pin<Box<dyn Future<Output = Result<(), tokio_postgres::Error>> + Send>>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Connection").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Connection {
    /// A connection that is made when it is first needed, and then claims `nodes`.
    pub(super) fn new(settings: &Arc<Settings>, nodes: Vec<NodeId>) -> Result<Self, LedgerError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|source| LedgerError::Thread { source })?;
        Ok(Self { settings: Arc::clone(settings), runtime, claimed: nodes, open: None })
    }

    /// Nodes that this connection alone may write records of.
    pub(super) fn claimed(&self) -> &[NodeId] {
        &self.claimed
    }

    /// Does `work`, which must be over within `within`.
    pub(super) fn run<T>(
        &mut self,
        within: Duration,
        work: impl AsyncFnOnce(&mut Client) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        let Self { settings, runtime, claimed, open } = self;
        let done = runtime.block_on(async {
            if open.is_none() {
                let connected = tokio::time::timeout(CONNECT_TIMEOUT, connect(settings, claimed)).await;
                *open = Some(connected.unwrap_or(Err(LedgerError::Silent { waited: CONNECT_TIMEOUT }))?);
            }
            let Some(open) = open else { return Err(LedgerError::Silent { waited: CONNECT_TIMEOUT }) };
            let done = tokio::time::timeout(within, open.drive(work)).await;
            done.unwrap_or(Err(LedgerError::Silent { waited: within }))
        });
        if done.is_err() {
            self.open = None;
        }
        done
    }
}

impl Open {
    async fn drive<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut Client) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        tokio::select! {
            biased;
            done = work(&mut self.client) => done,
            // Whatever was asked will not be answered.
            ended = &mut self.driving => {
                ended?;
                Err(LedgerError::Closed)
            }
        }
    }
}

async fn connect(settings: &Settings, claimed: &[NodeId]) -> Result<Open, LedgerError> {
    let tls = MakeRustlsConnect::new(tls::config(settings.ca_file.as_deref())?);
    let (client, connection) = settings.server.connect(tls).await?;
    let mut open = Open { client, driving: Box::pin(connection) };
    open.drive(async |client| {
        client.batch_execute(SESSION).await?;
        for node in claimed {
            let lock = format!("{LOCKS} node {node}");
            let taken = client.query_one("SELECT pg_try_advisory_lock(hashtextextended($1, 0))", &[&lock]).await?;
            if !taken.try_get::<_, bool>(0)? {
                return Err(LedgerError::NodeTaken { node: node.clone() });
            }
        }
        Ok(())
    })
    .await?;
    Ok(open)
}
