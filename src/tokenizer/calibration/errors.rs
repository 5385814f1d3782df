//! Errors: how far off past predictions were, and so how far off the next is likely to be.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// As many are kept; an older one makes place.
const KEPT_MAX: usize = 200;
/// Of fewer nothing is said.
const KEPT_MIN: usize = 10;

/// A share of what was predicted, in hundredths of a per cent. At the type's end: that or more.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Share(u16);

impl Share {
    pub(super) const fn per_cent(per_cent: u16) -> Self {
        Self(per_cent.saturating_mul(100))
    }

    /// How far `reported` is from `predicted`, rounded up.
    pub(super) fn off(predicted: u64, reported: u64) -> Self {
        let off = u128::from(predicted.abs_diff(reported)).saturating_mul(10_000);
        Self(u16::try_from(off.div_ceil(u128::from(predicted.max(1)))).unwrap_or(u16::MAX))
    }

    /// The counts that are within this share of `predicted`.
    pub(super) fn around(self, predicted: u64) -> (u64, u64) {
        let reach = u128::from(predicted.max(1)).saturating_mul(u128::from(self.0)).checked_div(10_000);
        let reach = reach.and_then(|reach| u64::try_from(reach).ok()).unwrap_or(u64::MAX);
        (predicted.saturating_sub(reach), predicted.saturating_add(reach))
    }
}

/// The errors of the last predictions of one kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Errors(VecDeque<Share>);

impl Errors {
    pub(super) fn push(&mut self, error: Share) {
        self.0.push_back(error);
        self.bound();
    }

    /// Lets go of the oldest beyond those that are kept: what was read may hold more.
    pub(super) fn bound(&mut self) {
        let beyond = self.0.len().saturating_sub(KEPT_MAX);
        self.0.drain(..beyond);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Share> + '_ {
        self.0.iter().copied()
    }

    /// The share within which nine of ten truths were, these and `others` taken together; `None` of too few.
    pub(super) fn ninety_per_cent(&self, others: Option<&Self>) -> Option<Share> {
        let mut errors: Vec<Share> = self.iter().chain(others.into_iter().flat_map(Self::iter)).collect();
        if errors.len() < KEPT_MIN {
            return None;
        }
        errors.sort_unstable();
        // The one to come is counted among them.
        let rank = errors.len().saturating_add(1).saturating_mul(9).div_ceil(10).min(errors.len());
        errors.get(rank.saturating_sub(1)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_band_holds_what_its_own_error_was() {
        for (predicted, reported) in [(30, 31), (30, 29), (7, 9), (1_000, 1_333), (3, 0), (0, 1), (50_019, 49_000)] {
            let (low, high) = Share::off(predicted, reported).around(predicted);
            assert!((low..=high).contains(&reported), "{predicted} {reported}: {low} to {high}");
        }
        assert_eq!(Share::per_cent(15).around(100), (85, 115));
        assert_eq!(Share::off(1, u64::MAX).around(u64::MAX), (0, u64::MAX));
        assert_eq!(Share::off(500, 500).around(500), (500, 500));
    }

    #[test]
    fn nine_of_ten_are_within() {
        let mut errors = Errors::default();
        assert_eq!(errors.ninety_per_cent(None), None);
        for one in 1..=200 {
            errors.push(Share(one));
        }
        assert_eq!(errors.ninety_per_cent(None), Some(Share(181)));
        for _ in 0..200 {
            errors.push(Share(7));
        }
        assert_eq!(errors.ninety_per_cent(None), Some(Share(7)), "the old ones have made place");
        assert_eq!(Errors::default().ninety_per_cent(Some(&errors)), Some(Share(7)));
    }
}
