//! Migrations: the schema, step by step. `PRAGMA user_version` says how many steps a file has behind it.

use std::path::Path;

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::buckets;
use crate::ledger::LedgerError;

/// A step: its statements, and what statements cannot do.
type Step = (&'static str, Option<fn(&Transaction<'_>) -> Result<(), LedgerError>>);

/// Every step, in order. A step that was released never changes.
const STEPS: &[Step] = &[
    (include_str!("schema_1.sql"), None),
    (include_str!("schema_2.sql"), None),
    (include_str!("schema_3.sql"), Some(buckets::sum_up_days)),
    (include_str!("schema_4.sql"), None),
];

/// Brings the schema up to date; refuses one from the future.
pub(super) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), LedgerError> {
    let known = i64::try_from(STEPS.len()).unwrap_or(i64::MAX);
    if version(connection)? == known {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Asked again: another process may have been faster.
    let found = version(&transaction)?;
    if found > known {
        return Err(LedgerError::TooNew { ledger: path.display().to_string(), found, known });
    }
    for (statements, finish) in STEPS.iter().skip(usize::try_from(found).unwrap_or(0)) {
        transaction.execute_batch(statements)?;
        if let Some(finish) = finish {
            finish(&transaction)?;
        }
    }
    transaction.pragma_update(None, "user_version", known)?;
    transaction.commit()?;
    Ok(())
}

fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}
