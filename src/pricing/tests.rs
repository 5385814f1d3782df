#![expect(
    clippy::float_arithmetic,
    clippy::arithmetic_side_effects,
    reason = "the catalog's own totals are floats, and the counts of a test are small"
)]

use genai_prices::{Calculator, PriceRequest, Usage, UsageKey};
use jiff::Timestamp;
use proptest::prelude::*;

use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn tokens(input: u64, cache_read: u64, cache_write: u64, output: u64) -> TokenCounts {
    TokenCounts {
        input: Some(input),
        cache_read: Some(cache_read),
        cache_write: Some(cache_write),
        output: Some(output),
        ..TokenCounts::default()
    }
}

fn cost(provider: &str, model: &str, tokens: &TokenCounts) -> Option<Priced> {
    PriceBook::bundled().cost(provider, model, at("2026-11-22T12:00:00Z"), tokens, None)
}

fn kinds(priced: &Priced) -> [Option<i64>; 4] {
    let CostByKind { input, cache_read, cache_write, output } = priced.by_kind;
    [input, cache_read, cache_write, output].map(|kind| kind.map(NanoUsd::as_i64))
}

#[test]
fn gpt_5_costs_what_its_price_list_says() {
    // 1.25, 0.125 and 10 dollars a million.
    let priced = cost("openai", "gpt-5-2025-08-07", &tokens(812, 1024, 0, 391)).unwrap();
    assert_eq!(kinds(&priced), [Some(1_015_000), Some(128_000), Some(0), Some(3_910_000)]);
    assert_eq!(priced.total.as_i64(), 5_053_000);
    assert_eq!(priced.price, "genai-prices 0.2.1 openai/gpt-5");
}

#[test]
fn a_long_call_pays_the_higher_tier_for_all_its_tokens() {
    // claude-sonnet-4-5: 3 and 15 dollars a million up to 200,000 input tokens, 6 and 22.5 beyond.
    let of = |input| cost("anthropic", "claude-sonnet-4-5", &tokens(input, 0, 0, 1_000)).unwrap();
    assert_eq!(kinds(&of(200_000)), [Some(600_000_000), Some(0), Some(0), Some(15_000_000)]);
    assert_eq!(kinds(&of(200_001)), [Some(1_200_006_000), Some(0), Some(0), Some(22_500_000)]);
    // The cache counts towards the size.
    let cached = cost("anthropic", "claude-sonnet-4-5", &tokens(1, 200_000, 0, 0)).unwrap();
    assert_eq!(kinds(&cached), [Some(6_000), Some(120_000_000), Some(0), Some(0)]);
}

#[test]
fn many_calls_together_have_a_price_where_their_sizes_do_not_matter() {
    let of = |provider, model, input| {
        let (now, tokens) = (at("2026-11-22T12:00:00Z"), tokens(input, 0, 0, 1_000));
        PriceBook::bundled()
            .cost_of_sum(provider, model, now, &tokens, Some("batch"))
            .map(|priced| priced.total.as_i64())
    };
    // gpt-4o-mini: 0.15 and 0.6 dollars a million, half of it in a batch.
    assert_eq!(of("openai", "gpt-4o-mini", 1_000_000), Some(75_300_000));
    // claude-sonnet-4-5: a sum beyond 200,000 tokens is of long calls or of many short ones.
    assert_eq!(of("anthropic", "claude-sonnet-4-5", 200_000), Some(307_500_000));
    assert_eq!(of("anthropic", "claude-sonnet-4-5", 200_001), None);
}

#[test]
fn a_tier_is_found_whatever_was_asked_before() {
    let book = PriceBook::bundled();
    let mut asked = vec![1, 262_144, 199_999, 131_072, 200_001, 250_000, 200_000, 150_000, 1_000_000, 16_385];
    for _ in 0..2 {
        for input in &asked {
            let now = at("2026-11-22T12:00:00Z");
            let priced = book.cost("anthropic", "claude-sonnet-4-5", now, &tokens(*input, 0, 0, 0), None).unwrap();
            let rate = if *input > 200_000 { 6_000 } else { 3_000 };
            assert_eq!(priced.total.as_i64(), i64::try_from(*input).unwrap() * rate, "{input}");
        }
        asked.reverse();
    }
}

#[test]
fn an_hours_cache_has_its_own_rate_within_its_kind() {
    // claude-sonnet-4-5: 3.75 for five minutes, 6 for an hour.
    let written = TokenCounts { cache_write_1h: Some(400), ..tokens(0, 0, 1_000, 0) };
    let priced = cost("anthropic", "claude-sonnet-4-5", &written).unwrap();
    assert_eq!(kinds(&priced), [Some(0), Some(0), Some(600 * 3_750 + 400 * 6_000), Some(0)]);
}

#[test]
fn a_service_tier_has_its_price() {
    let book = PriceBook::bundled();
    let of = |tier| {
        let priced = book.cost("openai", "gpt-5", at("2026-11-22T12:00:00Z"), &tokens(1_000, 0, 0, 1_000), tier);
        priced.unwrap().total.as_i64()
    };
    assert_eq!(of(None), 11_250_000);
    assert_eq!(of(Some("default")), 11_250_000);
    assert_eq!(of(Some("a tier of tomorrow")), 11_250_000);
    assert_eq!(of(Some("flex")), 5_625_000);
    assert!(of(Some("priority")) > 11_250_000);
}

#[test]
fn a_price_of_the_hour_goes_by_the_hour() {
    let book = PriceBook::bundled();
    let of = |time: &str| {
        let at = at(&format!("2026-11-22T{time}Z"));
        book.cost("deepseek", "deepseek-v4-pro", at, &tokens(1_000_000, 0, 0, 0), None).unwrap().total
    };
    assert_eq!(of("00:59:59"), of("12:00:00"));
    assert_ne!(of("01:00:00"), of("12:00:00"));
    assert_eq!(of("03:59:59"), of("06:00:00"));
    assert_eq!(of("04:00:00"), of("12:00:00"));
}

#[test]
fn what_has_no_price_costs_none_and_never_zero() {
    let some = tokens(1_000, 0, 0, 1_000);
    for (provider, model) in [
        ("demo", "gpt-5"),
        ("ollama", "llama3"),
        ("openai", "no-such-model"),
        ("openai", "whisper-1"),
        ("openai-compatible", "gpt-5"),
        ("copilot", "gpt-4o"),
        ("", ""),
    ] {
        assert_eq!(cost(provider, model, &some), None, "{provider}/{model}");
    }
    assert_eq!(cost("openai", "gpt-5", &TokenCounts::default()), None);
    let free = cost("openrouter", "openai/gpt-oss-20b:free", &some).unwrap();
    assert_eq!(free.total, NanoUsd::ZERO);
}

#[test]
fn an_unknown_count_has_no_cost_and_the_others_have() {
    let only_output = TokenCounts { output: Some(10), ..TokenCounts::default() };
    let priced = cost("openai", "gpt-5", &only_output).unwrap();
    assert_eq!(kinds(&priced), [None, None, None, Some(100_000)]);
    assert_eq!(priced.total.as_i64(), 100_000);
}

#[test]
fn a_fee_for_the_request_is_in_the_input() {
    // sonar: 1 dollar a million tokens, 12 dollars a thousand requests.
    let priced = cost("perplexity", "sonar", &tokens(1_000, 0, 0, 100)).unwrap();
    assert_eq!(kinds(&priced), [Some(12_000_000 + 1_000_000), Some(0), Some(0), Some(100_000)]);
}

#[test]
fn our_names_of_providers_find_their_prices() {
    let some = tokens(1_000, 0, 0, 0);
    for (provider, model) in [
        ("gemini", "gemini-2.5-flash"),
        ("vertex", "gemini-2.5-flash"),
        ("xai", "grok-4"),
        ("bedrock", "anthropic.claude-sonnet-4-5-20250929-v1:0"),
        ("mistral", "mistral-large-latest"),
        ("groq", "llama-3.3-70b-versatile"),
        ("azure", "gpt-4o"),
    ] {
        assert!(cost(provider, model, &some).is_some_and(|priced| priced.total > NanoUsd::ZERO), "{provider}/{model}");
    }
    for (_, theirs) in catalog::ALIASES {
        assert!(Calculator::bundled().providers().any(|provider| provider.id() == *theirs), "{theirs}");
    }
}

#[test]
fn what_a_provider_says_it_bills_is_what_is_paid_for() {
    // 2.5 and 10 dollars a million.
    let processed = TokenCounts { input: Some(58), cache_read: Some(448), output: Some(4), ..TokenCounts::default() };
    let units = [("billed_input_tokens", 11), ("billed_output_tokens", 3), ("searches", 1)];
    let units = units.map(|(name, count)| (name.to_owned(), count)).into();
    let priced = cost("cohere", "command-a-03-2025", &billed(&processed, &units)).unwrap();
    assert_eq!(kinds(&priced), [Some(27_500), None, None, Some(30_000)]);
    assert_eq!(billed(&processed, &Units::new()), processed);
}

#[test]
fn a_kind_is_rounded_once_half_to_even() {
    // 0.125 dollars a million is 0.125 nano-dollars a thousandth: 4 tokens are 500 nano-dollars, 1 is 125.
    let priced = cost("openai", "gpt-5", &tokens(0, 1, 0, 0)).unwrap();
    assert_eq!(priced.total.as_i64(), 125);
    // 0.0045 of gpt-oss-like rates: one token of 0.0125 dollars a million is 12.5 nano-dollars.
    let rates = Rates { cache_read: Decimal::new(12_500, 6), ..rates_of_nothing() };
    let of = |count| cost_by_kind(&rates, &tokens(0, count, 0, 0)).unwrap().cache_read.unwrap().as_i64();
    assert_eq!((of(1), of(2), of(3)), (12, 25, 38));
}

#[test]
fn absurd_counts_cost_none_and_do_not_overflow() {
    assert_eq!(cost("openai", "gpt-5", &tokens(u64::MAX, u64::MAX, u64::MAX, u64::MAX)), None);
}

fn rates_of_nothing() -> Rates {
    let zero = Decimal::ZERO;
    Rates {
        input: zero,
        input_audio: zero,
        input_image: zero,
        cache_read: zero,
        cache_read_audio: zero,
        cache_read_image: zero,
        cache_write: zero,
        cache_write_1h: zero,
        output: zero,
        output_reasoning: zero,
        output_audio: zero,
        output_image: zero,
        request: zero,
    }
}

#[expect(clippy::cast_precision_loss, reason = "test counts are small")]
fn float(count: u64) -> f64 {
    count as f64
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_cost_is_the_catalogs_own(
        pick in any::<prop::sample::Index>(),
        (input, cache_read, cache_write) in (0..300_000_u64, 0..100_000_u64, 0..20_000_u64),
        long in 0..100_u64,
        (output, reasoning) in (0..50_000_u64, 0..100_u64),
        tier in prop::sample::select(vec![None, Some("flex"), Some("priority"), Some("default"), Some("x")]),
    ) {
        let all: Vec<_> = Calculator::bundled()
            .providers()
            .flat_map(|provider| provider.models().map(move |model| (provider.id(), model.id())))
            .collect();
        let (provider, model) = all[pick.index(all.len())];
        let counts = TokenCounts {
            cache_write_1h: Some(cache_write * long / 100),
            reasoning: Some(output * reasoning / 100),
            ..tokens(input, cache_read, cache_write, output)
        };
        let now = at("2026-11-22T12:00:00Z");
        let usage = Usage::from([
            (UsageKey::INPUT_TOKENS, float(input + cache_read + cache_write)),
            (UsageKey::CACHE_READ_TOKENS, float(cache_read)),
            (UsageKey::CACHE_WRITE_TOKENS, float(cache_write)),
            (UsageKey::CACHE_WRITE_1H_TOKENS, float(counts.cache_write_1h.unwrap())),
            (UsageKey::OUTPUT_TOKENS, float(output)),
            (UsageKey::OUTPUT_REASONING_TOKENS, float(counts.reasoning.unwrap())),
        ]);
        let mut request = PriceRequest::new(model, &usage)
            .with_provider_id(provider)
            .with_timestamp(std::time::SystemTime::from(now));
        if let Some(tier) = tier {
            request = request.with_price_context("service_tier", tier);
        }
        // Some entries are listed under a name that they do not answer to.
        let theirs = Calculator::bundled().calculate(&request).map_or(0.0, |answer| answer.total_price);
        if let Some(priced) = PriceBook::bundled().cost(provider, model, now, &counts, tier) {
            let ours = float(u64::try_from(priced.total.as_i64()).unwrap()) / 1e9;
            // A rate that no six decimals hold (0.041666…) is off by half of the sixth.
            let total = float(counts.total());
            let is_repeating = (ours - theirs).abs() <= total / 1e6 * 5e-7 + 2e-9 && provider_repeats(provider, model);
            prop_assert!(is_repeating || (ours - theirs).abs() <= 5e-9, "{provider}/{model}: {ours} {theirs}");
        } else {
            prop_assert!(theirs.abs() < 1e-12, "{provider}/{model} has a price: {theirs}");
        }
    }
}

/// Whether one of the model's standard rates has more than six decimals.
fn provider_repeats(provider: &str, model: &str) -> bool {
    let keys =
        [UsageKey::INPUT_TOKENS, UsageKey::CACHE_READ_TOKENS, UsageKey::CACHE_WRITE_TOKENS, UsageKey::OUTPUT_TOKENS];
    keys.iter().any(|key| {
        let usage = Usage::from([(UsageKey::INPUT_TOKENS, 1e6), (key.clone(), 1e6)]);
        let request = PriceRequest::new(model, &usage)
            .with_provider_id(provider)
            .with_timestamp(std::time::SystemTime::from(at("2026-11-22T12:00:00Z")));
        let price = Calculator::bundled().calculate(&request).unwrap().total_price;
        let millionths = price * 1e6;
        (millionths - millionths.round()).abs() > 1e-5
    })
}
