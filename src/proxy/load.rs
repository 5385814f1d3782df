//! Load: for how much of the time the threads that serve calls are at work.
//!
//! The runtime knows. A thread that is kept from its core by another process, or held up by a disk, is at work too: it has no
//! time for calls.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::{Handle, RuntimeMetrics};

/// How often it is looked, while somebody asks.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// After so long without a look nothing is known.
pub(crate) const LOOK_LASTS: Duration = Duration::from_millis(200);

/// What is known of the threads' load.
#[derive(Debug)]
pub(crate) struct Load {
    runtime: RuntimeMetrics,
    looks: Looks,
    /// How long the threads had been at work when it was looked, in microseconds.
    worked: AtomicU64,
    per_cent: AtomicU64,
}

/// When to look next: each time one of those who ask does.
#[derive(Debug)]
pub(crate) struct Looks {
    began: Instant,
    next: AtomicU64,
}

impl Load {
    /// Must be called within the runtime that serves calls.
    pub(crate) fn new() -> Self {
        let runtime = Handle::current().metrics();
        Self { runtime, looks: Looks::new(Instant::now()), worked: AtomicU64::new(0), per_cent: AtomicU64::new(0) }
    }

    /// Threads that are at work for so many per cent of the time, for good.
    #[cfg(test)]
    pub(crate) fn of(per_cent: u64) -> Self {
        let looks = Looks { began: Instant::now(), next: AtomicU64::new(u64::MAX) };
        Self { looks, per_cent: AtomicU64::new(per_cent), ..Self::new() }
    }

    /// For how many per cent of the time the threads have been at work of late, as of `now`.
    pub(crate) fn per_cent(&self, now: Instant) -> u64 {
        if let Some(passed) = self.looks.due(now) {
            let threads = self.runtime.num_workers();
            let worked = (0..threads).map(|thread| self.runtime.worker_total_busy_duration(thread)).sum();
            let had_worked = self.worked.swap(micros(worked), Ordering::Relaxed);
            let worked = worked.saturating_sub(Duration::from_micros(had_worked));
            let known = if passed > LOOK_LASTS { 0 } else { per_cent(worked, passed, threads) };
            self.per_cent.store(known, Ordering::Relaxed);
        }
        self.per_cent.load(Ordering::Relaxed)
    }
}

impl Looks {
    pub(crate) fn new(began: Instant) -> Self {
        Self { began, next: AtomicU64::new(micros(LOOK_EVERY)) }
    }

    /// Where a look is due at `now`, and nobody else took it: the time since the last.
    pub(crate) fn due(&self, now: Instant) -> Option<Duration> {
        let now = micros(now.saturating_duration_since(self.began));
        let due = self.next.load(Ordering::Relaxed);
        let every = micros(LOOK_EVERY);
        let is_ours = now >= due
            && self.next.compare_exchange(due, now.saturating_add(every), Ordering::Relaxed, Ordering::Relaxed).is_ok();
        is_ours.then(|| Duration::from_micros(now.saturating_sub(due).saturating_add(every)))
    }
}

/// What share of the time that `passed` so many threads, at work for `worked` in all, have been.
fn per_cent(worked: Duration, passed: Duration, threads: usize) -> u64 {
    let whole = passed.as_micros().saturating_mul(u128::try_from(threads).unwrap_or(1)).max(1);
    u64::try_from(worked.as_micros().saturating_mul(100).div_ceil(whole)).unwrap_or(u64::MAX)
}

pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_rounded_up() {
        let of = |micros| per_cent(Duration::from_micros(micros), Duration::from_millis(20), 2);
        assert_eq!([of(0), of(20_000), of(36_000), of(36_001), of(40_000)], [0, 50, 90, 91, 100]);
        assert_eq!(per_cent(Duration::ZERO, Duration::ZERO, 2), 0);
    }

    #[test]
    fn one_of_those_who_ask_looks_and_knows_since_when() {
        let began = Instant::now();
        let looks = Looks::new(began);
        assert_eq!(looks.due(began), None);
        let later = began + LOOK_EVERY + Duration::from_millis(5);
        assert_eq!((looks.due(later), looks.due(later)), (Some(Duration::from_millis(25)), None));
        assert_eq!(looks.due(later + LOOK_LASTS), Some(LOOK_LASTS));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn threads_are_as_busy_as_they_were_and_not_for_what_was_long_before() {
        let load = Load::new();
        let (work, began) = (Duration::from_millis(100), load.looks.began);
        let tasks = tokio_util::task::TaskTracker::new();
        tasks.spawn(async move { std::thread::sleep(work) }).await.unwrap();
        // It is counted when the thread has nothing more to do.
        while load.runtime.worker_total_busy_duration(0) < work {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(load.per_cent(began + work) >= 100);
        assert_eq!(load.per_cent(began + work + LOOK_EVERY + LOOK_LASTS), 0);
    }
}
