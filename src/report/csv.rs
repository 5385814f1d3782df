//! CSV: the report as spreadsheets read it. Columns are the JSON names, dotted; the total row comes last.

use std::borrow::Cow;

use super::{MonthReport, cost_nanousd};
use crate::ledger::Counts;

/// Columns of a row's sums, in the order of [`cells`].
const COLUMNS: [&str; 13] = [
    "requests",
    "tokens.input",
    "tokens.cache_read",
    "tokens.cache_write",
    "tokens.output",
    "tokens.reasoning",
    "tokens.total",
    "cost_nanousd",
    "unpriced_tokens",
    "provenance.reported",
    "provenance.partial",
    "provenance.estimated",
    "unknown_requests",
];

/// Writes the report.
pub fn write(report: &MonthReport, out: impl std::io::Write) -> Result<(), csv::Error> {
    let mut writer = csv::Writer::from_writer(out);
    writer.write_record(report.by.iter().map(|dimension| dimension.as_str()).chain(COLUMNS))?;
    for row in &report.rows {
        let values = row.values.iter().map(|value| harmless(value).into_owned());
        writer.write_record(values.chain(cells(&row.counts)))?;
    }
    let label = report.by.iter().enumerate().map(|(column, _)| if column == 0 { "total" } else { "" });
    writer.write_record(label.map(str::to_owned).chain(cells(&report.total)))?;
    writer.flush()?;
    Ok(())
}

fn cells(counts: &Counts) -> impl Iterator<Item = String> {
    let numbers = [
        Some(counts.requests),
        Some(counts.input),
        Some(counts.cache_read),
        Some(counts.cache_write),
        Some(counts.output),
        Some(counts.reasoning),
        Some(counts.total_tokens()),
        cost_nanousd(counts),
        Some(counts.unpriced_tokens),
        Some(counts.reported_tokens),
        Some(counts.partial_tokens),
        Some(counts.estimated_tokens),
        Some(counts.unknown_requests),
    ];
    numbers.into_iter().map(|number| number.map_or_else(String::new, |number| number.to_string()))
}

/// Text that a spreadsheet takes as text. What it would run as a formula gets a `'` in front: a client chooses the
/// model's name, and finance opens the file.
pub(super) fn harmless(text: &str) -> Cow<'_, str> {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']) { format!("'{text}").into() } else { text.into() }
}
