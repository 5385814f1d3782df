use jiff::tz::TimeZone;

use super::{DEFAULT_BY, MonthReport, Settings, csv, json, records, table};
use crate::journal::samples::{bare_record, full_record, intent};
use crate::ledger::{Counts, Dimension, Row};
use crate::period::Month;

fn counts(output: i128, cost_nanousd: Option<i128>) -> Counts {
    Counts {
        requests: 1234,
        input: 1_000_000,
        cache_read: 500,
        cache_write: 0,
        output,
        reasoning: 7,
        cost_nanousd: cost_nanousd.unwrap_or(0),
        priced_requests: i128::from(cost_nanousd.is_some()),
        unpriced_tokens: if cost_nanousd.is_some() { 0 } else { 1_000_500 + output },
        reported_tokens: 1_000_500,
        partial_tokens: 0,
        estimated_tokens: output,
        unknown_requests: 0,
    }
}

fn row(values: &[&str], counts: Counts) -> Row {
    Row { values: values.iter().map(|value| (*value).to_owned()).collect(), counts }
}

fn report(by: &[Dimension], rows: Vec<Row>) -> MonthReport {
    let settings = Settings { timezone: TimeZone::get("Asia/Shanghai").unwrap() };
    MonthReport::of(Month::parse("2026-11").unwrap(), &settings, by, rows)
}

fn usual() -> MonthReport {
    let mut nobody = counts(50_000, None);
    nobody.unknown_requests = 3;
    report(
        &DEFAULT_BY,
        vec![
            row(&["customer-service", "support-bot"], counts(20_000, Some(12_345_678_900_000))),
            row(&["research", "search"], counts(0, Some(5_000_000))),
            row(&["unattributed", "unattributed"], nobody),
        ],
    )
}

fn csv_of(report: &MonthReport) -> String {
    let mut out = Vec::new();
    csv::write(report, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn a_table_shows_what_it_leaves_out() {
    insta::assert_snapshot!(table::text(&usual()), @r#"
Monthly token consumption, 2026-11 (Asia/Shanghai)

department        team          requests      input  cache_read  cache_write  output      total     cost USD
customer-service  support-bot      1,234  1,000,000         500            0  20,000  1,020,500  12,345.6789
research          search           1,234  1,000,000         500            0       0  1,000,500       0.0050
unattributed      unattributed     1,234  1,000,000         500            0  50,000  1,050,500            -
total                              3,702  3,000,000       1,500            0  70,000  3,071,500  12,345.6839

Tokens: 97.7 % reported by providers, 2.2 % estimated.
Unattributed: 1,050,500 tokens of 1,234 requests.
Without a price, and not in the cost: 1,050,500 tokens.
Of unknown consumption, and not in the sums: 3 requests.
"#);
}

#[test]
fn an_empty_month_is_zero_and_not_nothing() {
    insta::assert_snapshot!(table::text(&report(&DEFAULT_BY, Vec::new())), @r#"
Monthly token consumption, 2026-11 (Asia/Shanghai)

department  team  requests  input  cache_read  cache_write  output  total  cost USD
total                    0      0           0            0       0      0         -
"#);
}

#[test]
fn json_has_the_promised_names() {
    insta::assert_snapshot!(json::text(&usual()).unwrap(), @r#"
{
  "month": "2026-11",
  "timezone": "Asia/Shanghai",
  "by": [
    "department",
    "team"
  ],
  "rows": [
    {
      "department": "customer-service",
      "team": "support-bot",
      "requests": 1234,
      "tokens": {
        "input": 1000000,
        "cache_read": 500,
        "cache_write": 0,
        "output": 20000,
        "reasoning": 7,
        "total": 1020500
      },
      "cost_nanousd": 12345678900000,
      "unpriced_tokens": 0,
      "provenance": {
        "reported": 1000500,
        "partial": 0,
        "estimated": 20000
      },
      "unknown_requests": 0
    },
    {
      "department": "research",
      "team": "search",
      "requests": 1234,
      "tokens": {
        "input": 1000000,
        "cache_read": 500,
        "cache_write": 0,
        "output": 0,
        "reasoning": 7,
        "total": 1000500
      },
      "cost_nanousd": 5000000,
      "unpriced_tokens": 0,
      "provenance": {
        "reported": 1000500,
        "partial": 0,
        "estimated": 0
      },
      "unknown_requests": 0
    },
    {
      "department": "unattributed",
      "team": "unattributed",
      "requests": 1234,
      "tokens": {
        "input": 1000000,
        "cache_read": 500,
        "cache_write": 0,
        "output": 50000,
        "reasoning": 7,
        "total": 1050500
      },
      "cost_nanousd": null,
      "unpriced_tokens": 1050500,
      "provenance": {
        "reported": 1000500,
        "partial": 0,
        "estimated": 50000
      },
      "unknown_requests": 3
    }
  ],
  "total": {
    "requests": 3702,
    "tokens": {
      "input": 3000000,
      "cache_read": 1500,
      "cache_write": 0,
      "output": 70000,
      "reasoning": 21,
      "total": 3071500
    },
    "cost_nanousd": 12345683900000,
    "unpriced_tokens": 1050500,
    "provenance": {
      "reported": 3001500,
      "partial": 0,
      "estimated": 70000
    },
    "unknown_requests": 3
  },
  "unmetered_requests": 0
}
"#);
}

#[test]
fn csv_has_the_same_names_and_a_total_last() {
    insta::assert_snapshot!(csv_of(&usual()), @r#"
department,team,requests,tokens.input,tokens.cache_read,tokens.cache_write,tokens.output,tokens.reasoning,tokens.total,cost_nanousd,unpriced_tokens,provenance.reported,provenance.partial,provenance.estimated,unknown_requests
customer-service,support-bot,1234,1000000,500,0,20000,7,1020500,12345678900000,0,1000500,0,20000,0
research,search,1234,1000000,500,0,0,7,1000500,5000000,0,1000500,0,0,0
unattributed,unattributed,1234,1000000,500,0,50000,7,1050500,,1050500,1000500,0,50000,3
total,,3702,3000000,1500,0,70000,21,3071500,12345683900000,1050500,3001500,0,70000,3
"#);
}

#[test]
fn the_total_is_the_sum_of_the_rows_in_every_format() {
    let rows = (1..=40_i128).map(|team| row(&["d", "t"], counts(team, Some(team * 333_333)))).collect();
    let report = report(&DEFAULT_BY, rows);
    let cost: i128 = (1..=40).map(|team| team * 333_333).sum();
    assert_eq!(report.total.cost_nanousd, cost);
    let text = csv_of(&report);
    let cells: Vec<Vec<&str>> = text.lines().skip(1).map(|line| line.split(',').collect()).collect();
    let (total, rows) = cells.split_last().unwrap();
    for column in 2..total.len() {
        let sum: i128 = rows.iter().map(|row| row[column].parse::<i128>().unwrap()).sum();
        assert_eq!(total[column].parse::<i128>().unwrap(), sum, "column {column}");
    }
    let table = table::text(&report);
    let nanos: Vec<i128> = table
        .lines()
        .skip(3)
        .take(41)
        .map(|line| line.split_whitespace().last().unwrap().replace(['.', ','], "").parse().unwrap())
        .collect();
    assert_eq!(nanos.len(), 41);
    assert_eq!(nanos[..40].iter().sum::<i128>(), nanos[40]);
    assert_eq!(nanos[40], cost);
}

#[test]
fn a_model_named_by_an_attacker_does_nothing() {
    let report = report(
        &[Dimension::Model],
        vec![row(&["=HYPERLINK(\"x\")"], counts(1, None)), row(&["\u{1b}[2Jm"], counts(1, None))],
    );
    let text = csv_of(&report);
    assert!(text.contains("\"'=HYPERLINK(\"\"x\"\")\""), "{text}");
    assert!(!table::text(&report).contains('\u{1b}'));
}

#[test]
fn a_cost_is_null_only_where_nothing_is_priced() {
    let unpriced = report(&[], vec![row(&[], counts(1, None))]);
    assert!(json::text(&unpriced).unwrap().contains("\"cost_nanousd\": null"));
    let partly = report(&[], vec![row(&[], counts(1, None)), row(&[], counts(1, Some(0)))]);
    let json: serde_json::Value = serde_json::from_str(&json::text(&partly).unwrap()).unwrap();
    assert_eq!(json["total"]["cost_nanousd"], 0);
}

#[test]
fn records_are_their_own_json_a_line() {
    let page = [full_record(&intent(0)), bare_record(&intent(1))];
    let mut out = Vec::new();
    records::write_jsonl(&page, &mut out).unwrap();
    let lines: Vec<String> = page.iter().map(crate::journal::samples::json).collect();
    assert_eq!(String::from_utf8(out).unwrap(), format!("{}\n{}\n", lines[0], lines[1]));
}

#[test]
fn a_csv_of_records_has_every_member() {
    let mut out = Vec::new();
    records::write_csv_header(&mut out).unwrap();
    let mut record = full_record(&intent(0));
    record.model_requested = Some("=1+1".to_owned());
    records::write_csv(&[record.clone(), bare_record(&intent(1))], &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    let mut reader = ::csv::Reader::from_reader(text.as_bytes());
    let header = reader.headers().unwrap().clone();
    let rows: Vec<_> = reader.records().map(Result::unwrap).collect();
    let of = |row: usize, column: &str| &rows[row][header.iter().position(|name| name == column).unwrap()];
    assert!(rows[0].iter().all(|cell| !cell.is_empty()), "{text}");
    assert_eq!(of(0, "usage_raw"), r#"{"z":1.50,"a":[null]}"#);
    assert_eq!(of(0, "model_requested"), "'=1+1");
    assert_eq!(of(0, "tokens.cache_read"), "1024");
    assert_eq!(of(1, "tokens.cache_read"), "");
    // No member of the JSON is without a column.
    let json = serde_json::to_value(&record).unwrap();
    for (name, value) in json.as_object().unwrap() {
        let nested = value.as_object().filter(|_| !["tags", "units", "usage_raw"].contains(&name.as_str()));
        let names =
            nested.map_or_else(|| vec![name.clone()], |map| map.keys().map(|key| format!("{name}.{key}")).collect());
        for name in names {
            assert!(header.iter().any(|column| column == name), "{name}");
        }
    }
}
