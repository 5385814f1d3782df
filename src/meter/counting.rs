//! Counting: a thread that counts tokens where a provider did not, so that the data path never does.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Bookkeeping;
use super::settlement::CountJob;
use crate::record::Record;

/// Calls that may wait to be counted; beyond it a call is counted by its length.
const QUEUE_CALLS_MAX: usize = 1024;

/// The counting thread's handle.
#[derive(Debug)]
pub(super) struct Counting {
    books: Bookkeeping,
    /// Set when stopping: past it, what waits is counted by its length.
    hurry_after: Arc<OnceLock<Instant>>,
    worker: Mutex<Option<Worker>>,
}

#[derive(Debug)]
struct Worker {
    jobs: SyncSender<Box<CountJob>>,
    thread: JoinHandle<()>,
}

impl Counting {
    pub(super) fn start(books: Bookkeeping) -> std::io::Result<Self> {
        let (jobs, inbox) = sync_channel(QUEUE_CALLS_MAX);
        let hurry_after = Arc::default();
        let (their_books, their_hurry) = (books.clone(), Arc::clone(&hurry_after));
        let thread = std::thread::Builder::new()
            .name("counting".into())
            .spawn(move || work(&their_books, &inbox, &their_hurry))?;
        Ok(Self { books, hurry_after, worker: Mutex::new(Some(Worker { jobs, thread })) })
    }

    pub(super) fn submit(&self, job: Box<CountJob>) {
        let jobs = self.worker.lock().ok().and_then(|worker| worker.as_ref().map(|worker| worker.jobs.clone()));
        let refused = match jobs {
            Some(jobs) => match jobs.try_send(job) {
                Ok(()) => return,
                Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => job,
            },
            None => job,
        };
        commit(&self.books, refused.count_by_length());
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

fn work(books: &Bookkeeping, inbox: &Receiver<Box<CountJob>>, hurry_after: &OnceLock<Instant>) {
    while let Ok(job) = inbox.recv() {
        let is_late = hurry_after.get().is_some_and(|late| Instant::now() >= *late);
        commit(books, if is_late { job.count_by_length() } else { job.count() });
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
