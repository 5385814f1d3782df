//! Framing: an answer's bytes, chunk by chunk, cut into the units that a wire's observer reads.
//!
//! In: chunks as they come off the network. Out: SSE data, lines, array elements, AWS messages, or JSON objects, large ones
//! reduced to the members that matter. Pure, bounded in memory, independent of where the chunks are cut, and never fails.

pub mod compact;
pub mod encoding;
pub mod event_stream;
pub mod json_array;
pub mod json_members;
pub mod multipart;
pub mod ndjson;
pub mod objects;
pub mod sse;
pub mod unit;
pub mod websocket;

use encoding::Decoder;
use event_stream::MessageSplitter;
use json_array::ElementSplitter;
use ndjson::LineSplitter;
use objects::ObjectSplitter;
use sse::DataSplitter;

/// Cuts one answer into units, whatever it is encoded and framed in.
#[derive(Debug)]
pub struct Framer {
    /// `None`: the bytes are plain.
    decoder: Option<Decoder>,
    /// An encoding that is not known.
    is_opaque: bool,
    /// Bytes read, as they came.
    bytes: u64,
    body: Body,
}

#[derive(Debug)]
struct Body {
    declared: Declared,
    members: &'static [&'static str],
    small_as_they_come: bool,
    splitter: Splitter,
    /// Messages whose checksums were wrong.
    is_broken: bool,
}

/// What `content-type` says. It may be wrong: an error to an SSE request is often plain JSON under `text/event-stream`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Declared {
    Events,
    Lines,
    Messages,
    Other,
}

#[derive(Debug)]
enum Splitter {
    /// The first byte that is no white space is still to come.
    Undecided,
    Events(DataSplitter),
    Lines(LineSplitter),
    Elements(ElementSplitter),
    Messages(Box<MessageSplitter>),
    Objects(ObjectSplitter),
    /// Nothing that we read.
    Opaque,
}

impl Framer {
    /// A framer for an answer of these headers; of a JSON object, and of what else is too long to hold, `members` are kept.
    pub fn new(content_type: Option<&[u8]>, content_encoding: Option<&[u8]>, members: &'static [&'static str]) -> Self {
        let encoding = content_encoding
            .map(<[u8]>::trim_ascii)
            .filter(|encoding| !encoding.is_empty() && !encoding.eq_ignore_ascii_case(b"identity"));
        let decoder = encoding.and_then(Decoder::new);
        Self {
            is_opaque: encoding.is_some() && decoder.is_none(),
            decoder,
            bytes: 0,
            body: Body {
                declared: declared(content_type),
                members,
                small_as_they_come: false,
                splitter: Splitter::Undecided,
                is_broken: false,
            },
        }
    }

    /// Hands JSON objects that are small out as they come, with all their members, if `as_they_come`.
    #[must_use]
    pub fn with_small_objects(mut self, as_they_come: bool) -> Self {
        self.body.small_as_they_come = as_they_come;
        self
    }

    /// Reads `chunk`; each unit that it completes goes to `unit`.
    pub fn feed(&mut self, chunk: &[u8], unit: &mut dyn FnMut(&[u8])) {
        self.bytes = self.bytes.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
        let unit = &mut |data: &[u8]| as_text(data, unit);
        match &mut self.decoder {
            _ if self.is_opaque => {}
            Some(decoder) => decoder.feed(chunk, &mut |decoded| self.body.feed(decoded, unit)),
            None => self.body.feed(chunk, unit),
        }
    }

    /// The answer is over, whole or not: hands out what is left.
    pub fn end(&mut self, unit: &mut dyn FnMut(&[u8])) {
        let unit = &mut |data: &[u8]| as_text(data, unit);
        match &mut self.body.splitter {
            Splitter::Events(splitter) => splitter.end(unit),
            Splitter::Lines(splitter) => splitter.end(unit),
            Splitter::Objects(splitter) => splitter.end(unit),
            Splitter::Undecided | Splitter::Elements(_) | Splitter::Messages(_) | Splitter::Opaque => {}
        }
        self.body.splitter = Splitter::Opaque;
    }

    /// Bytes of the answer so far, as they came.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether the answer could not be read to its end for its encoding or its checksums.
    pub fn unreadable(&self) -> bool {
        self.is_opaque || self.body.is_broken || self.decoder.as_ref().is_some_and(Decoder::is_unreadable)
    }
}

impl Body {
    fn feed(&mut self, chunk: &[u8], unit: &mut dyn FnMut(&[u8])) {
        if matches!(self.splitter, Splitter::Undecided) {
            // White space comes first where a server keeps the connection awake, a byte order mark where it is sloppy.
            let is_content = |byte: &u8| !byte.is_ascii_whitespace() && !matches!(byte, 0xEF | 0xBB | 0xBF);
            let Some(at) = chunk.iter().position(is_content) else { return };
            let chunk = chunk.get(at..).unwrap_or_default();
            self.splitter = self.splitter_of(chunk);
            self.feed(chunk, unit);
            return;
        }
        match &mut self.splitter {
            Splitter::Events(splitter) => splitter.feed(chunk, unit),
            Splitter::Lines(splitter) => splitter.feed(chunk, unit),
            Splitter::Elements(splitter) => splitter.feed(chunk, unit),
            Splitter::Messages(splitter) => {
                splitter.feed(chunk, unit);
                self.is_broken = splitter.is_broken();
            }
            Splitter::Objects(splitter) => splitter.feed(chunk, unit),
            Splitter::Undecided | Splitter::Opaque => {}
        }
    }

    fn splitter_of(&self, content: &[u8]) -> Splitter {
        match (self.declared, content.first()) {
            // No line of JSON begins as an event does.
            (Declared::Lines, Some(b'd' | b'e' | b'i' | b'r' | b':')) => {
                Splitter::Events(DataSplitter::new(self.members))
            }
            (Declared::Lines, _) => Splitter::Lines(LineSplitter::new(self.members)),
            (Declared::Events | Declared::Messages | Declared::Other, Some(b'{')) => {
                Splitter::Objects(ObjectSplitter::new(self.members, self.small_as_they_come))
            }
            (Declared::Events | Declared::Other, Some(b'[')) => Splitter::Elements(ElementSplitter::new(self.members)),
            (Declared::Messages, _) => Splitter::Messages(Box::new(MessageSplitter::new(self.members, true))),
            // No message is so long that its length, which comes first, begins with anything else.
            (Declared::Other, Some(0)) => Splitter::Messages(Box::new(MessageSplitter::new(self.members, false))),
            (Declared::Events, _) | (Declared::Other, Some(b'd' | b'e' | b'i' | b'r' | b':')) => {
                Splitter::Events(DataSplitter::new(self.members))
            }
            (Declared::Other, _) => Splitter::Opaque,
        }
    }
}

/// Hands a unit out as text: a character broken in two, as some servers send them, must not hide the usage beside it.
fn as_text(data: &[u8], unit: &mut dyn FnMut(&[u8])) {
    if std::str::from_utf8(data).is_ok() {
        return unit(data);
    }
    let mut text = String::with_capacity(data.len());
    for part in data.utf8_chunks() {
        text.push_str(part.valid());
        if !part.invalid().is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
    unit(text.as_bytes());
}

fn declared(content_type: Option<&[u8]>) -> Declared {
    let essence = content_type
        .and_then(|value| value.split(|byte| *byte == b';').next())
        .map(|essence| essence.trim_ascii().to_ascii_lowercase());
    match essence.as_deref() {
        Some(b"text/event-stream") => Declared::Events,
        Some(b"application/x-ndjson" | b"application/ndjson" | b"application/jsonl" | b"application/stream+json") => {
            Declared::Lines
        }
        Some(b"application/vnd.amazon.eventstream") => Declared::Messages,
        _ => Declared::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn units_of(content_type: &str, chunks: &[&[u8]]) -> Vec<String> {
        let mut units = Vec::new();
        let mut unit = |data: &[u8]| units.push(String::from_utf8(data.to_vec()).unwrap());
        let mut framer = Framer::new(Some(content_type.as_bytes()), None, &["a"]);
        for chunk in chunks {
            framer.feed(chunk, &mut unit);
        }
        framer.end(&mut unit);
        units
    }

    #[test]
    fn events_are_read_though_lines_are_announced() {
        let stream: &[u8] = b": hello\n\ndata: {\"a\":1}\n\n";
        assert_eq!(units_of("application/x-ndjson", &[stream]), ["{\"a\":1}"]);
        assert_eq!(units_of("application/x-ndjson", &[b"{\"a\":1}\n{\"a\":2}"]), ["{\"a\":1}", "{\"a\":2}"]);
    }

    #[test]
    fn a_character_that_is_none_hides_nothing_else() {
        assert_eq!(
            units_of("text/event-stream", &[b"data: {\"a\":\"\xC3(\xFF\"}\n\n"]),
            ["{\"a\":\"\u{FFFD}(\u{FFFD}\"}"]
        );
    }
}
