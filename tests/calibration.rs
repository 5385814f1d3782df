//! Learning from recorded calls: predictions that hold, and bands that say how well.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail and report like the test")]
#![expect(clippy::float_arithmetic, reason = "shares are real numbers")]

#[path = "support/corpus.rs"]
#[expect(dead_code, reason = "what is replayed elsewhere is not replayed here")]
mod support;

use std::collections::BTreeMap;

use http::Method;
use support::Row;
use tokenmeter::ids::UpstreamName;
use tokenmeter::operation::Operation;
use tokenmeter::tokenizer::Tokenizers;
use tokenmeter::tokenizer::calibration::{Calibration, Key, Lesson};
use tokenmeter::tokenizer::measured::{Measured, Rule, measure};
use tokenmeter::wires::{self, Consumption};

/// Calls of a key after which what was learned must hold.
const LEARNED_FROM: u64 = 20;

fn measured(row: &Row) -> Option<(Key, Measured)> {
    let upstream = wires::by_name(row.wire()?).unwrap();
    let method: Method = row.method.as_deref().unwrap_or("POST").parse().unwrap();
    let exchange = wires::recognise(upstream, &method, row.path().split('?').next().unwrap());
    if exchange.consumption != Consumption::Now {
        return None;
    }
    let text_of = |pointer: &str| row.request_body.pointer(pointer).and_then(serde_json::Value::as_str);
    let requested = exchange.model().or_else(|| text_of("/model").map(str::to_owned));
    let answered = row.expected.get("model").and_then(serde_json::Value::as_str).map(str::to_owned);
    let model = if std::env::var("BY_ANSWER").is_ok() { answered.or(requested) } else { requested.or(answered) }?;
    let prompt = exchange.wire.prompt(exchange.operation, row.request_body.to_string().as_bytes())?;
    let tokenizers = Tokenizers::default();
    let counter = tokenizers.counter(&row.provider, &model);
    let measured = measure(&prompt, exchange.operation, &counter, &row.provider);
    Some((
        Key { upstream: UpstreamName::parse(&row.provider).unwrap(), model, operation: exchange.operation },
        measured,
    ))
}

#[derive(Default)]
struct Line {
    rows: u64,
    keys: std::collections::BTreeSet<Key>,
    settled: Vec<f64>,
    covered: u64,
    settled_covered: u64,
    learned_keys: std::collections::BTreeSet<Key>,
    cold: Vec<f64>,
}

fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    if values.is_empty() {
        return 0.0;
    }
    values[((values.len() - 1) as f64 * share) as usize]
}

#[test]
fn what_was_learned_holds() {
    let Some(rows) = support::rows() else { return };
    let mut calibration = Calibration::default();
    let mut table: BTreeMap<String, Line> = BTreeMap::new();
    for row in
        rows.iter().filter(|row| row.metered && row.usage_present && row.status.is_none_or(|status| status == 200))
    {
        if !row.request_body.is_object() || row.is_contradiction() {
            continue;
        }
        let Some(reported) = row.expected("input_tokens_total").filter(|tokens| *tokens > 0) else { continue };
        let Some((key, measured)) = measured(row) else { continue };
        if !matches!(
            key.operation,
            Operation::Chat
                | Operation::Responses
                | Operation::GenerateContent
                | Operation::Interaction
                | Operation::TextCompletion
        ) {
            continue;
        }
        if measured.has_unseen {
            continue;
        }
        if std::env::var("DUMP").is_ok() {
            let m = &measured;
            support::say(&format!(
                "DUMP {} {} {} {} {} {} {} {} {} {} {} {} {} {} {}",
                row.id,
                row.provider,
                key.model.replace(' ', "_"),
                key.operation.as_str(),
                u8::from(m.rule == Rule::Exact),
                m.tokens,
                m.text,
                m.messages,
                m.calls,
                m.tools,
                m.tool_count,
                m.schema,
                m.images,
                m.scaffold,
                reported
            ));
        }
        let predicted = calibration.prompt(&key, &measured);
        if std::env::var("SHOW").is_ok_and(|show| row.provider == show) && predicted.observations >= LEARNED_FROM {
            support::say(&format!(
                "{:?} {} obs {} rule {} predicted {} [{} {}] reported {} {:?}",
                key.model,
                row.id,
                predicted.observations,
                measured.tokens,
                predicted.tokens,
                predicted.low,
                predicted.high,
                reported,
                measured
            ));
        }
        assert!(predicted.low <= predicted.tokens && predicted.tokens <= predicted.high);
        let error = predicted.tokens.abs_diff(reported) as f64 / reported as f64;
        let covered = u64::from((predicted.low..=predicted.high).contains(&reported));
        for name in [
            row.provider.clone(),
            if matches!(row.provider.as_str(), "openai" | "azure") { "OWN".to_owned() } else { "OTHER".to_owned() },
        ] {
            let line = table.entry(name).or_default();
            line.rows += 1;
            line.keys.insert(key.clone());
            line.covered += covered;
            if predicted.observations >= LEARNED_FROM {
                line.learned_keys.insert(key.clone());
                line.settled.push(error);
                line.settled_covered += covered;
            } else {
                line.cold.push(error);
            }
        }
        calibration.learn(&key, Lesson { prompt: &measured, prompt_tokens: reported, answer: None });
    }
    let mut lines =
        vec!["provider | n | keys | cover % | p50 <20 | keys>=20 | n>=20 | p50 % | p90 % | cover>=20 %".to_owned()];
    for (provider, mut line) in table {
        let n = line.settled.len();
        lines.push(format!(
            "{provider} | {} | {} | {:.1} | {:.1} | {} | {n} | {:.2} | {:.2} | {:.1}",
            line.rows,
            line.keys.len(),
            100.0 * line.covered as f64 / line.rows as f64,
            100.0 * quantile(&mut line.cold, 0.5),
            line.learned_keys.len(),
            100.0 * quantile(&mut line.settled, 0.5),
            100.0 * quantile(&mut line.settled, 0.9),
            100.0 * line.settled_covered as f64 / (n.max(1)) as f64
        ));
    }
    support::say(&lines.join("\n"));
}
