//! Keys in PostgreSQL: made on any server, known to all.

use jiff::Timestamp;
use tokio_postgres::Row;

use super::{ASK_TIMEOUT, Instant, Postgres, optional_word, word};
use crate::ids::{AppId, KeyId};
use crate::ledger::{Key, LedgerError};

impl Postgres {
    /// Keeps a new key. Works beside running servers.
    pub(in crate::ledger) fn insert_key(&self, key: &Key) -> Result<(), LedgerError> {
        let sql = "INSERT INTO keys (id, sha256, team, app, created_at, revoked_at) VALUES ($1, $2, $3, $4, $5, $6)";
        self.run(ASK_TIMEOUT, async |client| {
            let (id, team, app) = (key.id.as_str(), key.team.as_str(), key.app.as_ref().map(AppId::as_str));
            let (created_at, revoked_at) = (Instant(key.created_at), key.revoked_at.map(Instant));
            client.execute(sql, &[&id, &key.sha256.as_slice(), &team, &app, &created_at, &revoked_at]).await?;
            Ok(())
        })
    }

    /// Every key, the revoked ones too, oldest first.
    pub(in crate::ledger) fn keys(&self) -> Result<Vec<Key>, LedgerError> {
        let sql = "SELECT id, sha256, team, app, created_at, revoked_at FROM keys ORDER BY created_at, id";
        self.run(ASK_TIMEOUT, async |client| client.query(sql, &[]).await?.iter().map(read).collect())
    }

    /// Revokes the key `id` as of `at`. False: no such key, or it was revoked before.
    pub(in crate::ledger) fn revoke_key(&self, id: &KeyId, at: Timestamp) -> Result<bool, LedgerError> {
        let sql = "UPDATE keys SET revoked_at = $1 WHERE id = $2 AND revoked_at IS NULL";
        self.run(ASK_TIMEOUT, async |client| Ok(client.execute(sql, &[&Instant(at), &id.as_str()]).await? > 0))
    }

    /// Another number whenever a key was made or revoked, by any process. Cheap.
    pub(in crate::ledger) fn keys_version(&self) -> Result<i64, LedgerError> {
        let sql = "SELECT version FROM keys_version";
        self.run(ASK_TIMEOUT, async |client| Ok(client.query_one(sql, &[]).await?.try_get(0)?))
    }
}

fn read(row: &Row) -> Result<Key, LedgerError> {
    let sha256: &[u8] = row.try_get(1)?;
    let unreadable = |_| super::unreadable(row, 1, serde::de::Error::custom("it is no SHA-256"));
    Ok(Key {
        id: word(row, 0)?,
        sha256: sha256.try_into().map_err(unreadable)?,
        team: word(row, 2)?,
        app: optional_word(row, 3)?,
        created_at: row.try_get::<_, Instant>(4)?.0,
        revoked_at: row.try_get::<_, Option<Instant>>(5)?.map(|at| at.0),
    })
}
