//! Meter: where a call becomes a fact.
//!
//! [`Meter::open`] puts the intent into the journal before the upstream is asked; [`OpenCall::close`] puts the record
//! there before the client gets the end of the answer. Exactly once: a call that is dropped closes too. This file is
//! order, not rules: prices, counts and files are made elsewhere. It owns the clock.

mod clock;
mod counting;
mod gaps;
mod jobs;
mod learning;
mod progress;
mod questions;
mod settlement;
mod verdict;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiff::Timestamp;

use crate::ids::RecordId;
use crate::journal::{Appended, Journal, JournalError};
use crate::metrics::{Inflight, Metrics};
use crate::operation::Operation;
use crate::pricing::{self, PriceBook};
use crate::record::{Intent, JobSeen, Progress, Record};
use crate::tokenizer::Tokenizers;
use crate::tokenizer::calibration::{self, Calibration};
use crate::usage::{Outcome, Units};
use crate::wires::delivered::Bookmark;
use crate::wires::{Consumption, Observer, Wire};

pub use counting::{QUEUE_BYTES_MAX, Settings};
pub use jobs::{JOBS_KEPT_FOR, JOBS_MAX};
pub use questions::{Asking, Question};

use clock::Clock;
use counting::Counting;
use gaps::Gaps;
use jobs::Jobs;
use learning::Learning;
use questions::Questions;
use settlement::{Draft, Settlement};

/// Opens and closes calls.
#[derive(Debug)]
pub struct Meter {
    books: Bookkeeping,
    counting: Counting,
    learning: Arc<Learning>,
    questions: Arc<Questions>,
    jobs: Jobs,
    gaps: Gaps,
    clock: Clock,
}

/// What turns a finished draft into a fact: shared by the data path and the counting threads.
#[derive(Clone, Debug)]
struct Bookkeeping {
    journal: Arc<Journal>,
    prices: Arc<PriceBook>,
    metrics: Arc<Metrics>,
    tokenizers: Tokenizers,
}

/// When something began, by both clocks: the wall's for the record, the monotonic one for durations.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// The wall clock.
    pub at: Timestamp,
    /// The monotonic clock.
    pub instant: Instant,
}

impl Moment {
    /// This moment, by the clocks themselves; for a record, [`Meter::now`] tells it.
    #[expect(clippy::disallowed_methods, reason = "the meter owns the clock")]
    pub fn now() -> Self {
        Self { at: Timestamp::now(), instant: Instant::now() }
    }
}

/// A request body for counting the prompt if the provider does not.
#[derive(Clone, Debug, Default)]
pub struct HeldPrompt {
    /// The whole body, in slices of what was read; `None` where it was too large to hold, or nobody looks into it.
    pub slices: Option<Vec<Bytes>>,
    /// Its length as far as it was seen.
    pub bytes: u64,
}

/// What is known when a call is over.
#[derive(Default)]
pub struct Ending {
    /// The reader of the answer, where there was one to read.
    pub observer: Option<Box<dyn Observer>>,
    /// The answer came to its end, although its client had left. One that completes did anyway.
    pub is_whole: bool,
    /// The answer could not be decompressed or was cut by a cap.
    pub is_unreadable: bool,
    /// Length of the answer's body as it came, where there was a reader.
    pub body_bytes: u64,
    /// How far the answer had come when its client left, where it was finished without.
    pub client_left_at: Option<Bookmark>,
    /// What was counted of an exchange that nobody reads. Kept where nothing better is known.
    pub units: Units,
}

/// A call between its intent and its record.
#[must_use = "a call that is dropped is recorded as left by its client"]
pub struct OpenCall {
    meter: Arc<Meter>,
    /// On the heap: the call goes from hand to hand.
    draft: Option<Box<Draft>>,
    /// Counts it as in flight for as long as it lives; `None`: it passes unmetered.
    _inflight: Option<Inflight>,
}

impl Meter {
    /// A meter that writes to `journal`, and learns nothing; its counting threads run until [`Meter::stop`].
    pub fn start(
        journal: Arc<Journal>,
        prices: Arc<PriceBook>,
        metrics: Arc<Metrics>,
        settings: &Settings,
    ) -> std::io::Result<Arc<Self>> {
        Self::start_learning(journal, prices, metrics, settings, None, None)
    }

    /// The same, which goes on from what `calibration` learned, and learns also by `asking` upstreams; each `None`: it does
    /// not.
    pub fn start_learning(
        journal: Arc<Journal>,
        prices: Arc<PriceBook>,
        metrics: Arc<Metrics>,
        settings: &Settings,
        calibration: Option<Calibration>,
        asking: Option<Asking>,
    ) -> std::io::Result<Arc<Self>> {
        let tokenizers = settings.tokenizers.clone();
        let learning = Arc::new(Learning::start(calibration, tokenizers.clone())?);
        let questions = Arc::new(Questions::new(asking));
        let books = Bookkeeping { journal, prices, metrics, tokenizers };
        let counting = Counting::start(books.clone(), Arc::clone(&learning), &questions, settings)?;
        let (jobs, gaps, clock) = (Jobs::new(JOBS_MAX), Gaps::default(), Clock::default());
        Ok(Arc::new(Self { books, counting, learning, questions, jobs, gaps, clock }))
    }

    /// This moment, as records tell the time: the wall clock's, but for small steps back.
    pub fn now(&self) -> Moment {
        let Moment { at: shown, instant } = Moment::now();
        let (at, stepped_back) = self.clock.tell(shown);
        if let Some(step) = stepped_back {
            self.books.metrics.clock_stepped_back();
            tracing::warn!(
                step_seconds = step.as_secs(),
                "the wall clock went back; records that follow may go into a month that was over"
            );
        }
        Moment { at, instant }
    }

    /// Learns what the records of earlier processes say of jobs, in their order. Before the first call.
    pub fn remember(&self, jobs_seen: impl IntoIterator<Item = JobSeen>) {
        self.jobs.remember(jobs_seen);
    }

    /// Puts `intent` into the journal. On an error the call must not be made: it could not be accounted for.
    pub fn open(
        self: &Arc<Self>,
        began: Moment,
        intent: Intent,
        wire: &'static dyn Wire,
        consumption: Consumption,
    ) -> Result<(OpenCall, Appended), JournalError> {
        self.books.prices.read_soon();
        let appending = Instant::now();
        let appended = self.books.journal.submit_intent(&intent);
        let appended = appended.inspect_err(|_| self.books.metrics.journal_failed())?;
        let metrics = Arc::clone(&self.books.metrics);
        appended.then(move |is_written| metrics.journal_appended(appending.elapsed(), is_written));
        let draft = Box::new(Draft::new(began, intent, wire, consumption));
        let inflight = Some(self.books.metrics.inflight());
        Ok((OpenCall { meter: Arc::clone(self), draft: Some(draft), _inflight: inflight }, appended))
    }

    /// A call that is made although the journal did not take its intent: it has no record, it is only counted.
    pub fn open_unmetered(self: &Arc<Self>, intent: &Intent) -> OpenCall {
        self.books.prices.read_soon();
        self.books.metrics.unmetered(&intent.team, &intent.upstream);
        self.gaps.count(intent.started_at);
        OpenCall { meter: Arc::clone(self), draft: None, _inflight: None }
    }

    /// Puts into the journal how many calls passed unmetered, once it takes frames again. Cheap where there were none.
    pub fn keep_gaps(&self) {
        if let Err(error) = self.gaps.keep(&self.books.journal) {
            tracing::debug!(error = &error as &dyn std::error::Error, "the journal does not take a gap yet");
        }
    }

    /// Turns an intent that a dead process left behind, and what its call had brought as far as that was noted, into an
    /// `orphaned` record.
    pub fn close_orphan(&self, intent: Intent, progress: Option<Progress>, found: Moment) {
        let record = settlement::orphan(intent, progress, found, &self.learning);
        if let Err(error) = self.books.commit(record) {
            tracing::error!(error = &error as &dyn std::error::Error, "an orphaned call could not be recorded");
        }
    }

    /// What was learned since it was last asked for, to be kept in the ledger.
    pub fn newly_learned(&self) -> Vec<calibration::Row> {
        self.learning.changed()
    }

    /// `rows` of [`Meter::newly_learned`] could not be kept: they come again.
    pub fn not_kept(&self, rows: &[calibration::Row]) {
        self.learning.take_back(rows);
    }

    /// Learns that the upstream itself counted `tokens` in the prompt of `question`.
    pub fn counted_by_upstream(&self, question: Question, tokens: u64) {
        let mut lesson = question.lesson;
        lesson.tell_prompt(tokens);
        self.learning.teach(lesson);
    }

    /// The upstream of `question` gave no count: it is left alone for as long as this returns.
    pub fn not_counted_by_upstream(&self, question: &Question) -> Duration {
        self.questions.pause(&question.upstream, Instant::now())
    }

    /// The journal that this meter writes to.
    pub fn journal(&self) -> &Arc<Journal> {
        &self.books.journal
    }

    /// Calls, and marks of them, that wait to be counted, and the bytes that these hold.
    pub fn counting_load(&self) -> (usize, usize) {
        let counting::Load { jobs, bytes } = self.counting.load();
        (jobs, bytes)
    }

    /// Counts what is still to count, for at most `patience` by tokens and then by length, stops the counting threads, and
    /// waits as long at most for what still waits for the disk.
    pub fn stop(&self, patience: Duration) {
        self.learning.stop();
        self.counting.stop(patience);
        self.books.journal.drain(patience);
    }
}

impl Bookkeeping {
    /// Prices `record`, puts it into the journal, then into the metrics.
    fn commit(&self, mut record: Record) -> Result<Appended, JournalError> {
        if let Some(model) = record.model.as_deref()
            && !record.tokens.is_empty()
        {
            let (provider, at) = (record.provider.as_str(), record.started_at);
            let billed = pricing::billed(&record.tokens, &record.units);
            let priced = if record.operation == Operation::Batch {
                // It has a price of its own, whatever tier the answers in it name.
                self.prices.cost_of_sum(provider, model, at, &billed, Some("batch"))
            } else {
                self.prices.cost(provider, model, at, &billed, record.service_tier.as_deref())
            };
            if let Some(priced) = priced {
                record.cost_nanousd = Some(priced.total);
                record.cost_nanousd_by_kind = priced.by_kind;
                record.price = Some(priced.price);
            }
        }
        let appending = Instant::now();
        let appended = self.journal.submit_record(record);
        let (appended, record) = appended.inspect_err(|_| self.metrics.journal_failed())?;
        let metrics = Arc::clone(&self.metrics);
        appended.then(move |is_written| {
            metrics.journal_appended(appending.elapsed(), is_written);
            if is_written {
                metrics.record(&record);
            }
        });
        Ok(appended)
    }
}

impl OpenCall {
    /// The record's id, which the client is told; `None` of a call that passes unmetered.
    pub fn id(&self) -> Option<RecordId> {
        self.draft.as_ref().map(|draft| draft.intent.id)
    }

    /// Notes the answer's status.
    pub fn answered(&mut self, status: u16) {
        if let Some(draft) = &mut self.draft {
            draft.status = Some(status);
        }
    }

    /// Notes the first byte of the answer's body. Only the first call counts.
    pub fn first_byte(&mut self) {
        if let Some(draft) = &mut self.draft
            && draft.first_byte.is_none()
        {
            draft.first_byte = Some(draft.began.instant.elapsed());
            draft.marks.begin(draft.consumption);
        }
    }

    /// Notes that `observer` has read more of the answer; now and then what came so far is put into the journal, by
    /// another thread, so that it is known should this process die.
    pub fn progressed(&mut self, observer: &mut dyn Observer) {
        if let Some(draft) = &mut self.draft {
            draft.marks.stir();
        }
        if self.mark_due().is_some_and(|due| Instant::now() >= due) {
            self.mark(observer);
        }
    }

    /// When [`OpenCall::mark`] has something to do, should nothing more come until then.
    pub fn mark_due(&self) -> Option<Instant> {
        self.draft.as_ref().and_then(|draft| draft.marks.due())
    }

    /// Hands what `observer` has read so far to the counting threads, if there is room for it.
    pub fn mark(&mut self, observer: &mut dyn Observer) {
        let Some(draft) = &mut self.draft else { return };
        draft.marks.postpone();
        if self.meter.counting.takes_marks()
            && let Some((mark, reached)) = progress::mark(draft, observer)
            && self.meter.counting.mark(mark)
        {
            draft.marks.sent(reached);
        }
    }

    /// Keeps the prompt for the case that the provider does not report its tokens.
    pub fn hold_prompt(&mut self, prompt: HeldPrompt) {
        if let Some(draft) = &mut self.draft {
            draft.prompt = prompt;
        }
    }

    /// Notes the path that the call goes to at an upstream that may be asked to count its prompt.
    pub fn goes_to(&mut self, path: String) {
        if let Some(draft) = &mut self.draft {
            draft.path = Some(path);
        }
    }

    /// Notes which stored object or result the call fetches, by its path.
    pub fn fetches(&mut self, object: String) {
        if let Some(draft) = &mut self.draft {
            draft.object = Some(object);
        }
    }

    /// Notes that the call may have reached the upstream. Until then there is nothing to pay.
    pub fn sent(&mut self) {
        if let Some(draft) = &mut self.draft {
            draft.was_sent = true;
        }
    }

    /// Puts the intent into the journal once more. A call that is open for hours holds back what is older than its
    /// intent from being deleted; renewed now and then, it holds back little.
    pub fn renew(&self) {
        let Some(draft) = &self.draft else { return };
        if let Err(error) = self.meter.books.journal.submit_intent(&draft.intent) {
            self.meter.books.metrics.journal_failed();
            tracing::warn!(error = &error as &dyn std::error::Error, "a long call's intent could not be renewed");
        }
    }

    /// Notes that the answer is a stream, where the request did not tell.
    pub fn streams(&mut self) {
        if let Some(draft) = &mut self.draft {
            draft.intent.stream = true;
        }
    }

    /// Gives the call up without a record: its intent is not in the journal, and nobody was asked.
    pub fn withdraw(mut self) {
        self.draft = None;
    }

    /// Ends the call. With usage reported, the record is in the journal when this returns, and what is returned says
    /// where, for those who must wait until it is on the disk; what must be counted here follows within the second.
    pub fn close(mut self, outcome: Outcome, ending: Ending) -> Option<Appended> {
        self.settle(outcome, ending)
    }

    fn settle(&mut self, outcome: Outcome, ending: Ending) -> Option<Appended> {
        let draft = self.draft.take()?;
        let Meter { books, counting, learning, jobs, .. } = &*self.meter;
        match settlement::settle(*draft, outcome, ending, self.meter.now(), jobs, learning) {
            Settlement::Record(record, mark, lesson) => match books.commit(*record) {
                Ok(appended) => {
                    if let Some(lesson) = lesson {
                        learning.teach(lesson);
                    }
                    if let Some(mark) = mark {
                        let meter = Arc::clone(&self.meter);
                        appended.then(move |is_written| {
                            if !is_written {
                                meter.jobs.take_back(mark);
                            }
                        });
                    }
                    Some(appended)
                }
                Err(error) => {
                    if let Some(mark) = mark {
                        jobs.take_back(mark);
                    }
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "a call in flight could not be recorded; it stays an intent and becomes an orphan"
                    );
                    None
                }
            },
            Settlement::Count(job) => {
                counting.submit(job);
                None
            }
        }
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        // Whoever held the call went away without a word: the client left before there was an answer.
        let _: Option<Appended> = self.settle(Outcome::ClientClosed, Ending::default());
    }
}

impl std::fmt::Debug for OpenCall {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("OpenCall").field("id", &self.id()).finish_non_exhaustive()
    }
}

/// Whole milliseconds of `duration`.
fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
