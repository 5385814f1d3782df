//! Framing: an answer's bytes, chunk by chunk, cut into the units that a wire's observer reads.
//!
//! In: chunks as they come off the network. Out: SSE data, lines, array elements, or one whole JSON object reduced to
//! the members that matter. Pure, bounded in memory, independent of where the chunks are cut, and never fails.

pub mod compact;
pub mod encoding;
pub mod json_array;
pub mod json_members;
pub mod ndjson;
pub mod sse;
pub mod unit;

use encoding::Decoder;
use json_array::ElementSplitter;
use json_members::Members;
use ndjson::LineSplitter;
use sse::DataSplitter;

/// Cuts one answer into units, whatever it is encoded and framed in.
#[derive(Debug)]
pub struct Framer {
    /// `None`: the bytes are plain.
    decoder: Option<Decoder>,
    /// An encoding that is not known.
    is_opaque: bool,
    body: Body,
}

#[derive(Debug)]
struct Body {
    declared: Declared,
    members: &'static [&'static str],
    splitter: Splitter,
}

/// What `content-type` says. It may be wrong: an error to an SSE request is often plain JSON under `text/event-stream`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Declared {
    Events,
    Lines,
    Other,
}

#[derive(Debug)]
enum Splitter {
    /// The first byte that is no white space is still to come.
    Undecided,
    Events(DataSplitter),
    Lines(LineSplitter),
    Elements(ElementSplitter),
    Object(Box<Members>),
    /// Nothing that we read.
    Opaque,
}

impl Framer {
    /// A framer for an answer of these headers; of a whole JSON object `members` are kept.
    pub fn new(content_type: Option<&[u8]>, content_encoding: Option<&[u8]>, members: &'static [&'static str]) -> Self {
        let encoding = content_encoding
            .map(<[u8]>::trim_ascii)
            .filter(|encoding| !encoding.is_empty() && !encoding.eq_ignore_ascii_case(b"identity"));
        let decoder = encoding.and_then(Decoder::new);
        Self {
            is_opaque: encoding.is_some() && decoder.is_none(),
            decoder,
            body: Body { declared: declared(content_type), members, splitter: Splitter::Undecided },
        }
    }

    /// Reads `chunk`; each unit that it completes goes to `unit`.
    pub fn feed(&mut self, chunk: &[u8], unit: &mut dyn FnMut(&[u8])) {
        match &mut self.decoder {
            _ if self.is_opaque => {}
            Some(decoder) => decoder.feed(chunk, &mut |decoded| self.body.feed(decoded, unit)),
            None => self.body.feed(chunk, unit),
        }
    }

    /// The answer is over, whole or not: hands out what is left.
    pub fn end(&mut self, unit: &mut dyn FnMut(&[u8])) {
        match &mut self.body.splitter {
            Splitter::Events(splitter) => splitter.end(unit),
            Splitter::Lines(splitter) => splitter.end(unit),
            Splitter::Object(members) => unit(&members.reduced()),
            Splitter::Undecided | Splitter::Elements(_) | Splitter::Opaque => {}
        }
        self.body.splitter = Splitter::Opaque;
    }

    /// Whether the answer could not be read to its end for its encoding.
    pub fn unreadable(&self) -> bool {
        self.is_opaque || self.decoder.as_ref().is_some_and(Decoder::is_unreadable)
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
            Splitter::Object(members) => members.feed(chunk),
            Splitter::Undecided | Splitter::Opaque => {}
        }
    }

    fn splitter_of(&self, content: &[u8]) -> Splitter {
        match (self.declared, content.first()) {
            (Declared::Lines, _) => Splitter::Lines(LineSplitter::new(self.members)),
            (Declared::Events | Declared::Other, Some(b'{')) => Splitter::Object(Box::new(Members::new(self.members))),
            (Declared::Events | Declared::Other, Some(b'[')) => Splitter::Elements(ElementSplitter::new(self.members)),
            (Declared::Events, _) | (Declared::Other, Some(b'd' | b'e' | b'i' | b'r' | b':')) => {
                Splitter::Events(DataSplitter::new(self.members))
            }
            (Declared::Other, _) => Splitter::Opaque,
        }
    }
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
        _ => Declared::Other,
    }
}
