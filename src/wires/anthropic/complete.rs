//! The legacy completions: text without usage.

use super::super::delivered::{Delivered, Text};
use super::super::object::Object;
use super::super::{Observer, Reading};

/// Reads an answer.
#[derive(Debug)]
pub(super) struct Completion {
    model: Option<String>,
    is_error: bool,
    is_finished: bool,
    delivered: Delivered,
}

impl Default for Completion {
    fn default() -> Self {
        Self { model: None, is_error: false, is_finished: false, delivered: Delivered::new(read_text) }
    }
}

impl Observer for Completion {
    fn unit(&mut self, data: &[u8]) {
        let Some(object) = Object::parse(data) else { return };
        self.model = object.text("model").or_else(|| self.model.take());
        self.is_error |= object.get("error").is_some();
        self.is_finished |= object.get("stop_reason").is_some();
        if object.get("completion").is_some() {
            self.delivered.push(data);
        }
    }

    fn is_terminal(&self) -> bool {
        self.is_finished
    }

    fn reading(&mut self) -> Reading {
        Reading {
            model: self.model.clone(),
            is_error: self.is_error,
            is_finished: self.is_finished,
            ..Reading::default()
        }
    }

    fn kept(&self) -> Option<&Delivered> {
        Some(&self.delivered)
    }
}

fn read_text(unit: &[u8], text: &mut Text) {
    text.push_raw(Object::parse(unit).and_then(|object| object.get("completion")));
}
