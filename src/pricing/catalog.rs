//! Catalog: the list prices of `genai-prices`, asked so that its float totals give exact rates.

#![expect(
    clippy::float_arithmetic,
    reason = "the crate answers in floats; a rate is made exact as soon as it is known"
)]

use std::collections::HashSet;
use std::time::SystemTime;

use genai_prices::{Calculator, PriceCalculation, PriceRequest, Usage, UsageKey};
use jiff::Timestamp;
use rust_decimal::Decimal;

use crate::period::{BUCKET_SECS, Bucket};

/// The catalog's name and version, as records hold it.
const SOURCE: &str = "genai-prices 0.2.1";

/// Our provider ids that the catalog calls otherwise. No other name is guessed: the catalog would take any provider
/// with `openai` in its name for `openai`.
pub(super) const ALIASES: &[(&str, &str)] = &[
    ("bedrock", "aws"),
    ("copilot", "github-copilot"),
    ("gemini", "google"),
    ("moonshot", "moonshotai"),
    ("vertex", "google"),
    ("voyage", "voyageai"),
    ("xai", "x-ai"),
    ("zhipu", "zhipuai"),
];

/// What a price depends on, the size of the call aside.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct Question<'a> {
    pub(super) provider: &'a str,
    pub(super) model: &'a str,
    pub(super) bucket: Bucket,
    pub(super) service_tier: Option<&'a str>,
}

/// Exact US dollars a million tokens, and a request, to six decimals.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Rates {
    pub(super) input: Decimal,
    pub(super) input_audio: Decimal,
    pub(super) input_image: Decimal,
    pub(super) cache_read: Decimal,
    pub(super) cache_read_audio: Decimal,
    pub(super) cache_read_image: Decimal,
    pub(super) cache_write: Decimal,
    pub(super) cache_write_1h: Decimal,
    pub(super) output: Decimal,
    pub(super) output_reasoning: Decimal,
    pub(super) output_audio: Decimal,
    pub(super) output_image: Decimal,
    /// A fee for the request itself.
    pub(super) request: Decimal,
}

/// An entry of the catalog.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    provider: String,
    model: String,
}

impl Listed {
    /// The text that records hold.
    pub(super) fn name(&self) -> String {
        format!("{SOURCE} {}/{}", self.provider, self.model)
    }
}

/// The list prices.
#[derive(Debug)]
pub(super) struct Catalog {
    calculator: &'static Calculator,
    providers: HashSet<&'static str>,
}

impl Catalog {
    pub(super) fn bundled() -> Self {
        let calculator = Calculator::bundled();
        Self { calculator, providers: calculator.providers().map(genai_prices::ProviderInfo::id).collect() }
    }

    /// The entry that has a price for tokens of the model, if there is one.
    pub(super) fn find(&self, question: Question<'_>) -> Option<Listed> {
        let found = self.ask(question, 1, &[(UsageKey::INPUT_TOKENS, 1)])?;
        let rates = self.rates(question, 1)?;
        // The catalog lists models that it knows no token price of, and those price at 0 like the free ones.
        let is_priced = [rates.input, rates.output, rates.request].iter().any(|rate| !rate.is_zero());
        (is_priced || found.model_id.ends_with(":free"))
            .then_some(Listed { provider: found.provider_id, model: found.model_id })
    }

    /// The rates of a call with `size` input tokens. A call in which all of them are of one kind shows that kind's
    /// rate; where the catalog has none, it falls back as the catalog does.
    pub(super) fn rates(&self, question: Question<'_>, size: u64) -> Option<Rates> {
        /// Of the output it does not matter how many there are.
        const OUTPUT: u64 = 1_000_000;
        let nothing = self.ask(question, size, &[])?;
        let input_of = |keys: &[UsageKey]| {
            let usage: Vec<_> = keys.iter().map(|key| (key.clone(), size)).collect();
            rate(self.ask(question, size, &usage)?.input_price, size)
        };
        let output_of = |keys: &[UsageKey]| {
            let usage: Vec<_> = keys.iter().map(|key| (key.clone(), OUTPUT)).collect();
            rate(self.ask(question, size, &usage)?.output_price, OUTPUT)
        };
        let (input, output) = (input_of(&[])?, output_of(&[UsageKey::OUTPUT_TOKENS])?);
        let cache_read = input_of(&[UsageKey::CACHE_READ_TOKENS]).unwrap_or(input);
        let cache_write = input_of(&[UsageKey::CACHE_WRITE_TOKENS]).unwrap_or(input);
        let cached_of =
            |part: UsageKey, both: UsageKey| input_of(&[UsageKey::CACHE_READ_TOKENS, part, both]).unwrap_or(cache_read);
        let output_part = |part: UsageKey| output_of(&[UsageKey::OUTPUT_TOKENS, part]).unwrap_or(output);
        Some(Rates {
            input,
            input_audio: input_of(&[UsageKey::INPUT_AUDIO_TOKENS]).unwrap_or(input),
            input_image: input_of(&[UsageKey::INPUT_IMAGE_TOKENS]).unwrap_or(input),
            cache_read,
            cache_read_audio: cached_of(UsageKey::INPUT_AUDIO_TOKENS, UsageKey::CACHE_AUDIO_READ_TOKENS),
            cache_read_image: cached_of(UsageKey::INPUT_IMAGE_TOKENS, UsageKey::CACHE_IMAGE_READ_TOKENS),
            cache_write,
            cache_write_1h: input_of(&[UsageKey::CACHE_WRITE_TOKENS, UsageKey::CACHE_WRITE_1H_TOKENS])
                .unwrap_or(cache_write),
            output,
            output_reasoning: output_part(UsageKey::OUTPUT_REASONING_TOKENS),
            output_audio: output_part(UsageKey::OUTPUT_AUDIO_TOKENS),
            output_image: output_part(UsageKey::OUTPUT_IMAGE_TOKENS),
            request: exact(nothing.total_price - nothing.input_price - nothing.output_price)?,
        })
    }

    /// The catalog's price of a call with `size` input tokens and of them, or beside them, `usage`.
    fn ask(&self, question: Question<'_>, size: u64, usage: &[(UsageKey, u64)]) -> Option<PriceCalculation> {
        let provider = self.provider(question.provider)?;
        let mut counts = Usage::from([(UsageKey::INPUT_TOKENS, float(size))]);
        counts.extend(usage.iter().map(|(key, count)| (key.clone(), float(*count))));
        let at = Timestamp::from_second(question.bucket.index().checked_mul(BUCKET_SECS)?).ok()?;
        let mut request =
            PriceRequest::new(question.model, &counts).with_provider_id(provider).with_timestamp(SystemTime::from(at));
        let tier = question.service_tier.map(str::to_ascii_lowercase);
        if let Some(tier) = &tier {
            request = request.with_price_context("service_tier", tier);
            // Anthropic names its batches as a tier.
            if tier == "batch" {
                request = request.with_price_context("processing", "batch");
            }
        }
        self.calculator.calculate(&request).ok()
    }

    fn provider<'a>(&self, provider: &'a str) -> Option<&'a str> {
        let alias = ALIASES.iter().find(|(ours, _)| *ours == provider).map(|(_, theirs)| *theirs);
        alias.or_else(|| self.providers.contains(provider).then_some(provider))
    }
}

fn rate(price: f64, count: u64) -> Option<Decimal> {
    exact(price * 1e6 / float(count))
}

/// The number that `value` was before it was a float: catalogs have at most six decimals, and floats less error.
fn exact(value: f64) -> Option<Decimal> {
    let millionths = (value * 1e6).round();
    #[expect(clippy::cast_possible_truncation, reason = "checked to be far below 2^53")]
    (millionths.is_finite() && millionths.abs() < 1e15).then(|| Decimal::new(millionths as i64, 6))
}

#[expect(clippy::cast_precision_loss, reason = "2^53 tokens are more than any call has")]
fn float(count: u64) -> f64 {
    count as f64
}
