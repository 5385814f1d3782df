//! I5: records, report, CSV and metrics add up to the same.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Found, Row, Violation};
use crate::machine::now;
use crate::stand::sum_of;

/// Kinds of tokens that a report sums, and of which a call's total is made.
const KINDS: [&str; 4] = ["input", "cache_read", "cache_write", "output"];

/// What rows of a report hold: numbers by their names.
type Sums = BTreeMap<String, i128>;

/// The report as JSON by `by`, against all records that there are.
pub(crate) fn report(rows: &[Row], report: &Value) -> Vec<Violation> {
    let mut found = Found::default();
    let month = report["month"].as_str().unwrap();
    let by: Vec<&str> = report["by"].as_array().unwrap().iter().map(|by| by.as_str().unwrap()).collect();
    let mut expected: BTreeMap<Vec<String>, Sums> = BTreeMap::new();
    let mut total = empty();
    for row in rows.iter().filter(|row| row.ended_at.to_string().starts_with(month)) {
        let values = by.iter().map(|by| dimension(row, by)).collect();
        add(expected.entry(values).or_insert_with(empty), row);
        add(&mut total, row);
    }
    let mut told: BTreeMap<Vec<String>, Sums> = BTreeMap::new();
    for row in report["rows"].as_array().unwrap() {
        let values = by.iter().map(|by| row[*by].as_str().unwrap_or_default().to_owned()).collect();
        told.insert(values, sums_in(row));
    }
    for values in expected.keys().chain(told.keys()).collect::<std::collections::BTreeSet<_>>() {
        compare(&mut found, &format!("the report's row {values:?}"), told.get(values), expected.get(values));
    }
    compare(&mut found, "the report's total", Some(&sums_in(&report["total"])), Some(&total));
    found.0
}

/// The total row of the report as CSV, against that of the report as JSON.
pub(crate) fn csv(csv: &str, report: &Value) -> Vec<Violation> {
    let mut found = Found::default();
    let mut reader = csv::Reader::from_reader(csv.as_bytes());
    let columns = reader.headers().unwrap().clone();
    let last = reader.records().last().unwrap().unwrap();
    let told = columns.iter().zip(&last).filter_map(|(name, cell)| Some((name.to_owned(), cell.parse().ok()?)));
    compare(&mut found, "the CSV's total", Some(&told.collect()), Some(&sums_in(&report["total"])));
    found.0
}

/// The texts of `/metrics` of the processes that recorded `rows`, and nothing else.
pub(crate) fn metrics(rows: &[Row], metrics: &[String]) -> Vec<Violation> {
    let mut found = Found::default();
    let sum = |name: &str, labels: &[&str]| metrics.iter().map(|text| sum_of(text, name, labels)).sum::<f64>();
    let mut check = |name: &str, labels: &[&str], of: &dyn Fn(&Row) -> u64| {
        let told = sum(name, labels);
        let expected = rows.iter().map(of).sum::<u64>();
        if told.abs().to_string() != expected.to_string() {
            found.add("I5", format!("{name}{labels:?} is {told}, the records' sum {expected}"));
        }
    };
    for kind in KINDS {
        for provenance in ["reported", "partial", "estimated"] {
            let labels = [format!("kind=\"{kind}\""), format!("provenance=\"{provenance}\"")];
            let labels = labels.each_ref().map(String::as_str);
            check("tokenmeter_tokens_total", &labels, &|row| {
                if row.provenance == provenance { row.count(kind) } else { 0 }
            });
        }
    }
    check("tokenmeter_reasoning_tokens_total", &[], &|row| row.count("reasoning"));
    for outcome in ["completed", "upstream_error", "upstream_cut", "client_closed", "orphaned"] {
        let label = format!("outcome=\"{outcome}\"");
        check("tokenmeter_requests_total", &[&label], &|row| u64::from(row.outcome == outcome));
    }
    found.0
}

/// The month's gauges, which are the ledger's sums.
pub(crate) fn month(rows: &[Row], metrics: &str) -> Vec<Violation> {
    let mut found = Found::default();
    let month = &now().to_string()[..7];
    let rows: Vec<&Row> = rows.iter().filter(|row| row.ended_at.to_string().starts_with(month)).collect();
    for kind in KINDS {
        let label = format!("kind=\"{kind}\"");
        let told = sum_of(metrics, "tokenmeter_month_tokens", &[&label]);
        let expected = rows.iter().map(|row| row.count(kind)).sum::<u64>();
        if told.abs().to_string() != expected.to_string() {
            found.add("I5", format!("tokenmeter_month_tokens of {kind} is {told}, the records' sum {expected}"));
        }
    }
    found.0
}

fn dimension(row: &Row, by: &str) -> String {
    match by {
        "department" => row.department.clone(),
        "team" => row.team.clone(),
        "provider" => row.provider.clone(),
        "model" => row.model.clone().unwrap_or_default(),
        other => panic!("the checker does not know `{other}`"),
    }
}

/// What a report's row is made of, dotted as in its CSV.
fn empty() -> Sums {
    let kinds = KINDS.iter().chain(&["reasoning", "total"]).map(|kind| format!("tokens.{kind}"));
    let provenances = ["reported", "partial", "estimated"].iter().map(|one| format!("provenance.{one}"));
    let others = ["requests", "unknown_requests", "unpriced_tokens"].map(str::to_owned);
    kinds.chain(provenances).chain(others).map(|name| (name, 0)).collect()
}

fn add(sums: &mut Sums, row: &Row) {
    let total = i128::from(row.total());
    let mut add = |name: String, count: i128| *sums.entry(name).or_default() += count;
    add("requests".into(), 1);
    for kind in KINDS.iter().chain(&["reasoning"]) {
        add(format!("tokens.{kind}"), row.count(kind).into());
    }
    add("tokens.total".into(), total);
    match row.provenance.as_str() {
        provenance @ ("reported" | "partial" | "estimated") => add(format!("provenance.{provenance}"), total),
        "unknown" => add("unknown_requests".into(), 1),
        _ => {}
    }
    match row.cost_nanousd {
        Some(cost) => add("cost_nanousd".into(), cost.into()),
        None => add("unpriced_tokens".into(), total),
    }
}

/// The numbers of a report's row.
fn sums_in(row: &Value) -> Sums {
    let mut sums = Sums::new();
    for (name, value) in row.as_object().unwrap() {
        match value {
            Value::Number(number) => drop(sums.insert(name.clone(), number.as_i128().unwrap())),
            Value::Object(parts) => {
                for (part, number) in parts {
                    sums.insert(format!("{name}.{part}"), number.as_i64().unwrap().into());
                }
            }
            Value::Null | Value::Bool(_) | Value::String(_) | Value::Array(_) => {}
        }
    }
    sums
}

fn compare(found: &mut Found, of: &str, told: Option<&Sums>, expected: Option<&Sums>) {
    let (Some(told), Some(expected)) = (told, expected) else {
        let is_there = if told.is_some() { "is made of no record" } else { "is missing" };
        return found.add("I5", format!("{of} {is_there}"));
    };
    for (name, expected) in expected {
        let told = told.get(name);
        if told != Some(expected) {
            found.add("I5", format!("{of}: {name} is {told:?}, the records' sum {expected}"));
        }
    }
}
