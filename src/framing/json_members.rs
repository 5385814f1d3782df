//! Chosen members of one JSON object that arrives piece by piece. Everything else is skipped unread.
//!
//! For answers: `usage` behind megabytes of images. For requests: `model` and `stream`, and where they stand. Holds
//! only the values wanted, each capped. No recursion: depth is a number. Not a validator: text that is no JSON yields
//! nothing, or members of what it looks like.

use std::fmt;
use std::ops::Range;

use memchr::{memchr2, memchr3};

/// A value longer than this is not kept.
pub const VALUE_BYTES_MAX: usize = 256 << 10;

/// No wanted name is longer, its escapes included.
const KEY_BYTES_MAX: usize = 256;

/// Scans one object for the wanted members. A wanted name may be a path of two: `response.usage`.
/// Of a member that comes twice, the last counts.
pub struct Members {
    wanted: &'static [&'static str],
    found: Vec<Found>,
    state: State,
    /// Bytes of earlier chunks.
    offset: u64,
    key: Vec<u8>,
    key_has_escape: bool,
    after_backslash: bool,
    /// Within the object of this name, where paths of two are wanted.
    inside: Option<&'static str>,
    /// Which wanted member the value at hand is.
    wanted_at_hand: Option<usize>,
    value_at: u64,
    is_empty: bool,
    opening: Option<u64>,
    closing: Option<u64>,
}

/// What is known of one wanted member.
#[derive(Clone, Debug, Default)]
struct Found {
    value: Vec<u8>,
    range: Option<Range<u64>>,
    is_truncated: bool,
}

/// What comes next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    /// The object's brace, behind white space or a byte order mark.
    Opening,
    /// A key, or the end of the object.
    KeyOrEnd,
    /// More of a key.
    Key,
    /// The colon.
    Colon,
    /// A value.
    Value,
    /// More of a string that is a value.
    Text,
    /// More of an array or object, with so many of its own kind of bracket open.
    Nested { open: u8, close: u8, depth: u64, in_string: bool },
    /// More of a number or word.
    Scalar,
    /// A comma, or the end of the object.
    CommaOrEnd,
    /// The object is over.
    Closed,
    /// This is not an object.
    Nothing,
}

impl Members {
    /// A scan for `wanted`.
    pub fn new(wanted: &'static [&'static str]) -> Self {
        Self {
            wanted,
            found: vec![Found::default(); wanted.len()],
            state: State::Opening,
            offset: 0,
            key: Vec::new(),
            key_has_escape: false,
            after_backslash: false,
            inside: None,
            wanted_at_hand: None,
            value_at: 0,
            is_empty: true,
            opening: None,
            closing: None,
        }
    }

    /// Reads the next piece.
    pub fn feed(&mut self, chunk: &[u8]) {
        let mut at = 0;
        // Where in this chunk the value at hand begins, or goes on.
        let mut from = 0;
        while !matches!(self.state, State::Closed | State::Nothing) {
            let Some(rest) = chunk.get(at..).filter(|rest| !rest.is_empty()) else { break };
            let was_value = self.is_in_value();
            let taken = self.step(rest, at);
            if self.is_in_value() && !was_value {
                from = at;
            }
            at += taken;
            if was_value && !self.is_in_value() {
                self.keep(chunk.get(from..at).unwrap_or_default());
                self.value_ends(at);
            }
        }
        if self.is_in_value() {
            self.keep(chunk.get(from..).unwrap_or_default());
        }
        self.offset = self.offset.saturating_add(length(chunk.len()));
    }

    /// Whether every wanted member has been seen to its end: nothing more is to be learned, unless one comes again.
    pub fn has_all(&self) -> bool {
        self.found.iter().all(|found| found.range.is_some())
    }

    /// Whether the object has been seen to its end.
    pub fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// Whether the object has had no member yet.
    pub fn is_empty(&self) -> bool {
        self.is_empty
    }

    /// The raw value of a wanted member; `None` where it has not come, or was too long to keep.
    pub fn value(&self, name: &str) -> Option<&[u8]> {
        self.of(name).filter(|found| found.range.is_some() && !found.is_truncated).map(|found| found.value.as_slice())
    }

    /// Where in the text the value of a wanted member stands; also of one too long to keep.
    pub fn range(&self, name: &str) -> Option<Range<u64>> {
        self.of(name).and_then(|found| found.range.clone())
    }

    /// Where the object's opening brace stands.
    pub fn opening(&self) -> Option<u64> {
        self.opening
    }

    /// Where the object's closing brace stands.
    pub fn closing(&self) -> Option<u64> {
        self.closing
    }

    /// An object of the wanted members only.
    pub fn reduced(&self) -> Vec<u8> {
        let mut object = vec![b'{'];
        self.write_level(None, &mut object);
        for outer in self.outer_names() {
            let before = object.len();
            write_key(outer, &mut object);
            object.push(b'{');
            let empty = object.len();
            self.write_level(Some(outer), &mut object);
            if object.len() == empty {
                object.truncate(before);
            } else {
                object.push(b'}');
            }
        }
        object.push(b'}');
        object
    }

    fn outer_names(&self) -> impl Iterator<Item = &'static str> {
        let mut last = None;
        self.wanted
            .iter()
            .filter_map(|wanted| wanted.split_once('.'))
            .map(|(outer, _)| outer)
            .filter(move |outer| last.replace(*outer) != Some(outer))
    }

    fn write_level(&self, outer: Option<&str>, object: &mut Vec<u8>) {
        for (wanted, found) in self.wanted.iter().zip(&self.found) {
            let name = match (outer, wanted.split_once('.')) {
                (None, None) => wanted,
                (Some(outer), Some((its_outer, name))) if its_outer == outer => name,
                (Some(_) | None, _) => continue,
            };
            if found.range.is_some() && !found.is_truncated {
                write_key(name, object);
                object.extend_from_slice(&found.value);
            }
        }
    }

    fn of(&self, name: &str) -> Option<&Found> {
        self.wanted.iter().zip(&self.found).find(|(wanted, _)| **wanted == name).map(|(_, found)| found)
    }

    fn is_in_value(&self) -> bool {
        matches!(self.state, State::Text | State::Nested { .. } | State::Scalar)
    }

    /// Takes bytes off `rest`, which stands at `at` of the chunk, and says how many. May take none and change state.
    fn step(&mut self, rest: &[u8], at: usize) -> usize {
        let Some(&first) = rest.first() else { return 0 };
        match self.state {
            State::Key => return self.key(rest),
            State::Text => return self.text(rest),
            State::Nested { open, close, depth, in_string } => return self.nested(rest, open, close, depth, in_string),
            State::Scalar => {
                let end = rest.iter().position(|byte| matches!(byte, b',' | b'}' | b' ' | b'\t' | b'\n' | b'\r'));
                if end.is_some() {
                    self.state = State::CommaOrEnd;
                }
                return end.unwrap_or(rest.len());
            }
            State::Opening | State::KeyOrEnd | State::Colon | State::Value | State::CommaOrEnd => {}
            State::Closed | State::Nothing => return rest.len(),
        }
        if matches!(first, b' ' | b'\t' | b'\n' | b'\r') {
            return rest.iter().position(|byte| !matches!(byte, b' ' | b'\t' | b'\n' | b'\r')).unwrap_or(rest.len());
        }
        let here = self.offset.saturating_add(length(at));
        match (self.state, first) {
            (State::Opening, b'{') => {
                self.opening = Some(here);
                self.state = State::KeyOrEnd;
            }
            // A byte order mark.
            (State::Opening, 0xEF | 0xBB | 0xBF) | (State::KeyOrEnd, b',') => {}
            (State::KeyOrEnd, b'"') => {
                self.is_empty = false;
                self.key.clear();
                self.key_has_escape = false;
                self.state = State::Key;
            }
            (State::KeyOrEnd | State::CommaOrEnd, b'}') => {
                if self.inside.take().is_some() {
                    self.state = State::CommaOrEnd;
                } else {
                    self.closing = Some(here);
                    self.state = State::Closed;
                }
            }
            (State::CommaOrEnd, b',') => self.state = State::KeyOrEnd,
            (State::Colon, b':') => self.state = State::Value,
            (State::Value, _) => return self.value_begins(first, here),
            _ => self.state = State::Nothing,
        }
        1
    }

    fn key(&mut self, rest: &[u8]) -> usize {
        if std::mem::take(&mut self.after_backslash) {
            self.push_key(rest.get(..1).unwrap_or_default());
            return 1;
        }
        let end = memchr2(b'"', b'\\', rest);
        self.push_key(rest.get(..end.unwrap_or(rest.len())).unwrap_or_default());
        let Some(end) = end else { return rest.len() };
        if rest.get(end) == Some(&b'"') {
            self.state = State::Colon;
        } else {
            self.push_key(b"\\");
            self.key_has_escape = true;
            self.after_backslash = true;
        }
        end + 1
    }

    fn push_key(&mut self, part: &[u8]) {
        // A key that is too long cannot be a wanted one, whatever is left out of it.
        let room = KEY_BYTES_MAX.saturating_sub(self.key.len());
        self.key.extend_from_slice(part.get(..room.min(part.len())).unwrap_or_default());
    }

    fn value_begins(&mut self, first: u8, here: u64) -> usize {
        let decoded = if self.key_has_escape { decode(&self.key) } else { None };
        let key = decoded.as_deref().map_or(self.key.as_slice(), str::as_bytes);
        let wanted_at_hand = self.wanted.iter().position(|wanted| match (self.inside, wanted.split_once('.')) {
            (None, None) => wanted.as_bytes() == key,
            (Some(inside), Some((outer, name))) => inside == outer && name.as_bytes() == key,
            (None, Some(_)) | (Some(_), None) => false,
        });
        let outer = self.wanted.iter().filter_map(|wanted| wanted.split_once('.')).map(|(outer, _)| outer);
        let entered = outer.into_iter().find(|outer| self.inside.is_none() && outer.as_bytes() == key);
        if first == b'{' && entered.is_some() {
            self.inside = entered;
            self.state = State::KeyOrEnd;
            return 1;
        }
        self.wanted_at_hand = wanted_at_hand;
        self.value_at = here;
        if let Some(found) = wanted_at_hand.and_then(|index| self.found.get_mut(index)) {
            *found = Found::default();
        }
        self.state = match first {
            b'"' => State::Text,
            b'{' => State::Nested { open: b'{', close: b'}', depth: 1, in_string: false },
            b'[' => State::Nested { open: b'[', close: b']', depth: 1, in_string: false },
            _ => {
                self.state = State::Scalar;
                return 0;
            }
        };
        1
    }

    fn text(&mut self, rest: &[u8]) -> usize {
        if std::mem::take(&mut self.after_backslash) {
            return 1;
        }
        let Some(end) = memchr2(b'"', b'\\', rest) else { return rest.len() };
        if rest.get(end) == Some(&b'"') {
            self.state = State::CommaOrEnd;
        } else {
            self.after_backslash = true;
        }
        end + 1
    }

    /// Brackets come in pairs, so counting the kind that began the value is enough to find its end.
    fn nested(&mut self, rest: &[u8], open: u8, close: u8, depth: u64, in_string: bool) -> usize {
        if std::mem::take(&mut self.after_backslash) {
            return 1;
        }
        let (mut depth, mut in_string) = (depth, in_string);
        let mut at = 0;
        loop {
            let tail = rest.get(at..).unwrap_or_default();
            let found = if in_string { memchr2(b'"', b'\\', tail) } else { memchr3(b'"', open, close, tail) };
            let Some(found) = found else {
                at = rest.len();
                break;
            };
            at += found + 1;
            match tail.get(found) {
                Some(b'"') => in_string = !in_string,
                Some(b'\\') if rest.get(at).is_some() => at += 1,
                Some(b'\\') => {
                    self.after_backslash = true;
                    break;
                }
                Some(&bracket) if bracket == open => depth = depth.saturating_add(1),
                _ => depth = depth.saturating_sub(1),
            }
            if depth == 0 {
                self.state = State::CommaOrEnd;
                return at;
            }
        }
        self.state = State::Nested { open, close, depth, in_string };
        at
    }

    fn keep(&mut self, part: &[u8]) {
        let Some(found) = self.wanted_at_hand.and_then(|index| self.found.get_mut(index)) else { return };
        if found.is_truncated || found.value.len().saturating_add(part.len()) > VALUE_BYTES_MAX {
            found.is_truncated = true;
            found.value = Vec::new();
        } else {
            found.value.extend_from_slice(part);
        }
    }

    fn value_ends(&mut self, at: usize) {
        let end = self.offset.saturating_add(length(at));
        if let Some(found) = self.wanted_at_hand.take().and_then(|index| self.found.get_mut(index)) {
            found.range = Some(self.value_at..end);
        }
    }
}

impl fmt::Debug for Members {
    /// Places only: what passes is never printed.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Members")
            .field("state", &self.state)
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}

fn write_key(name: &str, object: &mut Vec<u8>) {
    if object.last() != Some(&b'{') {
        object.push(b',');
    }
    object.push(b'"');
    object.extend_from_slice(name.as_bytes());
    object.extend_from_slice(b"\":");
}

fn decode(key: &[u8]) -> Option<String> {
    serde_json::from_slice(&[b"\"", key, b"\""].concat()).ok()
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WANTED: &[&str] = &["usage", "model", "response.usage", "n"];

    fn scanned(chunks: &[&[u8]]) -> Members {
        let mut members = Members::new(WANTED);
        for chunk in chunks {
            members.feed(chunk);
        }
        members
    }

    fn reduced(chunks: &[&[u8]]) -> String {
        String::from_utf8(scanned(chunks).reduced()).unwrap()
    }

    const OBJECT: &[u8] = br#"
        { "data" : [{"usage":1},"]\"",["}"]] , "u\u0073age" : {"a":"}\\", "b":[1,{"c":2}]},"n":-1.5e3,
        "other":{"model":"no","x":"{\"model\":\"no\"}"},"response":{"id":"usage","usage":[ 1 ],"deep":{"usage":2}},
        "model":"old","model":"new \"}" , "tail":null } trailing {"model":"late"}"#;

    #[test]
    fn wanted_members_of_the_top_level_are_kept_and_nothing_else() {
        let expected =
            r#"{"usage":{"a":"}\\", "b":[1,{"c":2}]},"model":"new \"}","n":-1.5e3,"response":{"usage":[ 1 ]}}"#;
        assert_eq!(reduced(&[OBJECT]), expected);
        serde_json::from_str::<serde_json::Value>(expected).unwrap();
    }

    #[test]
    fn offsets_are_where_bytes_can_be_spliced_in() {
        let members = scanned(&[b"  {\"model\" ", b": \"m\" ,\"n\":12", b"}  "]);
        assert_eq!((members.opening(), members.closing()), (Some(2), Some(24)));
        assert_eq!((members.range("model"), members.range("n")), (Some(13..16), Some(22..24)));
        assert_eq!(members.value("n"), Some(b"12".as_slice()));
        assert!(members.is_closed() && !members.is_empty() && !members.has_all());
        assert!(scanned(&[b" { } "]).is_empty());
    }

    #[test]
    fn a_value_too_long_is_skipped_and_known_to_be_there() {
        let long = format!(r#"{{"usage":"{}","model":"m"}}"#, "x".repeat(VALUE_BYTES_MAX));
        let members = scanned(&[long.as_bytes()]);
        assert_eq!(members.reduced(), br#"{"model":"m"}"#);
        assert!(members.value("usage").is_none() && members.range("usage").is_some());
    }

    #[test]
    fn a_value_cut_off_is_no_value() {
        assert_eq!(reduced(&[br#"{"model":"m","usage":{"a":1"#]), r#"{"model":"m"}"#);
        assert_eq!(reduced(&[br#"{"model":"m","n":12"#]), r#"{"model":"m"}"#);
    }

    #[test]
    fn depth_costs_nothing() {
        let deep = format!("{{\"x\":{},\"model\":\"m\"}}", "[".repeat(1_000_000) + &"]".repeat(1_000_000));
        assert_eq!(reduced(&[deep.as_bytes()]), r#"{"model":"m"}"#);
    }

    proptest! {
        #[test]
        fn members_ignore_chunking(cuts in prop::collection::vec(0..OBJECT.len(), 0..30)) {
            let mut cuts: Vec<usize> = cuts.into_iter().chain([0, OBJECT.len()]).collect();
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|range| &OBJECT[range[0]..range[1]]).collect();
            let (cut, whole) = (scanned(&chunks), scanned(&[OBJECT]));
            prop_assert_eq!(cut.reduced(), whole.reduced());
            prop_assert_eq!((cut.opening(), cut.closing()), (whole.opening(), whole.closing()));
            for wanted in WANTED {
                prop_assert_eq!(cut.range(wanted), whole.range(wanted));
            }
        }

        #[test]
        fn no_text_confuses_it_into_a_loop_or_an_object_that_is_none(
            parts in prop::collection::vec(prop::sample::select(vec!["{", "}", "[", "]", "\"", "\\", ":", ",", "model", "1", " ", "null"]), 0..40),
            size in 1_usize..8,
        ) {
            let text = parts.concat();
            let whole = scanned(&[text.as_bytes()]);
            let cut = scanned(&text.as_bytes().chunks(size).collect::<Vec<_>>());
            prop_assert_eq!(whole.reduced(), cut.reduced());
            if serde_json::from_str::<serde_json::Value>(&text).is_ok_and(|value| value.is_object()) {
                prop_assert!(whole.is_closed());
                prop_assert!(serde_json::from_slice::<serde_json::Value>(&whole.reduced()).is_ok());
            }
        }
    }
}
