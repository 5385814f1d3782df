//! Vocabulary: the tokens of an encoding, and into how many of them a text falls.
//!
//! The tables are those of `tiktoken-rs`, which `build.rs` has written into the binary. The crate itself would hold each
//! token three times, each time on the heap: 45 MiB for 200,000 of them, and here it is four.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hash::BuildHasher as _;

use fancy_regex::Regex;
use hashbrown::{DefaultHashBuilder, HashTable};

/// What is merged first: a token's place among all.
type Rank = u32;

/// What `build.rs` has written of an encoding.
pub(super) struct Table {
    /// The lengths of the tokens, by rank.
    pub(super) lengths: &'static [u8],
    /// The tokens, one behind the other.
    pub(super) tokens: &'static [u8],
}

/// Tokens, and the pattern that cuts text into pieces that are tokenized alone.
pub(super) struct Vocabulary {
    pattern: Regex,
    bytes: &'static [u8],
    tokens: HashTable<Token>,
    hasher: DefaultHashBuilder,
}

/// Where a token is among the bytes, its rank, and in the last eight bits behind that its length.
#[derive(Clone, Copy)]
struct Token {
    start: u32,
    rank_and_length: u32,
}

impl Token {
    fn of(self, bytes: &[u8]) -> &[u8] {
        let [start, length] =
            [self.start, self.rank_and_length & 0xff].map(|number| usize::try_from(number).unwrap_or(usize::MAX));
        bytes.get(start..start.saturating_add(length)).unwrap_or_default()
    }

    fn rank(self) -> Rank {
        self.rank_and_length >> 8
    }
}

impl Vocabulary {
    /// `None` where `pattern` is none.
    pub(super) fn new(table: &Table, pattern: &str) -> Option<Self> {
        let (bytes, hasher) = (table.tokens, DefaultHashBuilder::default());
        let mut tokens = HashTable::with_capacity(table.lengths.len());
        let (mut start, hash_of) = (0_u32, |token: &Token| hasher.hash_one(token.of(bytes)));
        for (rank, length) in (0..).zip(table.lengths) {
            let length = u32::from(*length);
            let token = Token { start, rank_and_length: Rank::checked_mul(rank, 1 << 8)? | length };
            tokens.insert_unique(hash_of(&token), token, hash_of);
            start = start.saturating_add(length);
        }
        Some(Self { pattern: Regex::new(pattern).ok()?, bytes, tokens, hasher })
    }

    /// The tokens of `text`, in which nothing is a special token; `None` where the pattern gives up.
    pub(super) fn count(&self, text: &str) -> Option<usize> {
        self.pattern.find_iter(text).try_fold(0_usize, |sum, found| {
            let piece = found.ok()?.as_str().as_bytes();
            Some(sum.saturating_add(if self.rank(piece).is_some() { 1 } else { self.merged(piece) }))
        })
    }

    /// How many tokens it has.
    #[cfg(test)]
    pub(super) fn tokens(&self) -> usize {
        self.tokens.len()
    }

    fn rank(&self, piece: &[u8]) -> Option<Rank> {
        let found = self.tokens.find(self.hasher.hash_one(piece), |token| token.of(self.bytes) == piece);
        found.map(|token| token.rank())
    }

    /// How many tokens are left of the bytes of `piece` when, of all neighbours that are a token together, those of the
    /// lowest rank are merged until there are none, of equals the leftmost.
    fn merged(&self, piece: &[u8]) -> usize {
        /// Behind a part that was merged into the one before it.
        const GONE: usize = 0;
        let length = piece.len();
        // By where a part begins: where it ends, and where the one before begins.
        let mut ends: Vec<usize> = (1..=length).collect();
        let mut befores: Vec<usize> = (0..length).map(|start| start.saturating_sub(1)).collect();
        let merge = |start: usize, end: usize| Some(Reverse((self.rank(piece.get(start..end)?)?, start, end)));
        let mut merges: BinaryHeap<_> = (0..length).filter_map(|start| merge(start, start.saturating_add(2))).collect();
        let mut left = length;
        while let Some(Reverse((_, start, end))) = merges.pop() {
            let (Some(&middle), before) = (ends.get(start), befores.get(start).copied().unwrap_or_default()) else {
                continue;
            };
            // Not where one of the two has become part of another since.
            if middle == GONE || ends.get(middle) != Some(&end) {
                continue;
            }
            for (part, its_end) in [(start, end), (middle, GONE)] {
                ends.get_mut(part).into_iter().for_each(|of_part| *of_part = its_end);
            }
            befores.get_mut(end).into_iter().for_each(|of_next| *of_next = start);
            left = left.saturating_sub(1);
            merges.extend(ends.get(end).and_then(|&next_end| merge(start, next_end)));
            merges.extend((start > 0).then(|| merge(before, end)).flatten());
        }
        left
    }
}
