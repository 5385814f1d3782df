//! Strip: takes the usage event that we asked for out of a client's stream again.

use bytes::{Bytes, BytesMut};
use memchr::memmem;

use crate::framing::sse::{DataSplitter, EventSplitter};
use crate::wires::openai::is_added_usage;

/// Bytes of one incomplete event that may be held; a longer event passes unread.
const HELD_BYTES_MAX: usize = 1 << 20;

/// Lets everything pass but events that hold usage and no choices.
pub(crate) struct Strip {
    events: EventSplitter,
}

impl Strip {
    pub(crate) fn new() -> Self {
        Self { events: EventSplitter::new(HELD_BYTES_MAX) }
    }

    /// What of `chunk`, and of what was held, goes on now.
    pub(crate) fn pass(&mut self, chunk: &Bytes) -> Bytes {
        let mut out = Out::new(chunk.clone());
        self.events.feed(chunk, &mut |piece| {
            if !(piece.is_event && is_usage_only(piece.bytes)) {
                out.push(piece.bytes, piece.in_chunk);
            }
        });
        out.finish()
    }

    /// What was still held when the stream ended.
    pub(crate) fn end(mut self) -> Bytes {
        let mut rest = Bytes::new();
        self.events.end(&mut |piece| rest = Bytes::copy_from_slice(piece.bytes));
        rest
    }
}

/// `first`, then `second`.
pub(crate) fn joined(first: Bytes, second: Bytes) -> Bytes {
    if second.is_empty() {
        return first;
    }
    if first.is_empty() {
        return second;
    }
    let mut both = BytesMut::from(first);
    both.extend_from_slice(&second);
    both.freeze()
}

/// What goes on of one chunk: a slice of it while its pieces lie side by side, a copy otherwise.
struct Out {
    chunk: Bytes,
    slice: Option<std::ops::Range<usize>>,
    copy: BytesMut,
}

impl Out {
    fn new(chunk: Bytes) -> Self {
        Self { chunk, slice: None, copy: BytesMut::new() }
    }

    fn push(&mut self, bytes: &[u8], in_chunk: Option<std::ops::Range<usize>>) {
        match (&mut self.slice, in_chunk) {
            (Some(slice), Some(next)) if slice.end == next.start => slice.end = next.end,
            (slice @ None, Some(next)) if self.copy.is_empty() => *slice = Some(next),
            _ => {
                self.spill();
                self.copy.extend_from_slice(bytes);
            }
        }
    }

    fn spill(&mut self) {
        if let Some(slice) = self.slice.take() {
            self.copy.extend_from_slice(self.chunk.get(slice).unwrap_or_default());
        }
    }

    fn finish(mut self) -> Bytes {
        match self.slice.take() {
            Some(slice) => self.chunk.slice(slice),
            None => self.copy.freeze(),
        }
    }
}

/// Whether `event` is the one that asking for usage causes.
fn is_usage_only(event: &[u8]) -> bool {
    if memmem::find(event, b"\"usage\"").is_none() {
        return false;
    }
    let mut is_usage_only = false;
    let mut data = DataSplitter::new(&[]);
    let mut read = |unit: &[u8]| is_usage_only = is_added_usage(unit);
    data.feed(event, &mut read);
    data.end(&mut read);
    is_usage_only
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BEFORE: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"usage\":null}\n\n: comment\n\n";
    const USAGE: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1}}\n\n";
    const AFTER: &str = "data: {\"choices\":[],\"usage\":null,\"obfuscation\":\"x\"}\n\ndata: [DONE]\n\n";

    proptest! {
        #[test]
        fn only_the_usage_event_is_taken_out_wherever_the_stream_is_cut(cuts in prop::collection::vec(0..200_usize, 0..12)) {
            let stream = Bytes::from(format!("{BEFORE}{USAGE}{AFTER}"));
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(stream.len())).collect();
            cuts.push(stream.len());
            cuts.sort_unstable();
            let mut strip = Strip::new();
            let (mut out, mut at) = (Vec::new(), 0);
            for cut in cuts {
                out.extend_from_slice(&strip.pass(&stream.slice(at..cut)));
                at = cut;
            }
            out.extend_from_slice(&strip.end());
            prop_assert_eq!(String::from_utf8(out).unwrap(), format!("{BEFORE}{AFTER}"));
        }
    }

    #[test]
    fn a_chunk_of_whole_events_is_not_copied() {
        let chunk = Bytes::from_static(BEFORE.as_bytes());
        assert_eq!(Strip::new().pass(&chunk).as_ptr(), chunk.as_ptr());
    }
}
