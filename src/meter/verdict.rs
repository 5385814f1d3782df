//! Verdict: what an answer that is over counts as. Rules only: which jobs are open is asked elsewhere.
//!
//! **Made now** (a POST): what it reports is counted, always. Work that goes on when its call is over is unknown and not
//! estimated: its usage comes with its result, and to count both would be to count it twice.
//!
//! **Fetched** (a GET of what the provider keeps): counted once a job, when a whole answer (200: a range of a file is
//! a part of it) says that the job is over and what it used. A job that names itself over is believed as soon as it is
//! read. Results that only their path names are a list to be summed: theirs is the sum of the whole list, so a list
//! that is cut, by the client or the upstream, counts nothing and leaves its job to be counted by the next, whole
//! fetch: the provider keeps it. A whole list that could not be read is unknown, if its job is not counted yet.
//!
//! Nothing that is fetched is ever counted locally.

use serde::Deserialize;

use crate::operation::Operation;
use crate::usage::{Anomaly, Outcome, Provenance};
use crate::wires::{Consumption, Reading, UsageSeen};

use super::HeldPrompt;
use super::settlement::Draft;

/// Longest id of a job. Providers' have some 60 bytes.
const JOB_ID_BYTES_MAX: usize = 256;

/// What is made of a call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    /// No job decides about it.
    Known(Provenance),
    /// The provider reported nothing, or not all: counted here.
    Count,
    /// Work has begun whose result will be counted when it passes.
    Begins,
    /// Reported; what it reported is not to be counted again when it is fetched.
    Ends,
    /// A stored object says that it is over: counted if its job is open.
    Stored {
        /// What it used could be read.
        is_read: bool,
    },
    /// A result has come: counted if its job was not.
    Result {
        /// What it used could be read.
        is_read: bool,
    },
}

/// How an answer ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    /// As the record will say.
    pub(super) outcome: Outcome,
    /// Whether it came to its end, whatever it said.
    pub(super) is_whole: bool,
    /// Whether it could not be decompressed or was cut by a cap.
    pub(super) is_unreadable: bool,
}

/// The id of the job that a call is about: the answer's, else the path's.
pub(super) fn job_id(verdict: Verdict, draft: &Draft, reading: &Reading) -> Option<String> {
    let told = reading.job.as_ref().map(|job| job.id.as_str());
    let id = match draft.consumption {
        Consumption::Now => told.filter(|_| matches!(verdict, Verdict::Begins | Verdict::Ends)),
        Consumption::Stored | Consumption::Result => told.or(draft.object.as_deref()),
        Consumption::None => None,
    };
    id.filter(|id| !id.is_empty() && id.len() <= JOB_ID_BYTES_MAX).map(str::to_owned)
}

/// Decides by what the answer said.
pub(super) fn judge(draft: &Draft, reading: &Reading, ended: Ended) -> Verdict {
    match draft.consumption {
        Consumption::Now => made(draft, reading, ended),
        Consumption::Stored | Consumption::Result => fetched(draft, reading, ended),
        Consumption::None => Verdict::Known(Provenance::None),
    }
}

fn made(draft: &Draft, reading: &Reading, ended: Ended) -> Verdict {
    let failed = draft.status.is_some_and(|status| status >= 400);
    let is_final = reading.usage == UsageSeen::Final;
    let is_under_way = reading.job.as_ref().is_some_and(|job| !job.is_over);
    if is_under_way && !is_final && !failed && outlives_its_call(draft, ended) {
        return Verdict::Begins;
    }
    let is_whole = is_final
        || (reading.usage == UsageSeen::Interim
            && reading.tokens.input.is_some()
            && reading.tokens.output.is_some()
            && (ended.outcome == Outcome::Completed || reading.is_finished));
    if is_whole && !has_hole(draft, reading) {
        let is_fetchable = reading.job.is_some() && is_fetched_as_result(draft.intent.operation);
        return if is_fetchable { Verdict::Ends } else { Verdict::Known(Provenance::Reported) };
    }
    let says_nothing = reading.usage == UsageSeen::Nothing;
    if !draft.was_sent || (says_nothing && (failed || is_free(draft.intent.operation))) {
        return Verdict::Known(Provenance::None);
    }
    // Without a head nobody can say whether the provider worked on it before the connection broke.
    let was_cut_unseen = draft.status.is_none() && ended.outcome != Outcome::ClientClosed;
    match counted_here(draft.intent.operation) {
        Counted::Tokens | Counted::Characters if !was_cut_unseen => Verdict::Count,
        Counted::Nothing if !reading.tokens.is_empty() => Verdict::Known(Provenance::Partial),
        // The observer counted them itself, such as the pictures of an answer.
        Counted::Nothing if !reading.units.is_empty() => Verdict::Known(Provenance::Estimated),
        Counted::Tokens | Counted::Characters | Counted::Nothing => Verdict::Known(Provenance::Unknown),
    }
}

/// Whether a count that can be none leaves a hole in what was told: it is filled as if it had not been told.
fn has_hole(draft: &Draft, reading: &Reading) -> bool {
    let lacks_output = reading.tokens.output.is_none() && draft.intent.operation != Operation::Embeddings;
    reading.anomaly == Some(Anomaly::CountInvalid)
        && counted_here(draft.intent.operation) == Counted::Tokens
        && (reading.tokens.input.is_none() || lacks_output)
}

fn fetched(draft: &Draft, reading: &Reading, ended: Ended) -> Verdict {
    let none = Verdict::Known(Provenance::None);
    if draft.status != Some(200) {
        return none;
    }
    let is_told = match reading.usage {
        UsageSeen::Nothing => false,
        // A list has no last word: it is told when it has come whole.
        UsageSeen::Interim => draft.consumption == Consumption::Result,
        UsageSeen::Final => true,
    };
    let is_over = is_told && reading.job.as_ref().is_none_or(|job| job.is_over);
    let is_list =
        reading.job.is_none() || reading.usage == UsageSeen::Interim || draft.intent.operation == Operation::Batch;
    let is_read = is_over && !(is_list && (ended.is_unreadable || !ended.is_whole));
    // What could not be read may say that it is over, or not: its job alone tells whether that matters.
    let is_unread = ended.is_unreadable && ended.is_whole;
    match draft.consumption {
        Consumption::Stored if is_read || is_unread => Verdict::Stored { is_read },
        Consumption::Result if is_read || is_unread => Verdict::Result { is_read },
        Consumption::Now | Consumption::Stored | Consumption::Result | Consumption::None => none,
    }
}

/// Whether work that was under way when its call ended goes on. Runs do. A response does where it was asked to, or where
/// the whole of the answer is that it is under way; another that broke off in the middle of its stream is over, and
/// what came of it is counted as of any stream.
fn outlives_its_call(draft: &Draft, ended: Ended) -> bool {
    counted_here(draft.intent.operation) != Counted::Tokens
        || (ended.is_whole && !draft.intent.stream)
        || asks_for_background(&draft.prompt)
}

/// Whether a request asks for work in the background; looked at for what broke off only.
fn asks_for_background(prompt: &HeldPrompt) -> bool {
    #[derive(Deserialize)]
    struct Request {
        background: Option<bool>,
    }
    let Some(slices) = &prompt.slices else { return false };
    let body = slices.concat();
    memchr::memmem::find(&body, b"\"background\"").is_some()
        && serde_json::from_slice::<Request>(&body).is_ok_and(|request| request.background == Some(true))
}

/// Whether the results of such work are fetched as [`Consumption::Result`]: then what was counted must be known for
/// as long as it can be fetched. A stored object counts only while its job is open, and the many responses that end
/// in the call that made them need not be known at all.
fn is_fetched_as_result(operation: Operation) -> bool {
    matches!(operation, Operation::InvokeAgent | Operation::Batch)
}

/// Whether no provider charges for it.
fn is_free(operation: Operation) -> bool {
    matches!(operation, Operation::Moderation | Operation::CountTokens)
}

/// What of an operation can be counted here, where the provider reports nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Counted {
    /// Tokens, of prompt and answer.
    Tokens,
    /// Characters of the request: what speech is billed by.
    Characters,
    /// Nothing.
    Nothing,
}

/// What of `operation` can be counted here.
pub(super) fn counted_here(operation: Operation) -> Counted {
    match operation {
        Operation::Chat
        | Operation::TextCompletion
        | Operation::Responses
        | Operation::Embeddings
        | Operation::GenerateContent
        | Operation::Interaction => Counted::Tokens,
        Operation::Speech => Counted::Characters,
        Operation::InvokeAgent
        | Operation::ImageGeneration
        | Operation::Transcription
        | Operation::Moderation
        | Operation::Rerank
        | Operation::Ocr
        | Operation::Batch
        | Operation::Realtime
        | Operation::CountTokens
        | Operation::Other => Counted::Nothing,
    }
}
