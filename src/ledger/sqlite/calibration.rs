//! Calibration in `SQLite`: what was learned of prompts and answers, a row a key.

use jiff::Timestamp;
use rusqlite::TransactionBehavior;

use super::Sqlite;
use crate::ledger::calibration::{self, KEPT_FOR, Words};
use crate::ledger::{LedgerError, count, integer};
use crate::tokenizer::calibration::{KEYS_MAX, Row};

impl Sqlite {
    /// What was learned, the rows of the last lessons last.
    pub(in crate::ledger) fn calibration(&self) -> Result<Vec<Row>, LedgerError> {
        let mut statement = self.connection.prepare(
            "SELECT upstream, model, operation, state, observations FROM calibration ORDER BY updated_at DESC LIMIT ?",
        )?;
        let rows = statement.query_map((i64::try_from(KEYS_MAX).unwrap_or(i64::MAX),), |row| {
            let (upstream, model, operation) = (row.get(0)?, row.get(1)?, row.get(2)?);
            Ok((Words { upstream, model, operation }, row.get(3)?, count(row.get(4)?)))
        })?;
        Ok(calibration::read(rows.collect::<Result<Vec<_>, _>>()?))
    }

    /// Keeps `rows` in the place of what was known of their keys, and lets go of keys that nobody asked for long.
    pub(in crate::ledger) fn keep_calibration(&mut self, rows: &[Row], at: Timestamp) -> Result<(), LedgerError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut insert = transaction.prepare_cached("INSERT OR REPLACE INTO calibration VALUES (?, ?, ?, ?, ?, ?)")?;
        for Row { key, state, observations } in rows {
            let (upstream, operation) = (key.upstream.as_str(), key.operation.as_str());
            insert.execute((upstream, &key.model, operation, state, integer(*observations), at.as_microsecond()))?;
        }
        drop(insert);
        let before = at.checked_sub(KEPT_FOR).unwrap_or(Timestamp::MIN);
        transaction.execute("DELETE FROM calibration WHERE updated_at < ?", (before.as_microsecond(),))?;
        transaction.execute(
            "DELETE FROM calibration WHERE (upstream, model, operation) IN \
             (SELECT upstream, model, operation FROM calibration ORDER BY updated_at DESC LIMIT -1 OFFSET ?)",
            (i64::try_from(KEYS_MAX).unwrap_or(i64::MAX),),
        )?;
        Ok(transaction.commit()?)
    }
}
