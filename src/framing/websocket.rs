//! WebSocket frames, as far as needed to know whether a session was closed in order. Payloads are skipped unread.
//!
//! A frame is an opcode, a length and, from a client, a mask (RFC 6455 §5.2). A close frame is a frame of its own, never
//! compressed, whatever extensions were agreed.

/// The opcode of a close frame.
const CLOSE: u8 = 0x8;

/// Looks for a close frame in one direction of a session.
#[derive(Debug, Default)]
pub struct CloseFinder {
    at: At,
    has_closed: bool,
}

/// What comes next.
#[derive(Clone, Copy, Debug, Default)]
enum At {
    #[default]
    Opcode,
    /// Mask bit and length.
    Length,
    /// `left` more bytes of a long length.
    LongLength { left: u8, length: u64, mask_bytes: u64 },
    /// So many bytes of mask and payload.
    Payload { left: u64 },
}

impl CloseFinder {
    /// Walks over `chunk`, whose frames may begin and end in others.
    pub fn feed(&mut self, mut chunk: &[u8]) {
        while !self.has_closed
            && let Some((first, rest)) = chunk.split_first()
        {
            let skipped = match self.at {
                At::Payload { left } => usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len()),
                At::Opcode | At::Length | At::LongLength { .. } => 0,
            };
            if skipped > 0 {
                self.at = self.skipped(skipped);
                chunk = chunk.get(skipped..).unwrap_or_default();
            } else {
                self.at = self.after(*first);
                chunk = rest;
            }
        }
    }

    /// Whether a close frame has begun.
    pub fn has_closed(&self) -> bool {
        self.has_closed
    }

    fn skipped(&self, bytes: usize) -> At {
        match self.at {
            At::Payload { left } => payload(left.saturating_sub(u64::try_from(bytes).unwrap_or(u64::MAX))),
            At::Opcode | At::Length | At::LongLength { .. } => self.at,
        }
    }

    fn after(&mut self, byte: u8) -> At {
        match self.at {
            At::Opcode => {
                self.has_closed = byte & 0x0f == CLOSE;
                At::Length
            }
            At::Length => {
                let mask_bytes = if byte & 0x80 == 0 { 0 } else { 4 };
                match byte & 0x7f {
                    126 => At::LongLength { left: 2, length: 0, mask_bytes },
                    127 => At::LongLength { left: 8, length: 0, mask_bytes },
                    length => payload(u64::from(length).saturating_add(mask_bytes)),
                }
            }
            At::LongLength { left, length, mask_bytes } => {
                let length = length << 8 | u64::from(byte);
                match left.saturating_sub(1) {
                    0 => payload(length.saturating_add(mask_bytes)),
                    left => At::LongLength { left, length, mask_bytes },
                }
            }
            At::Payload { .. } => self.at,
        }
    }
}

fn payload(left: u64) -> At {
    if left == 0 { At::Opcode } else { At::Payload { left } }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(opcode: u8, length: usize, is_masked: bool) -> Vec<u8> {
        let mask_bit = if is_masked { 0x80 } else { 0 };
        let mut frame = vec![0x80 | opcode];
        match length {
            0..=125 => frame.push(mask_bit | u8::try_from(length).unwrap()),
            126..=0xffff => {
                frame.push(mask_bit | 0x7e);
                frame.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
            _ => {
                frame.push(mask_bit | 0x7f);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        // A payload that looks like close frames all over.
        frame.extend(vec![0x88; length + if is_masked { 4 } else { 0 }]);
        frame
    }

    fn has_closed(chunks: &[&[u8]]) -> bool {
        let mut finder = CloseFinder::default();
        for chunk in chunks {
            finder.feed(chunk);
        }
        finder.has_closed()
    }

    #[test]
    fn only_a_close_frame_closes() {
        let talk =
            [frame(1, 0, false), frame(2, 125, true), frame(9, 4, true), frame(0, 126, false), frame(1, 70_000, true)];
        let talk = talk.concat();
        assert!(!has_closed(&[&talk]));
        assert!(has_closed(&[&talk, &frame(8, 2, true)]));
        assert!(has_closed(&[&frame(8, 0, false)]));
        let endless = [0x82, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x88, 0x88];
        assert!(!has_closed(&[&endless]) && !has_closed(&[&endless[..5]]) && !has_closed(&[]));
    }

    proptest! {
        #[test]
        fn a_close_is_found_wherever_the_bytes_are_cut(
            frames in prop::collection::vec((0_u8..16, 0_usize..300, any::<bool>()), 0..12),
            size in 1_usize..40,
        ) {
            let bytes: Vec<u8> = frames.iter().flat_map(|(opcode, length, is_masked)| frame(*opcode, *length, *is_masked)).collect();
            let expected = frames.iter().any(|(opcode, ..)| *opcode == CLOSE);
            prop_assert_eq!(has_closed(&[&bytes]), expected);
            prop_assert_eq!(has_closed(&bytes.chunks(size).collect::<Vec<_>>()), expected);
        }
    }
}
