//! Progress: what an open call has brought so far, noted about once a second, so that a call whose process dies is
//! recorded with what was delivered.
//!
//! On the data path a mark is a copy of what came since the last; the counting thread looks into it and puts it into the
//! journal. What a mark had no place for is in the next.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Moment;
use super::settlement::{Draft, length_of};
use super::verdict::{self, Counted};
use crate::ids::UpstreamName;
use crate::operation::Operation;
use crate::record::Progress;
use crate::tokenizer::Tokenizers;
use crate::usage::{Anomaly, TokenCounts};
use crate::wires::delivered::{Bookmark, Unread};
use crate::wires::{Consumption, Countable, Observer, UsageSeen};

/// How far marks are apart, and the first from the answer's first byte.
const MARK_EVERY: Duration = Duration::from_secs(1);

/// How far a call's marks have come.
#[derive(Default)]
pub(super) struct Marks {
    /// When the next is due; `None` before the first byte, and where none will be made.
    due: Option<Instant>,
    /// Whether anything came behind the last.
    has_news: bool,
    reached: Reached,
    tally: Arc<Mutex<Tally>>,
}

/// What the marks so far cover.
#[derive(Default)]
pub(super) struct Reached {
    bookmark: Bookmark,
    tokens: TokenCounts,
}

/// What the counting thread has counted of a call's text.
#[derive(Debug, Default)]
struct Tally {
    /// Tokens that were counted, bytes that were only measured.
    tokens: u64,
    bytes: u64,
    /// Both, with their share in what was not kept.
    delivered: [u64; 2],
}

/// A mark on its way to the counting thread.
pub(super) struct Mark {
    progress: Progress,
    upstream: UpstreamName,
    /// The text behind the last mark, where text is to be counted.
    unread: Option<Unread>,
    tally: Arc<Mutex<Tally>>,
}

impl Marks {
    /// The first byte of the answer's body has come.
    pub(super) fn begin(&mut self, consumption: Consumption) {
        // What is fetched is counted whole or not at all.
        if consumption == Consumption::Now {
            self.postpone();
        }
    }

    /// Something came.
    pub(super) fn stir(&mut self) {
        self.has_news = true;
    }

    /// When the next mark is to be made; `None` while there would be nothing in it.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due.filter(|_| self.has_news)
    }

    /// The next mark is due in a while again.
    pub(super) fn postpone(&mut self) {
        self.due = Instant::now().checked_add(MARK_EVERY);
    }

    /// A mark that covers everything up to `reached` is on its way.
    pub(super) fn sent(&mut self, reached: Reached) {
        self.reached = reached;
    }
}

/// A mark of what `observer` has read of the call behind `draft`, and what it covers; `None` where nothing is new.
pub(super) fn mark(draft: &mut Draft, observer: &mut dyn Observer) -> Option<(Box<Mark>, Reached)> {
    draft.marks.has_news = false;
    let reading = observer.reading();
    let Reached { bookmark, tokens } = &draft.marks.reached;
    let is_counted = reading.tokens.output.is_none()
        && draft.intent.operation != Operation::Embeddings
        && verdict::counted_here(draft.intent.operation) == Counted::Tokens;
    let since = observer.kept().filter(|_| is_counted).and_then(|kept| kept.since(bookmark));
    if since.is_none() && reading.tokens == *tokens {
        return None;
    }
    let (unread, bookmark) = match since {
        Some((unread, bookmark)) => (Some(unread), bookmark),
        None => (None, bookmark.clone()),
    };
    let reached = Reached { bookmark, tokens: reading.tokens };
    let progress = Progress {
        id: draft.intent.id,
        at: Moment::now().at,
        model: reading.model.or_else(|| draft.intent.model_requested.clone()),
        status: draft.status,
        is_reported: reading.usage == UsageSeen::Final && reading.anomaly != Some(Anomaly::CountInvalid),
        tokens: reading.tokens,
        units: reading.units,
        usage_raw: reading.usage_raw,
        service_tier: reading.service_tier,
        anomaly: reading.anomaly,
        delivered_tokens: 0,
        delivered_bytes: 0,
    };
    let (upstream, tally) = (draft.intent.upstream.clone(), Arc::clone(&draft.marks.tally));
    Some((Box::new(Mark { progress, upstream, unread, tally }), reached))
}

impl Mark {
    /// Bytes of the answer that it holds.
    pub(super) fn held_bytes(&self) -> usize {
        self.unread.as_ref().map_or(0, Unread::held_bytes)
    }

    /// Whether its call is over: then nobody else holds the tally, and the record says more.
    pub(super) fn is_late(&self) -> bool {
        Arc::strong_count(&self.tally) == 1
    }

    /// Counts the text that is new, or measures it where there is no time for more. Slow: not for the data path.
    pub(super) fn count(self, tokenizers: &Tokenizers, is_in_a_hurry: bool) -> Progress {
        let Self { mut progress, upstream, unread, tally } = self;
        let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(unread) = unread {
            let Countable { text, bytes_beyond, .. } = unread.text();
            if is_in_a_hurry {
                tally.bytes = tally.bytes.saturating_add(length_of(text.as_bytes()));
            } else {
                let model = progress.model.as_deref().unwrap_or_default();
                let counted = tokenizers.counter(upstream.as_str(), model).count(&text);
                tally.tokens = tally.tokens.saturating_add(counted.tokens);
            }
            tally.bytes = tally.bytes.saturating_add(bytes_beyond);
            tally.delivered = [tally.tokens, tally.bytes].map(|known| unread.whole(known));
        }
        [progress.delivered_tokens, progress.delivered_bytes] = tally.delivered;
        progress
    }
}
