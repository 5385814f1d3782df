//! Bounds: how many values a label may have. The first come are shown by name, the rest as `other`.

use std::collections::HashSet;
use std::sync::{PoisonError, RwLock};

/// The value of a label beyond its bound.
const OTHER: &str = "other";

/// Longest model name shown; a longer one is `other`.
const MODEL_BYTES_MAX: usize = 128;

/// How many values each label may have before the rest is `other`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Of `department`.
    pub departments: usize,
    /// Of `team`.
    pub teams: usize,
    /// Of `provider`.
    pub providers: usize,
    /// Of `model`, over all providers. Only models that consumed tokens become labels.
    pub models: usize,
    /// Of `upstream`.
    pub upstreams: usize,
}

impl Limits {
    /// The bounded labels.
    pub const LABELS: [&'static str; 5] = ["department", "team", "provider", "model", "upstream"];
}

impl Default for Limits {
    fn default() -> Self {
        Self { departments: 200, teams: 1_000, providers: 64, models: 500, upstreams: 64 }
    }
}

/// The values that each label shows.
#[derive(Debug)]
pub(crate) struct Bounds {
    departments: Values,
    teams: Values,
    providers: Values,
    models: Values,
    upstreams: Values,
}

impl Bounds {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            departments: Values::at_most(limits.departments),
            teams: Values::at_most(limits.teams),
            providers: Values::at_most(limits.providers),
            models: Values::at_most(limits.models),
            upstreams: Values::at_most(limits.upstreams),
        }
    }

    /// The value to show for a department, and whether it is within the bound. The others alike.
    pub(crate) fn department<'a>(&self, value: &'a str) -> (&'a str, bool) {
        self.departments.show(value)
    }

    pub(crate) fn team<'a>(&self, value: &'a str) -> (&'a str, bool) {
        self.teams.show(value)
    }

    pub(crate) fn provider<'a>(&self, value: &'a str) -> (&'a str, bool) {
        self.providers.show(value)
    }

    /// Model names are the provider's free text: control characters and endless names are not shown.
    pub(crate) fn model<'a>(&self, value: &'a str) -> (&'a str, bool) {
        if value.len() > MODEL_BYTES_MAX || value.chars().any(char::is_control) {
            return (OTHER, false);
        }
        self.models.show(value)
    }

    pub(crate) fn upstream<'a>(&self, value: &'a str) -> (&'a str, bool) {
        self.upstreams.show(value)
    }
}

#[derive(Debug)]
struct Values {
    max: usize,
    shown: RwLock<HashSet<Box<str>>>,
}

impl Values {
    fn at_most(max: usize) -> Self {
        Self { max, shown: RwLock::default() }
    }

    fn show<'a>(&self, value: &'a str) -> (&'a str, bool) {
        if self.shown.read().unwrap_or_else(PoisonError::into_inner).contains(value) {
            return (value, true);
        }
        let mut shown = self.shown.write().unwrap_or_else(PoisonError::into_inner);
        if shown.contains(value) || shown.len() < self.max {
            shown.insert(value.into());
            (value, true)
        } else {
            (OTHER, false)
        }
    }
}
