//! Every wire reads every answer alike wherever it is cut and whenever somebody asks, and whatever it reads is a count that a ledger can hold.
//!
//! First line: wire, operation, content type, encoding, provider, and headers as `name=value`.

#![no_main]

use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use tokenmeter::operation::Operation;
use tokenmeter::wires::{self, Countable, Observer, Wire};
use tokenmeter_fuzz::{cuts, pick, read, within};

const TYPES: [(&str, &str); 4] = [
    ("sse", "text/event-stream"),
    ("json", "application/json"),
    ("lines", "application/x-ndjson"),
    ("aws", "application/vnd.amazon.eventstream"),
];
/// What one call may hold: a unit, the members of an object, text to be counted.
const BYTES_MAX: usize = 16 << 20;
/// No count is larger, nor any sum of counts.
const COUNT_MAX: u64 = 1 << 50;

struct Answer<'a> {
    wire: &'static dyn Wire,
    operation: Operation,
    provider: &'a str,
    content_type: &'a str,
    encoding: &'a str,
    headers: HeaderMap,
}

fuzz_target!(|input: &[u8]| {
    let (words, body) = read(input);
    let (headers, words): (Vec<&str>, Vec<&str>) = words.into_iter().partition(|word| word.contains('='));
    let answer = Answer {
        wire: *pick(words.first(), wires::REGISTRY, |wire| wire.name()),
        operation: *pick(words.get(1), &Operation::ALL, |operation| operation.as_str()),
        content_type: pick(words.get(2), &TYPES, |(name, _)| name).1,
        encoding: words.get(3).copied().unwrap_or_default(),
        provider: words.get(4).copied().unwrap_or_default(),
        headers: headers.into_iter().filter_map(header).collect(),
    };
    let mut first = None;
    for (number, chunks) in cuts(body).enumerate() {
        let read = within(BYTES_MAX, || observed(&answer, &chunks, number % 2 == 1));
        let first = first.get_or_insert_with(|| read.clone());
        assert!(*first == read, "it depends on cuts or questions: {first:?}\n{read:?}");
    }
});

fn header(word: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = word.split_once('=')?;
    Some((name.parse().ok()?, HeaderValue::from_str(value).ok()?))
}

/// All that an observer says of an answer; `None`: of one that could not be decoded to its end.
fn observed(answer: &Answer<'_>, chunks: &[&[u8]], is_asked: bool) -> Option<(String, Countable, bool)> {
    let mut observer: Box<dyn Observer> = answer.wire.observer(answer.operation, answer.provider);
    let (content_type, encoding) = (answer.content_type.as_bytes(), answer.encoding.as_bytes());
    let mut framer = answer.wire.framer(Some(content_type), Some(encoding));
    observer.head(&answer.headers);
    for chunk in chunks {
        framer.feed(chunk, &mut |unit| observer.unit(unit));
        if is_asked {
            drop(observer.reading());
        }
    }
    framer.end(&mut |unit| observer.unit(unit));
    let reading = observer.reading();
    let tokens = &reading.tokens;
    let counts = [tokens.input, tokens.cache_read, tokens.cache_write, tokens.output, tokens.reasoning];
    let of_which =
        [tokens.cache_write_1h, tokens.audio_input, tokens.audio_output, tokens.image_input, tokens.image_output];
    for count in counts.iter().chain(&of_which).flatten().chain(reading.units.values()) {
        assert!(*count < COUNT_MAX, "{count} is no count: {reading:?}");
    }
    assert!(tokens.total() < 4 * COUNT_MAX);
    assert!(reading.usage_raw.as_ref().is_none_or(|raw| !raw.get().contains('\n')), "it must fit a line");
    let (delivered, is_terminal) = (observer.delivered(), observer.is_terminal());
    // How much is known of what comes before damage to an encoding depends on what was decoded at once.
    (!framer.unreadable()).then(|| (format!("{reading:?}"), delivered, is_terminal))
}
