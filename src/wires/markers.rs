//! Cheap looks at a unit before anything is parsed.
//!
//! A quote within a JSON string stands behind a backslash, so a quoted name that is found is a real one. It may still
//! be a value, or a member of something deeper: who finds a marker parses and looks at the exact path.

use std::sync::LazyLock;

use aho_corasick::packed::Searcher;
use memchr::memmem::Finder;

macro_rules! marker {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        $($(#[$doc])* pub(super) static $name: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new($text));)*
    };
}

marker! {
    /// Usage by `OpenAI`'s and Anthropic's name.
    USAGE = "\"usage\"";
    /// Usage by Cohere's older name.
    META = "\"meta\"";
    /// Ollama's input.
    PROMPT_EVAL_COUNT = "\"prompt_eval_count\"";
    /// Ollama's output.
    EVAL_COUNT = "\"eval_count\"";
    /// Ollama's flag of the last line.
    IS_DONE = "\"done\"";
    /// Cloudflare's word on a whole answer.
    SUCCESS = "\"success\"";
    /// What TGI tells at the end.
    DETAILS = "\"details\"";
    /// TGI's text, whole: in a stream at its end.
    GENERATED_TEXT = "\"generated_text\"";
    /// llama.cpp's counts, which come also where usage was not asked for.
    TIMINGS = "\"timings\"";
    /// A choice that may have ended.
    FINISH_REASON = "\"finish_reason\"";
    /// An error in the middle of a stream.
    ERROR = "\"error\"";
    /// An event of the Responses API that carries the whole response.
    RESPONSE = "\"response\"";
    /// Usage of a batch's line that was too long to hold, by its whole name.
    BODY_USAGE = "\"response.body.usage\"";
    /// llama.cpp's counts in its native answers.
    TOKENS_PREDICTED = "\"tokens_predicted\"";
    /// The type of an event about something that is whole now: an image.
    COMPLETED = ".completed\"";
    /// The type of an event about something that is over: a transcript, speech.
    DONE = ".done\"";
    /// A run of an assistant, not one of its steps.
    THREAD_RUN = "\"thread.run\"";
    /// The model.
    MODEL = "\"model\"";
    /// An Anthropic event about a block of content: text, nothing to meter.
    CONTENT_BLOCK = "\"content_block_";
    /// An Anthropic message with its content.
    CONTENT = "\"content\"";
    /// An event of an interaction that is text, nothing to meter.
    STEP_DELTA = "\"step.delta\"";
    /// What Gemini searched for to ground its answer.
    WEB_SEARCH_QUERIES = "\"webSearchQueries\"";
    /// Why a Converse answer ended.
    STOP_REASON = "\"stopReason\"";
    /// What AWS counted of a stream that it passed on.
    INVOCATION_METRICS = "\"amazon-bedrock-invocationMetrics\"";
}

/// Several markers, looked for in one go.
pub(super) struct Markers(Option<Searcher>);

impl Markers {
    pub(super) fn new(markers: &[&Finder<'_>]) -> Self {
        Self(Searcher::new(markers.iter().map(|marker| marker.needle())))
    }

    /// Whether `unit` has a member of one of their names whose value is not null; where that cannot be told, it may.
    pub(super) fn any_has_value(&self, unit: &[u8]) -> bool {
        let Some(searcher) = &self.0 else { return true };
        searcher
            .find_iter(unit)
            .filter_map(|found| value(unit.get(found.end()..).unwrap_or_default()))
            .any(|value| !value.starts_with(b"null"))
    }
}

/// Whether `unit` has a member of the marker's name whose value is not null.
pub(super) fn has_value(marker: &Finder<'_>, unit: &[u8]) -> bool {
    values(marker, unit).any(|value| !value.starts_with(b"null"))
}

/// Whether `unit` has a member of the marker's name whose value is true.
pub(super) fn is_true(marker: &Finder<'_>, unit: &[u8]) -> bool {
    values(marker, unit).any(|value| value.starts_with(b"true"))
}

/// What follows each member of the marker's name.
fn values<'a>(marker: &'a Finder<'_>, unit: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let behind = |at: usize| unit.get(at.saturating_add(marker.needle().len())..).unwrap_or_default();
    marker.find_iter(unit).filter_map(move |at| value(behind(at)))
}

/// The value of a member behind whose name `after` stands; `None` where that was no member's name.
fn value(after: &[u8]) -> Option<&[u8]> {
    after.trim_ascii_start().strip_prefix(b":").map(<[u8]>::trim_ascii_start)
}
