//! Recorded prompts are counted without the provider's word, then held against it.
//!
//! A request is read as the proxy reads it and measured for the model that answered; of its answer only the model, the time and
//! the reported count are looked at. What is printed by provider is before anything was learned from its traffic.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail and report like the test")]
#![expect(clippy::float_arithmetic, clippy::cast_precision_loss, reason = "shares are for people to read")]

#[path = "support/corpus.rs"]
#[expect(dead_code, reason = "answers are not replayed here")]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use http::Method;
use serde_json::Value;
use support::Row;
use tokenmeter::ids::UpstreamName;
use tokenmeter::operation::Operation;
use tokenmeter::tokenizer::calibration::{Calibration, Key};
use tokenmeter::tokenizer::measured::{Measured, Rule, measure};
use tokenmeter::tokenizer::{self, Estimated, Parts, Tokenizers};
use tokenmeter::wires;
use tokenmeter::wires::prompt::Prompt;

/// Models of 2023. What they were billed changed by a token a request during that summer.
const SNAPSHOTS_OF_2023: [&str; 4] = ["-0301", "-0314", "-0613", "-1106"];
/// The Unix seconds of March 2025, when `OpenAI`'s Responses were new: before each request there were 18 tokens of its own, and some
/// 200 more before one with tools.
const FIRST_WEEKS: Range<u64> = 1_740_787_200..1_743_552_000;

/// A prompt that was counted here and by its provider.
struct Counted {
    provider: String,
    operation: Operation,
    model: String,
    is_compaction: bool,
    answered_at: u64,
    prompt: Prompt,
    measured: Measured,
    truth: u64,
}

impl Counted {
    /// Tokens too many.
    fn surplus(&self) -> i64 {
        self.measured.tokens.cast_signed() - self.truth.cast_signed()
    }

    /// How far it is off, in parts of the truth.
    fn error(&self) -> f64 {
        self.surplus().unsigned_abs() as f64 / self.truth as f64
    }

    /// Whether `OpenAI`'s rule is to hold: its models at home and on Azure, and nothing in the prompt that cannot be counted.
    fn is_by_rule(&self) -> bool {
        let is_home = ["azure", "openai"].contains(&self.provider.as_str()) && self.measured.rule == Rule::Exact;
        let is_conversation = matches!(self.operation, Operation::Chat | Operation::Responses);
        is_home && is_conversation && !self.is_compaction && !self.measured.has_unseen && self.measured.images == 0
    }

    /// What its prompt has beside text, and where it was asked for; rules of their own have names of their own.
    fn feature(&self) -> &'static str {
        let is_responses = self.operation == Operation::Responses;
        if SNAPSHOTS_OF_2023.iter().any(|snapshot| self.model.contains(snapshot)) {
            return "snapshots of 2023";
        }
        if is_responses && FIRST_WEEKS.contains(&self.answered_at) {
            return "Responses, first weeks";
        }
        let is_parallel = self.prompt.messages.iter().any(|message| message.calls.len() > 1);
        match (is_responses, &self.measured) {
            (false, _) if is_parallel => "chat, parallel calls",
            (true, _) if is_parallel => "Responses, parallel calls",
            (false, measured) if measured.calls > 0 => "chat, calls in history",
            (true, measured) if measured.calls > 0 => "Responses, calls in history",
            (false, measured) if measured.schema > 0 => "chat, json_schema",
            (true, measured) if measured.schema > 0 => "Responses, json_schema",
            (false, measured) if measured.tool_count > 0 => "chat, tool definitions",
            (true, measured) if measured.tool_count > 0 => "Responses, tool definitions",
            (false, _) => "chat, text",
            (true, _) => "Responses, text",
        }
    }

    /// Whether a rule of its own keeps it out of what is asserted.
    fn is_apart(&self) -> bool {
        ["snapshots of 2023", "Responses, first weeks"].contains(&self.feature())
    }
}

/// A row whose request can be measured and whose prompt the provider counted.
fn counted(row: &Row) -> Option<Counted> {
    let is_told = row.metered && row.usage_present && row.status.is_none_or(|status| status < 300);
    let truth = row.expected("input_tokens_total").filter(|truth| is_told && *truth > 0 && !row.is_contradiction())?;
    let request = Some(&row.request_body).filter(|body| body.is_object())?;
    let upstream = wires::by_name(row.wire()?).unwrap();
    let method: Method = row.method.as_deref().unwrap_or("POST").parse().unwrap();
    let exchange = wires::recognise(upstream, &method, row.path().split('?').next().unwrap());
    let prompt = exchange.wire.prompt(exchange.operation, request.to_string().as_bytes())?;
    let named = [row.expected.get("model"), request.get("model")].into_iter().flatten().find_map(Value::as_str);
    let model = named.map(str::to_owned).or_else(|| exchange.model()).unwrap_or_default();
    let tokenizers = Tokenizers::default();
    let measured = measure(&prompt, exchange.operation, &tokenizers.counter(&row.provider, &model), &row.provider);
    Some(Counted {
        provider: row.provider.clone(),
        operation: exchange.operation,
        model,
        is_compaction: row.api_family.ends_with("_compact"),
        answered_at: answered_at(&row.body()),
        prompt,
        measured,
        truth,
    })
}

/// When a response says that it was created; 0 where it does not.
fn answered_at(answer: &[u8]) -> u64 {
    let name = b"\"created_at\":";
    let at = answer.windows(name.len()).position(|window| window == name);
    let digits = at.and_then(|at| answer.get(at + name.len()..)).unwrap_or_default().trim_ascii_start();
    let digits = digits.iter().take_while(|byte| byte.is_ascii_digit()).copied().collect();
    String::from_utf8(digits).unwrap().parse().unwrap_or(0)
}

/// How well some prompts were counted.
#[derive(Clone, Copy)]
struct Figures {
    count: usize,
    exact: f64,
    within_5: f64,
    within_10: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    bias: f64,
}

impl Figures {
    fn of(all: &[&Counted]) -> Self {
        let mut errors: Vec<f64> = all.iter().map(|one| one.error()).collect();
        errors.sort_by(f64::total_cmp);
        let share = |limit: f64| errors.iter().filter(|error| **error <= limit).count() as f64 / errors.len() as f64;
        let quantile =
            |per_cent: usize| errors.get(errors.len() * per_cent / 100).or(errors.last()).copied().unwrap_or_default();
        let surplus: i64 = all.iter().map(|one| one.surplus()).sum();
        let truth: u64 = all.iter().map(|one| one.truth).sum();
        Self {
            count: errors.len(),
            exact: share(0.0),
            within_5: share(0.05),
            within_10: share(0.10),
            p50: quantile(50),
            p90: quantile(90),
            p99: quantile(99),
            bias: surplus as f64 / truth as f64,
        }
    }

    fn line(&self, name: &str) -> String {
        let Self { count, exact, within_5, within_10, p50, p90, p99, bias } = self;
        let per_cent = |share: &f64| format!("{:.1}", share * 100.0);
        let [exact, within_5, within_10] = [exact, within_5, within_10].map(per_cent);
        let [p50, p90, p99] = [p50, p90, p99].map(per_cent);
        let bias = bias * 100.0;
        format!("{name:28} {count:5} {exact:>6} {within_5:>6} {within_10:>6} {p50:>7} {p90:>7} {p99:>7} {bias:>+8.2}")
    }
}

const HEAD: &str = "in per cent                      n  exact   <= 5  <= 10     p50     p90     p99     bias";

fn table<'a>(all: impl Iterator<Item = (&'a str, &'a Counted)>) -> String {
    let mut groups: BTreeMap<&str, Vec<&Counted>> = BTreeMap::new();
    for (name, one) in all {
        groups.entry(name).or_default().push(one);
    }
    let lines = groups.iter().map(|(name, group)| Figures::of(group).line(name));
    std::iter::once(HEAD.to_owned()).chain(lines).collect::<Vec<_>>().join("\n")
}

/// By `OpenAI`'s rule; of everybody else the first guess is printed.
#[test]
fn recorded_prompts_are_counted_as_their_provider_counted_them() {
    let Some(rows) = support::rows() else { return };
    let all: Vec<Counted> = rows.iter().filter_map(counted).collect();
    let by_provider = all.iter().filter(|one| !one.measured.has_unseen);
    support::say(&format!(
        "\nevery provider, before learning\n{}",
        table(by_provider.map(|one| (one.provider.as_str(), one)))
    ));
    let by_rule: Vec<&Counted> = all.iter().filter(|one| one.is_by_rule()).collect();
    support::say(&format!("\nOpenAI's rule\n{}", table(by_rule.iter().map(|one| (one.feature(), *one)))));

    let gate: Vec<&Counted> = by_rule.into_iter().filter(|one| !one.is_apart()).collect();
    let of = |features: [&str; 2]| {
        let group: Vec<&Counted> = gate.iter().copied().filter(|one| features.contains(&one.feature())).collect();
        Figures::of(&group)
    };
    let text = of(["chat, text", "Responses, text"]);
    let tools = of(["chat, tool definitions", "Responses, tool definitions"]);
    let overall = Figures::of(&gate);
    let lines =
        [("text", text), ("tool definitions", tools), ("overall", overall)].map(|(name, figures)| figures.line(name));
    support::say(&format!("\nwhat must hold\n{HEAD}\n{}", lines.join("\n")));
    assert!(text.exact >= 0.97, "text is counted to the token in {} of 1", text.exact);
    assert!(tools.exact >= 0.90, "tools are counted to the token in {} of 1", tools.exact);
    assert!(overall.within_5 >= 0.95 && overall.within_10 >= 0.99, "{} {}", overall.within_5, overall.within_10);
    assert!(overall.bias.abs() <= 0.005, "{} of all tokens too many", overall.bias);
}

/// Of a prompt as an `OpenAI` model would be asked it only so many bytes of text are counted: what it is likely to be.
fn seen_in_part(prompt: &Prompt, operation: Operation, model: &str, bytes_max: usize) -> Estimated {
    let tokenizers = Tokenizers::new(Vec::new(), bytes_max);
    let measured = measure(prompt, operation, &tokenizers.counter("openai", model), "openai");
    let key = Key { upstream: UpstreamName::parse("openai").unwrap(), model: model.to_owned(), operation };
    tokenizer::estimate(&Parts { prompt: Some(measured), answer: None }, 0, &Calibration::default(), &key, true)
}

fn texts(prompt: &Prompt) -> impl Iterator<Item = &str> {
    let said = prompt.messages.iter().map(|message| message.text.as_str());
    said.chain(prompt.texts.iter().map(String::as_str)).chain(prompt.tools.iter().map(|tool| tool.definition.as_str()))
}

/// How many of some estimates have the truth within their band, and are off by how much.
fn coverage(name: &str, estimates: &[(Estimated, u64)]) -> f64 {
    let mut errors: Vec<f64> =
        estimates.iter().map(|(one, truth)| one.input.unwrap().abs_diff(*truth) as f64 / *truth as f64).collect();
    errors.sort_by(f64::total_cmp);
    let is_within = |(one, truth): &&(Estimated, u64)| (one.estimate.low..=one.estimate.high).contains(truth);
    let covered = estimates.iter().filter(is_within).count() as f64 / estimates.len() as f64;
    let quantile = |per_cent: usize| errors.get(errors.len() * per_cent / 100).copied().unwrap_or_default() * 100.0;
    support::say(&format!(
        "{name:28} {:6} {:7.1} {:7.1} {:7.1} {:7.1}",
        estimates.len(),
        quantile(50),
        quantile(90),
        quantile(99),
        covered * 100.0
    ));
    covered
}

/// Of every prompt the beginning is looked at; then of every hundredth long text one, for another behind it.
#[test]
fn what_nobody_looked_at_is_within_its_band() {
    let Some(rows) = support::rows() else { return };
    let prompts: Vec<Counted> =
        rows.iter().filter_map(counted).filter(|one| one.is_by_rule() && !one.is_apart()).collect();
    support::say("\nin per cent                       n     p50     p90     p99  within the band");
    for part in [2, 10] {
        let estimates: Vec<(Estimated, u64)> = prompts
            .iter()
            .map(|one| (one, texts(&one.prompt).map(str::len).sum::<usize>() / part))
            .filter(|(_, bytes)| *bytes >= 100)
            .map(|(one, bytes)| (seen_in_part(&one.prompt, one.operation, &one.model, bytes), one.truth))
            // What is said twice is looked at once.
            .filter(|(one, _)| one.estimate.method.ends_with("k+extrapolated"))
            .collect();
        assert!(estimates.len() >= 100);
        let covered = coverage(&format!("the first {part}th of the text"), &estimates);
        assert!(covered >= 0.9, "bands hold {covered} of 1");
    }

    let long: BTreeSet<&str> =
        prompts.iter().flat_map(|one| texts(&one.prompt)).filter(|text| text.len() >= 2_000).collect();
    let some: Vec<&str> = long.iter().copied().step_by(long.len().div_ceil(100)).collect();
    let (operation, model) = (Operation::TextCompletion, "gpt-4o");
    let pairs = some.iter().flat_map(|seen| some.iter().map(move |unseen| (*seen, *unseen)));
    let estimates: Vec<(Estimated, u64)> = pairs
        .filter(|(seen, unseen)| seen != unseen)
        .map(|(seen, unseen)| {
            let prompt = Prompt { texts: vec![seen.to_owned(), unseen.to_owned()], ..Prompt::default() };
            let truth = seen_in_part(&prompt, operation, model, usize::MAX).input.unwrap();
            (seen_in_part(&prompt, operation, model, seen.len()), truth)
        })
        .collect();
    let covered = coverage("another text", &estimates);
    assert!(covered >= 0.9, "bands hold {covered} of 1");
}
