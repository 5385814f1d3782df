//! Affine: what has to be added to a rule's count, learned from one call after the other.
//!
//! Recursive least squares: a weight a feature, and how sure each is. All weights begin at nothing, so that before the
//! first call the rule's own count stands.

#![expect(clippy::float_arithmetic, reason = "weights are real numbers; counts are rounded at the end")]

use serde::{Deserialize, Serialize};

use super::number;

/// An old observation weighs this much less with each that follows: half of it after some 350.
const FORGETTING: f64 = 0.998;
/// What is farther off than this many deviations pulls no harder.
const CLIP_DEVIATIONS: f64 = 5.0;
/// Of a surprise, this much is taken for noise.
const DOUBT_SHARE: f64 = 0.2;
/// As many surprises in a row, all to one side, and the model or its template is another.
const SURPRISES_MAX: i32 = 20;
/// A surprise, in deviations.
const SURPRISE_DEVIATIONS: f64 = 3.0;

/// What is known of a quantity before its first call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Prior<const N: usize> {
    /// How far each weight may be from nothing: a deviation.
    pub(super) deviations: [f64; N],
    /// A count's own scatter: a share of it.
    pub(super) noise_share: f64,
    /// And tokens beside, squared.
    pub(super) noise_tokens: f64,
}

/// The weights of one key.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Affine<const N: usize> {
    weights: [f64; N],
    covariance: [[f64; N]; N],
    observations: u64,
    /// Surprises in a row: below nothing where less was reported than thought.
    surprises: i32,
}

/// The same as numbers to keep.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Numbers {
    #[serde(rename = "w")]
    weights: Vec<f64>,
    /// Row by row, each up to the diagonal.
    #[serde(rename = "p")]
    covariance: Vec<f64>,
    #[serde(rename = "n")]
    observations: u64,
    #[serde(rename = "s", default)]
    surprises: i32,
}

impl<const N: usize> Affine<N> {
    pub(super) fn new(prior: &Prior<N>) -> Self {
        let mut covariance = [[0.0; N]; N];
        for (index, (row, deviation)) in covariance.iter_mut().zip(prior.deviations).enumerate() {
            if let Some(own) = row.get_mut(index) {
                *own = deviation * deviation;
            }
        }
        Self { weights: [0.0; N], covariance, observations: 0, surprises: 0 }
    }

    /// How many calls it learned from since it last began anew.
    pub(super) fn observations(&self) -> u64 {
        self.observations
    }

    /// What is to be added where the features are these.
    pub(super) fn correction(&self, features: &[f64; N]) -> f64 {
        dot(&self.weights, features)
    }

    /// Learns that `reported` tokens were what the rule counted as `ruled`. False: what was known is of no use any more,
    /// and it began anew.
    pub(super) fn observe(&mut self, prior: &Prior<N>, features: &[f64; N], ruled: u64, reported: u64) -> bool {
        let (ruled, reported) = (number(ruled), number(reported));
        let residual = reported - ruled - self.correction(features);
        let deviation = self.deviation(prior, features, reported);
        self.surprises = match residual.abs() > SURPRISE_DEVIATIONS * deviation {
            true if residual > 0.0 => self.surprises.max(0).saturating_add(1),
            true => self.surprises.min(0).saturating_sub(1),
            false => 0,
        };
        let goes_on = self.surprises.abs() < SURPRISES_MAX;
        if !goes_on {
            *self = Self::new(prior);
        }
        self.learn(prior, features, reported - ruled, reported);
        if !self.is_sound() {
            *self = Self::new(prior);
            return false;
        }
        self.observations = self.observations.saturating_add(1);
        goes_on
    }

    /// How far from what is thought a report may well be.
    fn deviation(&self, prior: &Prior<N>, features: &[f64; N], reported: f64) -> f64 {
        let unsure = dot(features, &self.spread(features));
        // Rounding may make nothing of what is next to nothing.
        (unsure.max(0.0) + (prior.noise_share * reported).powi(2) + prior.noise_tokens).sqrt()
    }

    fn spread(&self, features: &[f64; N]) -> [f64; N] {
        let mut spread = [0.0; N];
        for (one, row) in spread.iter_mut().zip(&self.covariance) {
            *one = dot(row, features);
        }
        spread
    }

    fn learn(&mut self, prior: &Prior<N>, features: &[f64; N], missed: f64, reported: f64) {
        let spread = self.spread(features);
        let deviation = self.deviation(prior, features, reported);
        let pull = CLIP_DEVIATIONS * deviation;
        let residual = (missed - self.correction(features)).clamp(-pull, pull);
        // The more it surprises the less it is believed: a provider may have put in what nobody sees here.
        let variance = deviation * deviation + (DOUBT_SHARE * (missed - self.correction(features))).powi(2);
        for (weight, one) in self.weights.iter_mut().zip(spread) {
            *weight += one / variance * residual;
        }
        for (row, one) in self.covariance.iter_mut().zip(spread) {
            for (cell, other) in row.iter_mut().zip(spread) {
                *cell = (*cell - one * other / variance) / FORGETTING;
            }
        }
        self.bound(prior);
    }

    /// Forgetting makes nothing less sure than it was at first.
    fn bound(&mut self, prior: &Prior<N>) {
        let mut scale = [1.0; N];
        for (index, ((one, row), deviation)) in scale.iter_mut().zip(&self.covariance).zip(prior.deviations).enumerate()
        {
            let own = row.get(index).copied().unwrap_or_default();
            let most = deviation * deviation;
            if own > most {
                *one = (most / own).sqrt();
            }
        }
        for (row, one) in self.covariance.iter_mut().zip(scale) {
            for (cell, other) in row.iter_mut().zip(scale) {
                *cell *= one * other;
            }
        }
    }

    fn is_sound(&self) -> bool {
        let diagonal = self.covariance.iter().enumerate().filter_map(|(index, row)| row.get(index));
        self.weights.iter().chain(self.covariance.iter().flatten()).all(|number| number.is_finite())
            && diagonal.into_iter().all(|variance| *variance >= 0.0)
    }

    /// To keep.
    pub(super) fn numbers(&self) -> Numbers {
        let rows = self.covariance.iter().enumerate();
        Numbers {
            weights: self.weights.to_vec(),
            covariance: rows.flat_map(|(index, row)| row.iter().take(index.saturating_add(1)).copied()).collect(),
            observations: self.observations,
            surprises: self.surprises,
        }
    }

    /// As it was kept; `None` where that is not this.
    pub(super) fn of(numbers: &Numbers) -> Option<Self> {
        let weights = numbers.weights.as_slice().try_into().ok()?;
        let mut kept = numbers.covariance.iter().copied();
        let mut covariance = [[0.0; N]; N];
        for index in 0..N {
            for column in 0..=index {
                let value = kept.next()?;
                for (row, cell) in [(index, column), (column, index)] {
                    *covariance.get_mut(row)?.get_mut(cell)? = value;
                }
            }
        }
        let affine = Self { weights, covariance, observations: numbers.observations, surprises: numbers.surprises };
        (kept.next().is_none() && affine.is_sound()).then_some(affine)
    }
}

fn dot(one: &[f64], other: &[f64]) -> f64 {
    one.iter().zip(other).map(|(one, other)| one * other).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRIOR: Prior<2> = Prior { deviations: [100.0, 0.5], noise_share: 0.02, noise_tokens: 4.0 };

    fn corrected(affine: &Affine<2>, ruled: u64) -> f64 {
        number(ruled) + affine.correction(&[1.0, number(ruled)])
    }

    fn observe(affine: &mut Affine<2>, ruled: u64, reported: u64) -> bool {
        affine.observe(&PRIOR, &[1.0, number(ruled)], ruled, reported)
    }

    #[test]
    fn before_the_first_call_the_rule_stands() {
        assert!((corrected(&Affine::new(&PRIOR), 321) - 321.0).abs() < f64::EPSILON);
    }

    #[test]
    fn a_constant_and_a_slope_are_found() {
        let mut affine = Affine::new(&PRIOR);
        for ruled in [10, 200, 30, 4_000, 55, 600] {
            assert!(observe(&mut affine, ruled, ruled + ruled / 10 + 35));
        }
        assert_eq!(affine.observations(), 6);
        let off = corrected(&affine, 1_000) - 1_135.0;
        assert!(off.abs() < 12.0, "{off}");
    }

    #[test]
    fn one_wild_report_changes_little() {
        let mut affine = Affine::new(&PRIOR);
        for ruled in (10..400).step_by(10) {
            observe(&mut affine, ruled, ruled + 8);
        }
        assert!(observe(&mut affine, 200, 50_019));
        let off = corrected(&affine, 200) - 208.0;
        assert!(off.abs() < 6.0, "{off}");
    }

    #[test]
    fn another_template_is_learned_anew() {
        let mut affine = Affine::new(&PRIOR);
        for ruled in (10..4_000).step_by(10) {
            observe(&mut affine, ruled, ruled + 8);
        }
        let mut began_anew = 0;
        for ruled in (1_000..1_400).step_by(10) {
            began_anew += u32::from(!observe(&mut affine, ruled, ruled * 3));
        }
        assert_eq!(began_anew, 1);
        let off = corrected(&affine, 1_200) / 3_600.0;
        assert!((0.97..1.03).contains(&off), "{off}");
    }

    #[test]
    fn what_is_kept_comes_back_and_what_is_not_whole_does_not() {
        let mut affine = Affine::new(&PRIOR);
        observe(&mut affine, 100, 130);
        let numbers = affine.numbers();
        let text = serde_json::to_string(&numbers).unwrap();
        let read: Numbers = serde_json::from_str(&text).unwrap();
        let again = Affine::<2>::of(&read).unwrap();
        assert!((corrected(&again, 500) - corrected(&affine, 500)).abs() < 1e-6);
        assert_eq!(again.observations(), 1);
        assert_eq!(Affine::<3>::of(&read), None);
        assert_eq!(Affine::<2>::of(&Numbers { weights: vec![f64::NAN, 0.0], ..numbers }), None);
    }
}
