//! What was encoded comes back, cut anywhere, as far as the caps allow; what is damaged ends and takes no memory.
//!
//! First line: encoding, then `of` where the body is the text to encode and not encoded bytes; then how often the text
//! is repeated.

#![no_main]

use std::io::Write;

use libfuzzer_sys::fuzz_target;
use tokenmeter::framing::encoding::Decoder;
use tokenmeter_fuzz::{cuts, pick, read, within};

const ENCODINGS: [&str; 4] = ["gzip", "deflate", "br", "zstd"];
/// A brotli decoder keeps a window of up to 16 MiB, and 32 MiB while it grows.
const BYTES_MAX: usize = 50 << 20;

fuzz_target!(|input: &[u8]| {
    let (words, body) = read(input);
    let encoding = pick(words.first(), &ENCODINGS, |name| name);
    if words.get(1) == Some(&"of") {
        let times = words.get(2).and_then(|times| times.parse::<u16>().ok()).unwrap_or(1).max(1);
        let text = body.repeat(usize::from(times).min((256 << 10) / body.len().max(1)));
        let encoded = encoded(encoding, &text);
        for chunks in cuts(&encoded) {
            let (decoded, is_unreadable) = decoded(encoding, &chunks);
            assert!(!is_unreadable && decoded == text, "{encoding} does not come back");
        }
    } else {
        for chunks in cuts(body) {
            let (mut length, mut decoder) = (0_u64, Decoder::new(encoding.as_bytes()).unwrap());
            within(BYTES_MAX, || {
                for chunk in &chunks {
                    decoder.feed(chunk, &mut |piece| length += piece.len() as u64);
                }
            });
            let most = body.len() as u64 * 400 + (8 << 20) + (64 << 10);
            assert!(length <= most, "{encoding} made {length} bytes of {}", body.len());
        }
    }
});

fn decoded(encoding: &str, chunks: &[&[u8]]) -> (Vec<u8>, bool) {
    let mut decoder = Decoder::new(encoding.as_bytes()).unwrap();
    let mut decoded = Vec::new();
    for chunk in chunks {
        decoder.feed(chunk, &mut |piece| decoded.extend_from_slice(piece));
    }
    (decoded, decoder.is_unreadable())
}

fn encoded(encoding: &str, text: &[u8]) -> Vec<u8> {
    let level = flate2::Compression::fast();
    match encoding {
        "gzip" => {
            // Two members, as servers concatenate them.
            let (first, second) = text.split_at(text.len() / 2);
            let mut body = Vec::new();
            for part in [first, second] {
                let mut encoder = flate2::GzBuilder::new().filename("f").write(&mut body, level);
                encoder.write_all(part).unwrap();
                encoder.finish().unwrap();
            }
            body
        }
        "deflate" if text.first().is_some_and(|first| first % 2 == 0) => {
            let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), level);
            encoder.write_all(text).unwrap();
            encoder.finish().unwrap()
        }
        "deflate" => {
            let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), level);
            encoder.write_all(text).unwrap();
            encoder.finish().unwrap()
        }
        "br" => {
            let mut body = Vec::new();
            brotli::CompressorWriter::new(&mut body, 4096, 1, 20).write_all(text).unwrap();
            body
        }
        _ => zstd::encode_all(text, 1).unwrap(),
    }
}
