//! Fairness: while the cores have more to do than they can, a team that makes more than its share of the calls waits first.
//!
//! Where threads have hardly any time left (`load.rs`), calls of teams beyond their share begin later, so much that a tenth
//! is left and the others' calls find a thread at once. Nothing is refused. As long as threads keep up, or one team has the
//! server to itself, nobody waits.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::load::{LOOK_LASTS, Load, Looks, micros};
use crate::ids::TeamId;

/// Threads that were at work for more per cent of the time are too busy.
const BUSY_PER_CENT_MAX: u64 = 90;
/// The first delay, and below it none; and the longest: by then ten thousand clients make 5,000 calls a second.
const DELAY_MIN: Duration = Duration::from_millis(1);
const DELAY_MAX: Duration = Duration::from_secs(2);
/// Of fewer calls nobody says that they are too many.
const CALLS_MIN: u64 = 16;
/// Time in which half of a team's calls are forgotten.
const HALF_LIFE: Duration = Duration::from_millis(100);
/// How long a team that makes no call is still one of those that share.
const SHARES_FOR: Duration = Duration::from_secs(10);

/// Who waits, and how long.
#[derive(Debug)]
pub(crate) struct Fairness {
    load: Arc<Load>,
    looks: Looks,
    /// How long who makes too many calls is to wait, in microseconds.
    delay: AtomicU64,
    shares: Mutex<Shares>,
}

impl Fairness {
    pub(crate) fn new(load: Arc<Load>) -> Self {
        let looks = Looks::new(Instant::now());
        Self { load, looks, delay: AtomicU64::new(0), shares: Mutex::new(Shares::default()) }
    }

    /// How long a call of `team` that came at `now` is to wait before it begins; `None` where it need not.
    pub(crate) fn delay(&self, team: &TeamId, now: Instant) -> Option<Duration> {
        if let Some(passed) = self.looks.due(now) {
            self.look(now, passed);
        }
        let delay = self.delay.load(Ordering::Relaxed);
        if delay == 0 {
            return None;
        }
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        shares.is_beyond(team, now).then_some(Duration::from_micros(delay))
    }

    /// Adapts the delay, `passed` after the last time.
    fn look(&self, now: Instant, passed: Duration) {
        let before = Duration::from_micros(self.delay.load(Ordering::Relaxed));
        let have_waited = self.shares.lock().unwrap_or_else(PoisonError::into_inner).have_waited();
        let is_busy = self.load.per_cent(now) > BUSY_PER_CENT_MAX;
        let next = if passed > LOOK_LASTS { Duration::ZERO } else { next_delay(before, is_busy, have_waited) };
        self.delay.store(micros(next), Ordering::Relaxed);
    }
}

/// The delay behind one of `before` that left the threads too busy, or did not. Where hardly anybody had to wait, a longer
/// one would have changed nothing.
fn next_delay(before: Duration, is_busy: bool, have_waited: bool) -> Duration {
    match (is_busy, have_waited) {
        (true, true) => (before + before / 4).clamp(DELAY_MIN, DELAY_MAX),
        (true, false) => before.max(DELAY_MIN),
        (false, _) => Some(before.saturating_sub(before / 8)).filter(|less| *less >= DELAY_MIN).unwrap_or_default(),
    }
}

/// Calls of each team, of late.
#[derive(Debug, Default)]
struct Shares {
    teams: HashMap<TeamId, Calls>,
    all: u64,
    halved_at: Option<Instant>,
    /// Calls since it was looked, and those of them that had to wait.
    came: u64,
    waited: u64,
}

#[derive(Debug)]
struct Calls {
    count: u64,
    last: Instant,
}

impl Shares {
    /// Counts a call of `team`. Whether it makes more than its share, by so much that it is no chance: three standard
    /// deviations, and a quarter.
    fn is_beyond(&mut self, team: &TeamId, now: Instant) -> bool {
        self.forget(now);
        self.all = self.all.saturating_add(1);
        self.came = self.came.saturating_add(1);
        let calls = self.teams.entry(team.clone()).or_insert(Calls { count: 0, last: now });
        calls.count = calls.count.saturating_add(1);
        calls.last = now;
        let count = calls.count;
        let share = self.all / u64::try_from(self.teams.len()).unwrap_or(u64::MAX).max(1);
        let most = share.saturating_add(share / 4).saturating_add(share.isqrt().saturating_mul(3));
        let is_beyond = count >= CALLS_MIN && count > most;
        self.waited = self.waited.saturating_add(u64::from(is_beyond));
        is_beyond
    }

    /// Half of the calls of each half-life; a team shares until it has made none for long.
    fn forget(&mut self, now: Instant) {
        let halved_at = *self.halved_at.get_or_insert(now);
        let halves = now.saturating_duration_since(halved_at).as_millis() / HALF_LIFE.as_millis();
        if halves == 0 {
            return;
        }
        self.halved_at = Some(now);
        let halves = u32::try_from(halves).unwrap_or(u32::MAX);
        self.teams.retain(|_, calls| {
            calls.count = calls.count.checked_shr(halves).unwrap_or(0);
            now.saturating_duration_since(calls.last) < SHARES_FOR
        });
        self.all = self.teams.values().fold(0, |sum, calls| sum.saturating_add(calls.count));
    }

    /// Whether so many calls have had to wait since it was last asked that a longer wait would change something.
    fn have_waited(&mut self) -> bool {
        let (came, waited) = (std::mem::take(&mut self.came), std::mem::take(&mut self.waited));
        waited > 0 && waited.saturating_mul(8) >= came
    }
}

#[cfg(test)]
#[expect(clippy::float_arithmetic, clippy::float_cmp, reason = "shares are for people to read")]
mod tests {
    use super::*;

    fn team(name: &str) -> TeamId {
        TeamId::parse(name).unwrap()
    }

    /// Of so many calls a second of each team, that come by chance within `seconds`: the share that was beyond its team's.
    fn beyond(rates: &[(&str, u32)], seconds: u32, shares: &mut Shares, now: Instant) -> HashMap<String, f64> {
        let all: u32 = rates.iter().map(|(_, rate)| rate).sum();
        let (mut seed, mut came) = (1_u64, HashMap::new());
        for call in 0..all * seconds {
            // Knuth's MMIX generator; its upper bits are the better ones.
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let mut chosen = u32::try_from(seed >> 33).unwrap() % all;
            let mut of_rate = |rate: u32| chosen.checked_sub(rate).map(|left| chosen = left).is_none();
            let (name, _) = rates.iter().find(|(_, rate)| of_rate(*rate)).unwrap();
            let is_beyond = shares.is_beyond(&team(name), now + Duration::from_secs(1) * call / all);
            let (beyond, calls) = came.entry((*name).to_owned()).or_insert((0.0, 0.0));
            (*beyond, *calls) = (*beyond + f64::from(u8::from(is_beyond)), *calls + 1.0);
        }
        came.into_iter().map(|(name, (beyond, calls))| (name, beyond / calls)).collect()
    }

    #[test]
    fn who_makes_more_than_a_share_is_beyond_it_and_nobody_else() {
        let now = Instant::now();
        for calm in [1, 5, 50, 500] {
            let flood = beyond(&[("flood", 5_000), ("calm", calm)], 4, &mut Shares::default(), now);
            assert!(flood["flood"] > 0.8 && flood["calm"] == 0.0, "beside {calm} calls a second: {flood:?}");
        }
        let two = beyond(&[("a", 500), ("b", 500), ("c", 10), ("d", 10)], 4, &mut Shares::default(), now);
        assert!(two["a"] > 0.8 && two["b"] > 0.8 && two["c"] + two["d"] == 0.0, "{two:?}");
        let alone = beyond(&[("one", 5_000)], 4, &mut Shares::default(), now);
        assert_eq!(alone["one"], 0.0, "a team that is alone takes nothing from another");
    }

    #[test]
    fn teams_that_are_alike_hardly_wait_and_never_longer() {
        let names: Vec<String> = (0..100).map(|number| format!("team-{number}")).collect();
        for (teams, rate) in [(2, 2_000), (5, 400), (10, 200), (20, 150), (100, 200)] {
            let rates: Vec<(&str, u32)> = names.iter().take(teams).map(|name| (name.as_str(), rate)).collect();
            let mut shares = Shares::default();
            let alike = beyond(&rates, 2, &mut shares, Instant::now());
            let mean = alike.values().sum::<f64>() / f64::from(u32::try_from(teams).unwrap());
            assert!(mean < 0.02, "{teams} teams of {rate} calls a second: {mean}");
            assert!(!shares.have_waited(), "the delay would grow");
        }
    }

    #[test]
    fn what_was_long_ago_is_forgotten() {
        let (mut shares, now) = (Shares::default(), Instant::now());
        beyond(&[("flood", 1_000), ("calm", 50)], 1, &mut shares, now);
        assert!(shares.have_waited() && !shares.have_waited(), "what was asked is over");
        let later = now + SHARES_FOR * 2;
        assert!((0..1_000).all(|_| !shares.is_beyond(&team("flood"), later)), "alone again");
        assert_eq!((shares.teams.len(), shares.all), (1, 1_000), "a team that makes no calls takes no memory");
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

    #[tokio::test]
    async fn a_flood_waits_while_the_threads_are_too_busy_and_not_for_what_was_long_before() {
        for (per_cent, waits) in [(BUSY_PER_CENT_MAX, None), (BUSY_PER_CENT_MAX + 1, Some(DELAY_MIN))] {
            let fairness = Fairness::new(Arc::new(Load::of(per_cent)));
            let flooding = |at| (0..100).filter_map(|_| fairness.delay(&team("flood"), at)).next_back();
            let busy_at = Instant::now() + Duration::from_millis(100);
            assert_eq!((fairness.delay(&team("calm"), busy_at), flooding(busy_at)), (None, waits));
            assert_eq!(flooding(busy_at + LOOK_LASTS + Duration::from_millis(20)), None);
        }
    }
}
