//! AWS event streams, `application/vnd.amazon.eventstream`: a unit a message.
//!
//! A message is its length, its headers' length, a CRC-32 of these two, headers, payload, and a CRC-32 of all before;
//! numbers are big-endian. Its unit is one object whose only member has the message's name, as in the AWS SDKs'
//! unions: `{"metadata":{…}}`, `{"chunk":{…}}`, `{"throttlingException":{…}}`; an error that no model foresaw is
//! `{"error":{"code":…,"message":…}}`. Payloads are taken for JSON; who reads a unit that is none ignores it.
//!
//! Ours rather than `aws-smithy-eventstream` (23 crates): that decoder wants a whole message in memory, whatever
//! length the other side claims. Here a payload runs through, held only while it is small.

use crc32fast::Hasher;

use super::unit::UnitBuffer;

/// Length, headers' length, and their checksum.
const PRELUDE_BYTES: usize = 12;
/// The prelude without its checksum.
const LENGTHS_BYTES: usize = 8;
const CHECKSUM_BYTES: usize = 4;
/// What AWS allows for the headers of a message.
const HEADERS_BYTES_MAX: usize = 128 << 10;

/// Hands out each message whose checksums are right. After a wrong one nothing more can be told apart.
#[derive(Debug)]
pub struct MessageSplitter {
    part: Part,
    /// Bytes of the part at hand that are still to come.
    left: usize,
    /// Bytes of the payload of the message at hand.
    payload_bytes: usize,
    /// The prelude, the headers or the checksum at hand.
    held: Vec<u8>,
    checksum: Hasher,
    unit: UnitBuffer,
    /// Whether this is known to be an event stream, and not just bytes that begin like one.
    is_certain: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Part {
    Prelude,
    Headers,
    Payload,
    Checksum,
    /// Broken: the rest is not looked at.
    Lost,
}

impl MessageSplitter {
    /// `members`: what is kept of a unit too long to hold. `is_declared`: whether the answer's head says what it is.
    pub fn new(members: &'static [&'static str], is_declared: bool) -> Self {
        Self {
            part: Part::Prelude,
            left: PRELUDE_BYTES,
            payload_bytes: 0,
            held: Vec::new(),
            checksum: Hasher::new(),
            unit: UnitBuffer::new(members),
            is_certain: is_declared,
        }
    }

    /// Reads `chunk`; each message that it completes goes to `unit`.
    pub fn feed(&mut self, chunk: &[u8], unit: &mut dyn FnMut(&[u8])) {
        let mut rest = chunk;
        while !rest.is_empty() && self.part != Part::Lost {
            let (part, after) = rest.split_at_checked(self.left).unwrap_or((rest, &[]));
            self.take(part);
            rest = after;
            // A part may be empty.
            while self.left == 0 && self.part != Part::Lost {
                self.part_ends(unit);
            }
        }
    }

    /// Whether what claimed to be an event stream was not, or not to its end.
    pub fn is_broken(&self) -> bool {
        self.is_certain && self.part == Part::Lost
    }

    fn take(&mut self, bytes: &[u8]) {
        self.left = self.left.saturating_sub(bytes.len());
        match self.part {
            Part::Prelude | Part::Headers => {
                self.checksum.update(bytes);
                self.held.extend_from_slice(bytes);
            }
            Part::Payload => {
                self.checksum.update(bytes);
                self.unit.push(bytes);
            }
            Part::Checksum => self.held.extend_from_slice(bytes),
            Part::Lost => {}
        }
    }

    fn part_ends(&mut self, unit: &mut dyn FnMut(&[u8])) {
        let next = match self.part {
            Part::Prelude => self.prelude_ends(),
            Part::Headers => self.headers_end(),
            Part::Payload => {
                self.unit.push(b"}");
                Some((Part::Checksum, CHECKSUM_BYTES))
            }
            Part::Checksum => self.message_ends(unit),
            Part::Lost => None,
        };
        self.held.clear();
        (self.part, self.left) = next.unwrap_or((Part::Lost, 0));
    }

    fn prelude_ends(&mut self) -> Option<(Part, usize)> {
        let (lengths, checksum) = self.held.split_at_checked(LENGTHS_BYTES)?;
        if number(checksum)? != crc32fast::hash(lengths) {
            return None;
        }
        self.is_certain = true;
        let (whole, headers) = lengths.split_at_checked(LENGTHS_BYTES / 2)?;
        let (whole, headers) = (usize::try_from(number(whole)?).ok()?, usize::try_from(number(headers)?).ok()?);
        self.payload_bytes = whole.checked_sub(PRELUDE_BYTES + CHECKSUM_BYTES)?.checked_sub(headers)?;
        (headers <= HEADERS_BYTES_MAX).then_some((Part::Headers, headers))
    }

    fn headers_end(&mut self) -> Option<(Part, usize)> {
        let headers = texts(&self.held)?;
        let text = |name: &str| headers.iter().find(|(known, _)| *known == name).map_or("", |(_, text)| *text);
        let name = match text(":message-type") {
            "exception" => text(":exception-type"),
            "error" => "error",
            _ => text(":event-type"),
        };
        self.unit.push(b"{");
        self.unit.push(&serde_json::to_vec(name).ok()?);
        self.unit.push(b":");
        if name == "error" {
            let error = serde_json::json!({"code": text(":error-code"), "message": text(":error-message")});
            self.unit.push(error.to_string().as_bytes());
        } else if self.payload_bytes == 0 {
            self.unit.push(b"null");
        }
        Some((Part::Payload, self.payload_bytes))
    }

    fn message_ends(&mut self, unit: &mut dyn FnMut(&[u8])) -> Option<(Part, usize)> {
        let checksum = std::mem::take(&mut self.checksum).finalize();
        (number(&self.held)? == checksum).then(|| {
            self.unit.finish(unit);
            (Part::Prelude, PRELUDE_BYTES)
        })
    }
}

fn number(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_be_bytes)
}

/// The headers whose values are texts; `None` where they are not headers to their end.
fn texts(headers: &[u8]) -> Option<Vec<(&str, &str)>> {
    let mut found = Vec::new();
    let mut rest = headers;
    while let Some((&name_bytes, after)) = rest.split_first() {
        let (name, after) = after.split_at_checked(usize::from(name_bytes))?;
        let (&kind, after) = after.split_first()?;
        // True, false, then numbers of 1, 2, 4 and 8 bytes, bytes, text, a time, a UUID.
        let (value_bytes, after) = match kind {
            0 | 1 => (0, after),
            2 => (1, after),
            3 => (2, after),
            4 => (4, after),
            5 | 8 => (8, after),
            6 | 7 => {
                let (length, after) = after.split_at_checked(2)?;
                (usize::from(u16::from_be_bytes(length.try_into().ok()?)), after)
            }
            9 => (16, after),
            _ => return None,
        };
        let (value, after) = after.split_at_checked(value_bytes)?;
        if let (7, Ok(name), Ok(text)) = (kind, str::from_utf8(name), str::from_utf8(value)) {
            found.push((name, text));
        }
        rest = after;
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::unit::UNIT_BYTES_MAX;
    use super::*;

    const MEMBERS: &[&str] = &["metadata.usage"];

    /// A message of raw headers.
    fn message(headers: &[u8], payload: &[u8]) -> Vec<u8> {
        let whole = u32::try_from(16 + headers.len() + payload.len()).unwrap();
        let mut message = whole.to_be_bytes().to_vec();
        message.extend(u32::try_from(headers.len()).unwrap().to_be_bytes());
        message.extend(crc32fast::hash(&message).to_be_bytes());
        message.extend([headers, payload].concat());
        message.extend(crc32fast::hash(&message).to_be_bytes());
        message
    }

    fn text(name: &str, value: &str) -> Vec<u8> {
        let mut header = vec![u8::try_from(name.len()).unwrap()];
        header.extend(name.as_bytes());
        header.push(7);
        header.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
        header.extend(value.as_bytes());
        header
    }

    fn event(name: &str, payload: &[u8]) -> Vec<u8> {
        message(&[text(":event-type", name), text(":message-type", "event")].concat(), payload)
    }

    /// One header of every type, the name last.
    fn every_header() -> Vec<u8> {
        let lengths = [(0, 0), (1, 0), (2, 1), (3, 2), (4, 4), (5, 8), (8, 8), (9, 16)];
        let mut headers: Vec<u8> =
            lengths.iter().flat_map(|(kind, length)| [vec![1, b'x', *kind], vec![0xFF; *length]].concat()).collect();
        headers.extend([1, b'x', 6, 0, 3, 1, 2, 3]);
        headers.extend([text(":message-type", "event"), text(":event-type", "all")].concat());
        headers
    }

    fn stream() -> Vec<u8> {
        let exception = [text(":message-type", "exception"), text(":exception-type", "throttlingException")].concat();
        let error = [text(":message-type", "error"), text(":error-code", "E"), text(":error-message", "\"m\"")];
        [
            event("messageStart", br#"{"role":"assistant"}"#),
            message(&every_header(), b"{}"),
            event("empty", b""),
            message(&exception, br#"{"message":"slow"}"#),
            message(&error.concat(), b""),
            message(b"", b"1"),
        ]
        .concat()
    }

    fn units_of<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> (Vec<String>, bool) {
        let mut units = Vec::new();
        let mut splitter = MessageSplitter::new(MEMBERS, true);
        for chunk in chunks {
            splitter.feed(chunk, &mut |unit| units.push(String::from_utf8(unit.to_vec()).unwrap()));
        }
        (units, splitter.is_broken())
    }

    fn units(bytes: &[u8]) -> (Vec<String>, bool) {
        units_of(std::iter::once(bytes))
    }

    #[test]
    fn every_message_is_an_object_named_after_it() {
        let (units, is_broken) = units(&stream());
        let expected = [
            r#"{"messageStart":{"role":"assistant"}}"#,
            r#"{"all":{}}"#,
            r#"{"empty":null}"#,
            r#"{"throttlingException":{"message":"slow"}}"#,
            r#"{"error":{"code":"E","message":"\"m\""}}"#,
            r#"{"":1}"#,
        ];
        assert_eq!(units, expected);
        assert!(!is_broken);
    }

    #[test]
    fn a_wrong_checksum_hides_its_message_and_all_behind_it() {
        let good = event("a", b"{}");
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            let (units, is_broken) = units(&[good.clone(), bad, good.clone()].concat());
            assert_eq!((units.len(), is_broken), (1, true), "byte {at}");
        }
    }

    #[test]
    fn bytes_that_only_begin_like_a_message_are_not_called_broken() {
        let mut splitter = MessageSplitter::new(MEMBERS, false);
        splitter.feed(b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", &mut |_| unreachable!("this is a film"));
        assert!(!splitter.is_broken());
    }

    #[test]
    fn a_message_of_any_claimed_length_is_bounded() {
        let long = format!(r#"{{"trace":"{}","usage":{{"a":1}}}}"#, "x".repeat(UNIT_BYTES_MAX));
        let bytes = [event("metadata", long.as_bytes()), event("b", b"2")].concat();
        assert_eq!(
            units(&bytes),
            (vec![r#"{"metadata":{"usage":{"a":1}}}"#.to_owned(), r#"{"b":2}"#.to_owned()], false)
        );
        let mut hostile = u32::MAX.to_be_bytes().to_vec();
        hostile.extend(0_u32.to_be_bytes());
        hostile.extend(crc32fast::hash(&hostile).to_be_bytes());
        let mut splitter = MessageSplitter::new(MEMBERS, true);
        splitter.feed(&hostile, &mut |_| {});
        for _ in 0..1024 {
            splitter.feed(&[b'['; 1 << 12], &mut |_| {});
        }
        assert!(!splitter.is_broken() && splitter.held.capacity() < 1 << 10);
    }

    #[test]
    fn lengths_that_cannot_be_are_broken() {
        for (whole, headers) in [(0, 0), (15, 0), (16, 1), (20, 5), (u32::MAX, 200_000), (16, u32::MAX)] {
            let mut prelude = [u32::to_be_bytes(whole), u32::to_be_bytes(headers)].concat();
            prelude.extend(crc32fast::hash(&prelude).to_be_bytes());
            assert!(units(&prelude).1, "{whole} {headers}");
        }
        assert!(units(&message(&[1, b'x', 10], b"")).1, "a header of an unknown type");
        assert!(units(&message(&[1, b'x', 7, 0, 9], b"")).1, "a header longer than all headers");
    }

    proptest! {
        #[test]
        fn messages_ignore_chunking(size in 1_usize..200) {
            let stream = stream();
            prop_assert_eq!(units_of(stream.chunks(size)), units(&stream));
        }

        #[test]
        fn nothing_that_comes_makes_it_fail(noise in prop::collection::vec(any::<u8>(), 0..400), size in 1_usize..50) {
            prop_assert_eq!(units_of(noise.chunks(size)), units(&noise));
            let behind = [event("a", b"{}"), noise].concat();
            prop_assert_eq!(units_of(behind.chunks(size)), units(&behind));
        }
    }
}
