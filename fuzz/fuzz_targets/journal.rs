//! A journal file of any bytes is read to its first damage: frames that are whole, in order, then an error or an end.
//!
//! First line: `raw` where the body follows the segment's header as it is, else each further line is the payload of a
//! frame with a right checksum, `i`, `r`, `p` or `g` before it saying which kind.

#![no_main]

use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use libfuzzer_sys::fuzz_target;
use tokenmeter::journal::{Kind, Limits, Position, Reader};
use tokenmeter_fuzz::{read, within};

const BYTES_MAX: usize = 16 << 20;

thread_local! {
    static FOLDER: OnceCell<PathBuf> = const { OnceCell::new() };
}

fuzz_target!(|input: &[u8]| {
    let (words, body) = read(input);
    FOLDER.with(|folder| {
        let folder = folder.get_or_init(folder_of_this_run);
        let frames = if words.first() == Some(&"raw") { body.to_vec() } else { framed(body) };
        let file = [header(), frames].concat();
        std::fs::write(folder.join("00000001.journal"), file).unwrap();
        within(BYTES_MAX, || read_all(folder));
    });
});

fn read_all(folder: &Path) {
    let Ok(mut reader) = Reader::open(folder, Position::START) else { return };
    let mut last = Position::START;
    while let Ok(batch) = reader.next_batch(Limits { frames: 16, bytes: 4096 }) {
        if batch.is_empty() {
            return;
        }
        for (position, frame) in batch {
            assert!(position > last, "frames go forward");
            last = position;
            match frame.kind {
                Kind::Intent => drop(frame.intent()),
                Kind::Record => drop(frame.record()),
                Kind::Progress => drop(frame.progress()),
                Kind::Gap => drop(frame.gap()),
            }
        }
    }
}

/// A segment's header, as `journal/segment.rs` writes it.
fn header() -> Vec<u8> {
    let mut header = [b"tokmeter".as_slice(), &1_u32.to_le_bytes(), &1_u64.to_le_bytes(), &[2], b"n1"].concat();
    header.resize(8 + 4 + 8 + 1 + 64, 0);
    let checksum = crc32fast::hash(&header);
    [header, checksum.to_le_bytes().to_vec()].concat()
}

/// Each line as a frame, as `journal/frame.rs` writes it.
fn framed(lines: &[u8]) -> Vec<u8> {
    let mut frames = Vec::new();
    for (seq, line) in (1_u64..).zip(lines.split(|byte| *byte == b'\n')) {
        let Some((kind, payload)) = line.split_first() else { continue };
        let kind = match kind {
            b'i' => 1,
            b'p' => 3,
            b'g' => 4,
            _ => 2,
        };
        let covered = [&[kind], seq.to_le_bytes().as_slice(), payload].concat();
        frames.extend(u32::try_from(payload.len()).unwrap().to_le_bytes());
        frames.extend(crc32fast::hash(&covered).to_le_bytes());
        frames.extend(covered);
    }
    frames
}

/// In memory where the machine has such a place.
fn folder_of_this_run() -> PathBuf {
    let shared = Path::new("/dev/shm");
    let parent = if shared.is_dir() { shared.to_owned() } else { std::env::temp_dir() };
    let folder = parent.join(format!("tokenmeter-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}
