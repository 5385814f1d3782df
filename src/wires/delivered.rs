//! The generated text of an answer, kept so that it can be counted if the provider reports nothing.
//!
//! Units are kept raw and parsed only when the buffer is full or someone asks: a stream of ordinary size whose usage is
//! reported never parses its text.

use std::fmt;

use serde_json::Value;
use serde_json::value::RawValue;

use super::Countable;
use super::object::string;

/// Raw bytes kept before they are parsed.
const RAW_BYTES_MAX: usize = 16 << 10;
/// Bytes of text kept for counting; beyond them only their number is known.
const TEXT_BYTES_MAX: usize = 256 << 10;

/// Collects the text of one answer.
pub(super) struct Delivered {
    read: fn(&[u8], &mut Text),
    raw: Vec<u8>,
    /// Where each raw unit ends.
    ends: Vec<usize>,
    text: Text,
}

/// Text found so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Text(Countable);

impl Text {
    /// Appends a piece of text; a value that is no string counts as the JSON it is, null as nothing.
    pub(super) fn push(&mut self, value: &Value) {
        match value {
            Value::Null => {}
            Value::String(text) => self.push_str(text),
            Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => self.push_str(&value.to_string()),
        }
    }

    /// The same of a value still raw, which may be absent: cheaper, for what a long stream does often.
    pub(super) fn push_raw(&mut self, raw: Option<&RawValue>) {
        let Some(raw) = raw else { return };
        match string(raw) {
            Some(text) => self.push_str(&text),
            None => self.push_str(raw.get()),
        }
    }

    /// Appends a piece of text.
    pub(super) fn push_str(&mut self, text: &str) {
        let room = TEXT_BYTES_MAX.saturating_sub(self.0.text.len());
        let kept = text.floor_char_boundary(room);
        let (kept, beyond) = text.split_at_checked(kept).unwrap_or((text, ""));
        self.0.text.push_str(kept);
        self.0.bytes_beyond = self.0.bytes_beyond.saturating_add(u64::try_from(beyond.len()).unwrap_or(u64::MAX));
    }

    /// The text as something to count, with so many messages and tokens around it.
    pub(super) fn counted(self, messages: u64, tokens: u64) -> Countable {
        Countable { messages, tokens, ..self.0 }
    }
}

impl Delivered {
    /// `read` finds the text in one unit.
    pub(super) fn new(read: fn(&[u8], &mut Text)) -> Self {
        Self { read, raw: Vec::new(), ends: Vec::new(), text: Text::default() }
    }

    /// Keeps a unit.
    pub(super) fn push(&mut self, unit: &[u8]) {
        if self.raw.len().saturating_add(unit.len()) > RAW_BYTES_MAX {
            let mut text = std::mem::take(&mut self.text);
            self.read_into(&mut text);
            self.text = text;
            self.raw.clear();
            self.raw.shrink_to(RAW_BYTES_MAX);
            self.ends.clear();
        }
        self.raw.extend_from_slice(unit);
        self.ends.push(self.raw.len());
    }

    /// All text so far.
    pub(super) fn countable(&self) -> Countable {
        let mut text = self.text.clone();
        self.read_into(&mut text);
        text.0
    }

    fn read_into(&self, text: &mut Text) {
        let mut from = 0;
        for end in &self.ends {
            (self.read)(self.raw.get(from..*end).unwrap_or_default(), text);
            from = *end;
        }
    }
}

impl fmt::Debug for Delivered {
    /// Sizes only: text is never printed.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Delivered").field("raw_bytes", &self.raw.len()).finish_non_exhaustive()
    }
}
