//! JSON objects that come one behind another, mostly one: what most whole answers are.
//!
//! In: chunks. Out: of each object the wanted members; or, where the reader takes that, one that is small as it came, and the
//! members only of a larger one, of one that is no JSON and of one that was cut off. Then nothing is copied of an object
//! that lies whole in one chunk, with no more than white space around it.

use serde::de::IgnoredAny;

use memchr::memmem;

use super::json_members::Members;

/// A longer object is not held.
const OBJECT_BYTES_MAX: usize = 16 << 10;

/// Hands out objects until something else comes.
#[derive(Debug)]
pub struct ObjectSplitter {
    wanted: &'static [&'static str],
    /// Whether small objects are handed out as they came.
    small_as_they_come: bool,
    /// The object at hand, where it does not lie whole in one chunk.
    object: Option<Box<Object>>,
    is_over: bool,
}

/// An object of which more comes.
#[derive(Debug)]
struct Object {
    members: Members,
    /// All of it, while it is small.
    held: Option<Vec<u8>>,
}

impl ObjectSplitter {
    /// `wanted`: what is kept of an object; of a small one all is, and in its own order, if `small_as_they_come`.
    pub fn new(wanted: &'static [&'static str], small_as_they_come: bool) -> Self {
        Self { wanted, small_as_they_come, object: None, is_over: false }
    }

    /// Reads `chunk`; each object that it completes goes to `unit`.
    pub fn feed(&mut self, chunk: &[u8], unit: &mut dyn FnMut(&[u8])) {
        let mut rest = chunk;
        let blank_bytes = chunk.len().saturating_sub(chunk.trim_ascii_end().len());
        while !self.is_over {
            if let Some(object) = &mut self.object {
                object.members.feed(rest);
                let behind = object.members.behind(rest);
                object.hold(rest.get(..rest.len().saturating_sub(behind.len())).unwrap_or_default());
                if !object.members.is_closed() {
                    return;
                }
                rest = behind;
                self.hand_out(unit);
            }
            rest = rest.trim_ascii_start();
            let whole = rest.get(..rest.len().saturating_sub(blank_bytes)).unwrap_or_default();
            match rest.first() {
                None => return,
                Some(b'{') if self.small_as_they_come && is_small_object(whole) => return unit(whole),
                Some(b'{') => {
                    let (members, held) = (Members::new(self.wanted), self.small_as_they_come.then(Vec::new));
                    self.object = Some(Box::new(Object { members, held }));
                }
                Some(_) => self.is_over = true,
            }
        }
    }

    /// The answer is over: what there is of an object that was cut off is handed out.
    pub fn end(&mut self, unit: &mut dyn FnMut(&[u8])) {
        self.hand_out(unit);
    }

    fn hand_out(&mut self, unit: &mut dyn FnMut(&[u8])) {
        let Some(object) = self.object.take() else { return };
        match object.held.filter(|held| is_small_object(held)) {
            Some(held) => unit(&held),
            None => unit(&object.members.reduced()),
        }
    }
}

impl Object {
    fn hold(&mut self, part: &[u8]) {
        self.held = self.held.take().filter(|held| held.len().saturating_add(part.len()) <= OBJECT_BYTES_MAX);
        if let Some(held) = &mut self.held {
            held.extend_from_slice(part);
        }
    }
}

/// Whether `text` is an object that is handed out as it came. Half a character may stand in a name, written as an escape:
/// that no reader can decode.
fn is_small_object(text: &[u8]) -> bool {
    text.len() <= OBJECT_BYTES_MAX
        && text.ends_with(b"}")
        && serde_json::from_slice::<IgnoredAny>(text).is_ok()
        && [r"\ud", r"\uD"].iter().all(|half| memmem::find(text, half.as_bytes()).is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is handed out of `text`, wherever it is cut.
    fn units_of(wanted: &'static [&'static str], text: &str, small_as_they_come: bool) -> Vec<String> {
        let units_in = |size: usize| {
            let mut units = Vec::new();
            let mut unit = |data: &[u8]| units.push(String::from_utf8(data.to_vec()).unwrap());
            let mut splitter = ObjectSplitter::new(wanted, small_as_they_come);
            text.as_bytes().chunks(size).for_each(|chunk| splitter.feed(chunk, &mut unit));
            splitter.end(&mut unit);
            units
        };
        let whole = units_in(text.len());
        for size in (1..text.len().min(64)).chain([text.len() - 1]) {
            assert_eq!(units_in(size), whole, "in pieces of {size}");
        }
        whole
    }

    #[test]
    fn objects_stand_behind_one_another_until_something_else_does() {
        let text = "{\"a\":1}\n {\"a\":2,\"b\":{\"c\":[{}]}} , {\"a\":4}";
        assert_eq!(units_of(&["a"], text, true), ["{\"a\":1}", "{\"a\":2,\"b\":{\"c\":[{}]}}"]);
        assert_eq!(units_of(&["a"], text, false), ["{\"a\":1}", "{\"a\":2}"]);
    }

    #[test]
    fn of_what_is_large_or_cut_off_or_no_json_there_are_the_wanted_members() {
        let large = format!("{{\"a\":1,\"b\":\"{}\"}}", "x".repeat(OBJECT_BYTES_MAX));
        let half = r#"{"a":1,"\ud800":2}"#;
        for text in [&large, half, "{\"a\":1,\"b\":NaN}", "{\"a\":1,\"b\":\"\\x\"}", "{\"a\":1,\"b\":[2"] {
            assert_eq!(units_of(&["a", "b.c"], text, true), ["{\"a\":1}"]);
        }
        let small = format!("{{\"b\":\"{}\"}}", "x".repeat(OBJECT_BYTES_MAX - 8));
        assert_eq!((small.len(), units_of(&["a"], &small, true)), (OBJECT_BYTES_MAX, vec![small]));
    }
}
