//! Settlement: which numbers a finished call is recorded with, and which are still to be counted.

use std::time::{Duration, Instant};

use crate::ids::NodeId;
use crate::operation::Operation;
use crate::record::{CostByKind, Intent, Progress, Record};
use crate::tokenizer::Counter;
use crate::tokenizer::completions::{self, Answered};
use crate::usage::{Anomaly, Estimate, Outcome, Provenance, TokenCounts, Units};
use crate::wires::delivered::{Bookmark, Delivered};
use crate::wires::prompt::Prompt;
use crate::wires::{Consumption, Countable, Observer, Reading, UsageSeen, Wire};

use super::jobs::{JobKey, Jobs, Mark};
use super::learning::{self, Learning, Lesson};
use super::progress::Marks;
use super::questions::{PROMPT_BYTES_MAX, Question, Questions, Ready};
use super::verdict::{self, Counted, Ended, Verdict};
use super::{Ending, HeldPrompt, Moment, milliseconds};

/// What is known of a call while it is open.
pub(super) struct Draft {
    pub(super) began: Moment,
    pub(super) intent: Intent,
    pub(super) wire: &'static dyn Wire,
    pub(super) consumption: Consumption,
    /// The object that the path names, where it is one that is fetched.
    pub(super) object: Option<String>,
    /// The path at the upstream, where that may be asked to count the prompt.
    pub(super) path: Option<String>,
    /// Whether the upstream may have received anything of it.
    pub(super) was_sent: bool,
    pub(super) status: Option<u16>,
    pub(super) first_byte: Option<Duration>,
    pub(super) prompt: HeldPrompt,
    pub(super) marks: Marks,
}

impl Draft {
    pub(super) fn new(began: Moment, intent: Intent, wire: &'static dyn Wire, consumption: Consumption) -> Self {
        Self {
            began,
            intent,
            wire,
            consumption,
            object: None,
            path: None,
            was_sent: false,
            status: None,
            first_byte: None,
            prompt: HeldPrompt::default(),
            marks: Marks::default(),
        }
    }
}

/// What remains to be done for a call that is over.
pub(super) enum Settlement {
    /// The record is ready, what was marked for it, and what it may teach.
    Record(Box<Record>, Option<Mark>, Option<Box<Lesson>>),
    /// Something must be counted first.
    Count(Box<CountJob>),
}

/// A record whose missing counts are to be filled in off the data path.
pub(super) struct CountJob {
    record: Record,
    wire: &'static dyn Wire,
    /// The path at the upstream, where that may be asked to count the prompt.
    path: Option<String>,
    prompt: HeldPrompt,
    observer: Option<Box<dyn Observer>>,
    body_bytes: u64,
    /// Whether the answer came to its end.
    is_whole: bool,
    /// How much of it the client got, where it was finished without.
    client_left_at: Option<Bookmark>,
    /// The provider told all: only what was delivered is to be counted.
    is_reported: bool,
}

/// An answer that is longer and of which no text was found was too long to be read, not empty.
const READABLE_BYTES: u64 = 256 << 10;

/// Decides by what the answer said, and by which jobs are open, how its call is recorded.
pub(super) fn settle(
    draft: Draft,
    outcome: Outcome,
    mut ending: Ending,
    ended: Moment,
    jobs: &Jobs,
    learning: &Learning,
) -> Settlement {
    let reading = ending.observer.as_mut().map_or_else(Reading::default, |observer| observer.reading());
    let is_whole = ending.is_whole || outcome == Outcome::Completed;
    let is_finished = (is_whole && !reading.is_error) || reading.is_finished;
    let outcome = match outcome {
        Outcome::Completed if draft.status.is_some_and(|status| status >= 400) => Outcome::UpstreamError,
        Outcome::Completed if reading.is_error => Outcome::UpstreamCut,
        Outcome::Completed
        | Outcome::UpstreamError
        | Outcome::UpstreamCut
        | Outcome::ClientClosed
        | Outcome::Orphaned => outcome,
    };
    let is_unreadable = ending.is_unreadable;
    let is_told = reading.usage == UsageSeen::Final && draft.consumption == Consumption::Now;
    let verdict = verdict::judge(&draft, &reading, Ended { outcome, is_whole, is_unreadable });
    let job = verdict::job_id(verdict, &draft, &reading);
    let key = job.clone().map(|id| JobKey { provider: draft.intent.provider.clone(), id });
    let (provenance, mark) = weigh(verdict, key, jobs);
    // What is not counted with this record is counted with another, or with none.
    let (tokens, units) = match provenance {
        Some(Provenance::None | Provenance::Unknown) => (TokenCounts::default(), Units::new()),
        Some(Provenance::Reported | Provenance::Partial | Provenance::Estimated) | None => {
            (reading.tokens, reading.units)
        }
    };
    let model = reading.model.clone().or_else(|| draft.intent.model_requested.clone());
    let mut record = record_of(draft.intent, ended);
    record.model = model;
    record.status = draft.status;
    record.outcome = outcome;
    record.tokens = tokens;
    record.units = units;
    record.usage_raw = reading.usage_raw;
    record.job = job;
    record.service_tier = reading.service_tier;
    record.anomaly = reading.anomaly.or(is_unreadable.then_some(Anomaly::Unreadable));
    record.time_to_first_byte_ms = draft.first_byte.map(milliseconds);
    record.duration_ms = milliseconds(ended.instant.saturating_duration_since(draft.began.instant));
    let client_left_at = ending.client_left_at.filter(|_| {
        draft.consumption == Consumption::Now
            && record.operation != Operation::Embeddings
            && verdict::counted_here(record.operation) == Counted::Tokens
    });
    let is_reported = provenance == Some(Provenance::Reported) && mark.is_none();
    let is_delivery_open = is_reported
        && record.tokens.output.is_some_and(|output| output > 0)
        && client_left_at.as_ref().is_some_and(|left| {
            ending.observer.as_ref().and_then(|observer| observer.kept()).is_some_and(|kept| kept.has_more(left))
        });
    if provenance.is_none() || is_delivery_open {
        let (observer, body_bytes) = (ending.observer, ending.body_bytes);
        let (wire, path, prompt, is_whole) = (draft.wire, draft.path, draft.prompt, is_finished);
        let job = CountJob { record, wire, path, prompt, observer, body_bytes, is_whole, client_left_at, is_reported };
        return Settlement::Count(Box::new(job));
    }
    record.provenance = provenance.unwrap_or(Provenance::Unknown);
    if record.provenance == Provenance::Unknown {
        record.units.extend(ending.units);
    }
    let is_lesson = is_told
        && record.provenance == Provenance::Reported
        && learning::is_exemplary(&record)
        && learning.may_teach(&record, &draft.prompt, ended.instant);
    let lesson = is_lesson.then(|| Lesson::new(&record, draft.wire, draft.prompt, ending.observer));
    Settlement::Record(Box::new(record), mark, lesson.map(Box::new))
}

/// The provenance that a verdict comes to with the jobs that are known, and what was marked of them; `None`: tokens
/// must be counted first.
fn weigh(verdict: Verdict, job: Option<JobKey>, jobs: &Jobs) -> (Option<Provenance>, Option<Mark>) {
    let if_due = |mark: Option<Mark>| (if mark.is_some() { Provenance::Reported } else { Provenance::None }, mark);
    let unread = |is_due| (if is_due { Provenance::Unknown } else { Provenance::None }, None);
    let (provenance, mark) = match (verdict, job) {
        (Verdict::Count, _) => return (None, None),
        (Verdict::Known(provenance), _) => (provenance, None),
        (Verdict::Begins, job) => (Provenance::Unknown, job.and_then(|job| jobs.begin(job))),
        (Verdict::Ends, job) => (Provenance::Reported, job.and_then(|job| jobs.count_once(job))),
        (Verdict::Stored { is_read: true }, Some(job)) => if_due(jobs.count_open(job)),
        (Verdict::Result { is_read: true }, Some(job)) => if_due(jobs.count_once(job)),
        (Verdict::Stored { is_read: false }, Some(job)) => unread(jobs.is_open(&job)),
        (Verdict::Result { is_read: false }, Some(job)) => unread(!jobs.is_counted(&job)),
        (Verdict::Stored { .. }, None) => (Provenance::None, None),
        // Nobody can say whether it was counted before.
        (Verdict::Result { .. }, None) => (Provenance::Unknown, None),
    };
    (Some(provenance), mark)
}

impl CountJob {
    /// Bytes of the request and of the answer that it keeps alive.
    pub(super) fn held_bytes(&self) -> usize {
        let slices = self.prompt.slices.iter().flatten();
        let prompt = slices.fold(0, |sum: usize, slice| sum.saturating_add(slice.len()));
        let kept = self.observer.as_ref().and_then(|observer| observer.kept());
        prompt.saturating_add(kept.map_or(0, Delivered::held_bytes))
    }

    /// What to ask the upstream about the prompt, where that is counted here, is short, may teach, and may be asked for now.
    pub(super) fn question<'a>(
        &self,
        questions: &'a Questions,
        learning: &Learning,
        now: Instant,
    ) -> Option<Ready<'a>> {
        let Self { record, wire, prompt, .. } = self;
        let path = self.path.as_deref()?;
        let is_counted_here = !self.is_reported && record.tokens.input.is_none() && record.status == Some(200);
        if !is_counted_here || prompt.bytes > PROMPT_BYTES_MAX || !learning.may_teach(record, prompt, now) {
            return None;
        }
        questions.prepare(&record.upstream, now, || {
            let asked = wire.count_request(record.operation, path, &prompt.slices.as_ref()?.concat())?;
            let lesson = Box::new(Lesson::new(record, *wire, prompt.clone(), None));
            Some(Question { upstream: record.upstream.clone(), wire: *wire, asked, lesson })
        })
    }

    /// Fills in what the provider did not report. Slow: up to half a second a megabyte.
    pub(super) fn count(self, learning: &Learning) -> Record {
        let model = self.record.model.clone().unwrap_or_default();
        let counter = learning.counter(&self.record.upstream, &model);
        if self.is_reported {
            return self.deliver(&counter);
        }
        let body = self.prompt.slices.as_ref().map(|slices| slices.concat());
        let prompt = body.and_then(|body| self.wire.prompt(self.record.operation, &body));
        if verdict::counted_here(self.record.operation) == Counted::Characters {
            return self.count_characters(prompt.as_ref());
        }
        let prompt = prompt.unwrap_or_else(|| Prompt::of_length(self.prompt.bytes));
        self.fill_in(&prompt, learning, &counter)
    }

    /// The same by lengths alone: what is left when the counting queue is full.
    pub(super) fn count_by_length(self, learning: &Learning) -> Record {
        if verdict::counted_here(self.record.operation) == Counted::Characters {
            return self.count_characters(None);
        }
        let model = self.record.model.clone().unwrap_or_default();
        let counter = Counter::by_length(&model);
        if self.is_reported {
            return self.deliver(&counter);
        }
        let prompt = Prompt::of_length(self.prompt.bytes);
        self.fill_in(&prompt, learning, &counter)
    }

    /// The record of a call that was finished for the provider's own number: what the client got of it is counted.
    fn deliver(mut self, counter: &Counter<'_>) -> Record {
        self.record.provenance = Provenance::Reported;
        let delivered = self.observer.as_ref().map(|observer| observer.delivered()).unwrap_or_default();
        self.record.delivered_output = self.delivered_output(&delivered, counter);
        self.record
    }

    /// Output tokens of the text that had come when the client left; `None` where that was all of it, or where it counts
    /// the same. It is never more than all of it.
    fn delivered_output(&self, all: &Countable, counter: &Counter<'_>) -> Option<u64> {
        let left_at = self.client_left_at.as_ref()?;
        let billed = self.record.tokens.output?;
        let kept = self.observer.as_ref().and_then(|observer| observer.kept());
        let delivered = kept.map(|kept| kept.read_until(left_at)).unwrap_or_default();
        if delivered.bytes() > 0 && delivered.bytes() >= all.bytes() {
            return None;
        }
        let answered = Answered { operation: self.record.operation, is_whole: false };
        let tokens = completions::measure_completion(&delivered, answered, counter).tokens;
        Some(tokens).filter(|tokens| *tokens < billed)
    }

    /// Speech is billed by the characters of its text; of a text that was not held nobody can say how many it had.
    fn count_characters(self, prompt: Option<&Prompt>) -> Record {
        let Self { mut record, observer, .. } = self;
        let characters = |prompt: &Prompt| prompt.texts.iter().map(|text| text.chars().count()).sum::<usize>();
        let counted = prompt.filter(|prompt| prompt.bytes_beyond == 0).map(characters).filter(|count| *count > 0);
        record.provenance = match counted {
            _ if observer.is_some_and(|mut it| it.reading().is_error) => Provenance::None,
            _ if !record.tokens.is_empty() => Provenance::Partial,
            Some(characters) => {
                let characters = u64::try_from(characters).unwrap_or(u64::MAX);
                record.units.insert("characters".to_owned(), characters);
                Provenance::Estimated
            }
            None => Provenance::Unknown,
        };
        record
    }

    fn fill_in(mut self, prompt: &Prompt, learning: &Learning, counter: &Counter<'_>) -> Record {
        let mut delivered = self.observer.as_ref().map(|observer| observer.delivered()).unwrap_or_default();
        let is_partial = !self.record.tokens.is_empty();
        let is_nothing = delivered == Countable::default();
        let is_error = self.observer.as_mut().is_some_and(|observer| observer.reading().is_error);
        if !is_partial && is_nothing && is_error {
            // An error under a status of 200, before anything was generated.
            self.record.provenance = Provenance::None;
            return self.record;
        }
        let record = &mut self.record;
        let prompt = record.tokens.input.is_none().then_some(prompt);
        let has_output = record.operation != Operation::Embeddings;
        let is_unread = record.anomaly == Some(Anomaly::Unreadable) || self.body_bytes > READABLE_BYTES;
        if is_unread && has_output && is_nothing {
            record.anomaly = record.anomaly.or(Some(Anomaly::Unreadable));
            delivered = by_length(self.body_bytes);
        }
        let answer = (has_output && record.tokens.output.is_none()).then_some(&delivered);
        let estimated = learning.estimate(record, prompt, answer, self.is_whole, counter);
        record.tokens.input = record.tokens.input.or(estimated.input);
        record.tokens.output = record.tokens.output.or(estimated.output);
        record.estimate = Some(estimated.estimate);
        record.provenance = if is_partial { Provenance::Partial } else { Provenance::Estimated };
        self.record.delivered_output = self.delivered_output(&delivered, counter);
        self.record
    }
}

/// A text of which only the length is known.
fn by_length(bytes: u64) -> Countable {
    Countable { bytes_beyond: bytes, ..Countable::default() }
}

/// The record of a call whose process died: what its answer had brought by the last mark, if there is one, its prompt by
/// the length of its body where that is not reported, its end when it was found.
pub(super) fn orphan(intent: Intent, progress: Option<Progress>, found: Moment, learning: &Learning) -> Record {
    let (began, is_consumption, body_bytes) = (intent.started_at, intent.is_consumption, intent.body_bytes);
    let is_counted_here = verdict::counted_here(intent.operation) == Counted::Tokens;
    let has_output = intent.operation != Operation::Embeddings;
    let mut record = record_of(intent, found);
    record.outcome = Outcome::Orphaned;
    record.model.clone_from(&record.model_requested);
    record.duration_ms = u64::try_from(found.at.duration_since(began).as_millis()).unwrap_or(0);
    let (mut is_reported, mut delivered) = (false, None);
    if let Some(progress) = progress {
        record.model = progress.model.or(record.model);
        record.status = progress.status;
        record.tokens = progress.tokens;
        record.units = progress.units;
        record.usage_raw = progress.usage_raw;
        record.service_tier = progress.service_tier;
        record.anomaly = progress.anomaly;
        is_reported = progress.is_reported;
        let (tokens, unread) = (progress.delivered_tokens, by_length(progress.delivered_bytes));
        delivered = Some(Countable { tokens, ..unread });
    }
    let is_error = record.status.is_some_and(|status| status >= 400);
    let prompt = body_bytes.filter(|_| record.tokens.input.is_none()).map(Prompt::of_length);
    let delivered = delivered.filter(|_| has_output && record.tokens.output.is_none());
    let is_partial = !record.tokens.is_empty();
    record.provenance = if !is_consumption || (is_error && !is_partial) {
        Provenance::None
    } else if is_reported {
        Provenance::Reported
    } else if is_counted_here && (prompt.is_some() || delivered.is_some() || is_partial) {
        let model = record.model.clone().unwrap_or_default();
        let counter = Counter::by_length(&model);
        let estimated = learning.estimate(&record, prompt.as_ref(), delivered.as_ref(), false, &counter);
        record.tokens.input = record.tokens.input.or(estimated.input);
        record.tokens.output = record.tokens.output.or(estimated.output);
        record.estimate = Some(estimated.estimate);
        if is_partial { Provenance::Partial } else { Provenance::Estimated }
    } else if is_partial {
        Provenance::Partial
    } else {
        Provenance::Unknown
    };
    record
}

/// A record of `intent` that knows nothing of the answer yet. Node and seq are the journal's to set.
fn record_of(intent: Intent, ended: Moment) -> Record {
    Record {
        id: intent.id,
        started_at: intent.started_at,
        ended_at: ended.at,
        department: intent.department,
        team: intent.team,
        app: intent.app,
        key: intent.key,
        attributed_by: intent.attributed_by,
        tags: intent.tags,
        node: NodeId::unassigned(),
        seq: 0,
        upstream: intent.upstream,
        wire: intent.wire,
        provider: intent.provider,
        operation: intent.operation,
        model_requested: intent.model_requested,
        model: None,
        stream: intent.stream,
        status: None,
        outcome: Outcome::Completed,
        provenance: Provenance::Unknown,
        tokens: TokenCounts::default(),
        units: Units::new(),
        usage_raw: None,
        job: None,
        service_tier: None,
        estimate: None::<Estimate>,
        delivered_output: None,
        anomaly: None,
        cost_nanousd: None,
        cost_nanousd_by_kind: CostByKind::default(),
        price: None,
        time_to_first_byte_ms: None,
        duration_ms: 0,
    }
}
