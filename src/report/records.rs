//! Records in pages, as JSON lines or CSV.

use std::io::{self, Write};

use serde_json::Value;

use super::csv::harmless;
use crate::record::Record;

/// Columns of the CSV: the JSON names, dotted. Members that are maps or the provider's own stay JSON in one cell.
const COLUMNS: [&str; 49] = [
    "id",
    "started_at",
    "ended_at",
    "department",
    "team",
    "app",
    "key",
    "attributed_by",
    "tags",
    "node",
    "seq",
    "upstream",
    "wire",
    "provider",
    "operation",
    "model_requested",
    "model",
    "stream",
    "status",
    "outcome",
    "provenance",
    "tokens.input",
    "tokens.cache_read",
    "tokens.cache_write",
    "tokens.output",
    "tokens.reasoning",
    "tokens.cache_write_1h",
    "tokens.audio_input",
    "tokens.audio_output",
    "tokens.image_input",
    "tokens.image_output",
    "units",
    "usage_raw",
    "service_tier",
    "estimate.low",
    "estimate.high",
    "estimate.method",
    "estimate.observations",
    "delivered_output",
    "anomaly",
    "cost_nanousd",
    "cost_nanousd_by_kind.input",
    "cost_nanousd_by_kind.cache_read",
    "cost_nanousd_by_kind.cache_write",
    "cost_nanousd_by_kind.output",
    "price",
    "time_to_first_byte_ms",
    "duration_ms",
    "job",
];

/// Writes a page, a record a line, exactly as [`Record`] is as JSON.
pub fn write_jsonl(records: &[Record], out: &mut impl Write) -> io::Result<()> {
    for record in records {
        serde_json::to_writer(&mut *out, record)?;
        out.write_all(b"\n")?;
    }
    out.flush()
}

/// Writes the line that names the columns: once, in front of the first page.
pub fn write_csv_header(out: impl Write) -> Result<(), csv::Error> {
    let mut writer = csv::Writer::from_writer(out);
    writer.write_record(COLUMNS)?;
    writer.flush()?;
    Ok(())
}

/// Writes a page of rows.
pub fn write_csv(records: &[Record], out: impl Write) -> Result<(), csv::Error> {
    let mut writer = csv::Writer::from_writer(out);
    for record in records {
        let json = serde_json::to_value(record).map_err(io::Error::from)?;
        let cells = COLUMNS.iter().map(|column| match *column {
            // Verbatim: a value read and written again has lost how its numbers were written.
            "usage_raw" => record.usage_raw.as_ref().map_or_else(String::new, |raw| harmless(raw.get()).into_owned()),
            column => cell(&json, column),
        });
        writer.write_record(cells)?;
    }
    writer.flush()?;
    Ok(())
}

fn cell(record: &Value, column: &str) -> String {
    match column.split('.').try_fold(record, |value, name| value.get(name)) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => harmless(text).into_owned(),
        Some(value @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_))) => value.to_string(),
    }
}
