//! Runway: how long the journal lasts at the rate at which it was appended to lately.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Over how long the rate is taken.
const OVER: Duration = Duration::from_mins(5);
/// How far samples lie apart.
const EVERY: Duration = Duration::from_secs(5);

/// Samples of how many bytes had been appended when.
#[derive(Debug, Default)]
pub(super) struct Runway {
    samples: VecDeque<(Instant, u64)>,
}

/// Bytes appended over some time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Rate {
    bytes: u64,
    over: Duration,
}

impl Runway {
    /// Notes that `appended_bytes` had been appended at `now`; more often than needed does no harm.
    pub(super) fn sample(&mut self, now: Instant, appended_bytes: u64) {
        let age = |at: &Instant| now.saturating_duration_since(*at);
        if self.samples.back().is_some_and(|(at, _)| age(at) < EVERY) {
            return;
        }
        self.samples.push_back((now, appended_bytes));
        // One that is older than the time stays: the rate is over all of it.
        while self.samples.get(1).is_some_and(|(at, _)| age(at) >= OVER) {
            self.samples.pop_front();
        }
    }

    /// The rate between the oldest sample and the newest. `None` where there is but one.
    pub(super) fn rate(&self) -> Option<Rate> {
        let ((began, first), (ended, last)) = (self.samples.front()?, self.samples.back()?);
        let over = ended.saturating_duration_since(*began);
        (!over.is_zero()).then(|| Rate { bytes: last.saturating_sub(*first), over })
    }
}

impl Rate {
    /// How long `bytes` last. `None`: for ever.
    pub(super) fn lasts(self, bytes: u64) -> Option<Duration> {
        let millis = u128::from(bytes).saturating_mul(self.over.as_millis()).checked_div(u128::from(self.bytes))?;
        Some(Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_that_of_the_last_minutes() {
        let (mut runway, began) = (Runway::default(), Instant::now());
        let at = |seconds| began + Duration::from_secs(seconds);
        runway.sample(at(0), 0);
        assert_eq!(runway.rate(), None);
        // 10 bytes a second, then 100: the first ten minutes are forgotten.
        for second in 0..600 {
            runway.sample(at(second), second * 10);
        }
        assert_eq!(runway.rate().unwrap().lasts(3_000), Some(Duration::from_mins(5)));
        for second in 600..=1_200 {
            runway.sample(at(second), 6_000 + (second - 600) * 100);
        }
        assert_eq!(runway.rate().unwrap().lasts(3_000), Some(Duration::from_secs(30)));
        assert!(runway.samples.len() <= 62, "{}", runway.samples.len());
    }

    #[test]
    fn what_nobody_appends_to_lasts_for_ever() {
        let (mut runway, began) = (Runway::default(), Instant::now());
        for second in 0..60 {
            runway.sample(began + Duration::from_secs(second), 7);
        }
        assert_eq!(runway.rate().unwrap().lasts(1), None);
        assert_eq!(Rate { bytes: 1, over: Duration::from_secs(1) }.lasts(0), Some(Duration::ZERO));
    }
}
