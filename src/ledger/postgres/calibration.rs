//! Calibration in PostgreSQL: what each node has learned; a node that starts takes the best of all.

use jiff::Timestamp;

use super::{Instant, Postgres, READ_TIMEOUT};
use crate::ids::NodeId;
use crate::ledger::calibration::{self, KEPT_FOR, Words};
use crate::ledger::{LedgerError, count, integer};
use crate::tokenizer::calibration::{KEYS_MAX, Row};

/// Of each key the row of whoever learned from most calls.
const BEST: &str = "SELECT upstream, model, operation, state, observations FROM \
     (SELECT DISTINCT ON (upstream, model, operation) * FROM calibration \
      ORDER BY upstream, model, operation, observations DESC, updated_at DESC) AS best \
     ORDER BY updated_at DESC LIMIT $1";
const KEEP: &str = "INSERT INTO calibration SELECT $1, upstream, model, operation, state, observations, $7 \
     FROM UNNEST($2::TEXT[], $3::TEXT[], $4::TEXT[], $5::TEXT[], $6::BIGINT[]) \
         AS learned (upstream, model, operation, state, observations) \
     ON CONFLICT (node, upstream, model, operation) DO UPDATE \
     SET state = excluded.state, observations = excluded.observations, updated_at = excluded.updated_at";
const LET_GO: &str = "DELETE FROM calibration WHERE node = $1 AND (upstream, model, operation) IN \
     (SELECT upstream, model, operation FROM calibration WHERE node = $1 ORDER BY updated_at DESC OFFSET $2)";

impl Postgres {
    /// What was learned by any node, the rows of the last lessons last.
    pub(in crate::ledger) fn calibration(&self) -> Result<Vec<Row>, LedgerError> {
        self.run(READ_TIMEOUT, async |client| {
            let rows = client.query(BEST, &[&i64::try_from(KEYS_MAX).unwrap_or(i64::MAX)]).await?;
            let rows: Result<Vec<_>, LedgerError> = rows
                .iter()
                .map(|row| {
                    let (upstream, model, operation) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
                    Ok((Words { upstream, model, operation }, row.try_get(3)?, count(row.try_get(4)?)))
                })
                .collect();
            Ok(calibration::read(rows?))
        })
    }

    /// Keeps `rows` in the place of what `node` knew of their keys, and lets go of keys that nobody asked for long.
    pub(in crate::ledger) fn keep_calibration(
        &self,
        node: &NodeId,
        rows: &[Row],
        at: Timestamp,
    ) -> Result<(), LedgerError> {
        self.run(READ_TIMEOUT, async |client| {
            let transaction = client.transaction().await?;
            let node = node.as_str();
            let texts = |of: fn(&Row) -> &str| rows.iter().map(of).collect::<Vec<_>>();
            let (upstreams, models) = (texts(|row| row.key.upstream.as_str()), texts(|row| &row.key.model));
            let (operations, states) = (texts(|row| row.key.operation.as_str()), texts(|row| &row.state));
            let observations: Vec<i64> = rows.iter().map(|row| integer(row.observations)).collect();
            transaction
                .execute(KEEP, &[&node, &upstreams, &models, &operations, &states, &observations, &Instant(at)])
                .await?;
            let before = Instant(at.checked_sub(KEPT_FOR).unwrap_or(Timestamp::MIN));
            transaction.execute("DELETE FROM calibration WHERE updated_at < $1", &[&before]).await?;
            transaction.execute(LET_GO, &[&node, &i64::try_from(KEYS_MAX).unwrap_or(i64::MAX)]).await?;
            Ok(transaction.commit().await?)
        })
    }
}
