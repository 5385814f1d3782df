//! Labels: what of a record becomes label values, and a cache of what was found for them.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{PoisonError, RwLock};

use crate::ids::{DepartmentId, Provider, TeamId, UpstreamName};
use crate::metrics::bounds::Bounds;
use crate::operation::Operation;
use crate::record::Record;
use crate::usage::{Outcome, Provenance};

/// Combinations remembered. Beyond it the children are looked up anew for each record: slower, equally right.
const COMBINATIONS_MAX: usize = 8_192;

/// The label of a model that nobody named.
const UNNAMED_MODEL: &str = "unknown";

/// What of a record decides its labels.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Key<'a> {
    pub(crate) department: &'a str,
    pub(crate) team: &'a str,
    pub(crate) provider: &'a str,
    /// Only of a record that consumed something: a name that a client made up must not become a label.
    pub(crate) model: Option<&'a str>,
    pub(crate) upstream: &'a str,
    pub(crate) operation: Operation,
    pub(crate) outcome: Outcome,
    pub(crate) code: Option<u16>,
    pub(crate) provenance: Provenance,
    pub(crate) is_priced: bool,
}

impl<'a> Key<'a> {
    pub(crate) fn of(record: &'a Record) -> Self {
        let is_priced = record.cost_nanousd.is_some();
        let has_consumed = is_priced || record.tokens.total() > 0;
        Self {
            department: record.department.as_str(),
            team: record.team.as_str(),
            provider: record.provider.as_str(),
            model: has_consumed.then(|| record.model.as_deref().unwrap_or(UNNAMED_MODEL)),
            upstream: record.upstream.as_str(),
            operation: record.operation,
            outcome: record.outcome,
            code: record.status.filter(|code| (100..=599).contains(code)),
            provenance: record.provenance,
            is_priced,
        }
    }
}

/// The label values of a key: each as it is, or `other` beyond its bound.
pub(crate) struct Labels<'a> {
    pub(crate) department: &'a str,
    pub(crate) team: &'a str,
    pub(crate) provider: &'a str,
    /// `None` where nothing was consumed.
    pub(crate) model: Option<&'a str>,
    pub(crate) upstream: &'a str,
    /// The labels that show `other` instead of their value.
    pub(crate) overflowed: Vec<&'static str>,
}

impl<'a> Labels<'a> {
    pub(crate) fn bounded(key: &Key<'a>, bounds: &Bounds) -> Self {
        let mut overflowed = Vec::new();
        let mut show = |label, (value, is_within): (&'a str, bool)| {
            if !is_within {
                overflowed.push(label);
            }
            value
        };
        Self {
            department: show("department", bounds.department(key.department)),
            team: show("team", bounds.team(key.team)),
            provider: show("provider", bounds.provider(key.provider)),
            model: key.model.map(|model| show("model", bounds.model(model))),
            upstream: show("upstream", bounds.upstream(key.upstream)),
            overflowed,
        }
    }
}

/// What was found for a key, by the key's hash: a look-up neither builds nor clones the key's texts.
pub(crate) struct Cache<T> {
    hasher: RandomState,
    entries: RwLock<HashMap<u64, (OwnedKey, T)>>,
}

impl<T> Default for Cache<T> {
    fn default() -> Self {
        Self { hasher: RandomState::new(), entries: RwLock::default() }
    }
}

impl<T> Cache<T> {
    /// Calls `act` with what `find` finds, or found before, for the key of `record`.
    pub(crate) fn with(&self, record: &Record, find: impl FnOnce(&Key<'_>) -> T, act: impl FnOnce(&T)) {
        let key = Key::of(record);
        let hash = self.hasher.hash_one(key);
        {
            let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
            // Two keys of one hash are told apart here; the second is found anew each time.
            if let Some((_, found)) = entries.get(&hash).filter(|(known, _)| known.as_key() == key) {
                return act(found);
            }
        }
        let found = find(&key);
        act(&found);
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        if entries.len() < COMBINATIONS_MAX {
            entries.entry(hash).or_insert_with(|| (OwnedKey::of(record, &key), found));
        }
    }
}

struct OwnedKey {
    department: DepartmentId,
    team: TeamId,
    provider: Provider,
    model: Option<String>,
    upstream: UpstreamName,
    operation: Operation,
    outcome: Outcome,
    code: Option<u16>,
    provenance: Provenance,
    is_priced: bool,
}

impl OwnedKey {
    fn of(record: &Record, key: &Key<'_>) -> Self {
        Self {
            department: record.department.clone(),
            team: record.team.clone(),
            provider: record.provider.clone(),
            model: key.model.map(str::to_owned),
            upstream: record.upstream.clone(),
            operation: key.operation,
            outcome: key.outcome,
            code: key.code,
            provenance: key.provenance,
            is_priced: key.is_priced,
        }
    }

    fn as_key(&self) -> Key<'_> {
        Key {
            department: self.department.as_str(),
            team: self.team.as_str(),
            provider: self.provider.as_str(),
            model: self.model.as_deref(),
            upstream: self.upstream.as_str(),
            operation: self.operation,
            outcome: self.outcome,
            code: self.code,
            provenance: self.provenance,
            is_priced: self.is_priced,
        }
    }
}
