//! Counts that a server tells for each choice or prompt on its own, where nothing tells their sum.

use crate::wires::told::Told;

/// Choices or prompts kept apart; no server makes more of one call.
const SHARES_MAX: usize = 1024;

/// The last counts of each choice or prompt, by its index.
#[derive(Debug, Default)]
pub(super) struct Shares(Vec<(u64, Told)>);

/// What the shares have of the prompt.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Prompt {
    /// All share one: choices.
    Shared,
    /// Each has its own.
    Own,
}

impl Shares {
    /// Takes up what the share of this index told last.
    pub(super) fn take(&mut self, index: u64, told: Told) {
        if let Some((_, share)) = self.0.iter_mut().find(|(known, _)| *known == index) {
            share.merge(told);
        } else if self.0.len() < SHARES_MAX {
            self.0.push((index, told));
        }
    }

    /// All shares together.
    pub(super) fn sum(&self, prompt: Prompt) -> Told {
        let mut sum = Told::default();
        for (_, share) in &self.0 {
            let (input, cache_read) = (sum.input, sum.cache_read);
            let output = both(sum.output, share.output);
            sum.merge(*share);
            sum.output = output;
            if prompt == Prompt::Own {
                sum.input = both(input, share.input);
                sum.cache_read = both(cache_read, share.cache_read);
            }
        }
        sum
    }
}

fn both(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.saturating_add(other)),
        (one, other) => one.or(other),
    }
}
