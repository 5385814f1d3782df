//! JSON objects that come one behind another, mostly one: what most whole answers are.
//!
//! In: chunks. Out: each object as it came while it is small; of a larger one, of one that is no JSON and of one that was cut
//! off, the wanted members. Where no more than white space stands around an object in a chunk, nothing is copied.

use serde::de::IgnoredAny;

use super::json_members::Members;

/// A longer object is not held.
const OBJECT_BYTES_MAX: usize = 16 << 10;

/// Hands out objects until something else comes.
#[derive(Debug)]
pub struct ObjectSplitter {
    wanted: &'static [&'static str],
    /// Whether objects are handed out as they came: what a path through an array leads to is looked up by its whole name.
    is_plain: bool,
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
    /// `wanted`: what is kept of an object that cannot be handed out as it came.
    pub fn new(wanted: &'static [&'static str]) -> Self {
        let is_plain = !wanted.iter().any(|name| name.as_bytes().contains(&b'['));
        Self { wanted, is_plain, object: None, is_over: false }
    }

    /// Reads `chunk`; each object that it completes goes to `unit`.
    pub fn feed(&mut self, chunk: &[u8], unit: &mut dyn FnMut(&[u8])) {
        let mut rest = chunk;
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
            match rest.first() {
                None => return,
                Some(b'{') if self.is_plain && is_small_object(rest.trim_ascii_end()) => {
                    return unit(rest.trim_ascii_end());
                }
                Some(b'{') => {
                    let (members, held) = (Members::new(self.wanted), self.is_plain.then(Vec::new));
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

fn is_small_object(text: &[u8]) -> bool {
    text.len() <= OBJECT_BYTES_MAX && text.ends_with(b"}") && serde_json::from_slice::<IgnoredAny>(text).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is handed out of `text`, wherever it is cut.
    fn units_of(wanted: &'static [&'static str], text: &str) -> Vec<String> {
        let units_in = |size: usize| {
            let mut units = Vec::new();
            let mut unit = |data: &[u8]| units.push(String::from_utf8(data.to_vec()).unwrap());
            let mut splitter = ObjectSplitter::new(wanted);
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
        assert_eq!(units_of(&["a"], text), ["{\"a\":1}", "{\"a\":2,\"b\":{\"c\":[{}]}}"]);
    }

    #[test]
    fn of_what_is_large_or_cut_off_or_no_json_there_are_the_wanted_members() {
        let large = format!("{{\"a\":1,\"b\":\"{}\"}}", "x".repeat(OBJECT_BYTES_MAX));
        for text in [&large, "{\"a\":1,\"b\":NaN}", "{\"a\":1,\"b\":\"\\x\"}", "{\"a\":1,\"b\":[2"] {
            assert_eq!(units_of(&["a", "b.c"], text), ["{\"a\":1}"]);
        }
        let small = format!("{{\"b\":\"{}\"}}", "x".repeat(OBJECT_BYTES_MAX - 8));
        assert_eq!((small.len(), units_of(&["a"], &small)), (OBJECT_BYTES_MAX, vec![small]));
    }

    #[test]
    fn what_a_path_through_an_array_leads_to_has_its_whole_name() {
        assert_eq!(units_of(&["a[].b"], "{\"a\":[{\"b\":1},{\"b\":2}]}"), ["{\"a[].b\":[1,2]}"]);
    }
}
