//! What `:predict` answers: vectors with their tokens, or pictures.

use serde_json::value::RawValue;

use crate::usage::Units;
use crate::wires::object::{Count, Object};
use crate::wires::told::Told;

/// The members of a whole answer that tell what was predicted; an answer is always read reduced to them.
pub(super) const STATISTICS: &str = "predictions[].embeddings.statistics";
pub(super) const PICTURES: &str = "predictions[].mimeType";
pub(super) const CHARACTERS: &str = "metadata.billableCharacterCount";

/// What one answer says of them.
#[derive(Debug, Default)]
pub(super) struct Predictions {
    pub(super) told: Told,
    /// Pictures made, characters billed.
    pub(super) units: Units,
    /// The statistics, in one object. `None` where tokens were not told.
    pub(super) raw: Option<String>,
}

impl Predictions {
    pub(super) fn of(object: &Object<'_>) -> Self {
        let mut predictions = Self::default();
        for statistics in object.objects(STATISTICS) {
            let mut told = Told::default();
            told.input = told.first(Some(&statistics), &["token_count", "tokenCount"]);
            predictions.told.add(told);
        }
        if !predictions.told.is_empty() {
            let part = |name, raw: Option<&RawValue>| raw.map(|raw| format!("\"{name}\":{}", raw.get()));
            let parts = [part("statistics", object.get(STATISTICS)), part("metadata", object.get("metadata"))];
            predictions.raw = Some(format!("{{{}}}", parts.into_iter().flatten().collect::<Vec<_>>().join(",")));
        }
        let metadata = object.object("metadata");
        if let Some(Count::Of(characters)) = metadata.map(|metadata| metadata.count("billableCharacterCount")) {
            predictions.units.insert("characters".to_owned(), characters);
        }
        let pictures = object.elements(PICTURES).len();
        if pictures > 0 {
            predictions.units.insert("images".to_owned(), u64::try_from(pictures).unwrap_or(u64::MAX));
        }
        predictions
    }
}
