//! JSON: the report as programs read it. Names are a promise: add, never rename.

use serde::ser::{Serialize, SerializeMap, Serializer};

use super::{MonthReport, cost_nanousd};
use crate::ledger::{Counts, Dimension};

/// The report as indented JSON, with a line end.
pub fn text(report: &MonthReport) -> Result<String, serde_json::Error> {
    let mut text = serde_json::to_string_pretty(report)?;
    text.push('\n');
    Ok(text)
}

impl Serialize for MonthReport {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let by: Vec<&str> = self.by.iter().map(|dimension| dimension.as_str()).collect();
        let rows: Vec<_> =
            self.rows.iter().map(|row| Line { by: &self.by, values: &row.values, counts: &row.counts }).collect();
        let mut map = serializer.serialize_map(Some(6))?;
        map.serialize_entry("month", &self.month.to_string())?;
        map.serialize_entry("timezone", &self.timezone)?;
        map.serialize_entry("by", &by)?;
        map.serialize_entry("rows", &rows)?;
        map.serialize_entry("total", &Line { by: &[], values: &[], counts: &self.total })?;
        map.serialize_entry("unmetered_requests", &self.unmetered_requests)?;
        map.end()
    }
}

struct Line<'a> {
    by: &'a [Dimension],
    values: &'a [String],
    counts: &'a Counts,
}

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let counts = self.counts;
        let mut map = serializer.serialize_map(None)?;
        for (dimension, value) in self.by.iter().zip(self.values) {
            map.serialize_entry(dimension.as_str(), &(!value.is_empty()).then_some(value))?;
        }
        map.serialize_entry("requests", &counts.requests)?;
        map.serialize_entry("tokens", &Tokens(counts))?;
        map.serialize_entry("cost_nanousd", &cost_nanousd(counts))?;
        map.serialize_entry("unpriced_tokens", &counts.unpriced_tokens)?;
        map.serialize_entry("provenance", &Provenances(counts))?;
        map.serialize_entry("unknown_requests", &counts.unknown_requests)?;
        map.end()
    }
}

struct Tokens<'a>(&'a Counts);

impl Serialize for Tokens<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(6))?;
        map.serialize_entry("input", &self.0.input)?;
        map.serialize_entry("cache_read", &self.0.cache_read)?;
        map.serialize_entry("cache_write", &self.0.cache_write)?;
        map.serialize_entry("output", &self.0.output)?;
        map.serialize_entry("reasoning", &self.0.reasoning)?;
        map.serialize_entry("total", &self.0.total_tokens())?;
        map.end()
    }
}

struct Provenances<'a>(&'a Counts);

impl Serialize for Provenances<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry("reported", &self.0.reported_tokens)?;
        map.serialize_entry("partial", &self.0.partial_tokens)?;
        map.serialize_entry("estimated", &self.0.estimated_tokens)?;
        map.end()
    }
}
