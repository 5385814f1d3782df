//! Table: the report as people read it in a terminal.

use super::figures::{cost_digits, dollars, grouped, percent};
use super::{MonthReport, cost_nanousd};
use crate::ledger::{Counts, Dimension};

/// The report as aligned text.
pub fn text(report: &MonthReport) -> String {
    let mut lines = vec![header(&report.by)];
    let digits = cost_digits(report);
    lines.extend(report.rows.iter().map(|row| {
        let values = row.values.iter().map(|value| printable(value));
        values.chain(cells(&row.counts, digits)).collect()
    }));
    let label = report.by.iter().enumerate().map(|(column, _)| if column == 0 { "total" } else { "" });
    lines.push(label.map(str::to_owned).chain(cells(&report.total, digits)).collect());

    let mut text = format!("Monthly token consumption, {} ({})\n\n", report.month, report.timezone);
    text.push_str(&aligned(&lines, report.by.len()));
    text.push_str(&notes(report));
    text
}

fn header(by: &[Dimension]) -> Vec<String> {
    let sums = ["requests", "input", "cache_read", "cache_write", "output", "total", "cost USD"];
    by.iter().map(|dimension| dimension.as_str()).chain(sums).map(str::to_owned).collect()
}

fn cells(counts: &Counts, digits: u32) -> impl Iterator<Item = String> {
    let numbers =
        [counts.requests, counts.input, counts.cache_read, counts.cache_write, counts.output, counts.total_tokens()];
    let cost = cost_nanousd(counts).map_or_else(|| "-".to_owned(), |cost| dollars(cost, digits));
    numbers.map(grouped).into_iter().chain([cost])
}

/// Text columns to the left, numbers to the right, two spaces between.
fn aligned(lines: &[Vec<String>], text_columns: usize) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |column: usize| lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for line in lines {
        let mut row = String::new();
        for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
            let padding = " ".repeat(width.saturating_sub(cell.chars().count()));
            let gap = if column == 0 { "" } else { "  " };
            if column < text_columns {
                row.extend([gap, cell, &padding]);
            } else {
                row.extend([gap, &padding, cell]);
            }
        }
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

/// What must not be read past: how sure the numbers are, and what they leave out.
fn notes(report: &MonthReport) -> String {
    let total = &report.total;
    let mut notes = Vec::new();
    let counted = [
        ("reported by providers", total.reported_tokens),
        ("partly estimated", total.partial_tokens),
        ("estimated", total.estimated_tokens),
    ];
    if total.total_tokens() > 0 {
        let counted = counted.into_iter().filter(|(_, tokens)| *tokens > 0);
        let shares = counted.map(|(how, tokens)| format!("{} {how}", percent(tokens, total.total_tokens())));
        notes.push(format!("Tokens: {}.", shares.collect::<Vec<_>>().join(", ")));
    }
    if let Some(unattributed) = report.unattributed().filter(|counts| counts.requests > 0) {
        notes.push(format!(
            "Unattributed: {} tokens of {} requests.",
            grouped(unattributed.total_tokens()),
            grouped(unattributed.requests)
        ));
    }
    if total.unpriced_tokens > 0 {
        notes.push(format!("Without a price, and not in the cost: {} tokens.", grouped(total.unpriced_tokens)));
    }
    if total.unknown_requests > 0 {
        notes.push(format!(
            "Of unknown consumption, and not in the sums: {} requests.",
            grouped(total.unknown_requests)
        ));
    }
    if report.unmetered_requests > 0 {
        notes.push(unmetered(report.unmetered_requests));
    }
    if notes.is_empty() { String::new() } else { format!("\n{}\n", notes.join("\n")) }
}

/// What every reader of a report must know of calls that are not in it.
pub fn unmetered(requests: u64) -> String {
    format!("Passed unmetered, and in no row: {} requests.", grouped(i128::from(requests)))
}

/// Text without what a terminal obeys: a client chooses the model's name. `-` where there is none.
fn printable(text: &str) -> String {
    if text.is_empty() {
        return "-".to_owned();
    }
    text.chars().map(|char| if char.is_control() { '\u{fffd}' } else { char }).collect()
}
