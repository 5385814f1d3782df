//! Content encodings: the observer's copy of a compressed answer, made readable piece by piece.
//!
//! Push decoders over one small window, so that a bomb costs time, bounded, and no memory. What goes to the client is
//! never touched. Checksums are not checked: a damaged copy shows as JSON that does not parse.

use std::fmt;

use flate2::{Decompress, FlushDecompress};
use zstd::stream::raw::{DParameter, InBuffer, Operation, OutBuffer};

/// Decoded bytes handed on at once.
const WINDOW_BYTES: usize = 16 << 10;
/// Decoded bytes of one answer beyond which reading is given up.
const DECODED_BYTES_MAX: u64 = 1 << 30;
/// Decoded bytes for each compressed one, beyond which reading is given up; text reaches 50, gzip's limit is 1,032.
const RATIO_MAX: u64 = 400;
/// Decoded bytes for which no ratio is asked.
const RATIO_FREE_BYTES: u64 = 8 << 20;
/// The window that zstd may ask for over HTTP, 8 MiB (RFC 9659).
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// Decodes one answer's body.
pub struct Decoder {
    coding: Coding,
    window: Box<[u8]>,
    encoded_bytes: u64,
    decoded_bytes: u64,
}

enum Coding {
    Gzip {
        inflate: Decompress,
        member: Member,
    },
    /// `deflate` is zlib by the standard and raw by custom: the first byte tells, once it has come.
    Deflate(Option<Decompress>),
    Brotli(Box<BrotliState>),
    Zstd(Box<zstd::stream::raw::Decoder<'static>>),
    /// The data are over: what follows is passed over.
    Over,
    /// It could not be read on.
    Failed,
}

type BrotliState =
    brotli::BrotliState<brotli::HeapAlloc<u8>, brotli::HeapAlloc<u32>, brotli::HeapAlloc<brotli::HuffmanCode>>;

/// Where in a gzip member (RFC 1952) the decoder is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Member {
    /// The ten fixed bytes, of which so many have come; the flags among them.
    Head { seen: u8, flags: u8 },
    /// The length of the extra field, low byte first.
    ExtraLength { seen: u8, length: u16, flags: u8 },
    /// The extra field, of which so many bytes are left.
    Extra { left: u16, flags: u8 },
    /// A name or comment, up to a zero byte.
    Text { flags: u8 },
    /// The header's checksum.
    HeadChecksum { left: u8 },
    /// Compressed data.
    Data,
    /// Checksum and length.
    Tail { left: u8 },
}

const GZIP_HEAD_CHECKSUM: u8 = 2;
const GZIP_EXTRA: u8 = 4;
const GZIP_NAME: u8 = 8;
const GZIP_COMMENT: u8 = 16;
const GZIP_START: Member = Member::Head { seen: 0, flags: 0 };

/// What one step did.
enum Step {
    /// So many bytes were taken and so many made.
    Went { taken: usize, made: usize },
    /// The same, and the data are over.
    Ended { made: usize },
    /// So many bytes were made, and behind them it cannot be read.
    Failed { made: usize },
}

impl Decoder {
    /// A decoder of a `content-encoding`; `None`: of one that is not known, or of several.
    pub fn new(encoding: &[u8]) -> Option<Self> {
        let coding = match encoding.to_ascii_lowercase().as_slice() {
            b"gzip" | b"x-gzip" => Coding::Gzip { inflate: Decompress::new(false), member: GZIP_START },
            b"deflate" => Coding::Deflate(None),
            b"br" => Coding::Brotli(Box::new(BrotliState::new_strict(
                brotli::HeapAlloc::default(),
                brotli::HeapAlloc::default(),
                brotli::HeapAlloc::default(),
            ))),
            b"zstd" => {
                let mut decoder = zstd::stream::raw::Decoder::new().ok()?;
                decoder.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX)).ok()?;
                Coding::Zstd(Box::new(decoder))
            }
            _ => return None,
        };
        Some(Self { coding, window: vec![0; WINDOW_BYTES].into(), encoded_bytes: 0, decoded_bytes: 0 })
    }

    /// Reads `chunk`; what it decodes to goes to `decoded` in pieces.
    pub fn feed(&mut self, chunk: &[u8], decoded: &mut dyn FnMut(&[u8])) {
        let mut rest = chunk;
        loop {
            let (taken, made, next) = match self.coding.step(rest, &mut self.window) {
                Step::Went { taken, made } => (taken, made, None),
                Step::Ended { made } => (rest.len(), made, Some(Coding::Over)),
                Step::Failed { made } => (rest.len(), made, Some(Coding::Failed)),
            };
            if made > 0 {
                decoded(self.window.get(..made).unwrap_or_default());
            }
            self.encoded_bytes = self.encoded_bytes.saturating_add(length(taken));
            self.decoded_bytes = self.decoded_bytes.saturating_add(length(made));
            if let Some(next) = next {
                self.coding = next;
                return;
            }
            if self.is_beyond_limits() {
                self.coding = Coding::Failed;
                return;
            }
            rest = rest.get(taken..).unwrap_or_default();
            // A full window may hide more that can be made of nothing.
            if made < self.window.len() && (rest.is_empty() || (taken == 0 && made == 0)) {
                return;
            }
        }
    }

    /// Whether reading was given up.
    pub fn is_unreadable(&self) -> bool {
        matches!(self.coding, Coding::Failed)
    }

    fn is_beyond_limits(&self) -> bool {
        self.decoded_bytes > DECODED_BYTES_MAX
            || self.decoded_bytes > self.encoded_bytes.saturating_mul(RATIO_MAX).saturating_add(RATIO_FREE_BYTES)
    }
}

impl fmt::Debug for Decoder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Decoder").field("decoded_bytes", &self.decoded_bytes).finish_non_exhaustive()
    }
}

impl Coding {
    fn step(&mut self, input: &[u8], window: &mut [u8]) -> Step {
        match self {
            Self::Gzip { inflate, member } => gzip(inflate, member, input, window),
            Self::Deflate(None) => match input.first() {
                None => Step::Went { taken: 0, made: 0 },
                Some(first) => {
                    // zlib begins with method 8 and a window of at most 32 KiB; raw deflate cannot begin with 0x?8
                    // that way in practice: it would be a stored block of odd padding.
                    let is_zlib = first & 0x0F == 8 && first >> 4 <= 7;
                    *self = Self::Deflate(Some(Decompress::new(is_zlib)));
                    self.step(input, window)
                }
            },
            Self::Deflate(Some(inflate)) => match inflated(inflate, input, window) {
                Inflated::Went { taken, made } => Step::Went { taken, made },
                Inflated::Ended { made, .. } => Step::Ended { made },
                Inflated::Failed { made } => Step::Failed { made },
            },
            Self::Brotli(state) => unbrotlied(state, input, window),
            Self::Zstd(decoder) => {
                let (mut from, mut to) = (InBuffer::around(input), OutBuffer::around(window));
                match decoder.run(&mut from, &mut to) {
                    Ok(_) => Step::Went { taken: from.pos(), made: to.pos() },
                    Err(_) => Step::Failed { made: to.pos() },
                }
            }
            Self::Over => Step::Went { taken: input.len(), made: 0 },
            Self::Failed => Step::Failed { made: 0 },
        }
    }
}

enum Inflated {
    Went { taken: usize, made: usize },
    Ended { taken: usize, made: usize },
    Failed { made: usize },
}

fn inflated(inflate: &mut Decompress, input: &[u8], window: &mut [u8]) -> Inflated {
    let (taken_before, made_before) = (inflate.total_in(), inflate.total_out());
    let status = inflate.decompress(input, window, FlushDecompress::None);
    let taken = usize::try_from(inflate.total_in().saturating_sub(taken_before)).unwrap_or(usize::MAX);
    let made = usize::try_from(inflate.total_out().saturating_sub(made_before)).unwrap_or(usize::MAX);
    match status {
        Ok(flate2::Status::Ok | flate2::Status::BufError) => Inflated::Went { taken, made },
        Ok(flate2::Status::StreamEnd) => Inflated::Ended { taken, made },
        Err(_) => Inflated::Failed { made },
    }
}

fn gzip(inflate: &mut Decompress, member: &mut Member, input: &[u8], window: &mut [u8]) -> Step {
    let mut taken = 0;
    while *member != Member::Data {
        let Some(&byte) = input.get(taken) else { return Step::Went { taken, made: 0 } };
        if *member == GZIP_START && byte != 0x1F {
            // Padding behind the last member; before the first it is no gzip.
            return if inflate.total_in() > 0 { Step::Ended { made: 0 } } else { Step::Failed { made: 0 } };
        }
        taken += 1;
        if member.takes(byte) {
            inflate.reset(false);
        }
    }
    match inflated(inflate, input.get(taken..).unwrap_or_default(), window) {
        Inflated::Went { taken: more, made } => Step::Went { taken: taken + more, made },
        Inflated::Ended { taken: more, made } => {
            *member = Member::Tail { left: 8 };
            Step::Went { taken: taken + more, made }
        }
        Inflated::Failed { made } => Step::Failed { made },
    }
}

impl Member {
    /// Takes one byte outside of the data; whether the data begin behind it.
    fn takes(&mut self, byte: u8) -> bool {
        *self = match *self {
            Self::Head { seen: 9, flags } => Self::after_extra_length(flags),
            Self::Head { seen: 3, .. } => Self::Head { seen: 4, flags: byte },
            Self::Head { seen, flags } => Self::Head { seen: seen.saturating_add(1), flags },
            Self::ExtraLength { seen: 0, flags, .. } => Self::ExtraLength { seen: 1, length: u16::from(byte), flags },
            Self::ExtraLength { length, flags, .. } => match length | u16::from(byte) << 8 {
                0 => Self::after_extra(flags),
                left => Self::Extra { left, flags },
            },
            Self::Extra { left: 1, flags } => Self::after_extra(flags),
            Self::Extra { left, flags } => Self::Extra { left: left.saturating_sub(1), flags },
            Self::Text { flags } if byte == 0 => Self::after_extra(flags),
            Self::Text { flags } => Self::Text { flags },
            Self::HeadChecksum { left: 1 } | Self::Data => Self::Data,
            Self::HeadChecksum { left } => Self::HeadChecksum { left: left.saturating_sub(1) },
            Self::Tail { left: 1 } => GZIP_START,
            Self::Tail { left } => Self::Tail { left: left.saturating_sub(1) },
        };
        *self == Self::Data
    }

    fn after_extra_length(flags: u8) -> Self {
        if flags & GZIP_EXTRA == 0 { Self::after_extra(flags) } else { Self::ExtraLength { seen: 0, length: 0, flags } }
    }

    /// What follows the extra field, or a text: each text's flag is taken off as the text begins.
    fn after_extra(flags: u8) -> Self {
        if flags & GZIP_NAME != 0 {
            Self::Text { flags: flags & !GZIP_NAME }
        } else if flags & GZIP_COMMENT != 0 {
            Self::Text { flags: flags & !GZIP_COMMENT }
        } else if flags & GZIP_HEAD_CHECKSUM != 0 {
            Self::HeadChecksum { left: 2 }
        } else {
            Self::Data
        }
    }
}

fn unbrotlied(state: &mut BrotliState, input: &[u8], window: &mut [u8]) -> Step {
    let (mut input_left, mut taken) = (input.len(), 0);
    let (mut room_left, mut made, mut total) = (window.len(), 0, 0);
    let result = brotli::BrotliDecompressStream(
        &mut input_left,
        &mut taken,
        input,
        &mut room_left,
        &mut made,
        window,
        &mut total,
        state,
    );
    match result {
        brotli::BrotliResult::NeedsMoreInput | brotli::BrotliResult::NeedsMoreOutput => Step::Went { taken, made },
        brotli::BrotliResult::ResultSuccess => Step::Ended { made },
        brotli::BrotliResult::ResultFailure => Step::Failed { made },
    }
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn gzipped(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn brotlied(text: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        brotli::CompressorWriter::new(&mut bytes, 4096, 9, 22).write_all(text).unwrap();
        bytes
    }

    #[test]
    fn a_bomb_is_given_up_on_in_small_windows() {
        let zeros = vec![0; 64 << 20];
        for (encoding, bomb) in
            [("gzip", gzipped(&zeros)), ("br", brotlied(&zeros)), ("zstd", zstd::encode_all(&*zeros, 3).unwrap())]
        {
            let mut decoder = Decoder::new(encoding.as_bytes()).unwrap();
            let mut decoded = 0;
            decoder.feed(&bomb, &mut |piece| {
                assert!(piece.len() <= WINDOW_BYTES);
                decoded += piece.len();
            });
            assert!(decoder.is_unreadable(), "{encoding} {decoded} of {}", bomb.len());
            assert!(decoded <= 48 << 20, "{encoding} {decoded}");
        }
    }

    #[test]
    fn text_longer_than_the_window_comes_whole_with_its_last_chunk() {
        let text: Vec<u8> = (0..40_000_u32).flat_map(u32::to_le_bytes).collect();
        for (encoding, body) in
            [("gzip", gzipped(&text)), ("br", brotlied(&text)), ("zstd", zstd::encode_all(&*text, 3).unwrap())]
        {
            let mut decoded = Vec::new();
            Decoder::new(encoding.as_bytes()).unwrap().feed(&body, &mut |piece| decoded.extend_from_slice(piece));
            assert_eq!(decoded.len(), text.len(), "{encoding}");
            assert!(decoded == text, "{encoding}");
        }
    }

    #[test]
    fn several_codings_and_unknown_ones_are_not_read() {
        assert!(Decoder::new(b"gzip, br").is_none());
        assert!(Decoder::new(b"compress").is_none());
        assert!(Decoder::new(b"GZIP").is_some());
    }

    #[test]
    fn what_was_flushed_is_readable_before_the_end_comes() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(b"data: a\n\n").unwrap();
        encoder.flush().unwrap();
        let mut decoded = Vec::new();
        Decoder::new(b"gzip").unwrap().feed(encoder.get_ref(), &mut |piece| decoded.extend_from_slice(piece));
        assert_eq!(decoded, b"data: a\n\n");
    }

    #[test]
    fn what_stands_before_damage_is_read() {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(b"text").unwrap();
        let mut deflated = encoder.finish().unwrap();
        // The checksum.
        *deflated.last_mut().unwrap() ^= 1;
        // A second member that is none.
        let mut spoilt = gzipped(b"text");
        spoilt.extend(gzipped(b"").iter().take(10));
        spoilt.extend([0xFF; 20]);
        for (encoding, body) in [("deflate", deflated), ("gzip", spoilt)] {
            let mut decoder = Decoder::new(encoding.as_bytes()).unwrap();
            let mut decoded = Vec::new();
            decoder.feed(&body, &mut |piece| decoded.extend_from_slice(piece));
            assert_eq!((decoded.as_slice(), decoder.is_unreadable()), (b"text".as_slice(), true), "{encoding}");
        }
    }

    #[test]
    fn padding_behind_the_last_member_is_passed_over() {
        let mut body = gzipped(b"text");
        body.extend([0; 100]);
        let mut decoder = Decoder::new(b"gzip").unwrap();
        let mut decoded = Vec::new();
        decoder.feed(&body, &mut |piece| decoded.extend_from_slice(piece));
        assert_eq!((decoded.as_slice(), decoder.is_unreadable()), (b"text".as_slice(), false));
    }

    proptest! {
        #[test]
        fn noise_neither_panics_nor_loops(
            encoding in prop::sample::select(vec!["gzip", "deflate", "br", "zstd"]),
            noise in prop::collection::vec(any::<u8>(), 0..300),
            size in 1_usize..50,
            is_spoilt_gzip in any::<bool>(),
        ) {
            let mut body = if is_spoilt_gzip { gzipped(&noise) } else { noise.clone() };
            if let (Some(byte), Some(first)) = (body.last_mut(), noise.first()) {
                *byte ^= first;
            }
            let mut decoder = Decoder::new(encoding.as_bytes()).unwrap();
            for chunk in body.chunks(size) {
                decoder.feed(chunk, &mut |_| {});
            }
        }
    }
}
