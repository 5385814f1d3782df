//! What one answer said so far: the observer of every wire whose reading is two functions, one that takes up a unit and
//! one that finds the text in it.

use http::HeaderMap;
use serde_json::value::RawValue;

use super::delivered::{Delivered, Text};
use super::object::Object;
use super::retold::Retold;
use super::told::{Cached, Told};
use super::{Job, Observer, Reading, UsageSeen};
use crate::framing::compact::compacted;
use crate::usage::Units;

/// An answer, in the convention that cached tokens are within the input.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) model: Option<String>,
    pub(super) told: Told,
    pub(super) usage: UsageSeen,
    pub(super) units: Units,
    pub(super) is_error: bool,
    pub(super) is_finished: bool,
    pub(super) is_terminal: bool,
    pub(super) job: Option<Job>,
    raw: String,
    read_head: fn(&mut Self, &HeaderMap),
    read: fn(&mut Self, &[u8]),
    retold: Option<Retold>,
    delivered: Option<Delivered>,
}

impl Answer {
    /// `read` takes up a unit.
    pub(super) fn new(read: fn(&mut Self, &[u8])) -> Self {
        Self {
            model: None,
            told: Told::default(),
            usage: UsageSeen::Nothing,
            units: Units::new(),
            is_error: false,
            is_finished: false,
            is_terminal: false,
            job: None,
            raw: String::new(),
            read_head: |_, _| {},
            read,
            retold: None,
            delivered: None,
        }
    }

    /// Keeps the text that `find` finds in each unit, for local counting.
    pub(super) fn with_text(self, find: fn(&[u8], &mut Text)) -> Self {
        Self { delivered: Some(Delivered::new(find)), ..self }
    }

    /// Reads of units that tell the same members again the last alone; in those named, each is to be the same.
    pub(super) fn retold_but_for(self, decisive: &'static [&'static str]) -> Self {
        Self { retold: Some(Retold::new(decisive)), ..self }
    }

    /// Reads the answer's head with `read_head`.
    pub(super) fn with_head(self, read_head: fn(&mut Self, &HeaderMap)) -> Self {
        Self { read_head, ..self }
    }

    /// Takes up counts and the object that told them. One without any count is no usage.
    pub(super) fn take(&mut self, told: Told, raw: &str) {
        self.told.merge(told);
        if !told.is_empty() {
            self.keep(raw);
        }
    }

    /// Keeps what told the usage: the last word, until another comes.
    pub(super) fn keep(&mut self, raw: &str) {
        self.raw.clear();
        self.raw.push_str(raw);
        if self.usage == UsageSeen::Nothing {
            self.usage = UsageSeen::Interim;
        }
    }

    /// No more usage is to come: what was told is the last word.
    pub(super) fn settle(&mut self) {
        if self.usage == UsageSeen::Interim {
            self.usage = UsageSeen::Final;
        }
    }

    /// Notes a billed quantity that is no token. A later one of the same name takes its place; 0 is not worth a note.
    pub(super) fn note(&mut self, name: &str, count: Option<u64>) {
        if let Some(count) = count.filter(|count| *count > 0) {
            self.units.insert(name.to_owned(), count);
        }
    }
}

impl Observer for Answer {
    fn head(&mut self, headers: &HeaderMap) {
        (self.read_head)(self, headers);
    }

    fn unit(&mut self, data: &[u8]) {
        if let Some(mut retold) = self.retold.take() {
            retold.show(data, |unit| (self.read)(self, unit));
            self.retold = Some(retold);
        } else {
            (self.read)(self, data);
        }
        if let Some(delivered) = &mut self.delivered {
            delivered.push(data);
        }
    }

    fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    fn reading(&mut self) -> Reading {
        if let Some(mut retold) = self.retold.take() {
            retold.settle(|unit| (self.read)(self, unit));
            self.retold = Some(retold);
        }
        let (tokens, anomaly) = self.told.disjoint(Cached::Within);
        Reading {
            model: self.model.clone(),
            usage: self.usage,
            tokens,
            usage_raw: compacted(&self.raw),
            units: self.units.clone(),
            service_tier: None,
            anomaly,
            is_error: self.is_error,
            is_finished: self.is_finished,
            job: self.job.clone(),
        }
    }

    fn kept(&self) -> Option<&Delivered> {
        self.delivered.as_ref()
    }
}

/// An object of those of `names` that `object` has, each verbatim: the evidence, where counts stand among texts.
pub(super) fn excerpt(object: &Object<'_>, names: &[&str]) -> String {
    let members = names.iter().filter_map(|name| object.get(name).map(|value| member(name, value)));
    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
}

/// An object of the counts that are known: the evidence, where the provider spreads it.
pub(super) fn counts(named: &[(&str, Option<u64>)]) -> String {
    let members = named.iter().filter_map(|(name, count)| count.map(|count| format!("\"{name}\":{count}")));
    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
}

fn member(name: &str, value: &RawValue) -> String {
    format!("\"{name}\":{}", value.get())
}
