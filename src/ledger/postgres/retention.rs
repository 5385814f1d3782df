//! Retention in PostgreSQL: old records leave from the front of their node's order, a few at a time. Their buckets stay.
//!
//! A node's records are removed by the session that holds its lock, which is the only one that writes them.

use jiff::Timestamp;
use tokio_postgres::Transaction;
use tokio_postgres::types::ToSql;

use super::{Instant, Postgres, READ_TIMEOUT, buckets, verify};
use crate::ids::NodeId;
use crate::ledger::buckets::{COUNTS, kept};
use crate::ledger::retention::{self, Old};
use crate::ledger::verify::Order;
use crate::ledger::{LedgerError, integer};

impl Postgres {
    /// Removes up to `limit` places of the order of a node that is claimed here whose records ended before `before`,
    /// which begins a bucket. How many; 0: there are no more.
    pub(in crate::ledger) fn remove_before(&self, before: Timestamp, limit: usize) -> Result<usize, LedgerError> {
        let nodes = self.connection.borrow().claimed().to_vec();
        for node in nodes {
            let removed = self.run(READ_TIMEOUT, async |client| {
                let transaction = client.transaction().await?;
                let removed = remove(&transaction, &node, before, limit).await?;
                transaction.commit().await?;
                Ok(removed)
            })?;
            if removed > 0 {
                return Ok(removed);
            }
        }
        self.drop_partitions(before)?;
        Ok(0)
    }

    /// Records that ended before this were removed because of their age.
    pub(in crate::ledger) fn removed_before(&self) -> Result<Option<Timestamp>, LedgerError> {
        self.run(READ_TIMEOUT, async |client| {
            let row = client.query_one("SELECT MAX(ended_before) FROM removed", &[]).await?;
            Ok(row.try_get::<_, Option<Instant>>(0)?.map(|Instant(before)| before))
        })
    }
}

async fn remove(
    transaction: &Transaction<'_>,
    node: &NodeId,
    before: Timestamp,
    limit: usize,
) -> Result<usize, LedgerError> {
    let sql = verify::orders("SELECT $1::TEXT AS node");
    let order = verify::order(&transaction.query_one(&sql, &[&node.as_str()]).await?)?;
    // Whatever PostgreSQL believes of the tables: it walks along their indexes, and does not sort all that a node has.
    transaction.batch_execute("SET LOCAL enable_sort TO off").await?;
    let [records, duplicates] = verify::statements_in_order(&order).map(|sql| format!("{sql} LIMIT {limit}"));
    let records = transaction.query(&records, &[]).await?.into_iter().map(Ok);
    let duplicates = transaction.query(&duplicates, &[]).await?.into_iter().map(Ok);
    let places = verify::Places::new(records, duplicates);
    let Some(old) = retention::old(&order, places, before, limit)? else { return Ok(0) };
    keep(transaction, &order, before, &old).await?;
    // From where the last removal ended: what that left in the index is not walked over again. The instant leaves out
    // the months that are kept.
    let (node, from, to) = (order.node.as_str(), integer(order.removed), integer(old.seq));
    let sql = "DELETE FROM records WHERE node = $1 AND seq > $2 AND seq <= $3 AND ended_at < $4";
    transaction.execute(sql, &[&node, &from, &to, &Instant(before)]).await?;
    let sql = "DELETE FROM duplicates WHERE node = $1 AND seq > $2 AND seq <= $3";
    transaction.execute(sql, &[&node, &from, &to]).await?;
    Ok(old.places)
}

/// Keeps what verification needs of the records that go; only then the triggers let them.
async fn keep(transaction: &Transaction<'_>, order: &Order, before: Timestamp, old: &Old) -> Result<(), LedgerError> {
    let values: Vec<String> = (1..=4 + COUNTS.len()).map(|place| format!("${place}")).collect();
    let sql = format!(
        "INSERT INTO removed (node, seq, chain, ended_before, {columns}) VALUES ({values}) \
         ON CONFLICT (node) DO UPDATE SET seq = excluded.seq, chain = excluded.chain, \
         ended_before = GREATEST(removed.ended_before, excluded.ended_before), {sums}",
        columns = COUNTS.join(", "),
        values = values.join(", "),
        sums = buckets::added_to("removed"),
    );
    let sums: Vec<i64> = old.sums.named().map(|(_, sum)| kept(sum)).collect();
    let (node, seq, link, before) =
        (order.node.as_str(), integer(old.seq), old.link.as_bytes().as_slice(), Instant(before));
    let mut values: Vec<&(dyn ToSql + Sync)> = vec![&node, &seq, &link, &before];
    values.extend(sums.iter().map(|sum| sum as &(dyn ToSql + Sync)));
    transaction.execute(&sql, &values).await?;
    Ok(())
}
