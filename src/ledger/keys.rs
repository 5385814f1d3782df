//! Keys: virtual keys that were made with `tokenmeter keys new`. Of a secret only its SHA-256 is kept.

use jiff::Timestamp;
use rusqlite::Row;

use super::{Ledger, LedgerError, sqlite};
use crate::ids::{AppId, KeyId, TeamId};

/// A virtual key, without its secret.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Key {
    /// Its public name.
    pub id: KeyId,
    /// SHA-256 of the secret.
    pub sha256: [u8; 32],
    /// Who pays for its calls.
    pub team: TeamId,
    /// The team's application, where the key is one's.
    pub app: Option<AppId>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was revoked; `None`: it is good.
    pub revoked_at: Option<Timestamp>,
}

impl Ledger {
    /// Keeps a new key. Works beside a running server.
    pub fn insert_key(&self, key: &Key) -> Result<(), LedgerError> {
        self.connection.execute(
            "INSERT INTO keys (id, sha256, team, app, created_at, revoked_at) VALUES (?, ?, ?, ?, ?, ?)",
            (
                key.id.as_str(),
                &key.sha256,
                key.team.as_str(),
                key.app.as_ref().map(AppId::as_str),
                key.created_at.as_microsecond(),
                key.revoked_at.map(Timestamp::as_microsecond),
            ),
        )?;
        Ok(())
    }

    /// Every key, the revoked ones too, oldest first.
    pub fn keys(&self) -> Result<Vec<Key>, LedgerError> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT id, sha256, team, app, created_at, revoked_at FROM keys ORDER BY created_at, id")?;
        let keys = statement.query_map((), read)?.collect::<Result<_, _>>()?;
        Ok(keys)
    }

    /// Revokes the key `id` as of `at`. False: no such key, or it was revoked before.
    pub fn revoke_key(&self, id: &KeyId, at: Timestamp) -> Result<bool, LedgerError> {
        let changed = self.connection.execute(
            "UPDATE keys SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL",
            (at.as_microsecond(), id.as_str()),
        )?;
        Ok(changed > 0)
    }

    /// Another number whenever a key was made or revoked, by any process. Cheap.
    pub fn keys_version(&self) -> Result<i64, LedgerError> {
        let mut statement = self.connection.prepare_cached("SELECT version FROM keys_version")?;
        Ok(statement.query_row((), |row| row.get(0))?)
    }
}

fn read(row: &Row<'_>) -> rusqlite::Result<Key> {
    let app: Option<String> = row.get(3)?;
    let revoked_at: Option<i64> = row.get(5)?;
    Ok(Key {
        id: sqlite::word(0, row.get(0)?)?,
        sha256: row.get(1)?,
        team: sqlite::word(2, row.get(2)?)?,
        app: app.map(|app| sqlite::word(3, app)).transpose()?,
        created_at: sqlite::instant(4, row.get(4)?)?,
        revoked_at: revoked_at.map(|at| sqlite::instant(5, at)).transpose()?,
    })
}
