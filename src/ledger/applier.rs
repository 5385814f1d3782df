//! Applier: the thread that keeps the ledger close behind the journal.
//!
//! A ledger that is locked, full or gone costs a longer journal. Nothing is skipped: the same batch is tried until it
//! is in.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::feed::{Feed, Step};
use super::{LedgerError, Place};
use crate::journal::{Journal, Position};

/// How long appends gather before they become one transaction, and one waking of the thread.
const GATHER: Duration = Duration::from_millis(40);
/// A step of fewer frames has caught up.
const GATHER_BELOW: usize = 500;
/// How long the thread sleeps when nothing is appended.
const IDLE: Duration = Duration::from_secs(1);
/// How long after a failure the next try is made.
const TRY_AGAIN: Duration = Duration::from_millis(250);
/// How often segments are looked for that were kept for long enough.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// How often a failure that goes on is logged.
const LOG_AGAIN: Duration = Duration::from_secs(30);

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
    /// Applies `journal` to the ledger at `ledger`, from where that stands. `on_commit` runs on the applier's thread
    /// after every transaction. A ledger that is elsewhere may be away.
    pub fn start(
        journal: Arc<Journal>,
        ledger: &Place,
        on_commit: impl Fn() + Send + 'static,
    ) -> Result<Self, LedgerError> {
        let feed = Feed::open(ledger, journal.directory()).map(Some).or_else(if_away(ledger))?;
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
            .spawn(move || theirs.run(feed, &place, &on_commit))
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

    /// The next batch, and up to where everything is applied then.
    fn step(&self, feed: &mut Option<Feed>, ledger: &Place) -> Result<(Step, Position), LedgerError> {
        let feed = match feed {
            Some(feed) => feed,
            None => feed.insert(Feed::open(ledger, self.journal.directory())?),
        };
        let step = feed.step()?;
        Ok((step, feed.position()))
    }

    fn run(&self, mut feed: Option<Feed>, ledger: &Place, on_commit: &dyn Fn()) {
        let mut logged_at: Option<Instant> = None;
        let mut looked_at = Instant::now();
        loop {
            if self.is_stopping() && self.progress().stop_by.is_none_or(|stop_by| Instant::now() >= stop_by) {
                return;
            }
            // Before the step: what is appended meanwhile is not what it had to catch up with.
            let (begun, end) = (Instant::now(), self.journal.end());
            match self.step(&mut feed, ledger) {
                Ok((step, position)) => {
                    if logged_at.take().is_some() {
                        tracing::info!("the ledger takes records again");
                    }
                    let mut progress = self.progress();
                    progress.applied = position;
                    if step.frames == 0 {
                        // Behind the last frame there is the head of a new segment at most.
                        progress.applied = end;
                        progress.caught_up_at = begun;
                    }
                    drop(progress);
                    if step.records > 0 {
                        self.records_applied.fetch_add(step.records as u64, Ordering::Relaxed);
                        self.commits.fetch_add(1, Ordering::Relaxed);
                        if let Err(error) = self.journal.remove_applied(position) {
                            tracing::warn!(error = %chain(&error), "applied journal segments stay on disk");
                        }
                        on_commit();
                    }
                    if looked_at.elapsed() >= LOOK_AGAIN {
                        looked_at = Instant::now();
                        if let Err(error) = self.journal.remove_kept() {
                            tracing::warn!(error = %chain(&error), "kept journal segments stay on disk");
                        }
                    }
                    if step.frames == 0 {
                        if self.is_stopping() {
                            return;
                        }
                        self.journal.wait_for_append(position, IDLE);
                    }
                    // A full batch means that there is a backlog: nothing has to gather.
                    if step.frames < GATHER_BELOW && !self.is_stopping() {
                        thread::park_timeout(GATHER);
                    }
                }
                Err(error) => {
                    self.failures.fetch_add(1, Ordering::Relaxed);
                    if logged_at.is_none_or(|at| at.elapsed() >= LOG_AGAIN) {
                        tracing::error!(error = %chain(&error), "the ledger takes no records, the journal keeps them");
                        logged_at = Some(Instant::now());
                    }
                    if !self.is_stopping() {
                        thread::park_timeout(TRY_AGAIN);
                    }
                    // A connection to a file that was replaced, whose disk came back, or to a server that is gone does
                    // not mend by itself; and what was committed last only the ledger knows.
                    feed = None;
                }
            }
        }
    }
}

/// Goes on without the ledger where waiting may mend it.
fn if_away(ledger: &Place) -> impl FnOnce(LedgerError) -> Result<Option<Feed>, LedgerError> {
    let may_be_away = ledger.may_be_away();
    move |error| {
        if !may_be_away || error.is_final() {
            return Err(error);
        }
        tracing::error!(error = %chain(&error), "the ledger takes no records, the journal keeps them");
        Ok(None)
    }
}

/// The error with all its causes, for a field of a log.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
