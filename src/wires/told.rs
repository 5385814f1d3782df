//! What a provider told of its counts, in its own convention, and how that becomes disjoint counts.

use super::object::{Count, Object};
use crate::usage::{Anomaly, TokenCounts};

/// A provider's counts, each absent until told.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Told {
    pub(super) input: Option<u64>,
    pub(super) output: Option<u64>,
    pub(super) total: Option<u64>,
    pub(super) cache_read: Option<u64>,
    pub(super) cache_write: Option<u64>,
    pub(super) cache_write_1h: Option<u64>,
    pub(super) reasoning: Option<u64>,
    pub(super) audio_input: Option<u64>,
    pub(super) audio_output: Option<u64>,
    pub(super) image_input: Option<u64>,
    pub(super) image_output: Option<u64>,
    pub(super) is_invalid: bool,
}

/// Where cached tokens are counted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Cached {
    /// Within the input (`OpenAI`, Gemini).
    Within,
    /// Beside it (Anthropic).
    Beside,
}

impl Told {
    /// The first of the named members that is there; one that is no count is noted.
    pub(super) fn first(&mut self, object: Option<&Object<'_>>, names: &[&str]) -> Option<u64> {
        let object = object?;
        for name in names {
            match object.count(name) {
                Count::Absent => {}
                Count::Of(count) => return Some(count),
                Count::Invalid => {
                    self.is_invalid = true;
                    return None;
                }
            }
        }
        None
    }

    /// Whether any count was told.
    pub(super) fn is_empty(&self) -> bool {
        Self { is_invalid: false, ..*self } == Self::default()
    }

    /// Takes up what was told later: cumulative, so the later value of each count stands, and absence overwrites nothing.
    pub(super) fn merge(&mut self, later: Self) {
        self.input = later.input.or(self.input);
        self.output = later.output.or(self.output);
        self.total = later.total.or(self.total);
        self.cache_read = later.cache_read.or(self.cache_read);
        self.cache_write = later.cache_write.or(self.cache_write);
        self.cache_write_1h = later.cache_write_1h.or(self.cache_write_1h);
        self.reasoning = later.reasoning.or(self.reasoning);
        self.audio_input = later.audio_input.or(self.audio_input);
        self.audio_output = later.audio_output.or(self.audio_output);
        self.image_input = later.image_input.or(self.image_input);
        self.image_output = later.image_output.or(self.image_output);
        self.is_invalid |= later.is_invalid;
    }

    /// Adds what another answer told, where one body holds the results of many. A sum beyond all counts is noted.
    pub(super) fn add(&mut self, other: Self) {
        let mut is_invalid = self.is_invalid || other.is_invalid;
        let mut add = |sum: &mut Option<u64>, count: Option<u64>| {
            let Some(count) = count else { return };
            *sum = sum.unwrap_or(0).checked_add(count).or_else(|| {
                is_invalid = true;
                None
            });
        };
        add(&mut self.input, other.input);
        add(&mut self.output, other.output);
        add(&mut self.total, other.total);
        add(&mut self.cache_read, other.cache_read);
        add(&mut self.cache_write, other.cache_write);
        add(&mut self.cache_write_1h, other.cache_write_1h);
        add(&mut self.reasoning, other.reasoning);
        add(&mut self.audio_input, other.audio_input);
        add(&mut self.audio_output, other.audio_output);
        add(&mut self.image_input, other.image_input);
        add(&mut self.image_output, other.image_output);
        self.is_invalid = is_invalid;
    }

    /// `total` less input and output, where all are known; negative where they are more.
    pub(super) fn excess(&self) -> Option<i64> {
        let parts = self.input?.checked_add(self.output?)?;
        i64::try_from(self.total?).ok()?.checked_sub(i64::try_from(parts).ok()?)
    }

    /// Whether the provider's total is another than that of all its disjoint counts, where it told them.
    pub(super) fn total_differs(&self, tokens: &TokenCounts) -> Option<Anomaly> {
        let is_told = tokens.input.is_some() && tokens.output.is_some();
        self.total.filter(|total| is_told && *total != tokens.total()).map(|_| Anomaly::TotalDiffers)
    }

    /// The counts made disjoint. Where cached tokens are more than the input that includes them, what the provider
    /// counted as input is all that is counted, so that the parts add up to its totals.
    pub(super) fn disjoint(&self, cached: Cached) -> (TokenCounts, Option<Anomaly>) {
        let mut anomaly = self.is_invalid.then_some(Anomaly::CountInvalid);
        let (mut input, mut cache_read, mut cache_write) = (self.input, self.cache_read, self.cache_write);
        if let (Cached::Within, Some(whole)) = (cached, self.input) {
            let (read, written) = (cache_read.unwrap_or(0), cache_write.unwrap_or(0));
            let fits = read.checked_add(written).and_then(|cached| whole.checked_sub(cached));
            if fits.is_none() {
                anomaly = Some(Anomaly::CachedExceedsInput);
            }
            // Some gateways count the same tokens as written and as read: the rest is fresh all the same.
            let fresh = fits.unwrap_or_else(|| whole.saturating_sub(read.max(written)));
            let room = whole.saturating_sub(fresh);
            input = Some(fresh);
            cache_read = cache_read.map(|read| read.min(room));
            cache_write = cache_write.map(|written| written.min(room.saturating_sub(read)));
        }
        if self.cache_write_1h.unwrap_or(0) > cache_write.unwrap_or(u64::MAX) && anomaly.is_none() {
            anomaly = Some(Anomaly::TotalDiffers);
        }
        if self.reasoning.unwrap_or(0) > self.output.unwrap_or(u64::MAX) {
            anomaly = anomaly.or(Some(Anomaly::ReasoningExceedsOutput));
        }
        let tokens = TokenCounts {
            input,
            cache_read,
            cache_write,
            output: self.output,
            reasoning: self.reasoning,
            // A part is never more than the whole.
            cache_write_1h: self.cache_write_1h.map(|long| long.min(cache_write.unwrap_or(long))),
            audio_input: self.audio_input,
            audio_output: self.audio_output,
            image_input: self.image_input,
            image_output: self.image_output,
        };
        (tokens, anomaly)
    }
}
