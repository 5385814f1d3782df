//! Verify in PostgreSQL: everything derived anew in one view of the database, also while servers write.

use std::collections::VecDeque;
use std::iter::Peekable;
use std::time::Duration;

use tokio_postgres::Row;
use uuid::Uuid;

use super::records::COLUMN_COUNT;
use super::{Postgres, buckets, records, word};
use crate::ids::{NodeId, RecordId};
use crate::ledger::chain::Link;
use crate::ledger::records::COLUMNS;
use crate::ledger::verify::{ChainEnd, Fact, Order, Place, compare_all, walk};
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
        let ends = match self.walk_nodes()? {
            Ok(ends) => ends,
            Err(difference) => return Ok(Err(difference)),
        };
        let (derived, kept) = buckets::statements();
        let derived = self.pages("derived", &derived)?.map(|row| buckets::read(&row?));
        let kept = self.pages("kept", &kept)?.map(|row| buckets::read(&row?));
        let verified = compare_all(derived, kept)?;
        let nodes = u64::try_from(ends.len()).unwrap_or(u64::MAX);
        Ok(verified.map(|verified| Verified { nodes, ends, ..verified }))
    }

    /// The end of each node's chain, which goes through a record at every place of its order.
    fn walk_nodes(&self) -> Result<Result<Vec<ChainEnd>, Difference>, LedgerError> {
        let sql = "SELECT node, last_seq, chain FROM positions
                   UNION ALL SELECT node, NULL, NULL FROM (SELECT node FROM records UNION SELECT node FROM duplicates) AS n
                   WHERE node NOT IN (SELECT node FROM positions) ORDER BY 1";
        let nodes = self.run(PAGE_TIMEOUT, async |client| Ok(client.query(sql, &[]).await?))?;
        let mut ends = Vec::new();
        for row in &nodes {
            let node: NodeId = word(row, 0)?;
            let last = match row.try_get::<_, Option<i64>>(1)? {
                Some(last) => Some((count(last), records::link(row, 2)?)),
                None => None,
            };
            let order = Order { node: node.clone(), removed: 0, link: Link::START, chained_after: 0, last };
            if let Err(difference) = walk(&order, self.places(&node)?)? {
                return Ok(Err(difference));
            }
            self.batch("CLOSE records_of_node; CLOSE duplicates_of_node")?;
            ends.extend(last.map(|(seq, link)| ChainEnd { node, seq, link }));
        }
        Ok(Ok(ends))
    }

    /// What stands at the places of a node's order.
    fn places(&self, node: &NodeId) -> Result<Places<'_>, LedgerError> {
        // A node's name is letters, digits and a few signs.
        let sql = format!("SELECT {COLUMNS}, chain FROM records WHERE node = '{node}' ORDER BY seq");
        let records = self.pages("records_of_node", &sql)?.peekable();
        let sql = format!("SELECT seq, id, chain FROM duplicates WHERE node = '{node}' ORDER BY seq");
        let duplicates = self.pages("duplicates_of_node", &sql)?.peekable();
        Ok(Places { records, duplicates })
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

/// Records and duplicates of a node in one order.
struct Places<'a> {
    records: Peekable<Pages<'a>>,
    duplicates: Peekable<Pages<'a>>,
}

impl Places<'_> {
    fn try_next(&mut self) -> Result<Option<Place>, LedgerError> {
        let seq_of = |row: Option<&Result<Row, LedgerError>>, column: usize| match row {
            Some(Ok(row)) => Ok::<_, LedgerError>(Some(count(row.try_get(column)?))),
            Some(Err(_)) | None => Ok(None),
        };
        let of_record = seq_of(self.records.peek(), 1)?;
        let of_duplicate = seq_of(self.duplicates.peek(), 0)?;
        if of_duplicate.is_some_and(|duplicate| of_record.is_none_or(|record| duplicate < record)) {
            let Some(row) = self.duplicates.next().transpose()? else { return Ok(None) };
            let id: Uuid = row.try_get(1)?;
            let fact = Fact::Duplicate(RecordId::from_bytes(id.into_bytes()));
            return Ok(Some(Place { seq: count(row.try_get(0)?), fact, link: Some(records::link(&row, 2)?) }));
        }
        let Some(row) = self.records.next().transpose()? else {
            // An error of theirs, where there is one.
            return self.duplicates.next().transpose().map(|_| None);
        };
        let fact = match records::read(&row) {
            Ok(record) => Fact::Record(Box::new(record)),
            Err(error) => Fact::Unreadable(crate::journal::in_full(&error)),
        };
        Ok(Some(Place { seq: count(row.try_get(1)?), fact, link: Some(records::link(&row, COLUMN_COUNT)?) }))
    }
}

impl Iterator for Places<'_> {
    type Item = Result<Place, LedgerError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.try_next().transpose()
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
                Err(error) => {
                    self.is_over = true;
                    return Some(Err(error));
                }
            }
        }
        self.rows.pop_front().map(Ok)
    }
}
