//! One call of a model: Converse, or `InvokeModel` with its vendor's own body, whole or in chunks.

use std::borrow::Cow;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use memchr::memchr;
use serde::Deserialize;

use super::aside::{Aside, METRICS};
use super::native::Native;
use crate::operation::Operation;
use crate::wires::delivered::Delivered;
use crate::wires::object::Object;
use crate::wires::{Observer, Reading, markers};

/// A chunk's buffer is not kept larger.
const CHUNK_BYTES_KEPT: usize = 16 << 10;

/// Reads an answer.
pub(super) struct Invocation {
    native: Native,
    aside: Aside,
    /// The chunk at hand.
    chunk: Vec<u8>,
    is_error: bool,
    is_terminal: bool,
}

/// A unit of a stream of `InvokeModel`.
#[derive(Deserialize)]
struct Unit<'a> {
    #[serde(borrow)]
    chunk: Chunk<'a>,
}

#[derive(Deserialize)]
struct Chunk<'a> {
    /// The model's words, base64.
    #[serde(borrow)]
    bytes: Cow<'a, str>,
}

impl Invocation {
    pub(super) fn new(operation: Operation) -> Self {
        Self {
            native: Native::Unknown(operation),
            aside: Aside::default(),
            chunk: Vec::new(),
            is_error: false,
            is_terminal: false,
        }
    }

    /// Every chunk is decoded: base64 hides markers, and looking for each at its three alignments costs as much.
    fn read_chunk(&mut self, unit: &[u8]) {
        let Some(base64) = base64_of(unit) else { return };
        let mut json = std::mem::take(&mut self.chunk);
        json.clear();
        if STANDARD.decode_vec(base64.as_ref(), &mut json).is_ok() {
            self.native.read(&json, false);
            if markers::INVOCATION_METRICS.find(&json).is_some()
                && let Some(metrics) = Object::parse(&json).and_then(|object| object.get(METRICS))
            {
                self.aside.take_metrics(metrics);
                self.is_terminal = true;
            }
        }
        json.shrink_to(CHUNK_BYTES_KEPT);
        self.chunk = json;
    }
}

/// The model's words in a unit. AWS writes them first, and base64 needs no escape.
fn base64_of(unit: &[u8]) -> Option<Cow<'_, [u8]>> {
    if let Some(rest) = unit.strip_prefix(b"{\"chunk\":{\"bytes\":\"")
        && let Some(base64) = memchr(b'"', rest).and_then(|end| rest.get(..end))
        && memchr(b'\\', base64).is_none()
    {
        return Some(Cow::Borrowed(base64));
    }
    let Unit { chunk } = serde_json::from_slice(unit).ok()?;
    Some(match chunk.bytes {
        Cow::Borrowed(base64) => Cow::Borrowed(base64.as_bytes()),
        Cow::Owned(base64) => Cow::Owned(base64.into_bytes()),
    })
}

/// Whether a unit is an exception in the middle of a stream: `{"throttlingException":{…}}`, or an error that no model
/// foresaw.
fn is_exception(unit: &[u8]) -> bool {
    let name = unit.strip_prefix(b"{\"").and_then(|rest| rest.split(|byte| *byte == b'"').next());
    name.is_some_and(|name| name.ends_with(b"Exception") || name == b"error")
}

impl Observer for Invocation {
    fn head(&mut self, headers: &HeaderMap) {
        self.aside.take_head(headers);
    }

    fn unit(&mut self, data: &[u8]) {
        if data.starts_with(b"{\"chunk\":") {
            self.read_chunk(data);
        } else if is_exception(data) {
            self.is_error = true;
        } else {
            self.native.read(data, true);
        }
    }

    fn is_terminal(&self) -> bool {
        self.is_terminal || self.native.is_terminal()
    }

    fn reading(&mut self) -> Reading {
        let mut reading = self.native.reading();
        self.aside.complete(&mut reading);
        reading.is_error |= self.is_error;
        reading.is_finished |= self.is_terminal;
        reading
    }

    fn kept(&self) -> Option<&Delivered> {
        self.native.kept()
    }
}

impl fmt::Debug for Invocation {
    /// Facts only: text is never printed.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Invocation").field("aside", &self.aside).finish_non_exhaustive()
    }
}
