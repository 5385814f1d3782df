//! Settlement: which numbers a finished call is recorded with, and which are still to be counted.

use std::time::Duration;

use crate::ids::NodeId;
use crate::operation::Operation;
use crate::record::{CostByKind, Intent, Record};
use crate::tokenizer;
use crate::usage::{Anomaly, Estimate, Outcome, Provenance, TokenCounts};
use crate::wires::{Countable, Observer, Reading, UsageSeen, Wire};

use super::{Ending, HeldPrompt, Moment, milliseconds};

/// What is known of a call while it is open.
pub(super) struct Draft {
    pub(super) began: Moment,
    pub(super) intent: Intent,
    pub(super) wire: &'static dyn Wire,
    /// Whether the upstream may have received anything of it.
    pub(super) was_sent: bool,
    pub(super) status: Option<u16>,
    pub(super) first_byte: Option<Duration>,
    pub(super) prompt: HeldPrompt,
}

impl Draft {
    pub(super) fn new(began: Moment, intent: Intent, wire: &'static dyn Wire) -> Self {
        Self { began, intent, wire, was_sent: false, status: None, first_byte: None, prompt: HeldPrompt::default() }
    }
}

/// What remains to be done for a call that is over.
pub(super) enum Settlement {
    /// The record is ready.
    Record(Box<Record>),
    /// Something must be counted first.
    Count(Box<CountJob>),
}

/// A record whose missing counts are to be filled in off the data path.
pub(super) struct CountJob {
    record: Record,
    wire: &'static dyn Wire,
    prompt: HeldPrompt,
    observer: Option<Box<dyn Observer>>,
}

/// Decides by what the answer said how its call is recorded.
pub(super) fn settle(draft: Draft, outcome: Outcome, ending: Ending, ended: Moment) -> Settlement {
    let reading = ending.observer.as_ref().map_or_else(Reading::default, |observer| observer.reading());
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
    let (verdict, tokens) = judge(&draft, outcome, &reading);
    let model = reading.model.clone().or_else(|| draft.intent.model_requested.clone());
    let mut record = record_of(draft.intent, ended);
    record.model = model;
    record.status = draft.status;
    record.outcome = outcome;
    record.tokens = tokens;
    record.units = reading.units;
    record.usage_raw = reading.usage_raw;
    record.service_tier = reading.service_tier;
    record.anomaly = reading.anomaly.or(is_unreadable.then_some(Anomaly::Unreadable));
    record.time_to_first_byte_ms = draft.first_byte.map(milliseconds);
    record.duration_ms = milliseconds(ended.instant.saturating_duration_since(draft.began.instant));
    match verdict {
        Verdict::Known(provenance) => {
            record.provenance = provenance;
            Settlement::Record(Box::new(record))
        }
        Verdict::Count => {
            let job = CountJob { record, wire: draft.wire, prompt: draft.prompt, observer: ending.observer };
            Settlement::Count(Box::new(job))
        }
    }
}

enum Verdict {
    Known(Provenance),
    Count,
}

fn judge(draft: &Draft, outcome: Outcome, reading: &Reading) -> (Verdict, TokenCounts) {
    let tokens = reading.tokens;
    let is_whole = reading.usage == UsageSeen::Final
        || (reading.usage == UsageSeen::Interim
            && tokens.output.is_some()
            && (outcome == Outcome::Completed || reading.is_finished));
    if is_whole {
        return (Verdict::Known(Provenance::Reported), tokens);
    }
    let failed = draft.status.is_some_and(|status| status >= 400);
    if !draft.intent.is_consumption || !draft.was_sent || (failed && reading.usage == UsageSeen::Nothing) {
        return (Verdict::Known(Provenance::None), TokenCounts::default());
    }
    // Without a head nobody can say whether the provider worked on it before the connection broke.
    let was_cut_unseen = draft.status.is_none() && outcome != Outcome::ClientClosed;
    if !is_countable(draft.intent.operation) || was_cut_unseen {
        return (Verdict::Known(Provenance::Unknown), tokens);
    }
    (Verdict::Count, tokens)
}

impl CountJob {
    /// Fills in what the provider did not report. Slow: up to half a second a megabyte.
    pub(super) fn count(self) -> Record {
        let body = self.prompt.slices.as_ref().map(|slices| slices.concat());
        let prompt = body.and_then(|body| self.wire.prompt(self.record.operation, &body));
        let prompt = prompt.unwrap_or_else(|| by_length(self.prompt.bytes));
        let delivered = self.observer.as_ref().map(|observer| observer.delivered()).unwrap_or_default();
        self.fill_in(&prompt, &delivered)
    }

    /// The same by lengths alone: what is left when the counting queue is full.
    pub(super) fn count_by_length(self) -> Record {
        let prompt = by_length(self.prompt.bytes);
        let delivered = self.observer.as_ref().map(|observer| observer.delivered()).unwrap_or_default();
        let delivered = by_length(length_of(delivered.text.as_bytes()).saturating_add(delivered.bytes_beyond));
        self.fill_in(&prompt, &delivered)
    }

    fn fill_in(self, prompt: &Countable, delivered: &Countable) -> Record {
        let Self { mut record, observer, .. } = self;
        let is_partial = !record.tokens.is_empty();
        if !is_partial && *delivered == Countable::default() && observer.is_some_and(|it| it.reading().is_error) {
            // An error under a status of 200, before anything was generated.
            record.provenance = Provenance::None;
            return record;
        }
        let prompt = record.tokens.input.is_none().then_some(prompt);
        let has_output = record.operation != Operation::Embeddings;
        let delivered = (has_output && record.tokens.output.is_none()).then_some(delivered);
        let known = record.tokens.total();
        let model = record.model.as_deref().unwrap_or_default();
        let estimated = tokenizer::estimate(prompt, delivered, known, model, record.provider.as_str());
        record.tokens.input = record.tokens.input.or(estimated.input);
        record.tokens.output = record.tokens.output.or(estimated.output);
        record.estimate = Some(estimated.estimate);
        record.provenance = if is_partial { Provenance::Partial } else { Provenance::Estimated };
        record
    }
}

/// A text of which only the length is known.
fn by_length(bytes: u64) -> Countable {
    Countable { bytes_beyond: bytes, ..Countable::default() }
}

fn length_of(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// The record of a call whose process died: its prompt by the length of its body, its end when it was found.
pub(super) fn orphan(intent: Intent, found: Moment) -> Record {
    let body = intent.body_bytes.filter(|_| is_countable(intent.operation)).map(by_length);
    let (began, is_consumption) = (intent.started_at, intent.is_consumption);
    let mut record = record_of(intent, found);
    record.outcome = Outcome::Orphaned;
    record.model.clone_from(&record.model_requested);
    record.duration_ms = u64::try_from(found.at.duration_since(began).as_millis()).unwrap_or(0);
    if !is_consumption {
        record.provenance = Provenance::None;
    } else if let Some(body) = body {
        let model = record.model.as_deref().unwrap_or_default();
        let estimated = tokenizer::estimate(Some(&body), None, 0, model, record.provider.as_str());
        record.tokens.input = estimated.input;
        record.estimate = Some(estimated.estimate);
        record.provenance = Provenance::Estimated;
    }
    record
}

/// Whether an operation's tokens can be counted locally.
fn is_countable(operation: Operation) -> bool {
    match operation {
        Operation::Chat
        | Operation::TextCompletion
        | Operation::Responses
        | Operation::Embeddings
        | Operation::GenerateContent => true,
        Operation::CountTokens | Operation::Other => false,
    }
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
        units: std::collections::BTreeMap::default(),
        usage_raw: None,
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
