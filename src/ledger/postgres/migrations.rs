//! Migrations: the schema, step by step. `schema_version` says how many steps a database has behind it.

use tokio_postgres::Client;

use super::Settings;
use crate::ledger::LedgerError;

/// Every step, in order. A step that was released never changes.
const STEPS: &[&str] = &[include_str!("schema_1.sql"), include_str!("schema_2.sql"), include_str!("schema_3.sql")];

/// Brings the schema up to date, one process at a time; refuses one from the future.
pub(super) async fn migrate(client: &mut Client, settings: &Settings) -> Result<(), LedgerError> {
    let known = i64::try_from(STEPS.len()).unwrap_or(i64::MAX);
    let too_new = |found| LedgerError::TooNew { ledger: settings.name(), found, known };
    match version(client).await? {
        Some(found) if found > known => return Err(too_new(found)),
        Some(found) if found == known => return Ok(()),
        Some(_) | None => {}
    }
    let encoding = client.query_one("SHOW server_encoding", &[]).await?.try_get::<_, String>(0)?;
    if encoding != "UTF8" {
        return Err(LedgerError::Encoding { ledger: settings.name(), encoding });
    }
    let transaction = client.transaction().await?;
    transaction.execute("SELECT pg_advisory_xact_lock(hashtextextended('tokenmeter schema', 0))", &[]).await?;
    // Asked again: another process may have been faster.
    let found = match version(transaction.client()).await? {
        Some(found) if found > known => return Err(too_new(found)),
        Some(found) => found,
        None => {
            // A database's owner may have made the schema for a role that must not make any.
            let begin = "DO $$ BEGIN
                    IF to_regnamespace('tokenmeter') IS NULL THEN CREATE SCHEMA tokenmeter; END IF;
                END $$;
                CREATE TABLE schema_version (version BIGINT NOT NULL);
                INSERT INTO schema_version VALUES (0)";
            transaction.batch_execute(begin).await?;
            0
        }
    };
    for step in STEPS.iter().skip(usize::try_from(found).unwrap_or(0)) {
        transaction.batch_execute(step).await?;
    }
    transaction.execute("UPDATE schema_version SET version = $1", &[&known]).await?;
    Ok(transaction.commit().await?)
}

/// `None`: there is no ledger yet.
async fn version(client: &Client) -> Result<Option<i64>, LedgerError> {
    // Not `to_regclass`, which may remember that there was none while another process has made it.
    let tables =
        "SELECT EXISTS (SELECT FROM pg_tables WHERE schemaname = 'tokenmeter' AND tablename = 'schema_version')";
    let there = client.query_one(tables, &[]).await?;
    if !there.try_get::<_, bool>(0)? {
        return Ok(None);
    }
    Ok(Some(client.query_one("SELECT version FROM tokenmeter.schema_version", &[]).await?.try_get(0)?))
}
