//! Server-sent events, cut out of a stream of chunks as WHATWG defines them.
//!
//! In: chunks. Out: the data of each event ([`DataSplitter`]), or its raw bytes ([`EventSplitter`]). Never fails: what
//! is not an event is passed over. html.spec.whatwg.org/multipage/server-sent-events.html, read 2026-11-20.

use std::fmt;
use std::ops::Range;

use memchr::memchr2;

use super::unit::UnitBuffer;

/// Hands out the data of each event. An event that lies whole in one chunk is not copied.
#[derive(Debug)]
pub struct DataSplitter {
    line: Line,
    /// The last line ended in CR: a LF that follows belongs to it.
    after_cr: bool,
    /// Whether the event so far has a data line.
    has_data: bool,
    /// Whether the event so far is bare JSON, without a field name: Vertex ends a stream that fails so.
    is_bare: bool,
    data: UnitBuffer,
}

/// Where in a line the splitter is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Line {
    /// Within the field name, of which so many bytes agree with `data:`.
    Name(usize),
    /// Behind `data:`, before the one space that may follow.
    Colon,
    /// Within the value of a data field.
    Data,
    /// Within a comment or another field.
    Skipped,
}

const FIELD: &[u8] = b"data:";

impl DataSplitter {
    /// `members`: what is kept of an event too long to hold.
    pub fn new(members: &'static [&'static str]) -> Self {
        Self { line: Line::Name(0), after_cr: false, has_data: false, is_bare: false, data: UnitBuffer::new(members) }
    }

    /// Reads `chunk`; each event that it completes goes to `unit`.
    pub fn feed(&mut self, chunk: &[u8], unit: &mut dyn FnMut(&[u8])) {
        let mut rest = chunk;
        while !rest.is_empty() {
            rest = self.whole_event(rest, unit).unwrap_or_else(|| self.step(rest, unit));
        }
    }

    /// The stream is over: an event whose blank line never came is handed out all the same.
    pub fn end(&mut self, unit: &mut dyn FnMut(&[u8])) {
        self.dispatch(unit);
    }

    /// The fast path: `rest` begins with a data line and the blank line behind it. Hands the data out uncopied.
    fn whole_event<'a>(&mut self, rest: &'a [u8], unit: &mut dyn FnMut(&[u8])) -> Option<&'a [u8]> {
        if self.line != Line::Name(0) || self.has_data || self.after_cr {
            return None;
        }
        let value = rest.strip_prefix(FIELD)?;
        let value = value.strip_prefix(b" ").unwrap_or(value);
        let (value, after) = value.split_at_checked(memchr2(b'\n', b'\r', value)?)?;
        let after = after.strip_prefix(b"\r\n\r\n").or_else(|| after.strip_prefix(b"\n\n"))?;
        unit(value);
        Some(after)
    }

    /// Takes what can be taken of `rest` without a change of state, and returns what is left.
    fn step<'a>(&mut self, rest: &'a [u8], unit: &mut dyn FnMut(&[u8])) -> &'a [u8] {
        let Some((&first, tail)) = rest.split_first() else { return rest };
        if self.after_cr {
            self.after_cr = false;
            if first == b'\n' {
                return tail;
            }
        }
        if self.line == Line::Name(0) && self.begins_bare_line(first) {
            self.begin_data();
            self.line = Line::Data;
        }
        match self.line {
            Line::Name(agreeing) => {
                if first == b'\n' || first == b'\r' {
                    // `data` without a colon is a data line too, an empty one; an empty line ends the event.
                    match agreeing {
                        0 => self.dispatch(unit),
                        4 => self.begin_data(),
                        _ => {}
                    }
                    self.end_line(first);
                    tail
                } else if FIELD.get(agreeing) == Some(&first) {
                    self.line = if agreeing + 1 == FIELD.len() {
                        self.begin_data();
                        Line::Colon
                    } else {
                        Line::Name(agreeing + 1)
                    };
                    tail
                } else {
                    self.line = Line::Skipped;
                    rest
                }
            }
            Line::Colon => {
                self.line = Line::Data;
                if first == b' ' { tail } else { rest }
            }
            Line::Data => self.take_line(rest, true),
            Line::Skipped => self.take_line(rest, false),
        }
    }

    /// Whether a line that begins with `first` is bare JSON, or more of it. Where a field follows it was none.
    fn begins_bare_line(&mut self, first: u8) -> bool {
        if self.is_bare && !matches!(first, b' ' | b'\t' | b'"' | b'{' | b'}' | b'[' | b']' | b'\n' | b'\r') {
            self.dispatch(&mut |_| {});
        }
        self.is_bare |= first == b'{' && !self.has_data;
        self.is_bare && !matches!(first, b'\n' | b'\r')
    }

    fn take_line<'a>(&mut self, rest: &'a [u8], keep: bool) -> &'a [u8] {
        let (line, after) =
            rest.split_at_checked(memchr2(b'\n', b'\r', rest).unwrap_or(rest.len())).unwrap_or((rest, &[]));
        if keep {
            self.data.push(line);
        }
        match after.split_first() {
            Some((&terminator, tail)) => {
                self.end_line(terminator);
                tail
            }
            None => after,
        }
    }

    fn end_line(&mut self, terminator: u8) {
        self.line = Line::Name(0);
        self.after_cr = terminator == b'\r';
    }

    fn begin_data(&mut self) {
        if self.has_data {
            self.data.push(b"\n");
        }
        self.has_data = true;
    }

    fn dispatch(&mut self, unit: &mut dyn FnMut(&[u8])) {
        if self.has_data {
            self.has_data = false;
            self.is_bare = false;
            self.data.finish(unit);
        }
    }
}

/// A piece of the stream: all pieces together are the stream, byte for byte.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Piece<'a> {
    /// Its bytes.
    pub bytes: &'a [u8],
    /// Where they stand in the chunk just fed, if they all do: for handing them on uncopied.
    pub in_chunk: Option<Range<usize>>,
    /// Whether it is one whole event with its blank line; else it is part of one too long to hold, or of the last.
    pub is_event: bool,
}

/// Cuts a stream into whole events, so that one can be taken out of it. Holds at most one incomplete event.
pub struct EventSplitter {
    held: Vec<u8>,
    /// Bytes that may be held; an event that is longer is let through in parts.
    held_max: usize,
    /// Within an event that was too long.
    is_letting_through: bool,
    ending: Ending,
}

/// What the last bytes were.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Ending {
    /// Nothing, or the middle of a line.
    Text,
    /// A CR that may be half of a CRLF; `ends_event`: of the blank line.
    Cr { ends_event: bool },
    /// A whole line end: if another follows, the event is over. `crlf`: how this stream ends its lines.
    Line { crlf: bool },
}

impl EventSplitter {
    /// Holds at most `held_max` bytes.
    pub fn new(held_max: usize) -> Self {
        Self { held: Vec::new(), held_max, is_letting_through: false, ending: Ending::Text }
    }

    /// Reads `chunk`; each piece that is complete goes to `piece`.
    pub fn feed(&mut self, chunk: &[u8], piece: &mut dyn FnMut(Piece<'_>)) {
        let mut from = 0;
        while let Some(length) = self.event_length(chunk.get(from..).unwrap_or_default()) {
            self.hand_out(chunk, from..from + length, true, piece);
            self.is_letting_through = false;
            from += length;
        }
        let rest = chunk.get(from..).unwrap_or_default();
        if self.is_letting_through || self.held.len() + rest.len() > self.held_max {
            self.is_letting_through = true;
            self.hand_out(chunk, from..chunk.len(), false, piece);
        } else {
            self.held.extend_from_slice(rest);
        }
    }

    /// The stream is over: lets go what is held.
    pub fn end(&mut self, piece: &mut dyn FnMut(Piece<'_>)) {
        self.hand_out(&[], 0..0, false, piece);
    }

    fn hand_out(&mut self, chunk: &[u8], range: Range<usize>, is_event: bool, piece: &mut dyn FnMut(Piece<'_>)) {
        let bytes = chunk.get(range.clone()).unwrap_or_default();
        let is_event = is_event && !self.is_letting_through;
        if !self.held.is_empty() {
            self.held.extend_from_slice(bytes);
            piece(Piece { bytes: &self.held, in_chunk: None, is_event });
            self.held.clear();
        } else if !bytes.is_empty() {
            piece(Piece { bytes, in_chunk: Some(range), is_event });
        }
    }

    /// How many bytes of `rest` belong to the event that they complete; `None` where they complete none.
    fn event_length(&mut self, rest: &[u8]) -> Option<usize> {
        let mut at = 0;
        while let Some(&byte) = rest.get(at) {
            match (self.ending, byte) {
                // After all this CR is no half of a CRLF: the byte behind it belongs to the next event.
                (Ending::Cr { ends_event: true }, byte) if byte != b'\n' => {
                    self.ending = Ending::Text;
                    return Some(at);
                }
                (Ending::Cr { ends_event: true } | Ending::Line { .. }, b'\n')
                | (Ending::Cr { ends_event: false } | Ending::Line { crlf: false }, b'\r') => {
                    self.ending = Ending::Text;
                    return Some(at + 1);
                }
                // Where lines end in CRLF the LF is waited for, so that it is not left over at the next event's head.
                (Ending::Line { crlf: true }, b'\r') => self.ending = Ending::Cr { ends_event: true },
                (Ending::Cr { .. }, b'\n') => self.ending = Ending::Line { crlf: true },
                (Ending::Text, b'\n') => self.ending = Ending::Line { crlf: false },
                (Ending::Text, b'\r') => self.ending = Ending::Cr { ends_event: false },
                (Ending::Text | Ending::Cr { .. } | Ending::Line { .. }, _) => {
                    self.ending = Ending::Text;
                    let line = rest.get(at..).unwrap_or_default();
                    at += memchr2(b'\n', b'\r', line).unwrap_or(line.len());
                    continue;
                }
            }
            at += 1;
        }
        None
    }
}

impl fmt::Debug for EventSplitter {
    /// Sizes only: what passes is never printed.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("EventSplitter").field("held_bytes", &self.held.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::framing::unit::UNIT_BYTES_MAX;

    fn data_of(chunks: &[&[u8]]) -> Vec<String> {
        let mut units = Vec::new();
        let mut splitter = DataSplitter::new(&["usage"]);
        let mut unit = |data: &[u8]| units.push(String::from_utf8(data.to_vec()).unwrap());
        for chunk in chunks {
            splitter.feed(chunk, &mut unit);
        }
        splitter.end(&mut unit);
        units
    }

    fn pieces_of(chunks: &[&[u8]], held_max: usize) -> Vec<(Vec<u8>, bool)> {
        let mut pieces = Vec::new();
        let mut splitter = EventSplitter::new(held_max);
        for chunk in chunks {
            splitter.feed(chunk, &mut |piece| {
                if let Some(range) = &piece.in_chunk {
                    assert_eq!(&chunk[range.clone()], piece.bytes);
                }
                pieces.push((piece.bytes.to_vec(), piece.is_event));
            });
        }
        splitter.end(&mut |piece| pieces.push((piece.bytes.to_vec(), piece.is_event)));
        pieces
    }

    #[test]
    fn events_are_cut_as_the_standard_says() {
        let stream: &[u8] = b": hi\n\ndata: a\ndata:b\ndata:  c\nid: 7\n\ndataset: x\ndata\n\nevent: e\r\ndata: d\r\n\r\ndata: e\r\rdata: f";
        assert_eq!(data_of(&[stream]), ["a\nb\n c", "", "d", "e", "f"]);
        assert_eq!(data_of(&[b"data:\n\n\n\n"]), [""]);
    }

    #[test]
    fn an_event_whole_in_its_chunk_is_not_copied() {
        let chunk: &[u8] = b"data: a\n\ndata:b\r\n\r\n";
        let mut units = 0;
        DataSplitter::new(&[]).feed(chunk, &mut |data| {
            assert!(chunk.as_ptr_range().contains(&data.as_ptr()));
            units += 1;
        });
        assert_eq!(units, 2);
    }

    /// Vertex ends a stream that fails with an error that is no event.
    #[test]
    fn bare_json_in_a_stream_is_read_and_events_go_before_it() {
        let stream: &[u8] = b"data: x\r\n\r\n{\r\n  \"error\": {\r\n\t\"code\": 499\r\n  }\r\n}\r\n\r\ndata: y\n\n{\"no\":1}\ndata: z\n\n{\"b\":[\n]}";
        let expected = ["x", "{\n  \"error\": {\n\t\"code\": 499\n  }\n}", "y", "z", "{\"b\":[\n]}"];
        for size in [1, 2, 5, 1000] {
            assert_eq!(data_of(&stream.chunks(size).collect::<Vec<_>>()), expected);
        }
    }

    #[test]
    fn an_event_too_long_is_reduced_and_the_next_is_read() {
        let long = format!("data: {{\"x\":\"{}\",\"usage\":{{\"a\":1}}}}\n\ndata: y\n\n", "-".repeat(UNIT_BYTES_MAX));
        let halves = long.as_bytes().split_at(long.len() / 2);
        assert_eq!(data_of(&[halves.0, halves.1]), ["{\"usage\":{\"a\":1}}", "y"]);
    }

    #[test]
    fn whole_events_stay_where_they_are_and_an_incomplete_one_is_held() {
        let stream: &[u8] = b"data: a\n\nevent: x\r\ndata: b\r\n\r\ndata: c\r\rdata";
        let events: Vec<(Vec<u8>, bool)> =
            [("data: a\n\n", true), ("event: x\r\ndata: b\r\n\r\n", true), ("data: c\r\r", true), ("data", false)]
                .map(|(bytes, is_event)| (bytes.as_bytes().to_vec(), is_event))
                .into();
        assert_eq!(pieces_of(&[stream], 64), events);
        assert_eq!(pieces_of(&stream.chunks(1).collect::<Vec<_>>(), 64), events);
    }

    #[test]
    fn an_event_too_long_to_hold_is_let_through_and_the_next_is_whole() {
        let chunks = b"data: 0123456789\n\ndata: a\n\n".chunks(4).collect::<Vec<_>>();
        let pieces = pieces_of(&chunks, 8);
        assert!(pieces.iter().rev().skip(1).all(|(_, is_event)| !is_event), "{pieces:?}");
        assert_eq!(pieces.last(), Some(&(b"data: a\n\n".to_vec(), true)));
    }

    /// Text in which everything that matters to a splitter is frequent.
    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let part = prop::sample::select(vec![
            "data:",
            "data: ",
            "data",
            ":",
            " ",
            "\n",
            "\r",
            "\r\n",
            "\n\n",
            "x",
            "{\"a\":1}",
            "id: 1",
        ]);
        prop::collection::vec(part, 0..60).prop_map(|parts| parts.concat().into_bytes())
    }

    fn cut<'a>(stream: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (stream.len() + 1)).chain([0, stream.len()]).collect();
        cuts.sort_unstable();
        cuts.windows(2).map(|range| &stream[range[0]..range[1]]).collect()
    }

    proptest! {
        #[test]
        fn data_ignores_chunking(stream in stream(), cuts in prop::collection::vec(any::<usize>(), 0..20)) {
            prop_assert_eq!(data_of(&cut(&stream, &cuts)), data_of(&[&stream]));
        }

        #[test]
        fn pieces_ignore_chunking_and_are_the_stream(
            stream in stream(),
            cuts in prop::collection::vec(any::<usize>(), 0..20),
            held_max in 0_usize..50,
        ) {
            prop_assert_eq!(pieces_of(&cut(&stream, &cuts), usize::MAX), pieces_of(&[&stream], usize::MAX));
            let pieces = pieces_of(&cut(&stream, &cuts), held_max);
            prop_assert_eq!(pieces.into_iter().flat_map(|(bytes, _)| bytes).collect::<Vec<_>>(), stream);
        }

        #[test]
        fn each_piece_that_is_an_event_holds_the_data_of_one(stream in stream()) {
            let mut of_pieces: Vec<String> = Vec::new();
            for (bytes, _) in pieces_of(&[&stream], usize::MAX) {
                let data = data_of(&[&bytes]);
                prop_assert!(data.len() <= 1);
                of_pieces.extend(data);
            }
            prop_assert_eq!(of_pieces, data_of(&[&stream]));
        }
    }
}
