//! Records in PostgreSQL: how a record is written to its row, and read back in pages. No member is lost on the way.

use std::pin::Pin;

use tokio_postgres::Row;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use super::{Instant, Postgres, READ_TIMEOUT, json, optional_word, unreadable, word};
use crate::ids::{AppId, KeyId, RecordId};
use crate::ledger::chain::Link;
use crate::ledger::records::{COLUMNS, not_before};
use crate::ledger::{self, Cursor, Filter, LedgerError};
use crate::money::NanoUsd;
use crate::record::{CostByKind, Record};
use crate::usage::{Anomaly, TokenCounts};

/// How many [`COLUMNS`] are.
pub(super) const COLUMN_COUNT: usize = 46;

/// Their types, and the chain's.
pub(super) const TYPES: [Type; COLUMN_COUNT + 1] = {
    const TEXT: Type = Type::TEXT;
    const INT: Type = Type::INT8;
    const AT: Type = Type::TIMESTAMPTZ;
    [
        TEXT,
        INT,
        Type::UUID,
        AT,
        AT,
        TEXT,
        TEXT,
        TEXT,
        TEXT,
        TEXT,
        TEXT,
        TEXT,
        TEXT,
        TEXT,
        TEXT,
        TEXT,
        TEXT,
        Type::BOOL,
        Type::INT4,
        TEXT,
        TEXT,
        INT,
        INT,
        INT,
        INT,
        INT,
        INT,
        INT,
        INT,
        INT,
        INT,
        TEXT,
        TEXT,
        TEXT,
        TEXT,
        INT,
        TEXT,
        INT,
        INT,
        INT,
        INT,
        INT,
        TEXT,
        INT,
        INT,
        TEXT,
        Type::BYTEA,
    ]
};

/// Writes a row of a COPY.
pub(super) async fn write(
    writer: Pin<&mut BinaryCopyInWriter>,
    record: &Record,
    link: &Link,
) -> Result<(), LedgerError> {
    let integer = |count: Option<u64>| count.map(ledger::integer);
    let nano = |amount: Option<NanoUsd>| amount.map(NanoUsd::as_i64);
    let tokens = &record.tokens;
    let cost = &record.cost_nanousd_by_kind;
    let row: [&(dyn ToSql + Sync); COLUMN_COUNT + 1] = [
        &record.node.as_str(),
        &ledger::integer(record.seq),
        &Uuid::from_bytes(*record.id.as_bytes()),
        &Instant(record.started_at),
        &Instant(record.ended_at),
        &record.department.as_str(),
        &record.team.as_str(),
        &record.app.as_ref().map(AppId::as_str),
        &record.key.as_ref().map(KeyId::as_str),
        &record.attributed_by.as_str(),
        &to_json(record, (!record.tags.is_empty()).then_some(&record.tags))?,
        &record.upstream.as_str(),
        &record.wire,
        &record.provider.as_str(),
        &record.operation.as_str(),
        &record.model_requested,
        &record.model,
        &record.stream,
        &record.status.map(i32::from),
        &record.outcome.as_str(),
        &record.provenance.as_str(),
        &integer(tokens.input),
        &integer(tokens.cache_read),
        &integer(tokens.cache_write),
        &integer(tokens.output),
        &integer(tokens.reasoning),
        &integer(tokens.cache_write_1h),
        &integer(tokens.audio_input),
        &integer(tokens.audio_output),
        &integer(tokens.image_input),
        &integer(tokens.image_output),
        &to_json(record, (!record.units.is_empty()).then_some(&record.units))?,
        &record.usage_raw.as_ref().map(|raw| raw.get()),
        &record.service_tier,
        &to_json(record, record.estimate.as_ref())?,
        &integer(record.delivered_output),
        &record.anomaly.map(Anomaly::as_str),
        &nano(record.cost_nanousd),
        &nano(cost.input),
        &nano(cost.cache_read),
        &nano(cost.cache_write),
        &nano(cost.output),
        &record.price,
        &integer(record.time_to_first_byte_ms),
        &ledger::integer(record.duration_ms),
        &record.job,
        &link.as_bytes().as_slice(),
    ];
    Ok(writer.write(&row).await?)
}

fn to_json(record: &Record, value: Option<&impl serde::Serialize>) -> Result<Option<String>, LedgerError> {
    value
        .map(|value| serde_json::to_string(value))
        .transpose()
        .map_err(|source| LedgerError::Unreadable { what: format!("record `{}`", record.id), source })
}

impl Postgres {
    /// Up to `limit` records after `after`, by `ended_at`, then (node, seq). Empty: there are no more.
    pub(in crate::ledger) fn records(
        &self,
        filter: &Filter,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Vec<Record>, LedgerError> {
        let mut clauses: Vec<String> = Vec::new();
        let mut values: Vec<Box<dyn ToSql + Sync>> = Vec::new();
        let mut push = |clause: &str, value: Box<dyn ToSql + Sync>| {
            values.push(value);
            clauses.push(format!("{clause} ${}", values.len()));
        };
        for (clause, instant) in [("ended_at >=", filter.from), ("ended_at <", filter.to)] {
            if let Some(instant) = instant {
                let instant = jiff::Timestamp::from_microsecond(not_before(instant)).unwrap_or(instant);
                push(clause, Box::new(Instant(instant)));
            }
        }
        for (column, word) in filter.words() {
            push(&format!("{column} ="), Box::new(word.to_owned()));
        }
        if let Some(after) = after {
            // Beside the comparison of rows, which is exact: by this one whole months are left out.
            push("ended_at >=", Box::new(Instant(after.ended_at)));
            values.push(Box::new(after.node.as_str().to_owned()));
            values.push(Box::new(ledger::integer(after.seq)));
            let last = values.len();
            clauses.push(format!("(ended_at, node, seq) > (${}, ${}, ${last})", last - 2, last - 1));
        }
        let condition = if clauses.is_empty() { "TRUE".to_owned() } else { clauses.join(" AND ") };
        values.push(Box::new(i64::try_from(limit).unwrap_or(i64::MAX)));
        let sql = format!(
            "SELECT {COLUMNS} FROM records WHERE {condition} ORDER BY ended_at, node, seq LIMIT ${}",
            values.len()
        );
        self.run(READ_TIMEOUT, async |client| {
            let values: Vec<&(dyn ToSql + Sync)> = values.iter().map(AsRef::as_ref).collect();
            client.query(&sql, &values).await?.iter().map(read).collect()
        })
    }
}

/// The record of a row whose first columns are [`COLUMNS`].
pub(super) fn read(row: &Row) -> Result<Record, LedgerError> {
    let count = |column: usize| Ok::<_, LedgerError>(row.try_get::<_, Option<i64>>(column)?.map(ledger::count));
    let nano = |column: usize| Ok::<_, LedgerError>(row.try_get::<_, Option<i64>>(column)?.map(NanoUsd::new));
    let instant = |column: usize| Ok::<_, LedgerError>(row.try_get::<_, Instant>(column)?.0);
    let status: Option<i32> = row.try_get(18)?;
    let usage_raw: Option<String> = row.try_get(32)?;
    Ok(Record {
        node: word(row, 0)?,
        seq: ledger::count(row.try_get(1)?),
        id: RecordId::from_bytes(row.try_get::<_, Uuid>(2)?.into_bytes()),
        started_at: instant(3)?,
        ended_at: instant(4)?,
        department: word(row, 5)?,
        team: word(row, 6)?,
        app: optional_word(row, 7)?,
        key: optional_word(row, 8)?,
        attributed_by: word(row, 9)?,
        tags: json(row, 10)?.unwrap_or_default(),
        upstream: word(row, 11)?,
        wire: row.try_get(12)?,
        provider: word(row, 13)?,
        operation: word(row, 14)?,
        model_requested: row.try_get(15)?,
        model: row.try_get(16)?,
        stream: row.try_get(17)?,
        status: status.and_then(|status| u16::try_from(status).ok()),
        outcome: word(row, 19)?,
        provenance: word(row, 20)?,
        tokens: TokenCounts {
            input: count(21)?,
            cache_read: count(22)?,
            cache_write: count(23)?,
            output: count(24)?,
            reasoning: count(25)?,
            cache_write_1h: count(26)?,
            audio_input: count(27)?,
            audio_output: count(28)?,
            image_input: count(29)?,
            image_output: count(30)?,
        },
        units: json(row, 31)?.unwrap_or_default(),
        usage_raw: usage_raw
            .map(serde_json::value::RawValue::from_string)
            .transpose()
            .map_err(|source| unreadable(row, 32, source))?,
        service_tier: row.try_get(33)?,
        estimate: json(row, 34)?,
        delivered_output: count(35)?,
        anomaly: optional_word(row, 36)?,
        cost_nanousd: nano(37)?,
        cost_nanousd_by_kind: CostByKind {
            input: nano(38)?,
            cache_read: nano(39)?,
            cache_write: nano(40)?,
            output: nano(41)?,
        },
        price: row.try_get(42)?,
        time_to_first_byte_ms: count(43)?,
        duration_ms: ledger::count(row.try_get(44)?),
        job: row.try_get(45)?,
    })
}

/// The link in `column`; one that is none fits nothing.
pub(super) fn link(row: &Row, column: usize) -> Result<Link, LedgerError> {
    let bytes: &[u8] = row.try_get(column)?;
    Ok(Link::from_bytes(bytes.try_into().unwrap_or([0xff; 16])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_has_a_type() {
        assert_eq!(COLUMNS.split(',').count(), COLUMN_COUNT);
    }
}
