//! A JSON array that arrives piece by piece: a unit an element. Gemini streams so without `alt=sse`.

use memchr::memchr2;

use super::unit::UnitBuffer;

/// Hands out each object or array that is an element of the top-level array. One that lies whole in one chunk is not
/// copied; scalar elements are passed over.
#[derive(Debug)]
pub struct ElementSplitter {
    /// Open brackets, the top-level array's included.
    depth: u64,
    in_string: bool,
    after_backslash: bool,
    is_over: bool,
    element: UnitBuffer,
}

impl ElementSplitter {
    /// `members`: what is kept of an element too long to hold.
    pub fn new(members: &'static [&'static str]) -> Self {
        Self { depth: 0, in_string: false, after_backslash: false, is_over: false, element: UnitBuffer::new(members) }
    }

    /// Reads `chunk`; each element that it completes goes to `unit`.
    pub fn feed(&mut self, chunk: &[u8], unit: &mut dyn FnMut(&[u8])) {
        let mut at = 0;
        // Where in this chunk the element begins, or goes on.
        let mut from = (self.depth > 1).then_some(0);
        while !self.is_over {
            let Some(rest) = chunk.get(at..).filter(|rest| !rest.is_empty()) else { break };
            if self.in_string {
                at += self.within_string(rest);
                continue;
            }
            let Some(found) = rest.iter().position(|byte| matches!(byte, b'"' | b'{' | b'}' | b'[' | b']')) else {
                break;
            };
            at += found;
            match chunk.get(at) {
                Some(b'"') => self.in_string = true,
                Some(b'{' | b'[') => {
                    self.depth = self.depth.saturating_add(1);
                    if self.depth == 2 {
                        from = Some(at);
                    }
                }
                _ => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 1 {
                        let part = from.take().and_then(|from| chunk.get(from..=at)).unwrap_or_default();
                        if self.element.is_empty() {
                            unit(part);
                        } else {
                            self.element.push(part);
                            self.element.finish(unit);
                        }
                    }
                    self.is_over = self.depth == 0;
                }
            }
            at += 1;
        }
        if let Some(part) = from.and_then(|from| chunk.get(from..)) {
            self.element.push(part);
        }
    }

    /// How many bytes of `rest` can be passed over within the string; notes its end.
    fn within_string(&mut self, rest: &[u8]) -> usize {
        if std::mem::take(&mut self.after_backslash) {
            return 1;
        }
        let Some(found) = memchr2(b'"', b'\\', rest) else { return rest.len() };
        if rest.get(found) == Some(&b'"') {
            self.in_string = false;
        } else {
            self.after_backslash = true;
        }
        found + 1
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn elements_of(chunks: &[&[u8]]) -> Vec<String> {
        let mut units = Vec::new();
        let mut splitter = ElementSplitter::new(&[]);
        for chunk in chunks {
            splitter.feed(chunk, &mut |unit| units.push(String::from_utf8(unit.to_vec()).unwrap()));
        }
        units
    }

    const STREAM: &[u8] = br#" [{"a":"]}\\\"{"}
,
{"b":[{},[1]]} , "x]", 7,[2] ] {"after":1}"#;

    #[test]
    fn objects_and_arrays_of_the_array_are_units() {
        assert_eq!(elements_of(&[STREAM]), [r#"{"a":"]}\\\"{"}"#, r#"{"b":[{},[1]]}"#, "[2]"]);
    }

    proptest! {
        #[test]
        fn elements_ignore_chunking(size in 1_usize..40, first in 0_usize..40) {
            let (head, tail) = STREAM.split_at(first);
            let chunks: Vec<&[u8]> = std::iter::once(head).chain(tail.chunks(size)).collect();
            prop_assert_eq!(elements_of(&chunks), elements_of(&[STREAM]));
        }
    }
}
