//! Whatever its type and encoding say: an answer's units do not depend on where it is cut, and holding them is bounded.
//!
//! First line: content type, encoding.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tokenmeter::framing::Framer;
use tokenmeter::framing::sse::EventSplitter;
use tokenmeter_fuzz::{cuts, pick, read, within};

const TYPES: [(&str, &str); 6] = [
    ("sse", "text/event-stream; charset=utf-8"),
    ("lines", "application/x-ndjson"),
    ("json", "application/json"),
    ("aws", "application/vnd.amazon.eventstream"),
    ("batch", "application/jsonl"),
    ("text", "text/plain"),
];
const ENCODINGS: [&str; 6] = ["identity", "gzip", "deflate", "br", "zstd", "gzip, br"];
const MEMBERS: &[&str] = &["usage", "model", "error", "response.usage", "response.model", "n"];
/// Units that are handed out are kept here to be compared; so is a window of decoded bytes, and one unit.
const BYTES_MAX: usize = 24 << 20;

fuzz_target!(|input: &[u8]| {
    let (words, body) = read(input);
    let (_, content_type) = pick(words.first(), &TYPES, |(name, _)| name);
    let encoding = pick(words.get(1), &ENCODINGS, |name| name);
    for small_as_they_come in [false, true] {
        let mut whole = None;
        for chunks in cuts(body) {
            let read = || units((content_type, encoding), small_as_they_come, &chunks);
            let (units, is_unreadable) = within(BYTES_MAX, read);
            // How much is known of what comes before the damage depends on what was decoded at once.
            let units = (!is_unreadable).then_some(units);
            assert!(*whole.get_or_insert_with(|| units.clone()) == units, "units depend on cuts");
        }
    }
    pieces(body);
});

/// The units, each by its first bytes and its length, and whether all could be read.
fn units(
    (content_type, encoding): (&str, &str),
    small_as_they_come: bool,
    chunks: &[&[u8]],
) -> (Vec<(Vec<u8>, usize)>, bool) {
    let mut units = Vec::new();
    let mut unit = |data: &[u8]| {
        if units.len() < 10_000 {
            units.push((data[..data.len().min(256)].to_vec(), data.len()));
        }
    };
    let framer = Framer::new(Some(content_type.as_bytes()), Some(encoding.as_bytes()), MEMBERS);
    let mut framer = framer.with_small_objects(small_as_they_come);
    for chunk in chunks {
        framer.feed(chunk, &mut unit);
    }
    framer.end(&mut unit);
    (units, framer.unreadable())
}

/// The pieces from which one event is taken out are the stream, whatever may be held of it.
fn pieces(body: &[u8]) {
    for (chunks, held_max) in cuts(body).zip([0, 1 << 20, 64, 7]) {
        let mut splitter = EventSplitter::new(held_max);
        let mut stream = Vec::new();
        for chunk in &chunks {
            splitter.feed(chunk, &mut |piece| {
                assert!(piece.in_chunk.clone().is_none_or(|range| chunk[range] == *piece.bytes));
                stream.extend_from_slice(piece.bytes);
            });
        }
        splitter.end(&mut |piece| stream.extend_from_slice(piece.bytes));
        assert!(stream == body, "pieces are not the stream");
    }
}
