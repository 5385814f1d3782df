//! What the targets share: how an input is read, how a stream is cut, and how much memory a run may take.
//!
//! The first line of an input is words that choose among what a target can do; the rest is the bytes that are read. A
//! word that names nothing chooses by its hash, so that every mutation means something and a seed is written by hand.

mod memory;

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

pub use memory::within;

/// The words of the first line, and what stands behind it.
pub fn read(input: &[u8]) -> (Vec<&str>, &[u8]) {
    let end = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
    let words = std::str::from_utf8(&input[..end]).unwrap_or_default().split(' ').filter(|word| !word.is_empty());
    (words.collect(), input.get(end + 1..).unwrap_or_default())
}

/// The choice of that name, else one by the word's hash.
pub fn pick<'a, T>(word: Option<&&str>, choices: &'a [T], name: impl Fn(&T) -> &str) -> &'a T {
    let word = word.copied().unwrap_or_default();
    let named = choices.iter().find(|choice| name(choice) == word);
    named.unwrap_or_else(|| &choices[usize::try_from(hash(word.as_bytes()) % choices.len() as u64).unwrap()])
}

/// `stream` in one piece, byte by byte, and cut at places that follow from its bytes.
pub fn cuts(stream: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    let seed = hash(stream);
    let arbitrary = (1..=2).map(move |round: u64| {
        let (mut rest, mut dice, mut pieces) = (stream, seed ^ round, Vec::new());
        while !rest.is_empty() {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(round);
            // Short pieces are where the places between two bytes matter, long ones where whole units come at once.
            let longest = if dice >> 60 < 12 { 7 } else { 4096 };
            let length = usize::try_from((dice >> 33) % longest).unwrap().min(rest.len());
            let (piece, after) = rest.split_at(length);
            pieces.push(piece);
            rest = after;
        }
        pieces
    });
    [vec![stream], stream.chunks(1).collect()].into_iter().chain(arbitrary)
}

fn hash(bytes: &[u8]) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(bytes)
}
