//! Applier: the thread that keeps the ledger close behind the journal.
//!
//! A ledger that is locked, full or away costs a longer journal. Nothing is skipped: the same batch is tried until it
//! is in. A ledger that is not what it was is another matter: then no call is taken until somebody has seen to it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

use super::feed::Feed;
use super::{LedgerError, Place};
use crate::journal::{Journal, Position, in_full};
use crate::period::{BUCKET_SECS, Bucket};

/// How long appends gather before they become one transaction, and one waking of the thread.
const GATHER: Duration = Duration::from_millis(40);
/// A step of fewer frames has caught up.
const GATHER_BELOW: usize = 500;
/// How long the thread sleeps when nothing is appended.
const IDLE: Duration = Duration::from_secs(1);
/// How long after a failure the next try is made.
const TRY_AGAIN: Duration = Duration::from_millis(250);
/// How often it looks whether the ledger is still there.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often a failure that goes on is logged.
const LOG_AGAIN: Duration = Duration::from_secs(30);

/// Records removed in one transaction: a few milliseconds, for which records that come in wait.
const REMOVE_AT_ONCE: usize = 500;
/// How often records that have become old are looked for.
const REMOVE_AGAIN: Duration = Duration::from_mins(1);

/// How long records are kept. Their sums are kept for ever.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// From the end of a call; to the next bucket.
    pub keep: SignedDuration,
    /// The clock.
    pub now: fn() -> Timestamp,
}

impl Retention {
    /// What ended before this is removed. Begins a bucket, so that no bucket loses some of its records.
    fn before(&self) -> Option<Timestamp> {
        let cutoff = (self.now)().checked_sub(self.keep).ok()?;
        Timestamp::from_second(Bucket::of(cutoff).index().saturating_mul(BUCKET_SECS)).ok()
    }
}

/// The running thread. Stop it, so that the ledger is up to date; dropping it stops it where it is.
#[derive(Debug)]
pub struct Applier {
    shared: Arc<Shared>,
    handle: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    journal: Arc<Journal>,
    progress: Mutex<Progress>,
    records_applied: AtomicU64,
    failures: AtomicU64,
    commits: AtomicU64,
    is_stopping: AtomicBool,
}

#[derive(Debug)]
struct Progress {
    applied: Position,
    caught_up_at: Instant,
    stop_by: Option<Instant>,
}

impl Applier {
    /// Applies `journal` to the ledger at `ledger`, from where that stands, and removes what `retention` does not keep
    /// whenever there is nothing to apply; `None` keeps everything. `on_commit` runs on the applier's thread after every
    /// transaction.
    pub fn start(
        journal: Arc<Journal>,
        ledger: &Place,
        retention: Option<Retention>,
        on_commit: impl Fn() + Send + 'static,
    ) -> Result<Self, LedgerError> {
        let feed = Feed::open(ledger, journal.directory())?;
        feed.tell_lost()?;
        let progress = Progress { applied: feed.position(), caught_up_at: Instant::now(), stop_by: None };
        let shared = Arc::new(Shared {
            journal,
            progress: Mutex::new(progress),
            records_applied: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            is_stopping: AtomicBool::new(false),
        });
        let (theirs, journal_directory) = (Arc::clone(&shared), shared.journal.directory().to_owned());
        let place = ledger.clone();
        let handle = thread::Builder::new()
            .name("applier".to_owned())
            .spawn(move || theirs.run(feed, &place, retention, &on_commit))
            .map_err(|source| crate::journal::JournalError::Io {
                what: "start a thread for",
                path: journal_directory,
                source,
            })?;
        Ok(Self { shared, handle: Some(handle) })
    }

    /// Up to where the journal is applied.
    pub fn applied(&self) -> Position {
        self.shared.progress().applied
    }

    /// For how long the ledger has not had everything that the journal has; zero while it has.
    pub fn lag(&self) -> Duration {
        let end = self.shared.journal.end();
        let progress = self.shared.progress();
        if progress.applied >= end { Duration::ZERO } else { progress.caught_up_at.elapsed() }
    }

    /// Records applied since the start.
    pub fn records_applied(&self) -> u64 {
        self.shared.records_applied.load(Ordering::Relaxed)
    }

    /// Batches that had to be tried again.
    pub fn failures(&self) -> u64 {
        self.shared.failures.load(Ordering::Relaxed)
    }

    /// Transactions since the start: another number means that sums may have moved.
    pub fn commits(&self) -> u64 {
        self.shared.commits.load(Ordering::Relaxed)
    }

    /// Applies what the journal holds, for at most `timeout`, and ends the thread. False: something is left for the
    /// next start. Blocks.
    pub fn stop(mut self, timeout: Duration) -> bool {
        self.shared.progress().stop_by = Instant::now().checked_add(timeout);
        self.join();
        self.applied() >= self.shared.journal.end()
    }

    fn join(&mut self) {
        self.shared.is_stopping.store(true, Ordering::SeqCst);
        if let Some(handle) = self.handle.take() {
            handle.thread().unpark();
            if handle.join().is_err() {
                tracing::error!("the applier's thread died");
            }
        }
    }
}

impl Drop for Applier {
    fn drop(&mut self) {
        self.join();
    }
}

impl Shared {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks now and then whether the ledger is there, and always after a failure.
    fn look(feed: &Feed, looked_at: &mut Option<Instant>) -> Result<(), LedgerError> {
        if looked_at.is_none_or(|at| at.elapsed() >= LOOK_EVERY) {
            feed.look()?;
            *looked_at = Some(Instant::now());
        }
        Ok(())
    }

    fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::SeqCst)
    }

    fn run(&self, mut feed: Feed, ledger: &Place, retention: Option<Retention>, on_commit: &dyn Fn()) {
        let mut logged_at: Option<Instant> = None;
        let mut looked_at = None;
        // A ledger that grows on the space set aside for calls in flight would take it from them.
        let shares_disk = ledger.shares_disk_with(self.journal.directory());
        let mut remove_at = Instant::now();
        loop {
            if self.is_stopping() && self.progress().stop_by.is_none_or(|stop_by| Instant::now() >= stop_by) {
                return;
            }
            if shares_disk && self.journal.needs_all_space() && !self.is_stopping() {
                thread::park_timeout(TRY_AGAIN);
                continue;
            }
            // Before the step: what is appended meanwhile is not what it had to catch up with.
            let (begun, end) = (Instant::now(), self.journal.end());
            match Self::look(&feed, &mut looked_at).and_then(|()| feed.step()) {
                Ok(step) => {
                    if logged_at.take().is_some() {
                        tracing::info!("the ledger takes records again");
                        self.journal.object(None);
                    }
                    let mut progress = self.progress();
                    progress.applied = feed.position();
                    if step.frames == 0 {
                        // Behind the last frame there is the head of a new segment at most.
                        progress.applied = end;
                        progress.caught_up_at = begun;
                    }
                    drop(progress);
                    if step.records > 0 {
                        self.records_applied.fetch_add(step.records as u64, Ordering::Relaxed);
                        self.commits.fetch_add(1, Ordering::Relaxed);
                        if let Err(error) = self.journal.remove_applied(feed.position()) {
                            tracing::warn!(error = %in_full(&error), "applied journal segments stay on disk");
                        }
                        on_commit();
                    }
                    if step.frames == 0 {
                        if self.is_stopping() {
                            return;
                        }
                        let mut pause = IDLE;
                        if let Some(retention) = retention.filter(|_| remove_at <= Instant::now()) {
                            match remove_some(&mut feed, retention) {
                                // As long as it took: others want the disk too.
                                Some(took) => pause = took,
                                None => remove_at = Instant::now().checked_add(REMOVE_AGAIN).unwrap_or(remove_at),
                            }
                        }
                        self.journal.wait_for_append(feed.position(), pause);
                    }
                    // A full batch means that there is a backlog: nothing has to gather.
                    if step.frames < GATHER_BELOW && !self.is_stopping() {
                        thread::park_timeout(GATHER);
                    }
                }
                Err(error) => {
                    // Perhaps a statement failed for want of its file: looked at before anything else is tried.
                    looked_at = None;
                    self.failures.fetch_add(1, Ordering::Relaxed);
                    self.journal.object(error.is_loss().then(|| in_full(&error)));
                    if logged_at.is_none_or(|at| at.elapsed() >= LOG_AGAIN) {
                        tracing::error!(error = %in_full(&error), "the ledger takes no records, the journal keeps them");
                        logged_at = Some(Instant::now());
                    }
                    if self.is_stopping() && error.is_loss() {
                        return;
                    }
                    thread::park_timeout(TRY_AGAIN);
                    // A connection whose disk was away does not mend by itself. One whose files are not where they were is
                    // kept: what it has open may be all that is left.
                    if !matches!(error, LedgerError::WrittenBack { .. }) && !feed.is_in_place() {
                        continue;
                    }
                    match Feed::open(ledger, self.journal.directory()) {
                        Ok(opened) => feed = opened,
                        Err(error) => {
                            tracing::debug!(error = %in_full(&error), "the ledger cannot be opened again yet");
                        }
                    }
                }
            }
        }
    }
}

/// Removes some of the records that are too old. How long it took; `None`: there is nothing more to do now.
fn remove_some(feed: &mut Feed, retention: Retention) -> Option<Duration> {
    let begun = Instant::now();
    match feed.remove_before(retention.before()?, REMOVE_AT_ONCE) {
        Ok(0) => None,
        Ok(_) => Some(begun.elapsed()),
        Err(error) => {
            tracing::error!(error = %in_full(&error), "records that are too old stay in the ledger");
            None
        }
    }
}
