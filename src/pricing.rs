//! Pricing: what a call cost, by the list price of its provider and model on its day.
//!
//! In: [`TokenCounts`], provider, model, time, service tier. Out: nano-dollars a token kind. Touches nothing.
//! A model without a price costs `None`, never zero: the record is kept, and its tokens are counted as unpriced.

#![warn(clippy::arithmetic_side_effects)]

mod catalog;

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use rust_decimal::Decimal;

use crate::money::NanoUsd;
use crate::period::Bucket;
use crate::pricing::catalog::{Catalog, Listed, Question, Rates};
use crate::record::CostByKind;
use crate::usage::{TokenCounts, Units};

/// Prices remembered: models, tiers and times asked for lately. Beyond it all are forgotten and asked for anew.
const REMEMBERED_MAX: usize = 2_048;

/// Input sizes remembered of one price; a price changes at one or two of them.
const SIZES_MAX: usize = 64;

/// Below this many input tokens no price is known to change with the size, so that one look serves most calls.
const FIRST_SIZE: u64 = 16_384;

/// What a call cost.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Priced {
    /// Each kind that is known, rounded once, half to even. A fee for the request itself is in `input`.
    pub by_kind: CostByKind,
    /// The sum of the kinds.
    pub total: NanoUsd,
    /// The price used: where it comes from, provider, model.
    pub price: String,
}

/// The tokens that are paid for, where the provider tells them apart from those it processed (Cohere): it bills
/// neither its template nor what it thought to the full, and knows no price of cached tokens.
pub fn billed(processed: &TokenCounts, units: &Units) -> TokenCounts {
    let [input, output] = ["billed_input_tokens", "billed_output_tokens"].map(|name| units.get(name).copied());
    let mut billed = TokenCounts { output: output.or(processed.output), ..*processed };
    if input.is_some() {
        billed = TokenCounts { input, cache_read: None, cache_write: None, ..billed };
    }
    billed
}

/// Every list price, and what was found in it lately.
#[derive(Debug)]
pub struct PriceBook {
    /// Read on first need.
    catalog: OnceLock<Catalog>,
    is_being_read: AtomicBool,
    hasher: RandomState,
    remembered: RwLock<HashMap<u64, Arc<Remembered>>>,
}

/// What the catalog says of one question; `listed` is `None` where it knows no price.
#[derive(Debug)]
struct Remembered {
    provider: Box<str>,
    model: Box<str>,
    service_tier: Option<Box<str>>,
    bucket: Bucket,
    listed: Option<Listed>,
    /// The rates at some input sizes. A size between two with the same rates has those rates too.
    sizes: RwLock<BTreeMap<u64, Rates>>,
}

impl PriceBook {
    /// The prices that are part of this build. They are read, which takes tens of milliseconds and some megabytes, when
    /// one is asked for first, or by [`read_soon`](Self::read_soon).
    pub fn bundled() -> Self {
        Self {
            catalog: OnceLock::new(),
            is_being_read: AtomicBool::new(false),
            hasher: RandomState::new(),
            remembered: RwLock::default(),
        }
    }

    /// Has the prices read on a thread of its own, so that they are there when a call that begins now is over. Nothing where
    /// they are or will be; where there is no thread to be had, who asks first reads them.
    pub fn read_soon(self: &Arc<Self>) {
        if self.catalog.get().is_some() || self.is_being_read.swap(true, Ordering::Relaxed) {
            return;
        }
        let this = Arc::clone(self);
        let spawned = std::thread::Builder::new().name("prices".into()).spawn(move || {
            this.catalog();
        });
        if let Err(error) = spawned {
            tracing::debug!(error = &error as &dyn std::error::Error, "no thread to read the prices on");
        }
    }

    fn catalog(&self) -> &Catalog {
        self.catalog.get_or_init(Catalog::bundled)
    }

    /// What `tokens` of `model` cost at `at`. `service_tier` is the one that the answer named. `None` where no price is
    /// known, and where nothing was counted.
    pub fn cost(
        &self,
        provider: &str,
        model: &str,
        at: jiff::Timestamp,
        tokens: &TokenCounts,
        service_tier: Option<&str>,
    ) -> Option<Priced> {
        // Prices change with the day, some with the hour; all do so at the quarter of an hour.
        let question = Question { provider, model, bucket: Bucket::of(at), service_tier };
        let remembered = self.remember(question);
        let listed = remembered.listed.as_ref()?;
        let rates = self.rates(&remembered, question, tokens.input_total())?;
        let by_kind = cost_by_kind(&rates, tokens)?;
        let kinds = [by_kind.input, by_kind.cache_read, by_kind.cache_write, by_kind.output];
        if by_kind.is_empty() {
            return None;
        }
        let total = kinds.into_iter().flatten().try_fold(NanoUsd::ZERO, NanoUsd::checked_add)?;
        Some(Priced { by_kind, total, price: listed.name() })
    }

    /// The same for tokens of many calls together, such as a batch's. `None` also where the price depends on how large
    /// each call was.
    pub fn cost_of_sum(
        &self,
        provider: &str,
        model: &str,
        at: jiff::Timestamp,
        tokens: &TokenCounts,
        service_tier: Option<&str>,
    ) -> Option<Priced> {
        let question = Question { provider, model, bucket: Bucket::of(at), service_tier };
        let remembered = self.remember(question);
        let of_small_calls = self.rates(&remembered, question, 1)?;
        let is_the_same = of_small_calls == self.rates(&remembered, question, tokens.input_total())?;
        is_the_same.then(|| self.cost(provider, model, at, tokens, service_tier)).flatten()
    }

    /// The price of `model` in force at `at`, as lines for people: what a million tokens of each kind cost, and where
    /// the price comes from. `None` where no price is known.
    pub fn describe(&self, provider: &str, model: &str, at: jiff::Timestamp) -> Option<String> {
        let question = Question { provider, model, bucket: Bucket::of(at), service_tier: None };
        let remembered = self.remember(question);
        let name = remembered.listed.as_ref()?.name();
        let rates = self.rates(&remembered, question, 1)?;
        let lines = [
            ("input", rates.input),
            ("cache_read", rates.cache_read),
            ("cache_write", rates.cache_write),
            ("output", rates.output),
        ];
        let mut text = format!("{name}\n");
        for (kind, rate) in lines {
            let rate = rate.normalize().to_string();
            text.push_str(&["  ", kind, ": ", &rate, " USD a million tokens\n"].concat());
        }
        Some(text)
    }

    fn remember(&self, question: Question<'_>) -> Arc<Remembered> {
        let hash = self.hasher.hash_one(question);
        {
            let known = self.remembered.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(found) = known.get(&hash).filter(|found| found.answers(question)) {
                return Arc::clone(found);
            }
        }
        let found = Arc::new(Remembered {
            provider: question.provider.into(),
            model: question.model.into(),
            service_tier: question.service_tier.map(Into::into),
            bucket: question.bucket,
            listed: self.catalog().find(question),
            sizes: RwLock::default(),
        });
        let mut known = self.remembered.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED_MAX {
            known.clear();
        }
        known.insert(hash, Arc::clone(&found));
        found
    }

    /// The rates of a call with `input_total` input tokens: tiers count for all tokens of the call.
    fn rates(&self, remembered: &Remembered, question: Question<'_>, input_total: u64) -> Option<Rates> {
        let size = input_total.max(1);
        if let Some(rates) = remembered.between(size) {
            return Some(rates);
        }
        let (below, above) =
            if size <= FIRST_SIZE { (1, FIRST_SIZE) } else { (power_below(size), size.checked_next_power_of_two()?) };
        for neighbour in [below, above] {
            self.look(remembered, question, neighbour)?;
        }
        remembered.between(size).or_else(|| self.look(remembered, question, size))
    }

    fn look(&self, remembered: &Remembered, question: Question<'_>, size: u64) -> Option<Rates> {
        let known = remembered.sizes.read().unwrap_or_else(PoisonError::into_inner).get(&size).copied();
        if known.is_some() {
            return known;
        }
        let rates = self.catalog().rates(question, size)?;
        let mut sizes = remembered.sizes.write().unwrap_or_else(PoisonError::into_inner);
        if sizes.len() < SIZES_MAX {
            sizes.insert(size, rates);
        }
        Some(rates)
    }
}

impl Remembered {
    fn answers(&self, question: Question<'_>) -> bool {
        let Question { provider, model, bucket, service_tier } = question;
        (&*self.provider, &*self.model, self.bucket, self.service_tier.as_deref())
            == (provider, model, bucket, service_tier)
    }

    /// The rates at `size`, if those of its neighbours settle it.
    fn between(&self, size: u64) -> Option<Rates> {
        let sizes = self.sizes.read().unwrap_or_else(PoisonError::into_inner);
        let (_, below) = sizes.range(..=size).next_back()?;
        let (_, above) = sizes.range(size..).next()?;
        (below == above).then_some(*below)
    }
}

fn power_below(size: u64) -> u64 {
    1_u64.checked_shl(size.checked_ilog2().unwrap_or(0)).unwrap_or(1)
}

/// Each kind that is counted, rounded once; `None` past nine billion dollars.
fn cost_by_kind(rates: &Rates, tokens: &TokenCounts) -> Option<CostByKind> {
    // Audio and images are told of the whole input. What is read from the cache is old text more often than not, so
    // they count as uncached as far as there is room.
    let [audio, image, text] = split(tokens.input, [tokens.audio_input, tokens.image_input]);
    let audio_cached = tokens.audio_input.map(|all| all.saturating_sub(audio));
    let image_cached = tokens.image_input.map(|all| all.saturating_sub(image));
    let [audio_read, image_read, text_read] = split(tokens.cache_read, [audio_cached, image_cached]);
    let [long, _, short] = split(tokens.cache_write, [tokens.cache_write_1h, None]);
    let [audio_out, image_out, written] = split(tokens.output, [tokens.audio_output, tokens.image_output]);
    let [reasoning, _, answer] = split(Some(written), [tokens.reasoning, None]);

    let kind = |count: Option<u64>, fee: Decimal, parts: &[(Decimal, u64)]| {
        if count.is_none() {
            return Some(None);
        }
        let mut dollars = fee;
        for (rate, count) in parts {
            // A rate is of a million tokens.
            let part = rate.checked_mul(Decimal::from(*count))?.checked_mul(Decimal::new(1, 6))?;
            dollars = dollars.checked_add(part)?;
        }
        NanoUsd::from_dollars(dollars).map(Some)
    };
    let none = Decimal::ZERO;
    Some(CostByKind {
        input: kind(
            tokens.input,
            rates.request,
            &[(rates.input, text), (rates.input_audio, audio), (rates.input_image, image)],
        )?,
        cache_read: kind(
            tokens.cache_read,
            none,
            &[
                (rates.cache_read, text_read),
                (rates.cache_read_audio, audio_read),
                (rates.cache_read_image, image_read),
            ],
        )?,
        cache_write: kind(tokens.cache_write, none, &[(rates.cache_write, short), (rates.cache_write_1h, long)])?,
        output: kind(
            tokens.output,
            none,
            &[
                (rates.output, answer),
                (rates.output_reasoning, reasoning),
                (rates.output_audio, audio_out),
                (rates.output_image, image_out),
            ],
        )?,
    })
}

/// Two parts of a whole, and the rest. Parts beyond the whole are cut: it is billed once.
fn split(whole: Option<u64>, parts: [Option<u64>; 2]) -> [u64; 3] {
    let whole = whole.unwrap_or(0);
    let [first, second] = parts.map(|part| part.unwrap_or(0));
    let first = first.min(whole);
    let second = second.min(whole.saturating_sub(first));
    [first, second, whole.saturating_sub(first).saturating_sub(second)]
}

#[cfg(test)]
mod tests;
