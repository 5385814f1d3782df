//! Vocabulary: the tokens of an encoding, and into how many of them a text falls.
//!
//! `tiktoken-rs` holds each token three times, each time on the heap: 45 MiB for 200,000 of them. Here each is held once, in
//! a tenth of that; the tables are still the crate's, and so are the counts.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hash::BuildHasher as _;

use fancy_regex::Regex;
use hashbrown::{DefaultHashBuilder, HashTable};
use tiktoken_rs::{CoreBPE, Rank};

/// Tokens by rank, and the pattern that cuts text into pieces that are tokenized alone.
#[derive(Debug)]
pub(super) struct Vocabulary {
    pattern: Regex,
    /// The tokens, one behind the other.
    bytes: Vec<u8>,
    tokens: HashTable<Token>,
    hasher: DefaultHashBuilder,
}

/// Where a token is among the bytes, and its rank.
#[derive(Clone, Copy, Debug)]
struct Token {
    start: u32,
    length: u32,
    rank: Rank,
}

impl Token {
    fn of(self, bytes: &[u8]) -> &[u8] {
        let [start, length] = [self.start, self.length].map(|number| usize::try_from(number).unwrap_or(usize::MAX));
        bytes.get(start..start.saturating_add(length)).unwrap_or_default()
    }
}

impl Vocabulary {
    /// The tokens of `make`'s table, which is held for this long only, with its `pattern`. `None` where the two are not what
    /// we know them to be.
    pub(super) fn of(make: impl FnOnce() -> Option<CoreBPE>, pattern: &str) -> Option<Self> {
        // Room for what is kept is made before there is a table: what lies behind the table would keep its memory from
        // being given back.
        let mut this = Self {
            pattern: Regex::new(pattern).ok()?,
            bytes: Vec::with_capacity(2 << 20),
            tokens: HashTable::with_capacity(200_000),
            hasher: DefaultHashBuilder::default(),
        };
        let table = make()?;
        for rank in 0.. {
            // Special tokens are behind a gap.
            let Ok(token) = table.decode_bytes(&[rank]) else { break };
            let [start, length] = [this.bytes.len(), token.len()].map(u32::try_from);
            this.bytes.extend_from_slice(&token);
            let Self { bytes, tokens, hasher, .. } = &mut this;
            let hash_of = |token: &Token| hasher.hash_one(token.of(bytes));
            let token = Token { start: start.ok()?, length: length.ok()?, rank };
            tokens.insert_unique(hash_of(&token), token, hash_of);
        }
        Some(this)
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
        let found = self.tokens.find(self.hasher.hash_one(piece), |token| token.of(&self.bytes) == piece);
        found.map(|token| token.rank)
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
