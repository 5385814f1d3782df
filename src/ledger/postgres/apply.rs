//! Applying to PostgreSQL: a batch of a node's journal in one transaction, with the position behind it.
//!
//! Whether a transaction whose answer is lost was committed is told by the position when it is next read. What the
//! ledger has by its position is never written again, whatever the journal offers.

use std::collections::{BTreeMap, HashMap};
use std::pin::pin;
use std::time::Duration;

use tokio_postgres::Transaction;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use uuid::Uuid;

use super::{Instant, Postgres, READ_TIMEOUT, buckets, gaps, records, word};
use crate::ids::{NodeId, RecordId};
use crate::journal::Position;
use crate::ledger::buckets::Sums;
use crate::ledger::chain::{self, Link};
use crate::ledger::feed::{Applied, Batch};
use crate::ledger::records::COLUMNS;
use crate::ledger::{LedgerError, count, integer};
use crate::record::Record;
use crate::usage::Outcome;

/// How long a batch may take.
const APPLY_TIMEOUT: Duration = READ_TIMEOUT;
/// How long before it began a call may have ended, by a clock that was set back: so far a call that is recorded twice
/// is looked for.
const CLOCK_SKEW: jiff::SignedDuration = jiff::SignedDuration::from_hours(48);

impl Postgres {
    /// How far each node's journal is applied.
    pub(in crate::ledger) fn applied(&self) -> Result<BTreeMap<NodeId, Applied>, LedgerError> {
        self.run(READ_TIMEOUT, async |client| {
            let rows = client.query("SELECT node, segment, \"offset\", last_seq FROM positions", &[]).await?;
            rows.iter()
                .map(|row| {
                    let position = Position { segment: count(row.try_get(1)?), offset: count(row.try_get(2)?) };
                    Ok((word(row, 0)?, Applied { position, last_seq: count(row.try_get(3)?) }))
                })
                .collect()
        })
    }

    /// Applies `batch` whole or not at all. What is there already stays as it is.
    pub(in crate::ledger) fn apply(&self, batch: &Batch) -> Result<(), LedgerError> {
        self.make_partitions(&batch.records)?;
        self.run(APPLY_TIMEOUT, async |client| {
            let transaction = client.transaction().await?;
            apply(&transaction, batch).await?;
            Ok(transaction.commit().await?)
        })
    }
}

async fn apply(transaction: &Transaction<'_>, batch: &Batch) -> Result<(), LedgerError> {
    for gap in &batch.gaps {
        gaps::insert(transaction, &batch.node, gap).await?;
    }
    if batch.records.is_empty() {
        return Ok(());
    }
    let node = batch.node.as_str();
    let (last_seq, mut link, removed) = position(transaction, node).await?;
    if last_seq != batch.last_seq_before {
        return Err(LedgerError::Moved { node: batch.node.clone() });
    }
    let mut places = places(transaction, &batch.records).await?;
    let (mut rows, mut duplicates, mut sums) = (Vec::new(), Vec::new(), Sums::default());
    // What was removed because of its age was counted before.
    for record in batch.records.iter().filter(|record| record.seq > removed) {
        let place = (node.to_owned(), integer(record.seq));
        let there = places.get(&record.id);
        if there == Some(&place) {
            continue;
        }
        if record.seq <= last_seq {
            there_otherwise(transaction, record).await?;
            continue;
        }
        if let Some((node, seq)) = there {
            if record.outcome == Outcome::Orphaned {
                tracing::warn!(record = %record.id, "an orphan was settled before, it is counted once");
            } else {
                tracing::error!(record = %record.id, node, seq, "a call was recorded twice, it is counted once");
            }
            link = chain::link_duplicate(&link, &record.id);
            duplicates.push((record, link));
            continue;
        }
        places.insert(record.id, place);
        link = chain::link(&link, record);
        rows.push((record, link));
        sums.add(record);
    }
    copy(transaction, &rows).await?;
    for (record, link) in duplicates {
        let sql = "INSERT INTO duplicates (node, seq, id, chain) VALUES ($1, $2, $3, $4)";
        let chain = link.as_bytes().as_slice();
        transaction.execute(sql, &[&node, &integer(record.seq), &uuid(&record.id), &chain]).await?;
    }
    buckets::write(transaction, node, &sums).await?;
    keep_position(transaction, node, batch.after, &link).await
}

/// The node's last seq and the end of its chain, in a row that is locked; and up to where its records were removed
/// because of their age.
async fn position(transaction: &Transaction<'_>, node: &str) -> Result<(u64, Link, u64), LedgerError> {
    let sql = "SELECT last_seq, chain FROM positions WHERE node = $1 FOR UPDATE";
    let last = match transaction.query_opt(sql, &[&node]).await? {
        Some(row) => (count(row.try_get(0)?), records::link(&row, 1)?),
        None => (0, Link::START),
    };
    let removed = transaction.query_opt("SELECT seq FROM removed WHERE node = $1", &[&node]).await?;
    let removed = removed.map_or(Ok(0), |row| row.try_get(0))?;
    Ok((last.0, last.1, count(removed)))
}

/// Where the calls of `records` stand that are in the ledger.
async fn places(
    transaction: &Transaction<'_>,
    records: &[Record],
) -> Result<HashMap<RecordId, (String, i64)>, LedgerError> {
    let Some(first) = records.iter().map(|record| record.started_at).min() else { return Ok(HashMap::new()) };
    let first = first.checked_sub(CLOCK_SKEW).unwrap_or(jiff::Timestamp::MIN);
    let ids: Vec<Uuid> = records.iter().map(|record| uuid(&record.id)).collect();
    let sql = "SELECT id, node, seq FROM records WHERE id = ANY($1) AND ended_at >= $2";
    let rows = transaction.query(sql, &[&ids, &Instant(first)]).await?;
    rows.iter()
        .map(|row| {
            let id: Uuid = row.try_get(0)?;
            Ok((RecordId::from_bytes(id.into_bytes()), (row.try_get(1)?, row.try_get(2)?)))
        })
        .collect()
}

/// A record that the ledger has by its position, but whose call is not where it should be.
async fn there_otherwise(transaction: &Transaction<'_>, record: &Record) -> Result<(), LedgerError> {
    let sql = "SELECT id FROM records WHERE node = $1 AND seq = $2
               UNION ALL SELECT id FROM duplicates WHERE node = $1 AND seq = $2";
    match transaction.query_opt(sql, &[&record.node.as_str(), &integer(record.seq)]).await? {
        Some(row) if row.try_get::<_, Uuid>(0)? == uuid(&record.id) => Ok(()),
        Some(_) => Err(LedgerError::Disagrees { node: record.node.clone(), seq: record.seq }),
        None => {
            // Its bucket may still hold it: written again it would be counted twice.
            tracing::error!(node = %record.node, seq = record.seq, "a record was deleted from the ledger");
            Ok(())
        }
    }
}

async fn copy(transaction: &Transaction<'_>, rows: &[(&Record, Link)]) -> Result<(), LedgerError> {
    if rows.is_empty() {
        return Ok(());
    }
    let sql = format!("COPY records ({COLUMNS}, chain) FROM STDIN BINARY");
    let sink = transaction.copy_in(&sql).await?;
    let mut writer = pin!(BinaryCopyInWriter::new(sink, &records::TYPES));
    for (record, link) in rows {
        records::write(writer.as_mut(), record, link).await?;
    }
    writer.finish().await?;
    Ok(())
}

async fn keep_position(
    transaction: &Transaction<'_>,
    node: &str,
    applied: Applied,
    link: &Link,
) -> Result<(), LedgerError> {
    let Applied { position, last_seq } = applied;
    let sql = "INSERT INTO positions (node, segment, \"offset\", last_seq, chain) VALUES ($1, $2, $3, $4, $5) \
               ON CONFLICT (node) DO UPDATE SET segment = excluded.segment, \"offset\" = excluded.\"offset\", \
               last_seq = excluded.last_seq, chain = excluded.chain";
    let (segment, offset, last_seq) = (integer(position.segment), integer(position.offset), integer(last_seq));
    transaction.execute(sql, &[&node, &segment, &offset, &last_seq, &link.as_bytes().as_slice()]).await?;
    Ok(())
}

fn uuid(id: &RecordId) -> Uuid {
    Uuid::from_bytes(*id.as_bytes())
}
