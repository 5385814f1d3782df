//! Learning from recorded calls: predictions come close, and bands say how close.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail and report like the test")]
#![expect(clippy::float_arithmetic, reason = "shares are real numbers")]

#[expect(dead_code, reason = "answers are replayed elsewhere")]
#[path = "support/corpus.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};

use http::Method;
use serde_json::Value;
use support::Row;
use tokenmeter::ids::UpstreamName;
use tokenmeter::operation::Operation;
use tokenmeter::tokenizer::Tokenizers;
use tokenmeter::tokenizer::calibration::{Calibration, Key, Lesson, Prediction};
use tokenmeter::tokenizer::measured::{Measured, measure};
use tokenmeter::wires::{self, Consumption};

/// Calls of a key after which what was learned must hold.
const LEARNED_FROM: u64 = 20;
/// Who serves `OpenAI`'s models: their rule needs no learning.
const OWN: [&str; 2] = ["azure", "openai"];

/// The row's key as the meter makes it, and its prompt as its rule counts it; `None` where that teaches nothing.
fn measured(row: &Row, tokenizers: &Tokenizers) -> Option<(Key, Measured)> {
    let upstream = wires::by_name(row.wire()?).unwrap();
    let method: Method = row.method.as_deref().unwrap_or("POST").parse().unwrap();
    let exchange = wires::recognise(upstream, &method, row.path().split('?').next().unwrap());
    let conversations = [
        Operation::Chat,
        Operation::TextCompletion,
        Operation::Responses,
        Operation::GenerateContent,
        Operation::Interaction,
    ];
    let is_conversation = conversations.contains(&exchange.operation) && exchange.consumption == Consumption::Now;
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
    let requested = exchange.model().or_else(|| text(row.request_body.get("model")));
    let answered = text(row.expected.get("model"));
    let prompt = exchange.wire.prompt(exchange.operation, row.request_body.to_string().as_bytes())?;
    let model = answered.or(requested)?;
    let measured = measure(&prompt, exchange.operation, &tokenizers.counter(&row.provider, &model), &row.provider);
    let upstream = UpstreamName::parse(&row.provider).unwrap();
    let key = Key { upstream, model, operation: exchange.operation };
    (is_conversation && !measured.has_unseen && prompt.bytes_beyond == 0).then_some((key, measured))
}

/// What became of the predictions for one provider, or for many.
#[derive(Default)]
struct Line {
    keys: BTreeSet<Key>,
    /// Of each prediction before and after enough was learned: how far off it was, and whether the band held the truth.
    young: Vec<(f64, bool)>,
    learned: Vec<(f64, bool)>,
    learned_keys: BTreeSet<Key>,
}

impl Line {
    fn add(&mut self, key: &Key, predicted: Prediction, reported: u64) {
        let off = number(predicted.tokens.abs_diff(reported)) / number(reported);
        let outcome = (off, (predicted.low..=predicted.high).contains(&reported));
        self.keys.insert(key.clone());
        if predicted.observations >= LEARNED_FROM {
            self.learned_keys.insert(key.clone());
            self.learned.push(outcome);
        } else {
            self.young.push(outcome);
        }
    }

    fn all(&self) -> Vec<(f64, bool)> {
        [self.young.as_slice(), &self.learned].concat()
    }
}

fn number(count: u64) -> f64 {
    f64::from(u32::try_from(count).unwrap())
}

/// Per cent of predictions whose band held the truth.
fn covered(outcomes: &[(f64, bool)]) -> f64 {
    let held = u64::try_from(outcomes.iter().filter(|(_, is_held)| *is_held).count()).unwrap();
    100.0 * number(held) / number(u64::try_from(outcomes.len().max(1)).unwrap())
}

/// The error in per cent that so many of a hundred predictions do not exceed.
fn off(outcomes: &[(f64, bool)], of_hundred: usize) -> f64 {
    let mut all: Vec<f64> = outcomes.iter().map(|(off, _)| *off).collect();
    all.sort_by(f64::total_cmp);
    100.0 * all.get((all.len().saturating_sub(1)) * of_hundred / 100).copied().unwrap_or_default()
}

#[test]
fn what_was_learned_from_recorded_calls_comes_close_and_says_how_close() {
    let Some(rows) = support::rows() else { return };
    let (mut calibration, tokenizers) = (Calibration::default(), Tokenizers::default());
    let mut table: BTreeMap<&str, Line> = BTreeMap::new();
    let is_told = |row: &&Row| row.metered && row.usage_present && row.status.is_none_or(|status| status == 200);
    for row in rows.iter().filter(is_told).filter(|row| row.request_body.is_object() && !row.is_contradiction()) {
        let Some(prompt_tokens) = row.expected("input_tokens_total").filter(|tokens| *tokens > 0) else { continue };
        let Some((key, measured)) = measured(row, &tokenizers) else { continue };
        let predicted = calibration.prompt(&key, &measured);
        let whose = if OWN.contains(&row.provider.as_str()) { "(OpenAI's own)" } else { "(all others)" };
        for name in [row.provider.as_str(), whose] {
            table.entry(name).or_default().add(&key, predicted, prompt_tokens);
        }
        calibration.learn(&key, Lesson { prompt: &measured, prompt_tokens, answer: None });
    }
    let head =
        "provider | rows | keys | in band % | p50 % before 20 | rows after 20 | keys | p50 % | p90 % | in band %";
    let lines = table.iter().map(|(name, line)| {
        let Line { keys, young, learned, learned_keys } = line;
        format!(
            "{name} | {} | {} | {:.1} | {:.1} | {} | {} | {:.2} | {:.1} | {:.1}",
            young.len() + learned.len(),
            keys.len(),
            covered(&line.all()),
            off(young, 50),
            learned.len(),
            learned_keys.len(),
            off(learned, 50),
            off(learned, 90),
            covered(learned),
        )
    });
    support::say(&std::iter::once(head.to_owned()).chain(lines).collect::<Vec<_>>().join("\n"));
    let others = &table["(all others)"];
    assert!(others.learned.len() > 500, "{} predictions after {LEARNED_FROM} calls", others.learned.len());
    assert!(off(&others.learned, 50) <= 4.0, "half of the predictions are off by {:.2} %", off(&others.learned, 50));
    for (what, outcomes) in [("all", others.all()), ("learned", others.learned.clone())] {
        let covered = covered(&outcomes);
        assert!((87.0..=93.0).contains(&covered), "{what}: bands of 90 % held {covered:.1} % of the truths");
    }
}
