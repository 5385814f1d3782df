//! The generated text of an answer, kept so that it can be counted if the provider reports nothing.
//!
//! A stream's units are alike but for their text, so of each only what differs from the one before is kept, and nothing
//! is parsed before someone asks. Of a stream so long that not even that is kept, the rest is measured.

use std::fmt;

use serde_json::value::RawValue;

use super::Countable;
use super::lanes::{self, Lanes};
use super::object::Count;

/// Bytes kept of units, some 2,000 of a stream. It bounds what a long stream holds, and how long reading it takes.
const KEPT_BYTES_MAX: usize = 64 << 10;
/// What a unit counts for beside what is kept of it; more than its three numbers take.
const UNIT_BYTES: usize = 24;
/// Bytes compared at once.
const STRIDE: usize = 16;

/// Collects the text of one answer.
pub struct Delivered {
    read: fn(&[u8], &mut Text),
    /// Text of units so long that they were read at once.
    text: Text,
    /// The units, one behind the other: how many bytes at its begin and at its end are those of the one before, how
    /// many are between, and these.
    kept: Vec<u8>,
    units: usize,
    /// The unit kept last.
    last: Vec<u8>,
    is_full: bool,
    /// Bytes of the units that were kept or read, and of those that came when it was full.
    known_bytes: u64,
    bytes_beyond: u64,
}

/// Text found so far: of an answer, or of a prompt.
#[derive(Clone, Debug, Default)]
pub(super) struct Text(Lanes);

/// How far the text of an answer was taken up, to be counted while more of it comes.
#[derive(Clone, Default)]
pub struct Bookmark {
    kept: usize,
    text: lanes::Reached,
    known_bytes: u64,
    bytes_beyond: u64,
    /// The unit that was the last: the next is like it.
    last: Vec<u8>,
}

/// What came behind a bookmark, not looked into yet.
pub struct Unread {
    read: fn(&[u8], &mut Text),
    text: Text,
    before: Vec<u8>,
    kept: Vec<u8>,
    known_bytes: u64,
    bytes_beyond: u64,
}

impl Text {
    /// What follows is of that choice, the first where none is told.
    pub(super) fn of_choice(&mut self, choice: Count) {
        self.0.of_choice(if let Count::Of(choice) = choice { choice } else { 0 });
    }

    /// Appends a piece of text; a value that is no string counts as the JSON it is; nothing where it is absent or null.
    pub(super) fn push_raw(&mut self, raw: Option<&RawValue>) {
        self.0.say_raw(raw);
    }

    /// Appends a piece of reasoning that the model shows.
    pub(super) fn think(&mut self, raw: Option<&RawValue>) {
        self.0.think_raw(raw);
    }

    /// Appends to the name and the arguments of a call; without a number a name begins another.
    pub(super) fn call(&mut self, number: Count, name: Option<&RawValue>, arguments: Option<&RawValue>) {
        self.0.call(if let Count::Of(number) = number { Some(number) } else { None }, name, arguments);
    }

    /// Takes up an event's text: more text, or all text so far, where the provider repeats it in each event.
    pub(super) fn push_or_replace(&mut self, event: Self) {
        self.0.take_or_replace(event.0);
    }
}

impl Delivered {
    /// `read` finds the text in one unit.
    pub(super) fn new(read: fn(&[u8], &mut Text)) -> Self {
        Self {
            read,
            text: Text::default(),
            kept: Vec::new(),
            units: 0,
            last: Vec::new(),
            is_full: false,
            known_bytes: 0,
            bytes_beyond: 0,
        }
    }

    /// Keeps a unit.
    pub(super) fn push(&mut self, unit: &[u8]) {
        if self.is_full {
            self.bytes_beyond = self.bytes_beyond.saturating_add(length(unit.len()));
            return;
        }
        if unit.len() > KEPT_BYTES_MAX && self.kept.is_empty() {
            (self.read)(unit, &mut self.text);
            self.known_bytes = self.known_bytes.saturating_add(length(unit.len()));
            return;
        }
        let begin = same_at_begin(&self.last, unit);
        let (before, after) = (self.last.get(begin..).unwrap_or_default(), unit.get(begin..).unwrap_or_default());
        let end = same_at_end(before, after);
        let difference = after.get(..after.len().saturating_sub(end)).unwrap_or_default();
        let units = self.units.saturating_add(1);
        let counted = units.saturating_mul(UNIT_BYTES).saturating_add(self.kept.len());
        if counted.saturating_add(difference.len()) > KEPT_BYTES_MAX {
            self.is_full = true;
            self.last = Vec::new();
            self.kept.shrink_to_fit();
            self.bytes_beyond = length(unit.len());
            return;
        }
        let numbers = [begin, end, difference.len()];
        let most = difference.len().saturating_add(UNIT_BYTES);
        if self.kept.capacity().saturating_sub(self.kept.len()) < most {
            // Not twice as much, as a vector would: most streams are short.
            self.kept.reserve_exact(most.saturating_add(self.kept.len() / 4));
        }
        for number in numbers {
            put_number(&mut self.kept, number);
        }
        self.kept.extend_from_slice(difference);
        self.units = units;
        self.last.clear();
        self.last.extend_from_slice(unit);
        self.known_bytes = self.known_bytes.saturating_add(length(unit.len()));
    }

    /// Bytes in memory of what is kept.
    pub fn held_bytes(&self) -> usize {
        in_memory(&self.text, &self.kept, &self.last)
    }

    /// All text so far.
    pub(super) fn countable(&self) -> Countable {
        self.read_until(&self.bookmark())
    }

    /// How far it has come.
    pub fn bookmark(&self) -> Bookmark {
        Bookmark {
            kept: self.kept.len(),
            text: self.text.0.reached(),
            known_bytes: self.known_bytes,
            bytes_beyond: self.bytes_beyond,
            last: self.last.clone(),
        }
    }

    /// Whether anything came behind `from`.
    pub fn has_more(&self, from: &Bookmark) -> bool {
        self.kept.len() > from.kept || self.text.0.has_more(&from.text) || self.bytes_beyond > from.bytes_beyond
    }

    /// The text that had come by `to`. Slow: not for the data path.
    pub fn read_until(&self, to: &Bookmark) -> Countable {
        let mut text = Text(self.text.0.until(&to.text));
        let kept = self.kept.get(..to.kept).unwrap_or(&self.kept);
        read_units(self.read, kept, Vec::new(), &mut text);
        let beyond = scaled(text.0.bytes(), to.bytes_beyond, to.known_bytes);
        text.0.add_beyond(beyond);
        text.0.into_countable()
    }

    /// What came behind `from`, and where that ends; `None` where nothing came. Copies, and looks into nothing.
    pub fn since(&self, from: &Bookmark) -> Option<(Unread, Bookmark)> {
        self.has_more(from).then(|| {
            let unread = Unread {
                read: self.read,
                text: Text(self.text.0.since(&from.text)),
                before: from.last.clone(),
                kept: self.kept.get(from.kept..).unwrap_or_default().to_vec(),
                known_bytes: self.known_bytes,
                bytes_beyond: self.bytes_beyond,
            };
            (unread, self.bookmark())
        })
    }
}

impl Unread {
    /// Bytes in memory of it.
    pub fn held_bytes(&self) -> usize {
        in_memory(&self.text, &self.kept, &self.before)
    }

    /// The text in it. Slow: not for the data path.
    pub fn text(&self) -> Countable {
        let mut text = self.text.clone();
        read_units(self.read, &self.kept, self.before.clone(), &mut text);
        text.0.into_countable()
    }

    /// How much of something there is in all that came of the answer, if `known` of it is in what was kept.
    pub fn whole(&self, known: u64) -> u64 {
        known.saturating_add(scaled(known, self.bytes_beyond, self.known_bytes))
    }
}

fn in_memory(text: &Text, kept: &[u8], unit: &[u8]) -> usize {
    [text.0.held_bytes(), kept.len(), unit.len()].into_iter().fold(0, usize::saturating_add)
}

/// `known · beyond / of`: what was not kept holds as much as what was.
fn scaled(known: u64, beyond: u64, of: u64) -> u64 {
    let product = u128::from(beyond).saturating_mul(u128::from(known));
    product.checked_div(u128::from(of)).map_or(0, |scaled| u64::try_from(scaled).unwrap_or(u64::MAX))
}

/// Puts `kept` units together, the first of which is like `before`, and reads them.
fn read_units(read: fn(&[u8], &mut Text), mut kept: &[u8], mut before: Vec<u8>, text: &mut Text) {
    let mut unit = Vec::new();
    while !kept.is_empty() {
        let [begin, end, difference] = [(); 3].map(|()| take_number(&mut kept));
        let (difference, rest) = kept.split_at_checked(difference).unwrap_or_default();
        kept = rest;
        unit.clear();
        unit.extend_from_slice(before.get(..begin).unwrap_or_default());
        unit.extend_from_slice(difference);
        unit.extend_from_slice(before.get(before.len().saturating_sub(end)..).unwrap_or_default());
        read(&unit, text);
        std::mem::swap(&mut before, &mut unit);
    }
}

/// Seven bits a byte, the lowest first; the eighth says that more follow.
fn put_number(bytes: &mut Vec<u8>, mut number: usize) {
    loop {
        let [low, ..] = number.to_le_bytes();
        number >>= 7;
        bytes.push(if number == 0 { low } else { low | 0x80 });
        if number == 0 {
            return;
        }
    }
}

fn take_number(bytes: &mut &[u8]) -> usize {
    let (mut number, mut shift) = (0, 0_u32);
    while let Some((byte, rest)) = bytes.split_first() {
        *bytes = rest;
        number |= usize::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
        shift = shift.saturating_add(7);
        if byte & 0x80 == 0 {
            break;
        }
    }
    number
}

/// Bytes that both begin with.
pub(super) fn same_at_begin(one: &[u8], other: &[u8]) -> usize {
    let strides = one.chunks_exact(STRIDE).zip(other.chunks_exact(STRIDE));
    let at = strides.take_while(|(one, other)| one == other).count().saturating_mul(STRIDE);
    let rest = one.get(at..).unwrap_or_default().iter().zip(other.get(at..).unwrap_or_default());
    at.saturating_add(rest.take_while(|(one, other)| one == other).count())
}

/// Bytes that both end with.
fn same_at_end(one: &[u8], other: &[u8]) -> usize {
    let strides = one.rchunks_exact(STRIDE).zip(other.rchunks_exact(STRIDE));
    let at = strides.take_while(|(one, other)| one == other).count().saturating_mul(STRIDE);
    let of = |bytes: &[u8]| bytes.len().saturating_sub(at);
    let (one, other) = (one.get(..of(one)).unwrap_or_default(), other.get(..of(other)).unwrap_or_default());
    at.saturating_add(one.iter().rev().zip(other.iter().rev()).take_while(|(one, other)| one == other).count())
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

impl fmt::Debug for Bookmark {
    /// Sizes only: text is never printed.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Bookmark").field("kept_bytes", &self.kept).finish_non_exhaustive()
    }
}

impl fmt::Debug for Unread {
    /// Sizes only: text is never printed.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Unread").field("kept_bytes", &self.kept.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Delivered {
    /// Sizes only: text is never printed.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Delivered").field("kept_bytes", &self.kept.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn delivered(units: usize, unit: &[u8]) -> Delivered {
        let mut delivered = Delivered::new(|unit, text| text.0.say_str(std::str::from_utf8(unit).unwrap()));
        (0..units).for_each(|_| delivered.push(unit));
        delivered
    }

    #[test]
    fn text_of_any_length_is_known_by_its_begin_and_its_length() {
        for (units, unit) in
            [(1, 100), (1, KEPT_BYTES_MAX + 1), (1, 3 * lanes::TEXT_BYTES_MAX), (1000, 1000), (9, 20_000)]
        {
            let countable = delivered(units, "x".repeat(unit).as_bytes()).countable();
            assert_eq!(length(countable.text.len()) + countable.bytes_beyond, length(units * unit), "{units} × {unit}");
            assert_eq!(countable.text.len(), lanes::TEXT_BYTES_MAX.min(units * unit));
        }
    }

    #[test]
    fn a_stream_that_goes_on_for_ever_holds_no_more_than_its_begin() {
        let mut delivered = delivered(0, b"");
        for number in 0..100_000_u64 {
            delivered.push(format!("[{:09}]", number * 7_919).as_bytes());
        }
        let held = delivered.kept.capacity();
        assert!(delivered.is_full && delivered.last.capacity() == 0 && held <= KEPT_BYTES_MAX, "{held}");
        let countable = delivered.countable();
        assert_eq!(length(countable.text.len()) + countable.bytes_beyond, 1_100_000);
    }

    #[test]
    fn a_long_unit_behind_short_ones_is_measured() {
        let mut delivered = delivered(3, b"some text");
        delivered.push("y".repeat(KEPT_BYTES_MAX + 1).as_bytes());
        let countable = delivered.countable();
        assert_eq!((countable.text.len(), countable.bytes_beyond), (27, length(KEPT_BYTES_MAX + 1)));
    }

    /// Reads `units` as they come, and what is new behind every one that `is_mark` says; all that was read, and what the
    /// last reading takes to be in the whole.
    fn read_on_the_way<'a>(units: impl Iterator<Item = &'a [u8]>, is_mark: impl Fn(usize) -> bool) -> (String, u64) {
        let mut delivered = delivered(0, b"");
        let (mut bookmark, mut text, mut measured, mut whole) = (Bookmark::default(), String::new(), 0, 0);
        for (at, unit) in units.enumerate() {
            delivered.push(unit);
            if is_mark(at)
                && let Some((unread, to)) = delivered.since(&bookmark)
            {
                let countable = unread.text();
                text += &countable.text;
                measured += countable.bytes_beyond;
                whole = unread.whole(length(text.len()) + measured);
                bookmark = to;
            }
        }
        assert!(delivered.since(&bookmark).is_none(), "everything is read");
        (text, whole)
    }

    #[test]
    fn a_stream_read_on_the_way_is_as_long_as_it_is() {
        let (short, long) = ("z".repeat(100), "y".repeat(KEPT_BYTES_MAX + 1));
        for units in [vec![&short; 3], vec![&long; 3], vec![&short, &long, &short], vec![&long, &short, &short]] {
            let bytes = units.iter().map(|unit| unit.len()).sum::<usize>();
            let (_, whole) = read_on_the_way(units.iter().map(|unit| unit.as_bytes()), |_| true);
            assert_eq!(whole, length(bytes), "{:?}", units.iter().map(|unit| unit.len()).collect::<Vec<_>>());
        }
        let units: Vec<String> = (0..50_000_u64).map(|number| format!("[{:09}]", number * 7_919)).collect();
        let (text, whole) = read_on_the_way(units.iter().map(String::as_bytes), |at| at % 50 == 49);
        assert!(text.len() < KEPT_BYTES_MAX, "nothing is copied that was not kept");
        assert_eq!(whole, 550_000);
    }

    proptest! {
        #[test]
        fn what_is_read_on_the_way_is_what_is_read_at_the_end(
            units in prop::collection::vec("[ab]{0,40}", 0..20),
            every in 1..5_usize,
        ) {
            let last = units.len().saturating_sub(1);
            let is_mark = |at: usize| at.is_multiple_of(every) || at == last;
            let (text, _) = read_on_the_way(units.iter().map(String::as_bytes), is_mark);
            prop_assert_eq!(text, units.concat());
        }

        #[test]
        fn every_unit_is_read_as_it_came(units in prop::collection::vec("[ab]{0,40}|a{100,300}|b{1500,2000}", 0..20)) {
            let mut delivered = Delivered::new(|unit, text| {
                text.0.say_str(std::str::from_utf8(unit).unwrap());
                text.0.say_str("|");
            });
            for unit in &units {
                delivered.push(unit.as_bytes());
            }
            let expected = units.iter().fold(String::new(), |text, unit| text + unit + "|");
            prop_assert_eq!(delivered.countable().text, expected);
        }
    }
}
