//! Applier: the thread that keeps the ledger close behind the journal.
//!
//! A ledger that is locked, full or away costs a longer journal. Nothing is skipped: the same batch is tried until it
//! is in. A ledger that is not what it was is another matter: then no call is taken until somebody has seen to it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

use super::feed::{Feed, Step};
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
/// How often segments are looked for that were kept for long enough.
const KEPT_EVERY: Duration = Duration::from_mins(1);
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
    /// transaction. A ledger that is elsewhere may be away.
    pub fn start(
        journal: Arc<Journal>,
        ledger: &Place,
        retention: Option<Retention>,
        on_commit: impl Fn() + Send + 'static,
    ) -> Result<Self, LedgerError> {
        let feed = Feed::open(ledger, journal.directory()).map(Some).or_else(if_away(ledger))?;
        if let Some(feed) = &feed {
            feed.tell_lost()?;
        }
        let applied = feed.as_ref().map_or(Position::START, Feed::position);
        let progress = Progress { applied, caught_up_at: Instant::now(), stop_by: None };
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
            .spawn(move || Work::new(&theirs, &place, feed, retention, &on_commit).run())
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

    fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::SeqCst)
    }

    /// Whether it is time to end, whatever is left.
    fn must_stop(&self) -> bool {
        self.is_stopping() && self.progress().stop_by.is_none_or(|stop_by| Instant::now() >= stop_by)
    }
}

/// What the thread has to do with.
struct Work<'a> {
    shared: &'a Shared,
    ledger: &'a Place,
    /// `None`: it is to be opened.
    feed: Option<Feed>,
    retention: Option<Retention>,
    on_commit: &'a dyn Fn(),
    /// Whether what is applied is lasting. A sync may have failed, of this process's or of the one's before: then the
    /// journal alone has what was applied.
    is_lasting: bool,
    /// When it looked whether the ledger is still there.
    looked_at: Option<Instant>,
    /// When kept segments were looked for.
    kept_at: Instant,
    /// When records that are too old are looked for.
    remove_at: Instant,
    logged_at: Option<Instant>,
}

impl<'a> Work<'a> {
    fn new(
        shared: &'a Shared,
        ledger: &'a Place,
        feed: Option<Feed>,
        retention: Option<Retention>,
        on_commit: &'a dyn Fn(),
    ) -> Self {
        let now = Instant::now();
        let (is_lasting, looked_at, logged_at) = (false, None, None);
        Self {
            shared,
            ledger,
            feed,
            retention,
            on_commit,
            is_lasting,
            looked_at,
            kept_at: now,
            remove_at: now,
            logged_at,
        }
    }

    fn run(mut self) {
        let Shared { journal, .. } = self.shared;
        // A ledger that grows on the space set aside for calls in flight would take it from them.
        let shares_disk = self.ledger.shares_disk_with(journal.directory());
        while !self.shared.must_stop() {
            if shares_disk && journal.needs_all_space() && !self.shared.is_stopping() {
                thread::park_timeout(TRY_AGAIN);
                continue;
            }
            // Before the step: what is appended meanwhile is not what it had to catch up with.
            let (begun, end) = (Instant::now(), journal.end());
            match self.step() {
                Ok((step, position)) => {
                    self.has_stepped(step, if step.frames == 0 { end } else { position }, begun);
                    if step.frames == 0 {
                        if self.shared.is_stopping() {
                            return;
                        }
                        self.remove_kept();
                        let pause = self.remove_old().unwrap_or(IDLE);
                        journal.wait_for_append(position, pause);
                    }
                    // A full batch means that there is a backlog: nothing has to gather.
                    if step.frames < GATHER_BELOW && !self.shared.is_stopping() {
                        thread::park_timeout(GATHER);
                    }
                }
                Err(error) => {
                    self.has_failed(&error);
                    if self.shared.is_stopping() && error.is_loss() {
                        return;
                    }
                    thread::park_timeout(TRY_AGAIN);
                }
            }
        }
    }

    /// The next batch, and up to where everything is applied then.
    fn step(&mut self) -> Result<(Step, Position), LedgerError> {
        let feed = match &mut self.feed {
            Some(feed) => feed,
            None => self.feed.insert(Feed::open(self.ledger, self.shared.journal.directory())?),
        };
        if self.looked_at.is_none_or(|at| at.elapsed() >= LOOK_EVERY) {
            feed.look()?;
            self.looked_at = Some(Instant::now());
        }
        let step = feed.step()?;
        Ok((step, feed.position()))
    }

    /// Notes what a step did that began at `begun`. Up to `applied` nothing is left: behind the last frame there is the
    /// head of a new segment at most.
    fn has_stepped(&mut self, step: Step, applied: Position, begun: Instant) {
        let Shared { journal, .. } = self.shared;
        if self.logged_at.take().is_some() {
            tracing::info!("the ledger takes records again");
            journal.object(None);
        }
        let mut progress = self.shared.progress();
        progress.applied = applied;
        if step.frames == 0 {
            progress.caught_up_at = begun;
        }
        drop(progress);
        if step.records > 0 {
            self.shared.records_applied.fetch_add(step.records as u64, Ordering::Relaxed);
            self.shared.commits.fetch_add(1, Ordering::Relaxed);
            (self.on_commit)();
        }
        // Also where nothing was applied: a segment may wait until a record behind it is on the disk, and a journal that is
        // full gets no more records.
        self.is_lasting = self.is_lasting || self.make_lasting();
        if self.is_lasting
            && let Err(error) = journal.remove_applied(applied)
        {
            tracing::warn!(error = %in_full(&error), "applied journal segments stay on disk");
        }
    }

    fn has_failed(&mut self, error: &LedgerError) {
        // Perhaps a statement failed for want of its file: looked at before anything else is tried.
        self.looked_at = None;
        self.is_lasting = false;
        self.shared.failures.fetch_add(1, Ordering::Relaxed);
        self.shared.journal.object(error.is_loss().then(|| in_full(error)));
        if self.logged_at.is_none_or(|at| at.elapsed() >= LOG_AGAIN) {
            tracing::error!(error = %in_full(error), "the ledger takes no records, the journal keeps them");
            self.logged_at = Some(Instant::now());
        }
        // A connection whose disk was away, or whose server is gone, does not mend by itself; and what was committed last
        // only the ledger knows. One whose files are not where they were is kept: what it has open may be all that is left.
        let is_in_place = self.feed.as_ref().is_none_or(Feed::is_in_place);
        if is_in_place || matches!(error, LedgerError::WrittenBack { .. }) {
            self.feed = None;
        }
    }

    /// Writes whole what the ledger has, so that it need not be in the journal any more.
    fn make_lasting(&self) -> bool {
        self.feed.as_ref().is_some_and(|feed| {
            feed.make_lasting().unwrap_or_else(|error| {
                tracing::warn!(error = %in_full(&error), "the ledger cannot be written whole, the journal keeps what it has");
                false
            })
        })
    }

    /// Removes, now and then, the segments that were kept for long enough.
    fn remove_kept(&mut self) {
        if self.kept_at.elapsed() < KEPT_EVERY {
            return;
        }
        self.kept_at = Instant::now();
        if let Err(error) = self.shared.journal.remove_kept() {
            tracing::warn!(error = %in_full(&error), "kept journal segments stay on disk");
        }
    }

    /// Removes some of the records that are too old. As long as that took others want the disk; `None`: there is nothing
    /// more to do now.
    fn remove_old(&mut self) -> Option<Duration> {
        let begun = Instant::now();
        let (retention, feed) = (self.retention.filter(|_| self.remove_at <= begun)?, self.feed.as_mut()?);
        match feed.remove_before(retention.before()?, REMOVE_AT_ONCE) {
            Ok(0) => {}
            Ok(_) => return Some(begun.elapsed()),
            Err(error) => tracing::error!(error = %in_full(&error), "records that are too old stay in the ledger"),
        }
        self.remove_at = begun.checked_add(REMOVE_AGAIN).unwrap_or(begun);
        None
    }
}

/// Goes on without the ledger where waiting may mend it.
fn if_away(ledger: &Place) -> impl FnOnce(LedgerError) -> Result<Option<Feed>, LedgerError> {
    let may_be_away = ledger.may_be_away();
    move |error| {
        if !may_be_away || error.is_final() {
            return Err(error);
        }
        tracing::error!(error = %in_full(&error), "the ledger takes no records, the journal keeps them");
        Ok(None)
    }
}
