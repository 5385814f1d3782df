//! Records in `SQLite`: how a record is written to its row, and read back in pages. No member is lost on the way.

use rusqlite::types::Value;
use rusqlite::{CachedStatement, Connection, Row, params, params_from_iter};

use super::{Sqlite, instant, json, unreadable, word};
use crate::ids::{AppId, KeyId, RecordId};
use crate::ledger::records::{COLUMNS, not_before};
use crate::ledger::{self, Cursor, Filter, LedgerError, Link};
use crate::money::NanoUsd;
use crate::record::{CostByKind, Record};
use crate::usage::TokenCounts;

impl Sqlite {
    /// Up to `limit` records after `after`, by `ended_at`, then (node, seq). Empty: there are no more.
    pub(in crate::ledger) fn records(
        &self,
        filter: &Filter,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Vec<Record>, LedgerError> {
        let mut clauses = Vec::new();
        let mut values = Vec::new();
        let instants = [("ended_at >= ?", filter.from), ("ended_at < ?", filter.to)];
        for (clause, instant) in instants {
            if let Some(instant) = instant {
                clauses.push(clause.to_owned());
                values.push(Value::from(not_before(instant)));
            }
        }
        for (column, word) in filter.words() {
            clauses.push(format!("{column} = ?"));
            values.push(Value::from(word.to_owned()));
        }
        if let Some(after) = after {
            clauses.push("(ended_at, node, seq) > (?, ?, ?)".to_owned());
            values.push(Value::from(after.ended_at.as_microsecond()));
            values.push(Value::from(after.node.as_str().to_owned()));
            values.push(Value::from(ledger::integer(after.seq)));
        }
        let condition = if clauses.is_empty() { "TRUE".to_owned() } else { clauses.join(" AND ") };
        values.push(Value::from(i64::try_from(limit).unwrap_or(i64::MAX)));
        let sql = format!("SELECT {COLUMNS} FROM records WHERE {condition} ORDER BY ended_at, node, seq LIMIT ?");
        let mut statement = self.connection.prepare_cached(&sql)?;
        let records = statement.query_map(params_from_iter(values), read)?.collect::<Result<_, _>>()?;
        Ok(records)
    }
}

/// The statement that [`insert`] runs.
pub(super) fn insertion(connection: &Connection) -> rusqlite::Result<CachedStatement<'_>> {
    let places = vec!["?"; COLUMNS.split(',').count()].join(", ");
    connection
        .prepare_cached(&format!("INSERT INTO records ({COLUMNS}, chain) VALUES ({places}, ?) ON CONFLICT DO NOTHING"))
}

/// Writes a row, linked by `link`. False: its id or its place is taken.
pub(super) fn insert(statement: &mut CachedStatement<'_>, record: &Record, link: &Link) -> Result<bool, LedgerError> {
    let integer = |count: Option<u64>| count.map(ledger::integer);
    let nano = |amount: Option<NanoUsd>| amount.map(NanoUsd::as_i64);
    let tokens = &record.tokens;
    let cost = &record.cost_nanousd_by_kind;
    let changed = statement.execute(params![
        record.node.as_str(),
        ledger::integer(record.seq),
        record.id.as_bytes(),
        record.started_at.as_microsecond(),
        record.ended_at.as_microsecond(),
        record.department.as_str(),
        record.team.as_str(),
        record.app.as_ref().map(AppId::as_str),
        record.key.as_ref().map(KeyId::as_str),
        record.attributed_by.as_str(),
        to_json(record, (!record.tags.is_empty()).then_some(&record.tags))?,
        record.upstream.as_str(),
        record.wire,
        record.provider.as_str(),
        record.operation.as_str(),
        record.model_requested,
        record.model,
        record.stream,
        record.status,
        record.outcome.as_str(),
        record.provenance.as_str(),
        integer(tokens.input),
        integer(tokens.cache_read),
        integer(tokens.cache_write),
        integer(tokens.output),
        integer(tokens.reasoning),
        integer(tokens.cache_write_1h),
        integer(tokens.audio_input),
        integer(tokens.audio_output),
        integer(tokens.image_input),
        integer(tokens.image_output),
        to_json(record, (!record.units.is_empty()).then_some(&record.units))?,
        record.usage_raw.as_ref().map(|raw| raw.get()),
        record.service_tier,
        to_json(record, record.estimate.as_ref())?,
        integer(record.delivered_output),
        record.anomaly.map(crate::usage::Anomaly::as_str),
        nano(record.cost_nanousd),
        nano(cost.input),
        nano(cost.cache_read),
        nano(cost.cache_write),
        nano(cost.output),
        record.price,
        integer(record.time_to_first_byte_ms),
        ledger::integer(record.duration_ms),
        record.job,
        link.as_bytes(),
    ])?;
    Ok(changed > 0)
}

/// Where the record with that id stands, if there is one, and by what it is linked.
pub(super) fn place_of(
    connection: &Connection,
    id: &RecordId,
) -> Result<Option<(String, i64, Option<Link>)>, LedgerError> {
    let mut statement = connection.prepare_cached("SELECT node, seq, chain FROM records WHERE id = ?")?;
    let mut rows = statement.query_map([id.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?, read_link(row, 2)?)))?;
    Ok(rows.next().transpose()?)
}

/// The records of `node` behind the place `after`, in its order, each with its link (column [`LINK`]).
pub(super) fn statement_in_order() -> String {
    format!("SELECT {COLUMNS}, chain FROM records WHERE node = ? AND seq > ? ORDER BY seq")
}

/// The column of the link in [`statement_in_order`].
pub(super) const LINK: usize = 46;

/// A link; `None`: the row is older than the chain.
pub(super) fn read_link(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Link>> {
    Ok(row.get::<_, Option<[u8; 16]>>(column)?.map(Link::from_bytes))
}

fn to_json(record: &Record, value: Option<&impl serde::Serialize>) -> Result<Option<String>, LedgerError> {
    value
        .map(|value| serde_json::to_string(value))
        .transpose()
        .map_err(|source| LedgerError::Unreadable { what: format!("record `{}`", record.id), source })
}

/// The record in a row of [`COLUMNS`].
pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Record> {
    let text = |column: usize| row.get::<_, Option<String>>(column);
    let integer = |column: usize| row.get::<_, Option<i64>>(column);
    let count = |column: usize| Ok::<_, rusqlite::Error>(integer(column)?.map(ledger::count));
    let nano = |column: usize| Ok::<_, rusqlite::Error>(integer(column)?.map(NanoUsd::new));
    Ok(Record {
        node: word(0, row.get(0)?)?,
        seq: ledger::count(row.get(1)?),
        id: RecordId::from_bytes(row.get(2)?),
        started_at: instant(3, row.get(3)?)?,
        ended_at: instant(4, row.get(4)?)?,
        department: word(5, row.get(5)?)?,
        team: word(6, row.get(6)?)?,
        app: text(7)?.map(|app| word(7, app)).transpose()?,
        key: text(8)?.map(|key| word(8, key)).transpose()?,
        attributed_by: word(9, row.get(9)?)?,
        tags: text(10)?.map(|tags| json(10, &tags)).transpose()?.unwrap_or_default(),
        upstream: word(11, row.get(11)?)?,
        wire: row.get(12)?,
        provider: word(13, row.get(13)?)?,
        operation: word(14, row.get(14)?)?,
        model_requested: row.get(15)?,
        model: row.get(16)?,
        stream: row.get(17)?,
        status: row.get(18)?,
        outcome: word(19, row.get(19)?)?,
        provenance: word(20, row.get(20)?)?,
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
        units: text(31)?.map(|units| json(31, &units)).transpose()?.unwrap_or_default(),
        usage_raw: text(32)?
            .map(|raw| serde_json::value::RawValue::from_string(raw).map_err(|error| unreadable(32, error)))
            .transpose()?,
        service_tier: row.get(33)?,
        estimate: text(34)?.map(|estimate| json(34, &estimate)).transpose()?,
        delivered_output: count(35)?,
        anomaly: text(36)?.map(|anomaly| word(36, anomaly)).transpose()?,
        cost_nanousd: nano(37)?,
        cost_nanousd_by_kind: CostByKind {
            input: nano(38)?,
            cache_read: nano(39)?,
            cache_write: nano(40)?,
            output: nano(41)?,
        },
        price: row.get(42)?,
        time_to_first_byte_ms: count(43)?,
        duration_ms: ledger::count(row.get(44)?),
        job: row.get(45)?,
    })
}
