//! Clock: the wall clock, as records tell the time. A small step back does not turn it back.
//!
//! In: what the wall shows. Out: the time for a record. No order and no duration is taken from it: those are the
//! journal's and the monotonic clock's.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jiff::Timestamp;

/// A step back of up to this is one that a time service makes: the clock stands still until the wall has caught up, so that
/// a month that has begun is not left again. A larger one is a correction, and is followed.
const HELD_MAX: Duration = Duration::from_secs(5);

/// The latest time that was told, in nanoseconds since 1970.
#[derive(Debug)]
pub(super) struct Clock(AtomicI64);

impl Default for Clock {
    fn default() -> Self {
        Self(AtomicI64::new(i64::MIN))
    }
}

impl Clock {
    /// The time for a record while the wall shows `shown`; and how far the wall went back, if it is followed: told once.
    pub(super) fn tell(&self, shown: Timestamp) -> (Timestamp, Option<Duration>) {
        // Beyond 2262 nothing is held.
        let Ok(now) = i64::try_from(shown.as_nanosecond()) else { return (shown, None) };
        let latest = self.0.fetch_max(now, Ordering::Relaxed);
        let behind = Duration::from_nanos(u64::try_from(latest.saturating_sub(now)).unwrap_or(0));
        if behind.is_zero() {
            return (shown, None);
        }
        if behind <= HELD_MAX {
            return (Timestamp::from_nanosecond(i128::from(latest)).unwrap_or(shown), None);
        }
        let is_first = self.0.compare_exchange(latest, now, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        (shown, is_first.then_some(behind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told of a wall that shows these seconds.
    fn told(clock: &Clock, shown: f64) -> (f64, Option<u64>) {
        #[expect(clippy::cast_possible_truncation, clippy::float_arithmetic, reason = "milliseconds of a test")]
        let shown = Timestamp::from_millisecond((shown * 1000.0) as i64).unwrap();
        let (told, stepped) = clock.tell(shown);
        #[expect(clippy::cast_precision_loss, clippy::float_arithmetic, reason = "milliseconds of a test")]
        let told = told.as_millisecond() as f64 / 1000.0;
        (told, stepped.map(|step| step.as_secs()))
    }

    #[test]
    fn the_clock_stands_still_for_a_small_step_back_and_follows_a_large_one_once() {
        let clock = Clock::default();
        assert_eq!(told(&clock, 1000.0), (1000.0, None));
        // A second that comes twice, as a leap second may.
        assert_eq!(told(&clock, 999.0), (1000.0, None));
        assert_eq!(told(&clock, 999.9), (1000.0, None));
        assert_eq!(told(&clock, 1000.1), (1000.1, None));
        assert_eq!(told(&clock, 995.1), (1000.1, None));
        assert_eq!(told(&clock, 995.0), (995.0, Some(5)));
        assert_eq!(told(&clock, 995.1), (995.1, None), "once");
        assert_eq!(told(&clock, -86_400.0), (-86_400.0, Some(87_395)));
        assert_eq!(told(&clock, 2000.0), (2000.0, None), "forward it is always followed");
    }
}
