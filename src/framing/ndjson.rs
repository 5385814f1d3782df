//! Newline-delimited JSON: a unit a line.

use memchr::memchr;

use super::unit::UnitBuffer;

/// Hands out each line that holds anything. A line that lies whole in one chunk is not copied.
#[derive(Debug)]
pub struct LineSplitter {
    line: UnitBuffer,
}

impl LineSplitter {
    /// `members`: what is kept of a line too long to hold.
    pub fn new(members: &'static [&'static str]) -> Self {
        Self { line: UnitBuffer::new(members) }
    }

    /// Reads `chunk`; each line that it completes goes to `unit`.
    pub fn feed(&mut self, chunk: &[u8], unit: &mut dyn FnMut(&[u8])) {
        let mut rest = chunk;
        while let Some((line, after)) = memchr(b'\n', rest).and_then(|at| rest.split_at_checked(at)) {
            if self.line.is_empty() {
                hand_out(line, unit);
            } else {
                self.line.push(line);
                self.line.finish(&mut |whole| hand_out(whole, unit));
            }
            rest = after.get(1..).unwrap_or_default();
        }
        if !rest.is_empty() {
            self.line.push(rest);
        }
    }

    /// The stream is over: a last line without its end is handed out all the same.
    pub fn end(&mut self, unit: &mut dyn FnMut(&[u8])) {
        if !self.line.is_empty() {
            self.line.finish(&mut |whole| hand_out(whole, unit));
        }
    }
}

fn hand_out(line: &[u8], unit: &mut dyn FnMut(&[u8])) {
    let line = line.trim_ascii();
    if !line.is_empty() {
        unit(line);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines_of(chunks: impl Iterator<Item = &'static [u8]>) -> Vec<String> {
        let mut units = Vec::new();
        let mut splitter = LineSplitter::new(&[]);
        let mut unit = |line: &[u8]| units.push(String::from_utf8(line.to_vec()).unwrap());
        for chunk in chunks {
            splitter.feed(chunk, &mut unit);
        }
        splitter.end(&mut unit);
        units
    }

    const STREAM: &[u8] = b"{\"a\":1}\r\n\n  \n{\"b\":2}\n{\"c\":3}";

    #[test]
    fn lines_that_hold_something_are_units() {
        assert_eq!(lines_of(std::iter::once(STREAM)), ["{\"a\":1}", "{\"b\":2}", "{\"c\":3}"]);
    }

    proptest! {
        #[test]
        fn lines_ignore_chunking(size in 1_usize..40) {
            prop_assert_eq!(lines_of(STREAM.chunks(size)), lines_of(std::iter::once(STREAM)));
        }
    }
}
