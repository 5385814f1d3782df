//! What was counted of a prompt or an answer, in the parts that calibration weighs.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::{BY_LENGTH, Counted, Counter, by_length, length, openai, scaled, vendors};
use crate::operation::Operation;
use crate::wires::prompt::Prompt;

/// A prompt as its vendor's rule counts it, before anything was learned. Numbers and hashes only.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Measured {
    /// Tokens by the rule: what a model costs of which nothing was learned.
    pub tokens: u64,
    /// Those among them of text that nobody looked at, as in [`Counted::extrapolated`].
    pub extrapolated: u64,
    /// `o200k`, `cl100k`, the name of another tokenizer, or `bytes` where a length was all there was.
    pub method: &'static str,
    /// How well the rule is known to hold.
    pub rule: Rule,
    /// Tokens of all text, the arguments of calls included.
    pub text: u64,
    /// Messages.
    pub messages: u64,
    /// Calls in messages of the past.
    pub calls: u64,
    /// Tokens of the tools' definitions as JSON.
    pub tools: u64,
    /// How many tools.
    pub tool_count: u64,
    /// Tokens of the schema that the answer must have, as JSON.
    pub schema: u64,
    /// Pictures.
    pub images: u64,
    /// Whether there is more that nobody can count here.
    pub has_unseen: bool,
    /// Hash of what agents send again and again: system text, tools and schema. 0 where there is none of it.
    pub scaffold: u64,
}

impl Measured {
    /// What a prompt's tokens may depend on: text, messages, calls, tools, their number, schema, pictures.
    pub(super) fn parts(&self) -> [u64; 7] {
        let Self { text, messages, calls, tools, tool_count, schema, images, .. } = *self;
        [text, messages, calls, tools, tool_count, schema, images]
    }
}

/// How well a rule holds.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Rule {
    /// The vendor's own tokenizer and template: what remains is drift.
    Exact,
    /// Another vendor's tokenizer, scaled: off by tens of per cent until learned.
    #[default]
    Scaled,
}

/// Counts texts with one tokenizer, each once: a rule looks at most of them again.
pub(super) struct Tally<'a> {
    count: &'a dyn Fn(&str) -> Counted,
    method: Cell<&'static str>,
    extrapolated: Cell<u64>,
    known: RefCell<HashMap<(usize, u64), Counted>>,
}

impl<'a> Tally<'a> {
    /// `method` is the tokenizer's name, `count` what it does.
    pub(super) fn new(method: &'static str, count: &'a dyn Fn(&str) -> Counted) -> Self {
        Self { count, method: Cell::new(method), extrapolated: Cell::default(), known: RefCell::default() }
    }

    /// The tokens of `text`.
    pub(super) fn of(&self, text: &str) -> u64 {
        if text.is_empty() {
            return 0;
        }
        let counted = *self.known.borrow_mut().entry((text.len(), hash(text))).or_insert_with(|| (self.count)(text));
        if counted.method == BY_LENGTH {
            self.method.set(BY_LENGTH);
        }
        self.extrapolated.set(self.extrapolated.get().saturating_add(counted.extrapolated));
        counted.tokens
    }
}

/// What `prompt`, sent for `operation`, is to the model of `counter`, a model of `provider`. Slow, as counting is.
pub fn measure(prompt: &Prompt, operation: Operation, counter: &Counter<'_>, provider: &str) -> Measured {
    let count = |text: &str| counter.count(text);
    measure_with(&Tally::new(counter.name(), &count), prompt, operation, counter.model(), provider)
}

/// The same by the tokenizer of `tally`.
pub(super) fn measure_with(
    tally: &Tally<'_>,
    prompt: &Prompt,
    operation: Operation,
    model: &str,
    provider: &str,
) -> Measured {
    let mut measured = features(tally, prompt);
    measured.method = tally.method.get();
    measured.extrapolated = tally.extrapolated.take();
    if let Some(family) = openai::Family::of(model) {
        measured.rule = Rule::Exact;
        measured.tokens = openai::tokens(tally, prompt, operation, family, model);
        measured.extrapolated = tally.extrapolated.take();
    } else {
        measured.tokens = vendors::tokens(&measured, prompt, model, provider);
        let counted = [measured.text, measured.tools, measured.schema].into_iter().fold(0, u64::saturating_add);
        measured.extrapolated = scaled(measured.extrapolated, measured.tokens, counted);
    }
    measured.tokens = measured.tokens.saturating_add(prompt.tokens);
    measured.method = tally.method.get();
    if prompt.bytes_beyond > 0 {
        let seen = seen(prompt);
        let beyond = if seen == 0 {
            measured.method = BY_LENGTH;
            by_length(prompt.bytes_beyond)
        } else {
            let beyond = scaled(measured.tokens, prompt.bytes_beyond, seen);
            measured.extrapolated = measured.extrapolated.saturating_add(beyond);
            beyond
        };
        measured.tokens = measured.tokens.saturating_add(beyond);
        measured.text = measured.text.saturating_add(beyond);
    }
    measured
}

/// All of a measure but the tokens by a rule.
fn features(tally: &Tally<'_>, prompt: &Prompt) -> Measured {
    let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let sum =
        |texts: &mut dyn Iterator<Item = &str>| texts.fold(0, |sum: u64, text| sum.saturating_add(tally.of(text)));
    let calls = || prompt.messages.iter().flat_map(|message| &message.calls);
    let text = [
        sum(&mut prompt.messages.iter().map(|message| message.text.as_str())),
        sum(&mut prompt.texts.iter().map(String::as_str)),
        sum(&mut calls().flat_map(|call| [call.name.as_str(), call.arguments.as_str()])),
    ];
    let schema = prompt.schema.as_ref().map(|schema| schema.schema.to_string()).unwrap_or_default();
    Measured {
        text: text.into_iter().fold(0, u64::saturating_add),
        messages: number(prompt.messages.len()),
        calls: number(calls().count()),
        tools: sum(&mut prompt.tools.iter().map(|tool| tool.definition.as_str())),
        tool_count: number(prompt.tools.len()),
        schema: tally.of(&schema),
        images: number(prompt.images.len()),
        has_unseen: prompt.has_unseen,
        scaffold: scaffold(prompt, &schema),
        ..Measured::default()
    }
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

fn scaffold(prompt: &Prompt, schema: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    let mut is_empty = prompt.tools.is_empty() && schema.is_empty();
    for message in prompt.messages.iter().filter(|message| is_system(&message.role)) {
        message.text.hash(&mut hasher);
        is_empty = false;
    }
    prompt.tools.iter().for_each(|tool| tool.definition.hash(&mut hasher));
    schema.hash(&mut hasher);
    if is_empty { 0 } else { hasher.finish() }
}

/// Whether a message instructs.
pub(super) fn is_system(role: &str) -> bool {
    matches!(role, "system" | "developer")
}

/// Bytes of the text that was kept.
fn seen(prompt: &Prompt) -> u64 {
    let messages = prompt.messages.iter().map(|message| {
        let calls = message.calls.iter().map(|call| length(&call.arguments)).fold(0, u64::saturating_add);
        calls.saturating_add(length(&message.text))
    });
    let texts = prompt.texts.iter().map(|text| length(text));
    let tools = prompt.tools.iter().map(|tool| length(&tool.definition));
    messages.chain(texts).chain(tools).fold(0, u64::saturating_add)
}
