//! Verify in `SQLite`: everything derived anew in one view of the file, also while a server writes.

use rusqlite::Connection;

use super::{Sqlite, buckets};
use crate::ledger::verify::compare_all;
use crate::ledger::{Difference, LedgerError, Verified};

impl Sqlite {
    /// Recomputes buckets and totals from the records, and looks for gaps and damage. All in one view of the ledger,
    /// also while a server writes.
    pub(in crate::ledger) fn verify(&self) -> Result<Result<Verified, Difference>, LedgerError> {
        let transaction = self.connection.unchecked_transaction()?;
        let verified = verify(&transaction)?;
        transaction.rollback()?;
        Ok(verified)
    }
}

fn verify(connection: &Connection) -> Result<Result<Verified, Difference>, LedgerError> {
    let integrity: String = connection.query_row("PRAGMA integrity_check(1)", (), |row| row.get(0))?;
    if integrity != "ok" {
        return Ok(Err(Difference(format!("the database file is damaged: {integrity}"))));
    }
    let nodes = match nodes(connection)? {
        Ok(nodes) => nodes,
        Err(difference) => return Ok(Err(difference)),
    };
    let (derived, kept) = buckets::statements();
    let mut derived = connection.prepare(&derived)?;
    let derived = derived.query_map((), buckets::read)?.map(|row| Ok(row?));
    let mut kept = connection.prepare(&kept)?;
    let kept = kept.query_map((), buckets::read)?.map(|row| Ok(row?));
    let verified = compare_all(derived, kept)?;
    Ok(verified.map(|verified| Verified { nodes, ..verified }))
}

/// How many nodes there are, each with a record at every place of its order.
fn nodes(connection: &Connection) -> Result<Result<u64, Difference>, LedgerError> {
    let mut statement = connection.prepare(
        "WITH places AS (SELECT node, seq FROM records UNION ALL SELECT node, seq FROM duplicates),
              ends AS (SELECT node, COUNT(*) AS count, MIN(seq) AS first, MAX(seq) AS last FROM places GROUP BY node)
         SELECT node, count, first, last, last_seq FROM ends LEFT JOIN positions USING (node)
         UNION ALL
         SELECT node, 0, 0, 0, last_seq FROM positions WHERE node NOT IN (SELECT node FROM ends)
         ORDER BY node",
    )?;
    let mut rows = statement.query(())?;
    let mut nodes = 0_u64;
    while let Some(row) = rows.next()? {
        let node: String = row.get(0)?;
        let (count, first, last): (i64, i64, i64) = (row.get(1)?, row.get(2)?, row.get(3)?);
        let kept: Option<i64> = row.get(4)?;
        if kept != Some(last) {
            let kept = kept.map_or("nothing".to_owned(), |kept| format!("record {kept}"));
            return Ok(Err(Difference(format!(
                "node {node} is applied up to {kept} by its position, but its last record is {last}"
            ))));
        }
        if first != 1 || count != last {
            let gap = first_gap(connection, &node)?;
            return Ok(Err(Difference(format!("node {node} has no record {gap}, but one of {last}"))));
        }
        nodes = nodes.saturating_add(1);
    }
    Ok(Ok(nodes))
}

fn first_gap(connection: &Connection, node: &str) -> Result<i64, LedgerError> {
    let mut statement = connection.prepare(
        "SELECT seq FROM records WHERE node = ?1 UNION SELECT seq FROM duplicates WHERE node = ?1 ORDER BY 1",
    )?;
    let mut seqs = statement.query_map([node], |row| row.get::<_, i64>(0))?;
    let mut expected = 1_i64;
    while let Some(seq) = seqs.next().transpose()? {
        if seq != expected {
            break;
        }
        expected = expected.saturating_add(1);
    }
    Ok(expected)
}
