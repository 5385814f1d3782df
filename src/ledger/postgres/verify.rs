//! Verify in PostgreSQL: everything derived anew in one view of the database, also while servers write.

use std::collections::VecDeque;
use std::time::Duration;

use tokio_postgres::Row;
use uuid::Uuid;

use super::{Postgres, buckets, records};
use crate::ids::RecordId;
use crate::ledger::chain::{self, Link};
use crate::ledger::verify::compare_all;
use crate::ledger::{Difference, LedgerError, Verified, count};

/// How long until the next page of rows: the first of all may need everything to be sorted.
const PAGE_TIMEOUT: Duration = Duration::from_hours(6);
/// Rows of a page.
const PAGE: usize = 2_000;

impl Postgres {
    /// Recomputes buckets and totals from the records, walks every node's chain, and looks for gaps.
    pub(in crate::ledger) fn verify(&self) -> Result<Result<Verified, Difference>, LedgerError> {
        self.batch("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout TO 0")?;
        let verified = self.verify_in_transaction()?;
        self.batch("ROLLBACK")?;
        Ok(verified)
    }

    fn verify_in_transaction(&self) -> Result<Result<Verified, Difference>, LedgerError> {
        let nodes = match self.verify_chains()? {
            Ok(nodes) => nodes,
            Err(difference) => return Ok(Err(difference)),
        };
        let (derived, kept) = buckets::statements();
        let derived = self.pages("derived", &derived)?.map(|row| buckets::read(&row?));
        let kept = self.pages("kept", &kept)?.map(|row| buckets::read(&row?));
        let verified = compare_all(derived, kept)?;
        Ok(verified.map(|verified| Verified { nodes, ..verified }))
    }

    /// How many nodes there are, each with a record at every place of its order, and a chain through all of them.
    fn verify_chains(&self) -> Result<Result<u64, Difference>, LedgerError> {
        let sql = "SELECT node, last_seq, chain FROM positions ORDER BY node";
        let positions = self.run(PAGE_TIMEOUT, async |client| Ok(client.query(sql, &[]).await?))?;
        let stranger = "SELECT node FROM (SELECT node FROM records UNION SELECT node FROM duplicates) AS nodes
                        WHERE node NOT IN (SELECT node FROM positions) ORDER BY node LIMIT 1";
        if let Some(row) = self.run(PAGE_TIMEOUT, async |client| Ok(client.query_opt(stranger, &[]).await?))? {
            let node: &str = row.try_get(0)?;
            return Ok(Err(Difference(format!(
                "node {node} has records, but is applied up to nothing by its position"
            ))));
        }
        for position in &positions {
            if let Some(difference) = self.verify_chain(position)? {
                return Ok(Err(difference));
            }
        }
        Ok(Ok(u64::try_from(positions.len()).unwrap_or(u64::MAX)))
    }

    /// The first that is wrong with the node of a row of `positions`.
    fn verify_chain(&self, position: &Row) -> Result<Option<Difference>, LedgerError> {
        let node: &str = position.try_get(0)?;
        let (last_seq, head) = (count(position.try_get(1)?), records::link(position, 2)?);
        let sql = "SELECT seq, id, chain FROM duplicates WHERE node = $1 ORDER BY seq";
        let duplicates = self.run(PAGE_TIMEOUT, async |client| Ok(client.query(sql, &[&node]).await?))?;
        let mut duplicates = duplicates.iter().peekable();
        let columns = records::COLUMNS;
        // A node's name is letters, digits and a few signs.
        let sql = format!("SELECT {columns}, chain FROM records WHERE node = '{node}' ORDER BY seq");
        let mut rows = self.pages("chain", &sql)?.peekable();
        let (mut link, mut seq) = (Link::START, 0_u64);
        loop {
            let expected = seq.saturating_add(1);
            let duplicate = match duplicates.peek() {
                Some(row) if count(row.try_get(0)?) == expected => duplicates.next(),
                Some(_) | None => None,
            };
            let (next, kept) = if let Some(row) = duplicate {
                let id: Uuid = row.try_get(1)?;
                (chain::link_duplicate(&link, &RecordId::from_bytes(id.into_bytes())), records::link(row, 2)?)
            } else {
                let Some(row) = rows.next().transpose()? else { break };
                let record = records::read(&row)?;
                if record.seq != expected {
                    let there = record.seq;
                    return Ok(Some(Difference(format!("node {node} has no record {expected}, but one of {there}"))));
                }
                (chain::link(&link, &record), records::link(&row, 46)?)
            };
            if next != kept {
                let difference = format!("record {expected} of node {node} is not as it was written: its link differs");
                return Ok(Some(Difference(difference)));
            }
            (link, seq) = (next, expected);
        }
        if duplicates.peek().is_some() {
            let difference = format!("node {node} has no record {}, but one behind it", seq.saturating_add(1));
            return Ok(Some(Difference(difference)));
        }
        if seq != last_seq {
            return Ok(Some(Difference(format!(
                "node {node} is applied up to record {last_seq} by its position, but its last record is {seq}"
            ))));
        }
        if link != head {
            return Ok(Some(Difference(format!("node {node} ends in another link than its position says"))));
        }
        self.batch("CLOSE chain")?;
        Ok(None)
    }

    /// The rows of `sql`, page by page, in the transaction that is open.
    fn pages(&self, cursor: &'static str, sql: &str) -> Result<Pages<'_>, LedgerError> {
        self.batch(&format!("DECLARE {cursor} NO SCROLL CURSOR FOR {sql}"))?;
        Ok(Pages { store: self, cursor, rows: VecDeque::new(), is_over: false })
    }

    fn batch(&self, sql: &str) -> Result<(), LedgerError> {
        self.run(PAGE_TIMEOUT, async |client| Ok(client.batch_execute(sql).await?))
    }
}

/// Rows of a cursor.
struct Pages<'a> {
    store: &'a Postgres,
    cursor: &'static str,
    rows: VecDeque<Row>,
    is_over: bool,
}

impl Iterator for Pages<'_> {
    type Item = Result<Row, LedgerError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rows.is_empty() && !self.is_over {
            let sql = format!("FETCH {PAGE} FROM {}", self.cursor);
            match self.store.run(PAGE_TIMEOUT, async |client| Ok(client.query(&sql, &[]).await?)) {
                Ok(rows) => {
                    self.is_over = rows.len() < PAGE;
                    self.rows = rows.into();
                }
                Err(error) => return Some(Err(error)),
            }
        }
        self.rows.pop_front().map(Ok)
    }
}
