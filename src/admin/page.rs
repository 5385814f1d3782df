//! Page: the month so far, as a table that needs no script.

use crate::ledger::{Counts, Dimension};
use crate::report::figures::{cost_digits, dollars, grouped, percent};
use crate::report::table::unmetered;
use crate::report::{MonthReport, cost_nanousd};

const STYLE: &str = "
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; }
.kpi { font-size: 3rem; font-weight: 600; margin: .5rem 0 0; font-variant-numeric: tabular-nums; }
.note { color: GrayText; margin: 0 0 1.5rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: .4rem .6rem; text-align: right; border-bottom: 1px solid color-mix(in srgb, currentColor 20%, transparent); white-space: nowrap;  font-variant-numeric: tabular-nums; }
th.text, td.text { text-align: left; }
tfoot td { font-weight: 600; border-bottom: none; border-top: 2px solid currentColor; }
";

/// The page of `report`.
pub(super) fn render(report: &MonthReport) -> String {
    let total = &report.total;
    let digits = cost_digits(report);
    let mut rows = String::new();
    for row in &report.rows {
        rows.extend(["<tr>", &texts(&row.values), &numbers(&row.counts, digits), "</tr>\n"]);
    }
    if report.rows.is_empty() {
        let columns = report.by.len().saturating_add(8);
        rows = format!("<tr><td class=\"text\" colspan=\"{columns}\">No call has ended in this month yet.</td></tr>\n");
    }
    let mut heads = String::new();
    for by in &report.by {
        heads.extend(["<th class=\"text\" scope=\"col\">", &title(*by), "</th>"]);
    }
    let blank: Vec<String> =
        std::iter::once("Total".to_owned()).chain(report.by.iter().skip(1).map(|_| String::new())).collect();
    format!(
        "<!doctype html>
<html lang=\"en\">
<head>
<meta charset=\"utf-8\">
<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">
<title>tokenmeter · {month}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>Monthly token consumption, {month}</h1>
<p class=\"kpi\">{kpi}</p>
<p class=\"note\">tokens so far: input, cache reads, cache writes and output of every call that ended in {month}, {zone} time</p>
<div class=\"scroll\">
<table>
<thead><tr>{heads}<th scope=\"col\">Requests</th><th scope=\"col\">Input</th><th scope=\"col\">Cache read</th><th scope=\"col\">Cache write</th><th scope=\"col\">Output</th><th scope=\"col\">Total</th><th scope=\"col\">Cost (USD)</th><th scope=\"col\">Reported</th></tr></thead>
<tbody>
{rows}</tbody>
<tfoot><tr>{total_texts}{total_numbers}</tr></tfoot>
</table>
</div>
<p class=\"note\">Reported: the share of tokens that are the provider's own numbers. {unpriced} tokens have no price; {unknown} calls may have cost something that nobody could read.{unmetered}</p>
</body>
</html>
",
        month = report.month,
        kpi = grouped(total.total_tokens()),
        zone = escaped(&report.timezone),
        total_texts = texts(&blank),
        total_numbers = numbers(total, digits),
        unpriced = grouped(total.unpriced_tokens),
        unknown = grouped(total.unknown_requests),
        unmetered = match report.unmetered_requests {
            0 => String::new(),
            requests => format!(" {}", unmetered(requests)),
        },
    )
}

fn texts(values: &[String]) -> String {
    let mut cells = String::new();
    for value in values {
        cells.extend(["<td class=\"text\">", &escaped(value), "</td>"]);
    }
    cells
}

fn numbers(counts: &Counts, digits: u32) -> String {
    let mut cells = String::new();
    for number in
        [counts.requests, counts.input, counts.cache_read, counts.cache_write, counts.output, counts.total_tokens()]
    {
        cells.extend(["<td>", &grouped(number), "</td>"]);
    }
    let cost = cost_nanousd(counts).map_or_else(|| "–".to_owned(), |cost| dollars(cost, digits));
    cells.extend(["<td>", &cost, "</td><td>", &share(counts), "</td>"]);
    cells
}

fn title(by: Dimension) -> String {
    let mut letters = by.as_str().chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

/// The share of the provider's own numbers.
fn share(counts: &Counts) -> String {
    let total = counts.total_tokens();
    if total == 0 { "–".into() } else { percent(counts.reported_tokens, total) }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::escaped;

    #[test]
    fn names_are_text() {
        assert_eq!(escaped("<b>&\""), "&lt;b&gt;&amp;&quot;");
    }
}
