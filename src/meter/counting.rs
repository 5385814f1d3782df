//! Counting: a thread that counts tokens where a provider did not, so that the data path never does.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Bookkeeping;
use super::progress::Mark;
use super::settlement::CountJob;
use crate::record::{Progress, Record};

/// Calls that may wait to be counted; beyond it a call is counted by its length.
const QUEUE_CALLS_MAX: usize = 1024;
/// Marks of open calls that may wait beside them; beyond it a mark is left out, and the next covers what it would have.
const QUEUE_MARKS_MAX: usize = 1024;

/// The counting thread's handle.
#[derive(Debug)]
pub(super) struct Counting {
    books: Bookkeeping,
    /// Set when stopping: past it, what waits is counted by its length.
    hurry_after: Arc<OnceLock<Instant>>,
    marks_waiting: Arc<AtomicUsize>,
    worker: Mutex<Option<Worker>>,
}

#[derive(Debug)]
struct Worker {
    jobs: SyncSender<Job>,
    thread: JoinHandle<()>,
}

/// What the thread has to do.
enum Job {
    /// A call is over: its record waits for this.
    Count(Box<CountJob>),
    /// A call is open: so far this came.
    Mark(Box<Mark>),
}

impl Counting {
    pub(super) fn start(books: Bookkeeping) -> std::io::Result<Self> {
        let (jobs, inbox) = sync_channel(QUEUE_CALLS_MAX + QUEUE_MARKS_MAX);
        let hurry_after = Arc::default();
        let marks_waiting = Arc::default();
        let (their_books, their_hurry) = (books.clone(), Arc::clone(&hurry_after));
        let their_waiting = Arc::clone(&marks_waiting);
        let thread = std::thread::Builder::new()
            .name("counting".into())
            .spawn(move || work(&their_books, &inbox, &their_hurry, &their_waiting))?;
        Ok(Self { books, hurry_after, marks_waiting, worker: Mutex::new(Some(Worker { jobs, thread })) })
    }

    pub(super) fn submit(&self, job: Box<CountJob>) {
        if let Err(Job::Count(refused)) = self.send(Job::Count(job)) {
            commit(&self.books, refused.count_by_length());
        }
    }

    /// Whether there is room for a mark.
    pub(super) fn takes_marks(&self) -> bool {
        self.marks_waiting.load(Ordering::Relaxed) < QUEUE_MARKS_MAX
    }

    /// Whether the mark will be put into the journal.
    pub(super) fn mark(&self, mark: Box<Mark>) -> bool {
        self.marks_waiting.fetch_add(1, Ordering::Relaxed);
        let is_taken = self.send(Job::Mark(mark)).is_ok();
        if !is_taken {
            self.marks_waiting.fetch_sub(1, Ordering::Relaxed);
        }
        is_taken
    }

    fn send(&self, job: Job) -> Result<(), Job> {
        let jobs = self.worker.lock().ok().and_then(|worker| worker.as_ref().map(|worker| worker.jobs.clone()));
        let Some(jobs) = jobs else { return Err(job) };
        jobs.try_send(job).map_err(|error| match error {
            TrySendError::Full(job) | TrySendError::Disconnected(job) => job,
        })
    }

    /// Counts what waits, in a hurry once `patience` has passed, then ends the thread.
    pub(super) fn stop(&self, patience: Duration) {
        self.hurry_after.get_or_init(|| Instant::now() + patience);
        let worker = self.worker.lock().ok().and_then(|mut worker| worker.take());
        if let Some(Worker { jobs, thread }) = worker {
            drop(jobs);
            if thread.join().is_err() {
                tracing::error!("the counting thread panicked; calls it held become orphans");
            }
        }
    }
}

fn work(books: &Bookkeeping, inbox: &Receiver<Job>, hurry_after: &OnceLock<Instant>, marks_waiting: &AtomicUsize) {
    while let Ok(job) = inbox.recv() {
        let is_late = hurry_after.get().is_some_and(|late| Instant::now() >= *late);
        match job {
            Job::Count(job) => commit(books, if is_late { job.count_by_length() } else { job.count() }),
            Job::Mark(mark) => {
                marks_waiting.fetch_sub(1, Ordering::Relaxed);
                if !mark.is_late() {
                    note(books, &mark.measure());
                }
            }
        }
    }
}

/// Puts a mark into the journal. One that cannot be is no loss yet: the next says the same and more.
fn note(books: &Bookkeeping, progress: &Progress) {
    if let Err(error) = books.journal.append_progress(progress) {
        tracing::debug!(error = &error as &dyn std::error::Error, "what an open call has brought could not be noted");
    }
}

fn commit(books: &Bookkeeping, record: Record) {
    if let Err(error) = books.commit(record) {
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "a counted call could not be recorded; it stays an intent and becomes an orphan"
        );
    }
}
