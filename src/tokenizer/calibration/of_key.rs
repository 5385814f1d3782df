//! Of a key: what calls that are alike have taught of their prompts and their answers.

#![expect(clippy::float_arithmetic, reason = "weights are real numbers; counts are rounded at the end")]

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::affine::{Affine, Numbers, Prior};
use super::errors::{Errors, Share};
use super::{Generated, number, whole};
use crate::tokenizer::measured::{Measured, Rule};

/// The form in which it is kept.
const VERSION: u32 = 1;
/// As many texts that agents send again and again are known of a key.
const SCAFFOLDS_MAX: usize = 32;

/// What prompts of another vendor's tokenizer are weighed by.
const SCALED: Prior<8> = Prior {
    // A constant, text, messages, tools, whether there are any, schema, whether there is one, pictures.
    deviations: [100.0, 0.3, 5.0, 0.5, 300.0, 0.5, 100.0, 1_000.0],
    noise_share: 0.02,
    noise_tokens: 4.0,
};
/// What prompts of a model's own tokenizer are weighed by: what the rule may miss around the text.
const EXACT: Prior<8> = Prior {
    // A constant, whether there are tools, how many, calls, pictures.
    deviations: [10.0, 100.0, 10.0, 10.0, 300.0, 0.0, 0.0, 0.0],
    noise_share: 0.02,
    noise_tokens: 4.0,
};
/// What answers are weighed by. Reasoning that nobody saw scatters widely.
const GENERATED: Prior<3> = Prior {
    // A constant, text, calls.
    deviations: [300.0, 0.3, 30.0],
    noise_share: 0.2,
    noise_tokens: 25.0,
};

/// What is known of one key.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct OfKey {
    rule: Rule,
    prompt: Affine<8>,
    /// By whether there were tools.
    errors: [Errors; 2],
    /// How far off the rule alone was.
    error_of_rule: Option<Share>,
    /// By what agents send again and again: what was missed with it lately. The last used is last.
    scaffolds: VecDeque<(u64, f64)>,
    answer: Affine<3>,
    answer_errors: Errors,
}

/// The same as numbers to keep.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kept {
    /// Of this form; another is of no use.
    version: u32,
    is_exact: bool,
    pub(super) method: String,
    prompt: Numbers,
    errors: [Errors; 2],
    error_of_rule: Option<Share>,
    scaffolds: Vec<(u64, f64)>,
    answer: Numbers,
    answer_errors: Errors,
}

impl OfKey {
    pub(super) fn new(rule: Rule) -> Self {
        Self {
            rule,
            prompt: Affine::new(prior(rule)),
            errors: [Errors::default(), Errors::default()],
            error_of_rule: None,
            scaffolds: VecDeque::new(),
            answer: Affine::new(&GENERATED),
            answer_errors: Errors::default(),
        }
    }

    pub(super) fn rule(&self) -> Rule {
        self.rule
    }

    /// Calls whose prompts it learned from.
    pub(super) fn observations(&self) -> u64 {
        self.prompt.observations()
    }

    /// Whole answers that it learned from.
    pub(super) fn answers(&self) -> u64 {
        self.answer.observations()
    }

    /// The prompt's tokens; by the rule alone before anything was learned.
    pub(super) fn prompt(&self, measured: &Measured) -> u64 {
        if measured.rule != self.rule {
            return measured.tokens;
        }
        let again = self.scaffolds.iter().find(|(scaffold, _)| *scaffold == measured.scaffold);
        let missed = again.map_or(0.0, |(_, missed)| *missed);
        corrected(measured.tokens, self.prompt.correction(&features(measured)) + missed)
    }

    /// The tokens of a whole answer, with the reasoning that models like this one usually hide.
    pub(super) fn answer(&self, generated: Generated) -> u64 {
        corrected(generated.tokens, self.answer.correction(&features_of(generated)))
    }

    /// The share of a prompt's tokens within which nine of ten were, if enough were seen.
    pub(super) fn prompt_share(&self, measured: &Measured) -> Option<Share> {
        let [without, with] = &self.errors;
        let (own, others) = if measured.tool_count > 0 { (with, without) } else { (without, with) };
        own.ninety_per_cent(None).or_else(|| own.ninety_per_cent(Some(others)))
    }

    /// The same of answers.
    pub(super) fn answer_share(&self) -> Option<Share> {
        self.answer_errors.ninety_per_cent(None)
    }

    /// Learns what a prompt was. How far off the prediction had been.
    pub(super) fn learn_prompt(&mut self, measured: &Measured, reported: u64) -> Share {
        if measured.rule != self.rule {
            *self = Self::new(measured.rule);
        }
        let error = Share::off(self.prompt(measured), reported);
        if self.observations() == 0 {
            self.error_of_rule = Some(error);
        } else {
            let [without, with] = &mut self.errors;
            if measured.tool_count > 0 { with } else { without }.push(error);
        }
        let features = features(measured);
        if !self.prompt.observe(prior(self.rule), &features, measured.tokens, reported) {
            self.scaffolds.clear();
        }
        if measured.scaffold != 0 {
            let missed = number(reported) - number(measured.tokens) - self.prompt.correction(&features);
            self.remember(measured.scaffold, missed);
        }
        error
    }

    /// Keeps what was missed with `scaffold`, the last time as much as all before.
    fn remember(&mut self, scaffold: u64, missed: f64) {
        let known = self.scaffolds.iter().position(|(one, _)| *one == scaffold);
        let before = known.and_then(|at| self.scaffolds.remove(at));
        let missed = before.map_or(missed, |(_, before)| f64::midpoint(before, missed));
        self.scaffolds.push_back((scaffold, missed));
        if self.scaffolds.len() > SCAFFOLDS_MAX {
            self.scaffolds.pop_front();
        }
    }

    /// Learns what a whole answer was. How far off the prediction had been.
    pub(super) fn learn_answer(&mut self, generated: Generated, reported: u64) -> Share {
        let error = Share::off(self.answer(generated), reported);
        if self.answers() > 0 {
            self.answer_errors.push(error);
        }
        self.answer.observe(&GENERATED, &features_of(generated), generated.tokens, reported);
        error
    }

    /// To keep; `method` is how its prompts are counted.
    pub(super) fn kept(&self, method: &str) -> Kept {
        Kept {
            version: VERSION,
            is_exact: self.rule == Rule::Exact,
            method: method.to_owned(),
            prompt: self.prompt.numbers(),
            errors: self.errors.clone(),
            error_of_rule: self.error_of_rule,
            scaffolds: self.scaffolds.iter().copied().collect(),
            answer: self.answer.numbers(),
            answer_errors: self.answer_errors.clone(),
        }
    }

    /// As it was kept; `None` where that is none of ours.
    pub(super) fn of(kept: Kept) -> Option<Self> {
        let Kept { version, is_exact, prompt, mut errors, error_of_rule, scaffolds, answer, mut answer_errors, .. } =
            kept;
        errors.iter_mut().chain([&mut answer_errors]).for_each(Errors::bound);
        let is_ours = version == VERSION
            && scaffolds.len() <= SCAFFOLDS_MAX
            && scaffolds.iter().all(|(_, missed)| missed.is_finite());
        is_ours.then_some(())?;
        Some(Self {
            rule: if is_exact { Rule::Exact } else { Rule::Scaled },
            prompt: Affine::of(&prompt)?,
            errors,
            error_of_rule,
            scaffolds: scaffolds.into(),
            answer: Affine::of(&answer)?,
            answer_errors,
        })
    }

    /// The errors of its prompts' predictions, and the first of them, which was the rule's own.
    pub(super) fn past_errors(&self) -> (impl Iterator<Item = Share> + '_, Option<Share>) {
        (self.errors.iter().flat_map(Errors::iter), self.error_of_rule)
    }
}

fn prior(rule: Rule) -> &'static Prior<8> {
    match rule {
        Rule::Exact => &EXACT,
        Rule::Scaled => &SCALED,
    }
}

/// In the order of the prior's deviations.
fn features(measured: &Measured) -> [f64; 8] {
    let Measured { text, messages, calls, tools, tool_count, schema, images, .. } = *measured;
    let has = |count: u64| number(count.min(1));
    match measured.rule {
        Rule::Exact => [1.0, has(tool_count), number(tool_count), number(calls), number(images), 0.0, 0.0, 0.0],
        Rule::Scaled => [
            1.0,
            number(text),
            number(messages),
            number(tools),
            has(tool_count),
            number(schema),
            has(schema),
            number(images),
        ],
    }
}

fn features_of(generated: Generated) -> [f64; 3] {
    [1.0, number(generated.tokens), number(generated.calls)]
}

/// No text is worth less than a quarter of what another vendor's tokenizer makes of it.
fn corrected(tokens: u64, correction: f64) -> u64 {
    whole(number(tokens) + correction).max(tokens.div_ceil(4))
}
