//! Verify in PostgreSQL: everything derived anew in one view of the database, also while servers write.

use std::collections::VecDeque;
use std::iter::Peekable;
use std::time::Duration;

use jiff::Timestamp;
use tokio_postgres::{Client, Row};
use uuid::Uuid;

use super::records::COLUMN_COUNT;
use super::{Postgres, buckets, records, word};
use crate::ids::RecordId;
use crate::ledger::chain::Link;
use crate::ledger::records::COLUMNS;
use crate::ledger::verify::{self, ChainEnd, Fact, Order, Place, compare_all, walk};
use crate::ledger::{Difference, LedgerError, Verified, count, integer};
use crate::period::Bucket;

/// How long until the next page of rows: the first of all may need everything to be sorted.
const PAGE_TIMEOUT: Duration = Duration::from_hours(6);
/// Rows of a page.
const PAGE: usize = 2_000;

impl Postgres {
    /// Recomputes buckets and totals from the records, walks every node's chain, and looks for gaps.
    pub(in crate::ledger) fn verify(&self) -> Result<Result<Verified, Difference>, LedgerError> {
        // Locked before the view is fixed by the first question: no month is dropped that it still has records of.
        self.batch(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout TO 0;
             LOCK TABLE records IN ACCESS SHARE MODE",
        )?;
        let verified = self.verify_in_transaction()?;
        self.batch("ROLLBACK")?;
        Ok(verified)
    }

    fn verify_in_transaction(&self) -> Result<Result<Verified, Difference>, LedgerError> {
        let (records, ends) = match self.walk_nodes()? {
            Ok(walked) => walked,
            Err(difference) => return Ok(Err(difference)),
        };
        let removed_before = self.removed_before()?;
        let (derived, kept) = buckets::statements(removed_before);
        let derived = self.pages("derived", &derived)?.map(|row| buckets::read(&row?));
        let kept = self.pages("kept", &kept)?.map(|row| buckets::read(&row?));
        let verified = match compare_all(derived, kept)? {
            Ok(verified) => verified,
            Err(difference) => return Ok(Err(difference)),
        };
        let nodes = u64::try_from(ends.len()).unwrap_or(u64::MAX);
        let mut verified = Verified { records, nodes, ends, removed_before, ..verified };
        if let Some(before) = removed_before {
            match self.compare_removed(before)? {
                Ok(tokens) => verified.tokens = verified.tokens.saturating_add(tokens),
                Err(difference) => return Ok(Err(difference)),
            }
        }
        Ok(Ok(verified))
    }

    /// The number of records, and the end of each node's chain, which goes through a record at every place of its order.
    fn walk_nodes(&self) -> Result<Result<(u64, Vec<ChainEnd>), Difference>, LedgerError> {
        let tables = ["positions", "removed", "records", "duplicates"];
        let sql = orders(&tables.map(|table| format!("SELECT node FROM {table}")).join(" UNION "));
        let nodes = self.run(PAGE_TIMEOUT, async |client| Ok(client.query(&sql, &[]).await?))?;
        let (mut records, mut ends) = (0_u64, Vec::new());
        for row in &nodes {
            let order = order(row)?;
            let [of_records, of_duplicates] = statements_in_order(&order);
            let places = Places::new(
                self.pages("records_of_node", &of_records)?,
                self.pages("duplicates_of_node", &of_duplicates)?,
            );
            match walk(&order, places)? {
                Ok(walked) => records = records.saturating_add(walked),
                Err(difference) => return Ok(Err(difference)),
            }
            self.batch("CLOSE records_of_node; CLOSE duplicates_of_node")?;
            let Order { node, last, .. } = order;
            ends.extend(last.map(|(seq, link)| ChainEnd { node, seq, link }));
        }
        Ok(Ok((records, ends)))
    }

    /// The buckets whose records were removed can only be compared in sum: the tokens of those, or the difference.
    fn compare_removed(&self, before: Timestamp) -> Result<Result<i128, Difference>, LedgerError> {
        let sums = async |client: &mut Client, sql: &str| buckets::read_sums(&client.query_one(sql, &[]).await?, 0);
        let removed = format!("SELECT {} FROM removed", buckets::sums());
        let left = format!("SELECT {} FROM records WHERE ended_at < '{before}'", buckets::sums_of_records());
        let first = Bucket::of(before).index();
        let kept = format!("SELECT {} FROM buckets WHERE bucket < {first}", buckets::sums());
        self.run(PAGE_TIMEOUT, async |client| {
            let mut removed_and_left = sums(client, &removed).await?;
            removed_and_left += sums(client, &left).await?;
            let kept = sums(client, &kept).await?;
            Ok(verify::compare_removed(before, &removed_and_left, &kept))
        })
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

/// A row for each of the `nodes` that a statement names: what [`order`] reads.
pub(super) fn orders(nodes: &str) -> String {
    format!(
        "SELECT node, last_seq, positions.chain, removed.seq, removed.chain FROM ({nodes}) AS nodes \
         LEFT JOIN positions USING (node) LEFT JOIN removed USING (node) ORDER BY 1"
    )
}

/// What is said of a node's order beside its records.
pub(super) fn order(row: &Row) -> Result<Order, LedgerError> {
    let place = |column: usize| match row.try_get::<_, Option<i64>>(column)? {
        Some(seq) => Ok::<_, LedgerError>(Some((count(seq), records::link(row, column.saturating_add(1))?))),
        None => Ok(None),
    };
    let (removed, link) = place(3)?.unwrap_or((0, Link::START));
    Ok(Order { node: word(row, 0)?, removed, link, chained_after: 0, last: place(1)? })
}

/// What stands at the places of a node's order: its records, and what stands in their place.
pub(super) fn statements_in_order(order: &Order) -> [String; 2] {
    // A node's name is letters, digits and a few signs.
    let Order { node, removed, .. } = order;
    let places = format!("WHERE node = '{node}' AND seq > {} ORDER BY seq", integer(*removed));
    [
        format!("SELECT {COLUMNS}, chain FROM records {places}"),
        format!("SELECT seq, id, chain FROM duplicates {places}"),
    ]
}

/// Rows of both of [`statements_in_order`] in one order.
pub(super) struct Places<R: Iterator, D: Iterator> {
    records: Peekable<R>,
    duplicates: Peekable<D>,
}

impl<R, D> Places<R, D>
where
    R: Iterator<Item = Result<Row, LedgerError>>,
    D: Iterator<Item = Result<Row, LedgerError>>,
{
    pub(super) fn new(records: R, duplicates: D) -> Self {
        Self { records: records.peekable(), duplicates: duplicates.peekable() }
    }

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

impl<R, D> Iterator for Places<R, D>
where
    R: Iterator<Item = Result<Row, LedgerError>>,
    D: Iterator<Item = Result<Row, LedgerError>>,
{
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
