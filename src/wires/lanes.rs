//! Lanes: the texts of an answer kept apart as the model wrote them. Pieces of one text are one text to a tokenizer, so
//! choices that come in turns, and calls whose arguments come in turns, must not be mixed.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::object::string;
use super::{Beside, Countable, Kind};
use crate::framing::compact::compacted;

/// Bytes of text put together for counting, some 16,000 tokens; beyond them only their number is known.
pub(super) const TEXT_BYTES_MAX: usize = 64 << 10;
/// Texts that are kept apart. No answer has so many; what is beyond goes into the last.
const LANES_MAX: usize = 256;

/// Which text of an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Lane {
    /// What a choice says, a refusal included.
    Said { choice: u64 },
    /// What it thinks aloud.
    Thought { choice: u64 },
    /// The name of a call that it makes.
    Name { choice: u64, call: u64 },
    /// Its arguments.
    Arguments { choice: u64, call: u64 },
}

impl Lane {
    fn kind(self) -> Kind {
        match self {
            Self::Said { .. } => Kind::Said,
            Self::Thought { .. } => Kind::Thought,
            Self::Name { .. } | Self::Arguments { .. } => Kind::Called,
        }
    }

    fn call(self) -> Option<(u64, u64)> {
        match self {
            Self::Name { choice, call } | Self::Arguments { choice, call } => Some((choice, call)),
            Self::Said { .. } | Self::Thought { .. } => None,
        }
    }
}

/// The texts found so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Lanes {
    /// In the order in which they began.
    texts: Vec<(Lane, String)>,
    /// The choice that pieces are of.
    choice: u64,
    bytes: usize,
    bytes_beyond: u64,
}

/// How far each text had come.
#[derive(Clone, Debug, Default)]
pub(super) struct Reached {
    bytes: Vec<usize>,
    bytes_beyond: u64,
}

impl Lanes {
    /// What follows is of that choice.
    pub(super) fn of_choice(&mut self, choice: u64) {
        self.choice = choice;
    }

    /// Appends to what is said; a value that is no string counts as the JSON it is; nothing where it is absent or null.
    pub(super) fn say_raw(&mut self, raw: Option<&RawValue>) {
        if let Some(text) = raw.and_then(text_of) {
            self.say_str(&text);
        }
    }

    /// The same of a text.
    pub(super) fn say_str(&mut self, text: &str) {
        self.push(Lane::Said { choice: self.choice }, text);
    }

    /// Appends to what is thought aloud.
    pub(super) fn think_raw(&mut self, raw: Option<&RawValue>) {
        if let Some(text) = raw.and_then(text_of) {
            self.think_str(&text);
        }
    }

    /// The same of a text.
    pub(super) fn think_str(&mut self, text: &str) {
        self.push(Lane::Thought { choice: self.choice }, text);
    }

    /// Appends to the name and the arguments of a call. Where no number is told, a name begins another call.
    pub(super) fn call(&mut self, number: Option<u64>, name: Option<&RawValue>, arguments: Option<&RawValue>) {
        let name = name.and_then(text_of).filter(|name| !name.is_empty());
        let arguments = arguments.and_then(text_of).filter(|arguments| !arguments.is_empty());
        let choice = self.choice;
        let call = number.unwrap_or_else(|| {
            let calls = self.texts.iter().filter_map(|(lane, _)| lane.call());
            let last = calls.filter(|(of, _)| *of == choice).map(|(_, call)| call).max();
            match last {
                Some(last) if name.is_some() => last.saturating_add(1),
                Some(last) => last,
                None => 0,
            }
        });
        if let Some(name) = name {
            self.push(Lane::Name { choice, call }, &name);
        }
        if let Some(arguments) = arguments {
            self.push(Lane::Arguments { choice, call }, &arguments);
        }
    }

    /// Takes up an event's texts: more of each, or all of it so far, where the provider repeats it in each event.
    pub(super) fn take_or_replace(&mut self, event: Self) {
        for (lane, text) in event.texts {
            match self.texts.iter().position(|(known, _)| *known == lane).and_then(|at| self.texts.get_mut(at)) {
                Some((_, known)) if text.starts_with(known.as_str()) => {
                    let more = text.get(known.len()..).unwrap_or_default().to_owned();
                    self.push(lane, &more);
                }
                Some(_) | None => self.push(lane, &text),
            }
        }
        self.bytes_beyond = self.bytes_beyond.saturating_add(event.bytes_beyond);
    }

    fn push(&mut self, lane: Lane, text: &str) {
        if text.is_empty() {
            return;
        }
        let room = TEXT_BYTES_MAX.saturating_sub(self.bytes);
        let kept = text.floor_char_boundary(room);
        let (kept, beyond) = text.split_at_checked(kept).unwrap_or((text, ""));
        self.bytes = self.bytes.saturating_add(kept.len());
        self.bytes_beyond = self.bytes_beyond.saturating_add(length(beyond.len()));
        if kept.is_empty() {
            return;
        }
        // The last one written is the next to be written, mostly.
        let known = self.texts.iter().rposition(|(known, _)| *known == lane);
        let is_full = self.texts.len() >= LANES_MAX;
        let at = known.or(if is_full { self.texts.len().checked_sub(1) } else { None });
        match at.and_then(|at| self.texts.get_mut(at)) {
            Some((_, known)) => known.push_str(kept),
            None => self.texts.push((lane, kept.to_owned())),
        }
    }

    /// How many bytes there are.
    pub(super) fn bytes(&self) -> u64 {
        length(self.bytes).saturating_add(self.bytes_beyond)
    }

    /// Bytes in memory.
    pub(super) fn held_bytes(&self) -> usize {
        self.bytes
    }

    /// Adds bytes of text that nobody looked into.
    pub(super) fn add_beyond(&mut self, bytes: u64) {
        self.bytes_beyond = self.bytes_beyond.saturating_add(bytes);
    }

    /// How far it has come.
    pub(super) fn reached(&self) -> Reached {
        Reached { bytes: self.texts.iter().map(|(_, text)| text.len()).collect(), bytes_beyond: self.bytes_beyond }
    }

    /// Whether there is more than at `from`.
    pub(super) fn has_more(&self, from: &Reached) -> bool {
        self.bytes > from.bytes.iter().sum() || self.bytes_beyond > from.bytes_beyond
    }

    /// What came behind `from`.
    pub(super) fn since(&self, from: &Reached) -> Self {
        let from_of = |at: usize| from.bytes.get(at).copied().unwrap_or(0);
        self.parts(self.bytes_beyond.saturating_sub(from.bytes_beyond), |at, text| text.get(from_of(at)..))
    }

    /// What came before `to`.
    pub(super) fn until(&self, to: &Reached) -> Self {
        let to_of = |at: usize| to.bytes.get(at).copied().unwrap_or(0);
        self.parts(to.bytes_beyond, |at, text| text.get(..to_of(at)))
    }

    fn parts(&self, bytes_beyond: u64, part: impl for<'a> Fn(usize, &'a str) -> Option<&'a str>) -> Self {
        let mut parts = Self { choice: self.choice, bytes_beyond, ..Self::default() };
        for (at, (lane, text)) in self.texts.iter().enumerate() {
            parts.push(*lane, part(at, text).unwrap_or_default());
        }
        parts
    }

    /// The texts as something to count: what was said first in front, the others beside it.
    pub(super) fn into_countable(self) -> Countable {
        let mut countable = Countable { bytes_beyond: self.bytes_beyond, ..Countable::default() };
        let mut calls: Vec<(u64, u64)> = self.texts.iter().filter_map(|(lane, _)| lane.call()).collect();
        calls.sort_unstable();
        calls.dedup();
        countable.calls = length(calls.len());
        let mut is_first = true;
        for (lane, text) in self.texts {
            let kind = lane.kind();
            if kind == Kind::Said && std::mem::take(&mut is_first) {
                countable.text = text;
            } else {
                countable.beside.push(Beside { kind, text });
            }
        }
        countable
    }
}

/// What a value is as text: a string's own, else its JSON without white space.
fn text_of(raw: &RawValue) -> Option<Cow<'_, str>> {
    if raw.get() == "null" {
        return None;
    }
    if let Some(text) = string(raw) {
        return Some(text);
    }
    let is_spaced = raw.get().bytes().any(|byte| byte.is_ascii_whitespace());
    let compact = is_spaced.then(|| compacted(raw.get())).flatten();
    Some(compact.map_or(Cow::Borrowed(raw.get()), |compact| Cow::Owned(compact.get().to_owned())))
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl Lanes {
        fn texts(&self) -> impl Iterator<Item = &str> {
            self.texts.iter().map(|(_, text)| text.as_str())
        }
    }

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).unwrap()
    }

    fn beside(lanes: Lanes) -> Vec<(Kind, String)> {
        lanes.into_countable().beside.into_iter().map(|Beside { kind, text }| (kind, text)).collect()
    }

    #[test]
    fn choices_thoughts_and_calls_are_texts_of_their_own() {
        let mut lanes = Lanes::default();
        for (choice, text) in [(0, "one "), (1, "uno "), (0, "two"), (1, "dos")] {
            lanes.of_choice(choice);
            lanes.say_str(text);
            lanes.think_str("hm");
        }
        lanes.of_choice(0);
        let (name, first, second) = (raw("\"find\""), raw("\"{\\\"a\\\":\""), raw("\"1}\""));
        for call in [0, 1] {
            lanes.call(Some(call), Some(&name), None);
        }
        for arguments in [&first, &second] {
            for call in [0, 1] {
                lanes.call(Some(call), None, Some(arguments));
            }
        }
        let countable = lanes.clone().into_countable();
        assert_eq!((countable.text.as_str(), countable.calls), ("one two", 2));
        let said = |text: &str| (Kind::Said, text.to_owned());
        let thought = || (Kind::Thought, "hmhm".to_owned());
        let called = |text: &str| (Kind::Called, text.to_owned());
        let calls = [called("find"), called("find"), called("{\"a\":1}"), called("{\"a\":1}")];
        assert_eq!(beside(lanes), [&[thought(), said("uno dos"), thought()], &calls[..]].concat());
    }

    #[test]
    fn calls_without_numbers_are_told_apart_by_their_names() {
        let mut lanes = Lanes::default();
        let (name, spaced) = (raw("\"f\""), raw("{ \"a\":\n 1 }"));
        lanes.call(None, Some(&name), Some(&spaced));
        lanes.call(None, Some(&name), None);
        lanes.call(None, None, Some(&raw("{}")));
        lanes.call(None, Some(&raw("null")), Some(&raw("\"\"")));
        assert_eq!(lanes.clone().into_countable().calls, 2);
        let texts: Vec<&str> = lanes.texts().collect();
        assert_eq!(texts, ["f", "{\"a\":1}", "f", "{}"]);
    }

    #[test]
    fn what_is_told_again_whole_is_taken_once() {
        let event = |said: &str, thought: &str| {
            let mut event = Lanes::default();
            event.say_str(said);
            event.think_str(thought);
            event
        };
        let mut whole = Lanes::default();
        for event in [event("", "Hm"), event("A", "Hm"), event("A b", "Hm.")] {
            whole.take_or_replace(event);
        }
        assert_eq!(whole.texts().collect::<Vec<_>>(), ["Hm.", "A b"]);
        let mut pieces = Lanes::default();
        for event in [event("A", ""), event(" b", ""), event(" c", "")] {
            pieces.take_or_replace(event);
        }
        assert_eq!(pieces.texts().collect::<Vec<_>>(), ["A b c"]);
    }

    #[test]
    fn no_answer_has_more_lanes_or_text_than_are_kept() {
        let mut lanes = Lanes::default();
        for choice in 0..10_000 {
            lanes.of_choice(choice);
            lanes.say_str("0123456789");
        }
        assert_eq!((lanes.texts.len(), lanes.bytes()), (LANES_MAX, 100_000));
        assert_eq!(lanes.texts().map(str::len).sum::<usize>(), TEXT_BYTES_MAX);
    }

    proptest! {
        /// However deltas are cut and mixed, each text comes to the same.
        #[test]
        fn lanes_do_not_depend_on_how_deltas_are_cut(
            texts in prop::collection::vec("[a-c 客]{1,30}", 1..5),
            turns in prop::collection::vec((any::<prop::sample::Index>(), 1_usize..6), 0..200),
        ) {
            let mut lanes = Lanes::default();
            let mut rests: Vec<&str> = texts.iter().map(String::as_str).collect();
            let all = texts.len();
            let last = (0..all).map(|at| (at, usize::MAX));
            for (at, bytes) in turns.iter().map(|(at, bytes)| (at.index(all), *bytes)).chain(last) {
                let (piece, rest) = rests[at].split_at(rests[at].ceil_char_boundary(bytes.min(rests[at].len())));
                rests[at] = rest;
                lanes.of_choice(u64::try_from(at).unwrap());
                lanes.say_str(piece);
            }
            let mut found: Vec<&str> = lanes.texts().collect();
            let mut expected: Vec<&str> = texts.iter().map(String::as_str).collect();
            found.sort_unstable();
            expected.sort_unstable();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn what_came_until_a_place_and_since_are_the_whole(pieces in prop::collection::vec(("[ab]{0,9}", 0_u64..3), 0..20), at in 0_usize..20) {
            let (mut lanes, mut reached) = (Lanes::default(), Reached::default());
            for (number, (piece, choice)) in pieces.iter().enumerate() {
                lanes.of_choice(*choice);
                lanes.say_str(piece);
                if number == at {
                    reached = lanes.reached();
                }
            }
            let (until, since) = (lanes.until(&reached), lanes.since(&reached));
            prop_assert_eq!(until.bytes() + since.bytes(), lanes.bytes());
            prop_assert_eq!(lanes.has_more(&reached), since.bytes() > 0);
            let mut whole = until;
            for (lane, text) in since.texts {
                whole.push(lane, &text);
            }
            prop_assert_eq!(whole.into_countable(), lanes.into_countable());
        }
    }
}
