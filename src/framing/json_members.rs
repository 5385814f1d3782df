//! Chosen members of one JSON object that arrives piece by piece. Everything else is skipped unread.
//!
//! For answers: `usage` behind megabytes of images. For requests: `model` and `stream`, and where they stand. Holds
//! only the values wanted, each capped. No recursion: depth is a number. Not a validator: text that is no JSON yields
//! nothing, or members of what it looks like.

use std::fmt;
use std::ops::Range;

use memchr::{memchr, memchr2, memchr3};

/// A value longer than this is not kept.
pub const VALUE_BYTES_MAX: usize = 256 << 10;

/// Of the values found together within an array, so many bytes are kept.
const VALUES_BYTES_MAX: usize = 1 << 20;

/// So far bytes between strings are looked at one by one.
const NEAR_BYTES: usize = 24;

/// So many bytes of a text are looked at together.
const BLOCK_BYTES: usize = 64;

/// No wanted name is longer, its escapes included.
const KEY_BYTES_MAX: usize = 256;

/// Scans one object for the wanted members. A wanted name may be a path, `response.usage`, and lead through the objects
/// of an array, `predictions[].embeddings.statistics`: all values found there are kept together, as an array.
/// Of another member that comes twice, the last counts.
pub struct Members {
    wanted: &'static [&'static str],
    /// What has come of them, in the order in which they are wanted: most never come.
    found: Vec<Found>,
    state: State,
    /// Bytes of earlier chunks.
    offset: u64,
    key: Vec<u8>,
    key_has_escape: bool,
    after_backslash: bool,
    /// The objects and arrays entered, where paths are wanted, outermost first.
    levels: Vec<Level>,
    /// Which of `found` the value at hand is.
    at_hand: Option<usize>,
    value_at: u64,
    is_empty: bool,
    opening: Option<u64>,
    closing: Option<u64>,
}

/// An object or array entered.
#[derive(Clone, Copy, Debug)]
struct Level {
    /// The beginning that all wanted paths within have: `response.`, `predictions[].`.
    path: &'static str,
    is_array: bool,
}

/// What is known of one wanted member.
#[derive(Clone, Debug)]
struct Found {
    /// Its place among the wanted.
    place: usize,
    wanted: &'static str,
    /// Whether its path leads through an array, so that there are many values.
    is_many: bool,
    value: Vec<u8>,
    /// The bytes of `value` that came to their end: of many values the last may be cut off.
    whole_bytes: usize,
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
    /// An array's element, or its end.
    ElementOrEnd,
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
            found: Vec::new(),
            state: State::Opening,
            offset: 0,
            key: Vec::new(),
            key_has_escape: false,
            after_backslash: false,
            levels: Vec::new(),
            at_hand: None,
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
        self.found.len() == self.wanted.len() && self.found.iter().all(|found| found.range.is_some())
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

    /// What of `chunk`, the piece read last, lies behind the object's end.
    pub fn behind<'a>(&self, chunk: &'a [u8]) -> &'a [u8] {
        let Some(closing) = self.closing else { return &[] };
        let begin = self.offset.saturating_sub(length(chunk.len()));
        let skipped = usize::try_from(closing.saturating_add(1).saturating_sub(begin)).unwrap_or(usize::MAX);
        chunk.get(skipped..).unwrap_or_default()
    }

    /// An object of the wanted members only. A path of two stands as an object in it, a longer one, and one through an
    /// array, under its whole name.
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

    /// Of those that have come, the first names of paths of two, each once, in the order in which they are wanted.
    fn outer_names(&self) -> impl Iterator<Item = &'static str> {
        let mut last = None;
        self.whole()
            .filter_map(Found::path_of_two)
            .map(|(outer, _)| outer)
            .filter(move |outer| last.replace(*outer) != Some(outer))
    }

    fn write_level(&self, outer: Option<&str>, object: &mut Vec<u8>) {
        for found in self.whole() {
            let name = match (outer, found.path_of_two()) {
                (None, None) => found.wanted,
                (Some(outer), Some((its_outer, name))) if its_outer == outer => name,
                (Some(_) | None, _) => continue,
            };
            write_key(name, object);
            object.extend_from_slice(found.value.get(..found.whole_bytes).unwrap_or_default());
            if found.is_many {
                object.push(b']');
            }
        }
    }

    fn whole(&self) -> impl Iterator<Item = &Found> {
        self.found.iter().filter(|found| found.range.is_some() && !found.is_truncated)
    }

    fn of(&self, name: &str) -> Option<&Found> {
        self.found.iter().find(|found| found.wanted == name)
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
                let end =
                    rest.iter().position(|byte| matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r'));
                if end.is_some() {
                    self.state = State::CommaOrEnd;
                }
                return end.unwrap_or(rest.len());
            }
            State::Opening
            | State::KeyOrEnd
            | State::Colon
            | State::Value
            | State::ElementOrEnd
            | State::CommaOrEnd => {}
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
            (State::KeyOrEnd | State::CommaOrEnd, b'}') if !self.is_in_array() => {
                if self.levels.pop().is_some() {
                    self.state = State::CommaOrEnd;
                } else {
                    self.closing = Some(here);
                    self.state = State::Closed;
                }
            }
            (State::ElementOrEnd | State::CommaOrEnd, b']') if self.is_in_array() => {
                self.levels.pop();
                self.state = State::CommaOrEnd;
            }
            (State::CommaOrEnd, b',') => {
                self.state = if self.is_in_array() { State::ElementOrEnd } else { State::KeyOrEnd };
            }
            (State::ElementOrEnd, _) => return self.element_begins(first),
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

    fn is_in_array(&self) -> bool {
        self.levels.last().is_some_and(|level| level.is_array)
    }

    /// Goes into an object or array. There are no more of them to go into than a wanted path names.
    fn enter(&mut self, path: &'static str, is_array: bool) -> usize {
        self.levels.push(Level { path, is_array });
        self.state = if is_array { State::ElementOrEnd } else { State::KeyOrEnd };
        1
    }

    /// An element of an array that wanted paths lead through: only objects have members.
    fn element_begins(&mut self, first: u8) -> usize {
        let path = self.levels.last().map_or("", |level| level.path);
        if first == b'{' { self.enter(path, false) } else { self.skip_or_keep(first) }
    }

    fn value_begins(&mut self, first: u8, here: u64) -> usize {
        let decoded = if self.key_has_escape { decode(&self.key) } else { None };
        let key = decoded.as_deref().map_or(self.key.as_slice(), str::as_bytes);
        let path = self.levels.last().map_or("", |level| level.path);
        let mut at_hand = None;
        let mut entered = None;
        // A key that looks like a path is none.
        let is_path = memchr(b'.', key).is_some();
        for (place, wanted) in self.wanted.iter().enumerate().filter(|_| !is_path) {
            // Most names differ in their first letter.
            if wanted.as_bytes().get(path.len()) != key.first() {
                continue;
            }
            let after = wanted.strip_prefix(path).and_then(|rest| Some(rest.as_bytes().strip_prefix(key)?.len()));
            let Some(after) = after else { continue };
            let name_end = wanted.len().saturating_sub(after);
            match (first, wanted.as_bytes().get(name_end..).unwrap_or_default()) {
                (_, []) => at_hand = Some((place, *wanted)),
                (b'{', [b'.', ..]) => entered = wanted.get(..name_end.saturating_add(1)).map(|path| (path, false)),
                (b'[', [b'[', b']', b'.', ..]) => {
                    entered = wanted.get(..name_end.saturating_add(3)).map(|path| (path, true));
                }
                _ => {}
            }
        }
        if let Some((path, is_array)) = entered {
            return self.enter(path, is_array);
        }
        self.at_hand = at_hand.map(|(place, wanted)| self.begin(place, wanted));
        self.value_at = here;
        self.skip_or_keep(first)
    }

    /// A value of the wanted member at `place` begins; where it will be found.
    fn begin(&mut self, place: usize, wanted: &'static str) -> usize {
        let index = self.found.partition_point(|found| found.place < place);
        if let Some(found) = self.found.get_mut(index).filter(|found| found.place == place && found.is_many) {
            if !found.is_truncated {
                found.value.push(if found.value.is_empty() { b'[' } else { b',' });
            }
            return index;
        }
        let is_many = is_many(wanted);
        let value = if is_many { vec![b'['] } else { Vec::new() };
        let begun = Found { place, wanted, is_many, value, whole_bytes: 0, range: None, is_truncated: false };
        match self.found.get_mut(index) {
            Some(found) if found.place == place => *found = begun,
            Some(_) | None => self.found.insert(index, begun),
        }
        index
    }

    /// The state for the value that begins with `first`.
    fn skip_or_keep(&mut self, first: u8) -> usize {
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
        let Some(end) = string_end(rest, &mut self.after_backslash) else { return rest.len() };
        self.state = State::CommaOrEnd;
        end + 1
    }

    /// Brackets come in pairs, so counting the kind that began the value is enough to find its end.
    fn nested(&mut self, rest: &[u8], open: u8, close: u8, depth: u64, in_string: bool) -> usize {
        let (mut depth, mut in_string) = (depth, in_string);
        let mut at = 0;
        loop {
            let tail = rest.get(at..).unwrap_or_default();
            let found = if in_string {
                string_end(tail, &mut self.after_backslash)
            } else {
                // Between strings there is little: a search that takes many bytes at once would begin in vain.
                let is_mark = |byte: &u8| *byte == b'"' || *byte == open || *byte == close;
                let (near, far) = tail.split_at_checked(NEAR_BYTES).unwrap_or((tail, &[]));
                near.iter()
                    .position(is_mark)
                    .or_else(|| memchr3(b'"', open, close, far).map(|found| found + near.len()))
            };
            let Some(found) = found else {
                at = rest.len();
                break;
            };
            at += found + 1;
            match tail.get(found) {
                Some(b'"') => in_string = !in_string,
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
        let Some(found) = self.at_hand.and_then(|index| self.found.get_mut(index)) else { return };
        let bytes_max = if found.is_many { VALUES_BYTES_MAX } else { VALUE_BYTES_MAX };
        if found.is_truncated || found.value.len().saturating_add(part.len()) > bytes_max {
            found.is_truncated = true;
            found.value = Vec::new();
        } else {
            found.value.extend_from_slice(part);
        }
    }

    fn value_ends(&mut self, at: usize) {
        let end = self.offset.saturating_add(length(at));
        if let Some(found) = self.at_hand.take().and_then(|index| self.found.get_mut(index)) {
            found.range = Some(self.value_at..end);
            found.whole_bytes = found.value.len();
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

impl Found {
    /// The two names of a path of two.
    fn path_of_two(&self) -> Option<(&'static str, &'static str)> {
        self.wanted.split_once('.').filter(|(_, name)| !name.contains('.') && !self.is_many)
    }
}

/// Whether a path leads through an array, so that there are many values.
fn is_many(wanted: &str) -> bool {
    wanted.contains("[]")
}

/// Where in `rest`, which goes on within a string, the quote stands that ends it. Only quotes are looked for, and what
/// stands in front of one: texts have many more escapes. `is_escaped`: whether the first byte of what comes is.
fn string_end(rest: &[u8], is_escaped: &mut bool) -> Option<usize> {
    let escaped = usize::from(std::mem::take(is_escaped));
    let is_odd = |until: usize| {
        let before = rest.get(escaped..until).unwrap_or_default();
        before.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
    };
    let mut at = escaped;
    loop {
        let Some(found) = memchr(b'"', rest.get(at..).unwrap_or_default()) else {
            *is_escaped = is_odd(rest.len());
            return None;
        };
        at += found;
        if !is_odd(at) {
            return Some(at);
        }
        // A text with one escaped quote has more of them.
        at = behind_escaped_quotes(rest, at + 1);
    }
}

/// From `at` on, where the first block of `text` begins that may hold a quote that ends a string.
fn behind_escaped_quotes(text: &[u8], at: usize) -> usize {
    let mut at = at;
    while let Some(block) = at.checked_sub(2).and_then(|from| text.get(from..at + BLOCK_BYTES))
        && !may_end_string(block)
    {
        at += BLOCK_BYTES;
    }
    at
}

/// Whether a quote behind the first two bytes may end a string. One behind a single backslash does not; one behind two may,
/// which is looked at exactly.
#[expect(clippy::needless_bitwise_bool, reason = "without branches many bytes are looked at in one go")]
fn may_end_string(block: &[u8]) -> bool {
    let shifted = |by| block.get(by..).unwrap_or_default().iter();
    let bytes = shifted(0).zip(shifted(1)).zip(shifted(2));
    bytes.fold(false, |may, ((before, last), byte)| may | ((*byte == b'"') & ((*last != b'\\') | (*before == b'\\'))))
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
mod tests;
