//! Calibration: what calls with reported usage teach of those without.
//!
//! In: what a rule counted of a prompt, and what the provider then reported. Out: a prediction for the next call of the
//! same upstream, model and operation, and a band that nine of ten truths were within, from how far off the predictions
//! before had been. Pure. Holds numbers and hashes, never text; some kilobytes a key, at most a thousand keys.

mod affine;
mod errors;
mod of_key;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use self::errors::{Errors, Share};
use self::of_key::{Kept, OfKey};
use super::measured::{Measured, Rule};
use super::{BY_LENGTH, scaled, together};
use crate::ids::UpstreamName;
use crate::operation::Operation;

/// As many keys are known. Another takes the place of one that has learned little, else of the one not heard of longest.
pub const KEYS_MAX: usize = 1_000;
/// Of a key that learned from so many calls, more are learned from now and then only.
pub const SATURATED_FROM: u64 = 32;
/// Of a key that learned from so many calls, predictions are as good as they get.
const SETTLED_FROM: u64 = 10;
/// Longest name of a model that is learned of. Providers' have some 50 bytes.
const MODEL_BYTES_MAX: usize = 256;
/// Counts beyond are no call's.
const TOKENS_MAX: u64 = 100_000_000;

/// Models whose own tokenizer counts: what is missed are tools, pictures and hidden text.
const EXACT_PRIOR: Share = Share::per_cent(15);
/// Other models, and text that was not seen: tokenizers and templates differ.
const SCALED_PRIOR: Share = Share::per_cent(60);
/// Text that nobody looked at, of the tokens that it has at the rate of the rest.
const EXTRAPOLATED_PRIOR: Share = Share::per_cent(80);

/// Calls that are alike.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Key {
    /// The upstream asked.
    pub upstream: UpstreamName,
    /// The model's name, as records have it.
    pub model: String,
    /// What was asked.
    pub operation: Operation,
}

/// Which key it is, without making one.
pub fn key_hash(upstream: &UpstreamName, model: &str, operation: Operation) -> u64 {
    let mut hasher = DefaultHasher::new();
    (upstream, model, operation).hash(&mut hasher);
    hasher.finish()
}

/// The text of an answer as it was counted.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Generated {
    /// Tokens of its text, the arguments of calls included, and of what its vendor counts around them.
    pub tokens: u64,
    /// Those among them of text that nobody looked at, as in [`super::Counted::extrapolated`].
    pub extrapolated: u64,
    /// Calls in it.
    pub calls: u64,
    /// So many more may have been thought out of sight.
    pub hidden: u64,
    /// How they were counted, as in [`Measured::method`].
    pub method: &'static str,
    /// How well its tokenizer is known.
    pub rule: Rule,
}

/// What a call with reported usage was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lesson<'a> {
    /// The prompt, as its rule counts it.
    pub prompt: &'a Measured,
    /// Its tokens as reported, those of the provider's cache included.
    pub prompt_tokens: u64,
    /// The answer's text as counted, and its tokens as reported, reasoning included; `None` where there was none to count.
    pub answer: Option<(Generated, u64)>,
}

/// What a count is likely to be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Prediction {
    /// The likeliest.
    pub tokens: u64,
    /// One of twenty truths may be below.
    pub low: u64,
    /// One of twenty truths may be above.
    pub high: u64,
    /// Calls with reported usage that it was learned from. 0: the rule's own count.
    pub observations: u64,
}

/// All that was learned.
#[derive(Debug, Default)]
pub struct Calibration {
    keys: HashMap<Key, Entry>,
    by_method: BTreeMap<Method, Errors>,
    /// Rises with every lesson: by it the one not heard of longest is found.
    lessons: u64,
}

#[derive(Debug)]
struct Entry {
    learned: OfKey,
    method: String,
    last_lesson: u64,
    has_changed: bool,
}

/// Predictions that may be compared where a key alone says too little.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Method {
    /// The tokenizer.
    name: String,
    rule: Rule,
    stage: Stage,
}

/// How much a prediction was based on.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Stage {
    /// The rule alone.
    Rule,
    /// A few calls.
    Young,
    /// Enough.
    Settled,
}

impl Stage {
    fn of(observations: u64) -> Self {
        match observations {
            0 => Self::Rule,
            1..SETTLED_FROM => Self::Young,
            SETTLED_FROM.. => Self::Settled,
        }
    }
}

/// What is known of a key, to be kept.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Row {
    /// Whose.
    pub key: Key,
    /// Numbers and hashes as JSON.
    pub state: String,
    /// Calls that it learned from.
    pub observations: u64,
}

/// Why a kept row is not taken up.
#[derive(Debug, thiserror::Error)]
pub enum RowError {
    /// It is not what is kept of a key.
    #[error("the state is not as this binary keeps it")]
    Syntax(#[from] serde_json::Error),
    /// Its numbers are none that learning comes to.
    #[error("the state's numbers do not fit together")]
    Numbers,
}

impl Calibration {
    /// What the prompt of a call of `key` is likely to be.
    pub fn prompt(&self, key: &Key, measured: &Measured) -> Prediction {
        let learned = self.of_key(key, measured);
        let observations = learned.map_or(0, OfKey::observations);
        let tokens = learned.map_or(measured.tokens, |learned| learned.prompt(measured));
        let share = learned.and_then(|learned| learned.prompt_share(measured)).or_else(|| {
            let name = Some(measured.method).filter(|method| *method != BY_LENGTH)?.to_owned();
            let method = Method { name, rule: measured.rule, stage: Stage::of(observations) };
            self.by_method.get(&method)?.ninety_per_cent(None)
        });
        let share = share.unwrap_or_else(|| prior_share(measured.rule, measured.method));
        // What nobody can count here nobody could learn of either.
        let share = if measured.has_unseen { share.max(SCALED_PRIOR) } else { share };
        let (low, high) = band(share, tokens, scaled(measured.extrapolated, tokens, measured.tokens));
        Prediction { tokens, low, high, observations }
    }

    /// What an answer is likely to be. One that was cut is what came of it: what its model may have hidden widens the
    /// band, not the count.
    pub fn answer(&self, key: &Key, generated: Generated, is_whole: bool) -> Prediction {
        let learned = self.keys.get(key).map(|entry| &entry.learned).filter(|learned| learned.answers() > 0);
        let learned = learned.filter(|_| generated.method != BY_LENGTH);
        let ruled = |share: Share| {
            let (low, high) = band(share, generated.tokens, generated.extrapolated);
            Prediction { tokens: generated.tokens, low, high, observations: 0 }
        };
        let cut = ruled(prior_share(generated.rule, generated.method));
        let Some(learned) = learned else {
            return Prediction { high: cut.high.saturating_add(generated.hidden), ..cut };
        };
        let tokens = learned.answer(generated);
        let (low, high) = band(learned.answer_share().unwrap_or(SCALED_PRIOR), tokens, generated.extrapolated);
        if is_whole {
            return Prediction { tokens, low, high, observations: learned.answers() };
        }
        Prediction { high: cut.high.max(high), ..cut }
    }

    /// Learns from a call; what its prompt would have been predicted as is noted first. False: it is no lesson.
    pub fn learn(&mut self, key: &Key, lesson: Lesson<'_>) -> bool {
        let Lesson { prompt, prompt_tokens, answer } = lesson;
        let is_sane = |tokens: u64| (1..=TOKENS_MAX).contains(&tokens);
        if key.model.is_empty()
            || key.model.len() > MODEL_BYTES_MAX
            || key.model.contains(char::is_control)
            || prompt.has_unseen
            || prompt.extrapolated > 0
            || prompt.method == BY_LENGTH
            || !is_sane(prompt_tokens)
            || !is_sane(prompt.tokens)
            || prompt.parts().into_iter().any(|count| count > TOKENS_MAX)
        {
            return false;
        }
        self.lessons = self.lessons.saturating_add(1);
        if !self.keys.contains_key(key) {
            self.make_place();
        }
        let entry = self.keys.entry(key.clone()).or_insert_with(|| Entry::new(OfKey::new(prompt.rule), prompt.method));
        entry.last_lesson = self.lessons;
        entry.has_changed = true;
        if entry.method != prompt.method {
            prompt.method.clone_into(&mut entry.method);
        }
        let stage = Stage::of(entry.learned.observations());
        let error = entry.learned.learn_prompt(prompt, prompt_tokens);
        if let Some((generated, reported)) = answer.filter(|(one, reported)| {
            one.method != BY_LENGTH
                && one.extrapolated == 0
                && is_sane(*reported)
                && one.tokens.max(one.calls) <= TOKENS_MAX
        }) {
            entry.learned.learn_answer(generated, reported);
        }
        let method = Method { name: prompt.method.to_owned(), rule: prompt.rule, stage };
        self.by_method.entry(method).or_default().push(error);
        true
    }

    /// Hashes of the keys that have learned enough, to be asked by [`key_hash`].
    pub fn saturated(&self) -> HashSet<u64> {
        let enough = |entry: &Entry| entry.learned.observations() >= SATURATED_FROM;
        let keys = self.keys.iter().filter(|(_, entry)| enough(entry));
        keys.map(|(key, _)| key_hash(&key.upstream, &key.model, key.operation)).collect()
    }

    /// What has changed since it was last asked for.
    pub fn changed(&mut self) -> Vec<Row> {
        let rows = self.keys.iter_mut().map(|(key, entry)| {
            let has_changed = std::mem::take(&mut entry.has_changed);
            has_changed.then(|| entry.row(key)).flatten()
        });
        rows.flatten().collect()
    }

    /// Rows that [`Calibration::changed`] gave were not kept: they are to be given again.
    pub fn take_back(&mut self, rows: &[Row]) {
        for row in rows {
            if let Some(entry) = self.keys.get_mut(&row.key) {
                entry.has_changed = true;
            }
        }
    }

    /// Takes up what was kept. Before the first lesson.
    pub fn remember(&mut self, row: &Row) -> Result<(), RowError> {
        let kept: Kept = serde_json::from_str(&row.state)?;
        let method = kept.method.clone();
        let learned = OfKey::of(kept).ok_or(RowError::Numbers)?;
        let rule = learned.rule();
        let (first, last) = learned.past_errors();
        let stages = [Stage::Rule].into_iter().chain(std::iter::repeat(Stage::Young));
        let last = last.filter(|_| learned.observations() >= SETTLED_FROM).map(|error| (Stage::Settled, error));
        for (stage, error) in stages.zip(first.iter().copied()).chain(last) {
            let method = Method { name: method.clone(), rule, stage };
            self.by_method.entry(method).or_default().push(error);
        }
        if !self.keys.contains_key(&row.key) {
            self.make_place();
        }
        let entry = Entry { has_changed: false, ..Entry::new(learned, &method) };
        self.keys.insert(row.key.clone(), entry);
        Ok(())
    }

    fn of_key(&self, key: &Key, measured: &Measured) -> Option<&OfKey> {
        let learned = self.keys.get(key).map(|entry| &entry.learned);
        learned.filter(|learned| learned.rule() == measured.rule && measured.method != BY_LENGTH)
    }

    fn make_place(&mut self) {
        if self.keys.len() < KEYS_MAX {
            return;
        }
        let worth = |entry: &Entry| (entry.learned.observations() >= SATURATED_FROM, entry.last_lesson);
        let least = self.keys.iter().min_by_key(|(_, entry)| worth(entry)).map(|(key, _)| key.clone());
        if let Some(key) = least {
            self.keys.remove(&key);
        }
    }
}

impl Entry {
    fn new(learned: OfKey, method: &str) -> Self {
        Self { learned, method: method.to_owned(), last_lesson: 0, has_changed: true }
    }

    /// `None` of what is no JSON, which cannot be.
    fn row(&self, key: &Key) -> Option<Row> {
        let state = serde_json::to_string(&self.learned.kept(&self.method)).ok()?;
        Some(Row { key: key.clone(), state, observations: self.learned.observations() })
    }
}

fn prior_share(rule: Rule, method: &str) -> Share {
    match rule {
        Rule::Exact if method != BY_LENGTH => EXACT_PRIOR,
        Rule::Exact | Rule::Scaled => SCALED_PRIOR,
    }
}

/// What is within `share` of `tokens`, and farther where some of them are of text that nobody looked at.
fn band(share: Share, tokens: u64, extrapolated: u64) -> (u64, u64) {
    let off = |share: Share, tokens| share.around(tokens).1.saturating_sub(tokens);
    let unseen = if extrapolated == 0 { 0 } else { off(EXTRAPOLATED_PRIOR, extrapolated) };
    let off = together([off(share, tokens), unseen].into_iter());
    (tokens.saturating_sub(off), tokens.saturating_add(off))
}

/// A count as a number to reckon with. Counts beyond 2³² are no call's.
fn number(count: u64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

/// A number as a count; nothing where it is below nothing.
fn whole(number: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "what is negative, too large or no number comes to the nearest count"
    )]
    let count = number.round() as u64;
    count
}

#[cfg(test)]
mod tests;
