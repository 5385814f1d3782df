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
/// Predictions of so many calls and more say how far off the next may be; the very first are worse.
const TELLING_FROM: u64 = 4;
/// As many of the first errors are kept for good: they say how far off one may be of other keys that are new.
const FIRST_ERRORS: usize = 10;
/// As many texts that agents send again and again are known of a key.
const SCAFFOLDS_MAX: usize = 32;

/// What prompts of another vendor's tokenizer are weighed by.
const SCALED: Prior<10> = Prior {
    // A constant, text, messages, calls, tools, whether there are any, how many, schema, whether there is one, pictures.
    deviations: [100.0, 0.3, 5.0, 30.0, 0.5, 300.0, 30.0, 0.5, 100.0, 3_000.0],
    noise_share: 0.02,
    noise_tokens: 1.0,
};
/// What prompts of a model's own tokenizer are weighed by: what the rule may miss around the text.
const EXACT: Prior<10> = Prior {
    // A constant, calls, whether there are tools, how many, pictures; the others have no weight.
    deviations: [10.0, 0.0, 0.0, 10.0, 0.0, 100.0, 10.0, 0.0, 0.0, 300.0],
    noise_share: 0.02,
    noise_tokens: 1.0,
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
    prompt: Affine<10>,
    /// By whether there were tools.
    errors: [Errors; 2],
    /// How far off the rule alone was, then what was learned from the first few calls.
    first_errors: Vec<Share>,
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
    first_errors: Vec<Share>,
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
            first_errors: Vec::new(),
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
        if self.first_errors.len() < FIRST_ERRORS {
            self.first_errors.push(error);
        }
        if self.observations() >= TELLING_FROM {
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
        if self.answers() >= TELLING_FROM {
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
            first_errors: self.first_errors.clone(),
            scaffolds: self.scaffolds.iter().copied().collect(),
            answer: self.answer.numbers(),
            answer_errors: self.answer_errors.clone(),
        }
    }

    /// As it was kept; `None` where that is none of ours.
    pub(super) fn of(kept: Kept) -> Option<Self> {
        let Kept { version, is_exact, prompt, mut errors, first_errors, scaffolds, answer, mut answer_errors, .. } =
            kept;
        errors.iter_mut().chain([&mut answer_errors]).for_each(Errors::bound);
        let is_ours = version == VERSION
            && first_errors.len() <= FIRST_ERRORS
            && scaffolds.len() <= SCAFFOLDS_MAX
            && scaffolds.iter().all(|(_, missed)| missed.is_finite());
        is_ours.then_some(())?;
        Some(Self {
            rule: if is_exact { Rule::Exact } else { Rule::Scaled },
            prompt: Affine::of(&prompt)?,
            errors,
            first_errors,
            scaffolds: scaffolds.into(),
            answer: Affine::of(&answer)?,
            answer_errors,
        })
    }

    /// The errors of its first predictions, of which the very first is the rule's own, and those of the last.
    pub(super) fn past_errors(&self) -> (&[Share], impl Iterator<Item = Share> + '_) {
        (&self.first_errors, self.errors.iter().flat_map(Errors::iter))
    }
}

fn prior(rule: Rule) -> &'static Prior<10> {
    match rule {
        Rule::Exact => &EXACT,
        Rule::Scaled => &SCALED,
    }
}

/// In the order of the prior's deviations.
fn features(measured: &Measured) -> [f64; 10] {
    let [text, messages, calls, tools, tool_count, schema, images] = measured.parts();
    let has = |count: u64| count.min(1);
    let counts = [1, text, messages, calls, tools, has(tool_count), tool_count, schema, has(schema), images];
    counts.map(number)
}

fn features_of(generated: Generated) -> [f64; 3] {
    [1.0, number(generated.tokens), number(generated.calls)]
}

/// No text is worth less than a quarter of what another vendor's tokenizer makes of it.
fn corrected(tokens: u64, correction: f64) -> u64 {
    whole(number(tokens) + correction).max(tokens.div_ceil(4))
}
