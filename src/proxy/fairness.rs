//! Fairness: while the cores have more to do than they can, a team that makes more than its share of the calls waits first.
//!
//! The runtime knows how much of the time its threads were at work. Where hardly any was left, calls of teams beyond their
//! share begin later, so much that a tenth is left and the others' calls find a thread at once. Nothing is refused. As long
//! as cores keep up, or one team has the server to itself, nobody waits.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::{Handle, RuntimeMetrics};

use crate::ids::TeamId;

/// Threads that were at work for more per cent of the time are too busy.
const BUSY_PER_CENT_MAX: u128 = 90;
/// How often it is looked, while calls come.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// After so long without a look nothing is known.
const LOOK_LASTS: Duration = Duration::from_millis(200);
/// The first delay, and below it none; and the longest: by then ten thousand clients make 5,000 calls a second.
const DELAY_MIN: Duration = Duration::from_millis(1);
const DELAY_MAX: Duration = Duration::from_secs(2);
/// Of fewer calls nobody says that they are too many.
const CALLS_MIN: u64 = 16;
/// Time in which half of a team's calls are forgotten.
const HALF_LIFE: Duration = Duration::from_millis(100);

/// Who waits, and how long.
#[derive(Debug)]
pub(crate) struct Fairness {
    runtime: RuntimeMetrics,
    began: Instant,
    /// When to look next, and how long who makes too many calls is to wait, in microseconds.
    next_look: AtomicU64,
    delay: AtomicU64,
    /// Whether anybody has waited since.
    has_delayed: AtomicBool,
    /// When was looked, and how long the threads had been at work by then.
    looked: Mutex<(Instant, Duration)>,
    shares: Mutex<Shares>,
}

impl Fairness {
    /// Must be called within the runtime that serves calls.
    pub(crate) fn new() -> Self {
        let (runtime, began) = (Handle::current().metrics(), Instant::now());
        Self {
            runtime,
            began,
            next_look: AtomicU64::new(0),
            delay: AtomicU64::new(0),
            has_delayed: AtomicBool::new(false),
            looked: Mutex::new((began, Duration::ZERO)),
            shares: Mutex::new(Shares::default()),
        }
    }

    /// How long a call of `team` that came at `now` is to wait before it begins; `None` where it need not.
    pub(crate) fn delay(&self, team: &TeamId, now: Instant) -> Option<Duration> {
        if self.is_due(now) {
            self.look(now);
        }
        let delay = self.delay.load(Ordering::Relaxed);
        if delay == 0 {
            return None;
        }
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if !shares.is_beyond(team, now) {
            return None;
        }
        self.has_delayed.store(true, Ordering::Relaxed);
        Some(Duration::from_micros(delay))
    }

    /// Whether the one who asks is to look.
    fn is_due(&self, now: Instant) -> bool {
        let now = micros(now.saturating_duration_since(self.began));
        let due = self.next_look.load(Ordering::Relaxed);
        let next = now.saturating_add(micros(LOOK_EVERY));
        now >= due && self.next_look.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    fn look(&self, now: Instant) {
        let threads = self.runtime.num_workers();
        let worked: Duration = (0..threads).map(|thread| self.runtime.worker_total_busy_duration(thread)).sum();
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        let (looked_at, had_worked) = std::mem::replace(&mut *looked, (now, worked));
        let passed = now.saturating_duration_since(looked_at);
        let before = Duration::from_micros(self.delay.load(Ordering::Relaxed));
        let worked = worked.saturating_sub(had_worked).as_micros().saturating_mul(100);
        let whole = passed.as_micros().saturating_mul(u128::try_from(threads).unwrap_or(1));
        let is_busy = worked > whole.saturating_mul(BUSY_PER_CENT_MAX);
        let has_delayed = self.has_delayed.swap(false, Ordering::Relaxed);
        let next = if passed > LOOK_LASTS { Duration::ZERO } else { next_delay(before, is_busy, has_delayed) };
        self.delay.store(micros(next), Ordering::Relaxed);
    }
}

/// The delay behind one of `before` that left the threads too busy, or did not. Where nobody had to wait, a longer one would
/// have changed nothing.
fn next_delay(before: Duration, is_busy: bool, has_delayed: bool) -> Duration {
    match (is_busy, has_delayed) {
        (true, true) => (before + before / 4).clamp(DELAY_MIN, DELAY_MAX),
        (true, false) => before.max(DELAY_MIN),
        (false, _) => Some(before.saturating_sub(before / 8)).filter(|less| *less >= DELAY_MIN).unwrap_or_default(),
    }
}

/// Calls of each team, of late.
#[derive(Debug, Default)]
struct Shares {
    calls: HashMap<TeamId, u64>,
    all: u64,
    halved_at: Option<Instant>,
}

impl Shares {
    /// Counts a call of `team`. Whether it makes more than its share: a quarter more than each would of all, were all alike.
    fn is_beyond(&mut self, team: &TeamId, now: Instant) -> bool {
        self.forget(now);
        self.all = self.all.saturating_add(1);
        let calls = self.calls.entry(team.clone()).or_default();
        *calls = calls.saturating_add(1);
        let calls = *calls;
        let teams = u64::try_from(self.calls.len()).unwrap_or(u64::MAX);
        calls >= CALLS_MIN && calls.saturating_mul(teams) > self.all.saturating_add(self.all / 4)
    }

    /// A team of which nothing is left is none of those that share.
    fn forget(&mut self, now: Instant) {
        let halved_at = *self.halved_at.get_or_insert(now);
        let halves = now.saturating_duration_since(halved_at).as_millis() / HALF_LIFE.as_millis();
        if halves == 0 {
            return;
        }
        self.halved_at = Some(now);
        let halves = u32::try_from(halves).unwrap_or(u32::MAX);
        self.calls.retain(|_, calls| {
            *calls = calls.checked_shr(halves).unwrap_or(0);
            *calls > 0
        });
        self.all = self.calls.values().fold(0, |sum, calls| sum.saturating_add(*calls));
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn team(name: &str) -> TeamId {
        TeamId::parse(name).unwrap()
    }

    /// Of so many calls of each, made in turns: how many were beyond their team's share.
    fn beyond(calls: &[(&str, u32)], shares: &mut Shares, now: Instant) -> HashMap<String, u32> {
        let most = calls.iter().map(|(_, count)| *count).max().unwrap();
        let mut beyond = HashMap::new();
        for turn in 0..most {
            for (name, count) in calls {
                // As evenly as they come.
                let due = |turn: u32| u64::from(turn) * u64::from(*count) / u64::from(most);
                if due(turn + 1) > due(turn) {
                    *beyond.entry((*name).to_owned()).or_default() += u32::from(shares.is_beyond(&team(name), now));
                }
            }
        }
        beyond
    }

    #[test]
    fn who_makes_more_than_a_share_is_beyond_it_and_nobody_else() {
        let now = Instant::now();
        let flood = beyond(&[("flood", 1_000), ("calm", 50)], &mut Shares::default(), now);
        assert!(flood["flood"] > 950 && flood["calm"] == 0, "{flood:?}");
        let alike = beyond(&[("a", 500), ("b", 500), ("c", 480)], &mut Shares::default(), now);
        assert!(alike.values().all(|beyond| *beyond == 0), "{alike:?}");
        let alone = beyond(&[("one", 1_000)], &mut Shares::default(), now);
        assert_eq!(alone["one"], 0, "a team that is alone takes nothing from another");
        let two = beyond(&[("a", 500), ("b", 500), ("c", 10), ("d", 10)], &mut Shares::default(), now);
        assert!(two["a"] > 400 && two["b"] > 400 && two["c"] + two["d"] == 0, "{two:?}");
    }

    #[test]
    fn what_was_long_ago_is_forgotten() {
        let (mut shares, now) = (Shares::default(), Instant::now());
        beyond(&[("flood", 1_000), ("calm", 50)], &mut shares, now);
        assert!(shares.is_beyond(&team("flood"), now + HALF_LIFE));
        let later = now + HALF_LIFE * 12;
        assert!(!shares.is_beyond(&team("flood"), later), "alone again");
        assert_eq!((shares.calls.len(), shares.all), (1, 1), "a team that makes no calls takes no memory");
    }

    #[test]
    fn the_delay_grows_while_threads_are_too_busy_and_ends_behind_it() {
        assert_eq!(next_delay(Duration::ZERO, false, false), Duration::ZERO);
        let mut delay = next_delay(Duration::ZERO, true, false);
        assert_eq!(delay, DELAY_MIN);
        assert_eq!(next_delay(delay, true, false), delay, "it held nobody up");
        for _ in 0..100 {
            delay = next_delay(delay, true, true);
        }
        assert_eq!(delay, DELAY_MAX, "within two seconds");
        for _ in 0..100 {
            delay = next_delay(delay, false, true);
        }
        assert_eq!(delay, Duration::ZERO, "within two seconds");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn the_flood_waits_once_the_threads_were_too_busy_and_not_for_what_was_long_before() {
        let fairness = Fairness::new();
        let now = fairness.began;
        assert!(fairness.is_due(now) && !fairness.is_due(now) && fairness.is_due(now + LOOK_EVERY));
        let flooding = |at| (0..20).filter_map(|_| fairness.delay(&team("flood"), at)).next_back();
        assert_eq!((fairness.delay(&team("calm"), now), flooding(now)), (None, None));
        fairness.delay.store(micros(DELAY_MIN), Ordering::Relaxed);
        let busy_at = now + LOOK_EVERY;
        assert_eq!((fairness.delay(&team("calm"), busy_at), flooding(busy_at)), (None, Some(DELAY_MIN)));
        assert_eq!(flooding(busy_at + LOOK_EVERY + LOOK_LASTS), None);
    }
}
