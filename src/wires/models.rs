//! The models that answered in a batch: mostly one.

use serde::Serialize;

/// Most models that are told apart.
const MODELS_MAX: usize = 16;
/// The longest name that is one.
const MODEL_BYTES_MAX: usize = 256;

/// Their names, each once, in the order in which they came.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub(super) struct Models(Vec<String>);

impl Models {
    /// Takes up the model of one answer.
    pub(super) fn add(&mut self, model: Option<String>) {
        let is_new =
            |model: &String| !self.0.contains(model) && self.0.len() < MODELS_MAX && model.len() <= MODEL_BYTES_MAX;
        let new = model.filter(is_new);
        self.0.extend(new);
    }

    /// The model of all answers, where it is the same.
    pub(super) fn only(&self) -> Option<String> {
        if let [only] = self.0.as_slice() { Some(only.clone()) } else { None }
    }
}
