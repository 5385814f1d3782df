//! Counting: threads that count tokens where a provider did not, so that the data path never does.

mod queue;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Bookkeeping;
use super::learning::Learning;
use super::progress::Mark;
use super::questions::Questions;
use super::settlement::CountJob;
use crate::record::{Progress, Record};
use crate::tokenizer::Tokenizers;

pub(super) use queue::Load;

use queue::Queue;

/// Calls that may wait to be counted; beyond it a call is counted by its length.
const QUEUE_CALLS_MAX: usize = 1024;
/// Marks of open calls that may wait beside them; beyond it a mark is left out, and the next covers what it would have.
const QUEUE_MARKS_MAX: usize = 1024;
/// Bytes of requests and answers that may wait to be counted, where nothing else is said.
pub const QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How tokens are counted that a provider does not report.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whose tokens they are, and of how much text.
    pub tokenizers: Tokenizers,
    /// Threads that count; no more than there are cores.
    pub threads: usize,
    /// Bytes of requests and answers that may wait to be counted; beyond it a call is counted by its length.
    pub queue_bytes_max: usize,
    /// Whether calls with reported usage teach what those without are likely to be.
    pub learn: bool,
    /// Whether the tokenizers' tables are made at the start instead of on first need.
    pub preload: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            tokenizers: Tokenizers::default(),
            threads: 1,
            queue_bytes_max: QUEUE_BYTES_MAX,
            learn: true,
            preload: false,
        }
    }
}

/// The counting threads' handle.
#[derive(Debug)]
pub(super) struct Counting {
    books: Bookkeeping,
    queue: Arc<Queue<Job>>,
    learning: Arc<Learning>,
    /// Set when stopping: past it, what waits is counted by its length.
    hurry_after: Arc<OnceLock<Instant>>,
    marks_waiting: Arc<AtomicUsize>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What the thread has to do.
enum Job {
    /// A call is over: its record waits for this.
    Count(Box<CountJob>),
    /// A call is open: so far this came.
    Mark(Box<Mark>),
}

/// A counting thread.
struct Worker {
    books: Bookkeeping,
    learning: Arc<Learning>,
    questions: Arc<Questions>,
    queue: Arc<Queue<Job>>,
    hurry_after: Arc<OnceLock<Instant>>,
    marks_waiting: Arc<AtomicUsize>,
    /// The first of them also does what must be done in order: marks.
    is_first: bool,
}

impl Counting {
    pub(super) fn start(
        books: Bookkeeping,
        learning: Arc<Learning>,
        questions: &Arc<Questions>,
        settings: &Settings,
    ) -> std::io::Result<Self> {
        let queue = Arc::new(Queue::new(QUEUE_CALLS_MAX + QUEUE_MARKS_MAX, settings.queue_bytes_max));
        let counting = Self {
            books,
            learning,
            queue,
            hurry_after: Arc::default(),
            marks_waiting: Arc::default(),
            threads: Mutex::default(),
        };
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = (0..settings.threads.clamp(1, cores)).map(|number| {
            let worker = Worker {
                books: counting.books.clone(),
                learning: Arc::clone(&counting.learning),
                questions: Arc::clone(questions),
                queue: Arc::clone(&counting.queue),
                hurry_after: Arc::clone(&counting.hurry_after),
                marks_waiting: Arc::clone(&counting.marks_waiting),
                is_first: number == 0,
            };
            let preload = settings.preload && worker.is_first;
            std::thread::Builder::new().name("counting".into()).spawn(move || {
                if preload {
                    worker.books.tokenizers.load();
                }
                worker.work();
            })
        });
        match threads.collect::<std::io::Result<Vec<_>>>() {
            Ok(threads) => Ok(Self { threads: Mutex::new(threads), ..counting }),
            Err(error) => {
                counting.queue.close();
                Err(error)
            }
        }
    }

    pub(super) fn submit(&self, job: Box<CountJob>) {
        let bytes = job.held_bytes();
        if let Err(Job::Count(refused)) = self.queue.push(Job::Count(job), bytes) {
            commit_by_length(&self.books, &self.learning, *refused);
        }
    }

    /// Whether there is room for a mark.
    pub(super) fn takes_marks(&self) -> bool {
        self.marks_waiting.load(Ordering::Relaxed) < QUEUE_MARKS_MAX
    }

    /// Whether the mark will be put into the journal.
    pub(super) fn mark(&self, mark: Box<Mark>) -> bool {
        self.marks_waiting.fetch_add(1, Ordering::Relaxed);
        let bytes = mark.held_bytes();
        let is_taken = self.queue.push(Job::Mark(mark), bytes).is_ok();
        if !is_taken {
            self.marks_waiting.fetch_sub(1, Ordering::Relaxed);
        }
        is_taken
    }

    /// What waits to be counted.
    pub(super) fn load(&self) -> Load {
        self.queue.load()
    }

    /// Counts what waits, in a hurry once `patience` has passed, then ends the threads.
    pub(super) fn stop(&self, patience: Duration) {
        self.hurry_after.get_or_init(|| Instant::now() + patience);
        self.queue.close();
        let threads = self.threads.lock().map(|mut threads| std::mem::take(&mut *threads)).unwrap_or_default();
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a counting thread panicked; calls it held become orphans");
            }
        }
    }
}

impl Worker {
    fn work(&self) {
        let is_mine = |job: &Job| match job {
            Job::Count(_) => true,
            Job::Mark(_) => self.is_first,
        };
        while let Some((job, _held)) = self.queue.pop(is_mine) {
            let is_late = self.hurry_after.get().is_some_and(|late| Instant::now() >= *late);
            match job {
                Job::Count(job) if is_late => commit_by_length(&self.books, &self.learning, *job),
                Job::Count(job) => {
                    let question = job.question(&self.questions, &self.learning, Instant::now());
                    commit(&self.books, job.count(&self.learning));
                    // Only now: what it teaches is for the calls that follow.
                    if let Some(question) = question {
                        question.ask();
                    }
                }
                Job::Mark(mark) => {
                    self.marks_waiting.fetch_sub(1, Ordering::Relaxed);
                    if !mark.is_late() {
                        note(&self.books, &mark.measure());
                    }
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

fn commit_by_length(books: &Bookkeeping, learning: &Learning, job: CountJob) {
    books.metrics.counted_by_length();
    commit(books, job.count_by_length(learning));
}

fn commit(books: &Bookkeeping, record: Record) {
    if let Err(error) = books.commit(record) {
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "a counted call could not be recorded; it stays an intent and becomes an orphan"
        );
    }
}
