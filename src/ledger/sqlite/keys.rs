//! Keys in `SQLite`.

use jiff::Timestamp;
use rusqlite::Row;

use super::{Sqlite, instant, word};
use crate::ids::{AppId, KeyId};
use crate::ledger::{Key, LedgerError};

impl Sqlite {
    /// Keeps a new key. Works beside a running server.
    pub(in crate::ledger) fn insert_key(&self, key: &Key) -> Result<(), LedgerError> {
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
    pub(in crate::ledger) fn keys(&self) -> Result<Vec<Key>, LedgerError> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT id, sha256, team, app, created_at, revoked_at FROM keys ORDER BY created_at, id")?;
        let keys = statement.query_map((), read)?.collect::<Result<_, _>>()?;
        Ok(keys)
    }

    /// Revokes the key `id` as of `at`. False: no such key, or it was revoked before.
    pub(in crate::ledger) fn revoke_key(&self, id: &KeyId, at: Timestamp) -> Result<bool, LedgerError> {
        let changed = self.connection.execute(
            "UPDATE keys SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL",
            (at.as_microsecond(), id.as_str()),
        )?;
        Ok(changed > 0)
    }

    /// Another number whenever a key was made or revoked, by any process. Cheap.
    pub(in crate::ledger) fn keys_version(&self) -> Result<i64, LedgerError> {
        let mut statement = self.connection.prepare_cached("SELECT version FROM keys_version")?;
        Ok(statement.query_row((), |row| row.get(0))?)
    }
}

fn read(row: &Row<'_>) -> rusqlite::Result<Key> {
    let app: Option<String> = row.get(3)?;
    let revoked_at: Option<i64> = row.get(5)?;
    Ok(Key {
        id: word(0, row.get(0)?)?,
        sha256: row.get(1)?,
        team: word(2, row.get(2)?)?,
        app: app.map(|app| word(3, app)).transpose()?,
        created_at: instant(4, row.get(4)?)?,
        revoked_at: revoked_at.map(|at| instant(5, at)).transpose()?,
    })
}
