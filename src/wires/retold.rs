//! Retold: a stream that tells its usage in every unit is not parsed in every unit.
//!
//! Providers that do so tell it cumulatively, each time whole. So of units that tell the same members again only the
//! last is worth reading, and it is held unread until somebody asks or something else comes: reading it alone comes to
//! the same as reading all of them. What cannot be said without parsing is parsed.

use memchr::{memchr, memchr_iter, memchr2, memrchr};

use super::delivered::same_at_begin;
use super::object::{Count, count};

/// Longest unit that is held.
const HELD_BYTES_MAX: usize = 64 << 10;

/// The last unit of a stream that was worth reading.
#[derive(Default)]
pub(super) struct Retold {
    /// Members whose value decides how a unit is read, or which is not simply put in place of the one before: a unit
    /// in which one of them differs tells something else.
    decisive: &'static [&'static str],
    held: Vec<u8>,
    is_unread: bool,
}

impl Retold {
    pub(super) fn new(decisive: &'static [&'static str]) -> Self {
        Self { decisive, held: Vec::new(), is_unread: false }
    }

    /// Shows `unit` to `read`, and before it what is held unread; holds it instead if that says the same.
    pub(super) fn show(&mut self, unit: &[u8], mut read: impl FnMut(&[u8])) {
        if !self.takes(unit) {
            self.settle(&mut read);
            read(unit);
            self.hold(unit);
        }
    }

    /// Holds `unit`, unread, in place of the one that is held, if it tells all of that again.
    pub(super) fn takes(&mut self, unit: &[u8]) -> bool {
        let takes = unit.len() <= HELD_BYTES_MAX && retells(&self.held, unit, self.decisive);
        if takes {
            self.hold(unit);
            self.is_unread = true;
        }
        takes
    }

    /// Holds `unit`, which was read.
    pub(super) fn hold(&mut self, unit: &[u8]) {
        self.held.clear();
        if unit.len() <= HELD_BYTES_MAX {
            self.held.extend_from_slice(unit);
        }
    }

    /// Shows what is held unread to `read`.
    pub(super) fn settle(&mut self, read: impl FnOnce(&[u8])) {
        if std::mem::take(&mut self.is_unread) {
            read(&self.held);
        }
    }
}

impl std::fmt::Debug for Retold {
    /// Sizes only: text is never printed.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Retold").field("held_bytes", &self.held.len()).finish_non_exhaustive()
    }
}

/// Whether `later` has the members of `earlier` again, in the same places and of the same kinds: the same bytes but for
/// numbers, of which no count is less, and strings, none of which becomes empty or is no longer. The `decisive` members
/// are the same.
fn retells(mut earlier: &[u8], mut later: &[u8], decisive: &[&str]) -> bool {
    if earlier.is_empty() {
        return false;
    }
    // Before each round both stand outside of strings and numbers.
    loop {
        let same = same_at_begin(earlier, later);
        if same == earlier.len() && same == later.len() {
            return true;
        }
        let run = later.get(..same).unwrap_or_default();
        let string = open_string(run);
        let begin = string.unwrap_or_else(|| same.saturating_sub(number_at_end(run)));
        let (Some(one), Some(other)) = (earlier.get(begin..), later.get(begin..)) else { return false };
        let retold = if string.is_some() { retold_string(one, other) } else { retold_number(one, other) };
        let Some((one_length, other_length)) = retold else { return false };
        if is_decisive(run.get(..begin).unwrap_or_default(), decisive) {
            return false;
        }
        earlier = one.get(one_length..).unwrap_or_default();
        later = other.get(other_length..).unwrap_or_default();
    }
}

/// Where the string begins that `json` ends in.
fn open_string(json: &[u8]) -> Option<usize> {
    if memchr(b'\\', json).is_none() {
        let is_open = !memchr_iter(b'"', json).count().is_multiple_of(2);
        return if is_open { memrchr(b'"', json) } else { None };
    }
    let mut at = 0_usize;
    loop {
        let rest = json.get(at..)?;
        let begin = at.saturating_add(memchr(b'"', rest)?);
        match string_length(json.get(begin..)?) {
            Some(length) => at = begin.saturating_add(length),
            None => return Some(begin),
        }
    }
}

/// Bytes of the string that `json` begins with, its quotes included; `None` where it does not end.
fn string_length(json: &[u8]) -> Option<usize> {
    let mut at = 1_usize;
    loop {
        at = at.saturating_add(memchr2(b'"', b'\\', json.get(at..)?)?);
        if json.get(at) == Some(&b'"') {
            return at.checked_add(1);
        }
        at = at.saturating_add(2);
    }
}

fn is_of_number(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E')
}

fn number_at_end(json: &[u8]) -> usize {
    json.iter().rev().take_while(|byte| is_of_number(**byte)).count()
}

/// The lengths of the two strings that both begin with, if the other says as much as the one.
fn retold_string(one: &[u8], other: &[u8]) -> Option<(usize, usize)> {
    let (one_length, other_length) = (string_length(one)?, string_length(other)?);
    let is_key = |json: &[u8], length: usize| {
        json.get(length..).is_some_and(|behind| behind.trim_ascii_start().starts_with(b":"))
    };
    // Providers mean nothing by an empty string.
    let is_empty = one_length == 2 || other_length == 2;
    let is_retold = !is_empty
        && !is_key(one, one_length)
        && !is_key(other, other_length)
        && other.get(..other_length).is_some_and(is_string);
    is_retold.then_some((one_length, other_length))
}

/// Whether a parser takes `quoted` for a string.
fn is_string(quoted: &[u8]) -> bool {
    if memchr(b'\\', quoted).is_some() {
        return serde_json::from_slice::<String>(quoted).is_ok();
    }
    let controls = quoted.iter().filter(|byte| **byte < b' ').count();
    controls == 0 && std::str::from_utf8(quoted).is_ok()
}

/// The lengths of the two numbers that both begin with, if the other says as much as the one: a count is cumulative,
/// and what is no count stays none.
fn retold_number(one: &[u8], other: &[u8]) -> Option<(usize, usize)> {
    let length = |json: &[u8]| json.iter().take_while(|byte| is_of_number(**byte)).count();
    let (one_length, other_length) = (length(one), length(other));
    let is_retold = match (number(one.get(..one_length)?)?, number(other.get(..other_length)?)?) {
        (Count::Of(one), Count::Of(other)) => one <= other,
        (one, other) => one == other,
    };
    is_retold.then_some((one_length, other_length))
}

/// What number `text` is; `None`: it is none to a parser.
fn number(text: &[u8]) -> Option<Count> {
    let is_plain =
        text.len() <= 12 && text.iter().all(u8::is_ascii_digit) && (text.len() == 1 || text.first()? != &b'0');
    if is_plain {
        let digits = text.iter().map(|digit| u64::from(digit.saturating_sub(b'0')));
        let count = digits.reduce(|count, digit| count.saturating_mul(10).saturating_add(digit))?;
        return Some(Count::Of(count));
    }
    serde_json::from_slice::<f64>(text).ok()?;
    Some(count(std::str::from_utf8(text).ok()?))
}

/// Whether the value behind `json` is that of a decisive member.
fn is_decisive(json: &[u8], decisive: &[&str]) -> bool {
    let Some(quoted) = json.trim_ascii_end().strip_suffix(b":").map(<[u8]>::trim_ascii_end) else { return false };
    let Some(until_name) = quoted.strip_suffix(b"\"") else { return true };
    let begin = memrchr(b'"', until_name).map_or(0, |quote| quote.saturating_add(1));
    let name = until_name.get(begin..).unwrap_or_default();
    // An escape may spell any name.
    memchr(b'\\', name).is_some() || decisive.iter().any(|decisive| decisive.as_bytes() == name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::value::RawValue;
    use serde_json::{Value, json};

    use super::*;

    const CHUNK: &str = r#"{"choices":[{"delta":{"content":" a"},"index":0}],"usage":{"in":9,"out":7,"none":null}}"#;

    fn tells_again(changes: &[(&str, &str)]) -> bool {
        let later = changes.iter().fold(CHUNK.to_owned(), |chunk, (from, to)| {
            assert!(chunk.contains(from));
            chunk.replacen(from, to, 1)
        });
        retells(CHUNK.as_bytes(), later.as_bytes(), &["index"])
    }

    #[test]
    fn texts_and_growing_counts_are_told_again() {
        assert!(tells_again(&[]));
        assert!(tells_again(&[("\" a\"", "\"bc\""), ("9", "12"), ("7", "8")]));
        for text in ["\" ab\"", "\" \"", "\"\\\" a\"", "\" \\\\\"", "\" \\n\"", "\"\\u00e9:\"", "\"é\""] {
            assert!(tells_again(&[("\" a\"", text)]), "{text}");
        }
        assert!(tells_again(&[("7", "7.0")]));
    }

    #[test]
    fn whatever_may_say_less_or_something_else_is_not() {
        for text in ["\"\"", "null", "7", "\"\\ud800\"", "\"\\q\"", "\"\n\"", "\" a", "\" a\\\"", "\" a\"\"", "[]"] {
            assert!(!tells_again(&[("\" a\"", text)]), "{text}");
        }
        for number in ["6", "0", "-7", "07", "7.5", "7.", "1e1", "1099511627776", "null", "\"7\"", "77e", "true", ""] {
            assert!(!tells_again(&[("7", number)]), "{number}");
        }
        for (from, to) in [("index\":0", "index\":1"), ("null", "3"), ("out", "aut"), ("in\":9", "in\":9,\"b\":9")] {
            assert!(!tells_again(&[(from, to)]), "{to}");
        }
        assert!(!retells(b"", b"", &[]) && !retells(b"", b"{}", &[]));
        assert!(!retells(br#"{"\u0061":"x"}"#, br#"{"\u0061":"y"}"#, &["a"]));
    }

    #[test]
    fn the_last_of_what_is_told_again_is_read_and_all_else_at_once() {
        let unit = |counts: &str| format!(r#"{{"usage":{counts}}}"#);
        let (mut retold, mut read) = (Retold::new(&[]), Vec::new());
        for counts in ["null", "1", "2", "3", "\"x\"", "4", "5", "1"] {
            retold.show(unit(counts).as_bytes(), |unit| read.push(String::from_utf8(unit.to_vec()).unwrap()));
        }
        retold.settle(|_| panic!("the last was read"));
        assert_eq!(read, ["null", "1", "3", "\"x\"", "4", "5", "1"].map(unit));
        let long = format!(r#"{{"usage":1,"text":"{}"}}"#, "x".repeat(HELD_BYTES_MAX));
        let mut reads = 0;
        (0..3).for_each(|_| retold.show(long.as_bytes(), |_| reads += 1));
        assert_eq!((reads, retold.held.len()), (3, 0));
    }

    /// `other` is raw, since a parsed number has forgotten how it was written.
    fn has_shape_of(one: &Value, other: &RawValue) -> bool {
        let other = other.get();
        match one {
            Value::Null => other == "null",
            Value::Bool(one) => other == if *one { "true" } else { "false" },
            Value::Number(one) => match (number(one.to_string().as_bytes()), number(other.as_bytes())) {
                (Some(Count::Of(one)), Some(Count::Of(other))) => one <= other,
                (one, other) => one == other,
            },
            Value::String(one) => {
                serde_json::from_str(other).is_ok_and(|other: String| one.is_empty() == other.is_empty())
            }
            Value::Array(one) => serde_json::from_str(other).is_ok_and(|other: Vec<&RawValue>| {
                one.len() == other.len() && one.iter().zip(other).all(|(one, other)| has_shape_of(one, other))
            }),
            Value::Object(one) => serde_json::from_str(other).is_ok_and(|other: BTreeMap<String, &RawValue>| {
                one.keys().eq(other.keys())
                    && one.iter().zip(other.values()).all(|((name, one), other)| {
                        let may_differ = name != "d" || one.is_array() || one.is_object();
                        has_shape_of(one, other)
                            && (may_differ || serde_json::from_str(other.get()).is_ok_and(|other: Value| *one == other))
                    })
            }),
        }
    }

    fn leaf() -> impl Strategy<Value = Value> {
        let numbers =
            [json!(0), json!(7), json!(12), json!(123), json!(-5), json!(1.5), json!(7.0), json!(1_u64 << 40)];
        prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            prop::sample::select(numbers.to_vec()),
            "[a\"\\\\:,{é\n]{0,4}".prop_map(Value::String),
        ]
    }

    fn value() -> impl Strategy<Value = Value> {
        leaf().prop_recursive(3, 12, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
                prop::collection::btree_map("[ad\"\\\\]{1,2}", inner, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    /// Puts others in place of some of a value's leaves.
    fn replace(value: &mut Value, leaves: &mut impl Iterator<Item = Option<Value>>) {
        match value {
            Value::Array(elements) => elements.iter_mut().for_each(|element| replace(element, leaves)),
            Value::Object(members) => members.values_mut().for_each(|member| replace(member, leaves)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                if let Some(other) = leaves.next().flatten() {
                    *value = other;
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_told_again_has_the_same_shape(
            earlier in value(),
            leaves in prop::collection::vec(prop::option::of(leaf()), 0..3),
            edits in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..3, "[a07\"\\\\:,{}.e-]{0,2}"), 0..2),
        ) {
            let mut later = earlier.clone();
            replace(&mut later, &mut leaves.into_iter());
            let (one, mut other) = (earlier.to_string().into_bytes(), later.to_string().into_bytes());
            for (at, gone, put) in edits {
                let at = at.index(other.len() + 1);
                let end = other.len().min(at + gone);
                drop(other.splice(at..end, put.bytes()));
            }
            let has_shape = serde_json::from_slice(&other).is_ok_and(|later| has_shape_of(&earlier, later));
            if retells(&one, &other, &["d"]) {
                prop_assert!(has_shape, "{earlier} is not told again in {}", other.escape_ascii());
            } else {
                // It is never a mistake to parse; but what serde_json writes of the same shape is to be told again.
                let parsed = serde_json::from_slice::<Value>(&other);
                let is_rewritten = parsed.is_ok_and(|parsed| parsed.to_string().into_bytes() == other);
                prop_assert!(!(has_shape && is_rewritten && !other.contains(&b'\\')), "{earlier} is told again in {}", other.escape_ascii());
            }
        }
    }
}
