//! Learning: calls with reported usage teach a thread of its own what those without are likely to be.
//!
//! On the data path a call is only asked whether it may teach: without a lock, an allocation or a count. Of each key the
//! first calls always may; later ones now and then, so that a thread which never ends takes next to nothing of a core.
//! A call that finds the thread busy is let go. No record waits for any of this.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use super::HeldPrompt;
use super::verdict::{self, Counted};
use crate::ids::{Provider, UpstreamName};
use crate::operation::Operation;
use crate::record::Record;
use crate::tokenizer::calibration::{self, Calibration, KEYS_MAX, Key, Row, SATURATED_FROM, key_hash};
use crate::tokenizer::completions::Answered;
use crate::tokenizer::measured::measure;
use crate::tokenizer::{self, Counter, Estimated, Tokenizers};
use crate::usage::{Outcome, TokenCounts};
use crate::wires::prompt::Prompt;
use crate::wires::{Countable, Observer, Wire};

/// Calls that may wait to teach; each holds its prompt.
const QUEUE_MAX: usize = 8;
/// A longer prompt teaches only when a saturated key's may.
const YOUNG_BYTES_MAX: u64 = 256 << 10;
/// How many times as long as a lesson took no saturated key has another: half a per cent of a core.
const REST: u32 = 200;
/// And how long at least: to wake the thread costs the call that does it more than a short lesson the thread.
const REST_LEAST: Duration = Duration::from_millis(50);
/// Keys whose first calls are told from later ones. Beyond them, all are later ones.
const TRIED_MAX: usize = 4 * KEYS_MAX;

/// The learning thread's handle.
#[derive(Debug)]
pub(super) struct Learning {
    shared: Arc<Shared>,
    worker: Mutex<Option<Worker>>,
}

#[derive(Debug)]
struct Worker {
    lessons: SyncSender<Box<Lesson>>,
    thread: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    calibration: Mutex<Calibration>,
    tokenizers: Tokenizers,
    /// Keys whose calls may teach now and then only.
    saturated: ArcSwap<HashSet<u64>>,
    /// Before this, in microseconds since `began`, no saturated key may.
    rests_until: AtomicU64,
    began: Instant,
    waiting: AtomicUsize,
    is_stopping: AtomicBool,
}

/// A call with reported usage.
pub(super) struct Lesson {
    key: Key,
    /// The key by the name that the model was asked for by, where that is another: calls without an answer know no other.
    asked_for: Option<Key>,
    provider: Provider,
    wire: &'static dyn Wire,
    prompt: HeldPrompt,
    observer: Option<Box<dyn Observer>>,
    reported: TokenCounts,
    /// Whether the upstream was asked for what it teaches: then it is not thrown away.
    was_asked_for: bool,
}

impl Learning {
    /// Goes on from what was learned before; `None`: learns nothing, and knows nothing.
    pub(super) fn start(calibration: Option<Calibration>, tokenizers: Tokenizers) -> std::io::Result<Self> {
        let is_on = calibration.is_some();
        let calibration = calibration.unwrap_or_default();
        let shared = Arc::new(Shared {
            saturated: ArcSwap::from_pointee(calibration.saturated()),
            calibration: Mutex::new(calibration),
            tokenizers,
            rests_until: AtomicU64::new(0),
            began: Instant::now(),
            waiting: AtomicUsize::new(0),
            is_stopping: AtomicBool::new(false),
        });
        let worker = if is_on {
            let (lessons, inbox) = sync_channel(QUEUE_MAX);
            let theirs = Arc::clone(&shared);
            let thread = std::thread::Builder::new().name("learning".into()).spawn(move || work(&theirs, &inbox))?;
            Some(Worker { lessons, thread })
        } else {
            shared.is_stopping.store(true, Ordering::Relaxed);
            None
        };
        Ok(Self { shared, worker: Mutex::new(worker) })
    }

    /// Whether a call may teach that ended at `now` with the counts of `record`. Cheap, without a lock: for the data
    /// path.
    pub(super) fn may_teach(&self, record: &Record, prompt: &HeldPrompt, now: Instant) -> bool {
        let shared = &*self.shared;
        if shared.is_stopping.load(Ordering::Relaxed) || shared.waiting.load(Ordering::Relaxed) >= QUEUE_MAX {
            return false;
        }
        if prompt.slices.is_none() {
            return false;
        }
        let is_young = || {
            let hash = key_hash(&record.upstream, model(record), record.operation);
            prompt.bytes <= YOUNG_BYTES_MAX && !shared.saturated.load().contains(&hash)
        };
        shared.has_rested(now) || is_young()
    }

    /// Hands a call to the thread; lets it go where too many wait.
    pub(super) fn teach(&self, lesson: Box<Lesson>) {
        let worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(worker) = &*worker {
            self.shared.waiting.fetch_add(1, Ordering::Relaxed);
            if worker.lessons.try_send(lesson).is_err() {
                self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// What counts the texts of a call.
    pub(super) fn counter<'a>(&'a self, upstream: &UpstreamName, model: &'a str) -> Counter<'a> {
        self.shared.tokenizers.counter(upstream.as_str(), model)
    }

    /// Counts `prompt` and `delivered`, each `None` where `record` knows that part, and corrects what was counted by what
    /// was learned. `is_whole`: the answer came to its end. Slow, but for a counter of lengths.
    pub(super) fn estimate(
        &self,
        record: &Record,
        prompt: Option<&Prompt>,
        delivered: Option<&Countable>,
        is_whole: bool,
        counter: &Counter<'_>,
    ) -> Estimated {
        let answered = Answered { operation: record.operation, is_whole };
        let parts = tokenizer::count_parts(prompt, delivered, answered, counter, record.provider.as_str());
        let (known, key) = (record.tokens.total(), key(record, model(record)));
        // What was paid beside the text of an answer that broke off nobody can learn from those that did not.
        let is_whole = is_whole && record.outcome == Outcome::Completed;
        if parts.are_by_length() {
            // Nothing corrects these, and the data path may be who asks.
            return tokenizer::estimate(&parts, known, &Calibration::default(), &key, is_whole);
        }
        let calibration = self.shared.calibration.lock().unwrap_or_else(PoisonError::into_inner);
        tokenizer::estimate(&parts, known, &calibration, &key, is_whole)
    }

    /// What was learned since it was last asked for.
    pub(super) fn changed(&self) -> Vec<Row> {
        self.shared.calibration.lock().unwrap_or_else(PoisonError::into_inner).changed()
    }

    /// `rows` could not be kept: they are to be given again.
    pub(super) fn take_back(&self, rows: &[Row]) {
        self.shared.calibration.lock().unwrap_or_else(PoisonError::into_inner).take_back(rows);
    }

    /// Ends the thread; what waits to teach is let go.
    pub(super) fn stop(&self) {
        self.shared.is_stopping.store(true, Ordering::Relaxed);
        let worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Worker { lessons, thread }) = worker {
            drop(lessons);
            if thread.join().is_err() {
                tracing::error!("the learning thread panicked; estimates stay as good as they are");
            }
        }
    }
}

impl Lesson {
    /// What the call behind `record` may teach.
    pub(super) fn new(
        record: &Record,
        wire: &'static dyn Wire,
        prompt: HeldPrompt,
        observer: Option<Box<dyn Observer>>,
    ) -> Self {
        let asked_for = record.model_requested.as_deref().filter(|asked_for| *asked_for != model(record));
        let asked_for = asked_for.map(|asked_for| key(record, asked_for));
        Self {
            key: key(record, model(record)),
            asked_for,
            provider: record.provider.clone(),
            wire,
            prompt,
            observer,
            reported: record.tokens,
            was_asked_for: false,
        }
    }

    /// Has it teach that its prompt has `tokens`, and nothing of its answer.
    pub(super) fn tell_prompt(&mut self, tokens: u64) {
        self.reported = TokenCounts { input: Some(tokens), ..TokenCounts::default() };
        self.was_asked_for = true;
    }
}

impl Shared {
    fn has_rested(&self, now: Instant) -> bool {
        let now = now.saturating_duration_since(self.began).as_micros();
        now >= u128::from(self.rests_until.load(Ordering::Relaxed))
    }

    fn rest(&self, took: Duration, now: Instant) {
        let rest = took.saturating_mul(REST).max(REST_LEAST);
        let until = now.saturating_duration_since(self.began).saturating_add(rest);
        self.rests_until.store(u64::try_from(until.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// The key of a call to `model`.
fn key(record: &Record, model: &str) -> Key {
    Key { upstream: record.upstream.clone(), model: model.to_owned(), operation: record.operation }
}

/// The model that answered, or that was asked for where none has answered yet.
fn model(record: &Record) -> &str {
    record.model.as_deref().unwrap_or_default()
}

/// Whether a record whose usage the provider reported is one to learn from.
pub(super) fn is_exemplary(record: &Record) -> bool {
    record.status == Some(200)
        && record.outcome == Outcome::Completed
        && record.anomaly.is_none()
        && record.tokens.input.is_some()
        && verdict::counted_here(record.operation) == Counted::Tokens
}

fn work(shared: &Shared, inbox: &Receiver<Box<Lesson>>) {
    let mut tried: HashMap<u64, u64> = HashMap::new();
    while let Ok(lesson) = inbox.recv() {
        shared.waiting.fetch_sub(1, Ordering::Relaxed);
        if shared.is_stopping.load(Ordering::Relaxed) {
            continue;
        }
        let hash = key_hash(&lesson.key.upstream, &lesson.key.model, lesson.key.operation);
        let begun = Instant::now();
        // Asked again: the calls before it in the queue may have been enough.
        let is_young = lesson.prompt.bytes <= YOUNG_BYTES_MAX
            && !shared.saturated.load().contains(&hash)
            && (tried.len() < TRIED_MAX || tried.contains_key(&hash));
        if !is_young && !lesson.was_asked_for && !shared.has_rested(begun) {
            continue;
        }
        learn(shared, *lesson);
        let now = Instant::now();
        shared.rest(now.saturating_duration_since(begun), now);
        if is_young {
            // What taught nothing counts too: its key's next calls may be no better.
            let times = tried.entry(hash).or_default();
            *times = times.saturating_add(1);
            if *times >= SATURATED_FROM {
                let mut saturated = HashSet::clone(&shared.saturated.load());
                saturated.insert(hash);
                shared.saturated.store(Arc::new(saturated));
            }
        }
    }
}

/// Counts what a call was and learns from it. Slow, but for the moment in which what was learned is written down.
fn learn(shared: &Shared, lesson: Lesson) {
    let Lesson { key, asked_for, provider, wire, prompt, observer, reported, was_asked_for: _ } = lesson;
    let body = prompt.slices.map(|slices| slices.concat());
    let Some(prompt) = body.and_then(|body| wire.prompt(key.operation, &body)) else { return };
    if prompt.bytes_beyond > 0 {
        return;
    }
    let counter = shared.tokenizers.counter(key.upstream.as_str(), &key.model);
    let answered = Answered { operation: key.operation, is_whole: true };
    let measured = measure(&prompt, key.operation, &counter, provider.as_str());
    let delivered = observer.filter(|_| key.operation != Operation::Embeddings).map(|observer| observer.delivered());
    let delivered = delivered.filter(|delivered| delivered.bytes_beyond == 0);
    let generated = delivered.map(|delivered| tokenizer::generated(&delivered, answered, &counter));
    let lesson = calibration::Lesson {
        prompt: &measured,
        prompt_tokens: reported.input_total(),
        answer: generated.zip(reported.output),
    };
    let mut calibration = shared.calibration.lock().unwrap_or_else(PoisonError::into_inner);
    for key in [Some(key), asked_for].into_iter().flatten() {
        calibration.learn(&key, lesson);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::samples::{full_record, intent};
    use crate::wires::openai::OpenAi;

    fn chat() -> Record {
        Record {
            operation: Operation::Chat,
            model: Some("gpt-4o-2024-08-06".to_owned()),
            model_requested: Some("gpt-4o".to_owned()),
            status: Some(200),
            outcome: Outcome::Completed,
            anomaly: None,
            tokens: TokenCounts { input: Some(90), output: Some(5), ..TokenCounts::default() },
            ..full_record(&intent(1))
        }
    }

    fn prompt() -> HeldPrompt {
        let body = r#"{"model":"gpt-4o","messages":[{"role":"user","content":"how are you today"}]}"#;
        HeldPrompt { slices: Some(vec![body.into()]), bytes: u64::try_from(body.len()).unwrap() }
    }

    fn start(calibration: Option<Calibration>) -> Learning {
        Learning::start(calibration, Tokenizers::default()).unwrap()
    }

    fn lesson() -> Box<Lesson> {
        Box::new(Lesson::new(&chat(), &OpenAi, prompt(), None))
    }

    fn observations(learning: &Learning) -> u64 {
        let record = Record { tokens: TokenCounts::default(), ..chat() };
        let slices = prompt().slices.unwrap().concat();
        let prompt = OpenAi.prompt(Operation::Chat, &slices).unwrap();
        let counter = learning.counter(&record.upstream, "gpt-4o");
        learning.estimate(&record, Some(&prompt), None, false, &counter).estimate.observations
    }

    /// Calls that may teach do, until as many did.
    fn teach(learning: &Learning, observed: u64) {
        let begun = Instant::now();
        while observations(learning) < observed {
            assert!(begun.elapsed() < Duration::from_mins(1), "{} lessons", observations(learning));
            if learning.may_teach(&chat(), &prompt(), Instant::now()) {
                learning.teach(lesson());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn the_first_calls_of_a_key_always_teach_and_later_ones_when_the_thread_has_rested() {
        let learning = start(Some(Calibration::default()));
        teach(&learning, SATURATED_FROM);
        let saturated_at = Instant::now();
        learning.shared.rest(Duration::from_micros(1), saturated_at);
        assert!(!learning.may_teach(&chat(), &prompt(), saturated_at + Duration::from_millis(49)));
        assert!(learning.may_teach(&chat(), &prompt(), saturated_at + REST_LEAST));
        learning.shared.rest(Duration::from_secs(1), saturated_at);
        assert!(!learning.may_teach(&chat(), &prompt(), saturated_at + Duration::from_secs(199)));
        assert!(learning.may_teach(&chat(), &prompt(), saturated_at + Duration::from_secs(200)));
        let another = Record { model: Some("gpt-4.1".to_owned()), ..chat() };
        assert!(learning.may_teach(&another, &prompt(), saturated_at), "another key is young");
        let long = HeldPrompt { bytes: YOUNG_BYTES_MAX + 1, ..prompt() };
        assert!(!learning.may_teach(&another, &long, saturated_at), "what is long waits in any case");
        let not_held = HeldPrompt { slices: None, ..prompt() };
        assert!(!learning.may_teach(&another, &not_held, saturated_at + Duration::from_secs(200)));
        assert_eq!(learning.changed().len(), 2, "by the name that answered and by the one that was asked for");
        learning.stop();
        assert!(!learning.may_teach(&another, &prompt(), saturated_at + Duration::from_secs(200)));
    }

    #[test]
    fn what_an_upstream_was_asked_for_is_learned_while_the_thread_rests() {
        let learning = start(Some(Calibration::default()));
        teach(&learning, SATURATED_FROM);
        learning.shared.rest(Duration::from_mins(1), Instant::now());
        learning.changed();
        let mut asked_for = lesson();
        asked_for.tell_prompt(7);
        learning.teach(asked_for);
        let begun = Instant::now();
        while learning.changed().is_empty() {
            assert!(begun.elapsed() < Duration::from_mins(1), "it was thrown away");
            std::thread::sleep(Duration::from_millis(1));
        }
        learning.stop();
    }

    #[test]
    fn what_was_known_at_the_start_is_not_young() {
        let first = start(Some(Calibration::default()));
        teach(&first, SATURATED_FROM);
        first.stop();
        let mut calibration = Calibration::default();
        for row in first.changed() {
            calibration.remember(&row).unwrap();
        }
        let second = start(Some(calibration));
        assert_eq!(observations(&second), SATURATED_FROM);
        let now = Instant::now();
        second.shared.rest(Duration::from_secs(1), now);
        assert!(!second.may_teach(&chat(), &prompt(), now));
        second.stop();
    }

    #[test]
    fn only_whole_answers_whose_usage_makes_sense_are_learned_from() {
        assert!(is_exemplary(&chat()));
        for record in [
            Record { status: Some(206), ..chat() },
            Record { outcome: Outcome::ClientClosed, ..chat() },
            Record { anomaly: Some(crate::usage::Anomaly::TotalDiffers), ..chat() },
            Record { tokens: TokenCounts { output: Some(5), ..TokenCounts::default() }, ..chat() },
            Record { operation: Operation::ImageGeneration, ..chat() },
        ] {
            assert!(!is_exemplary(&record), "{record:?}");
        }
    }

    #[test]
    fn who_learns_nothing_takes_no_lesson() {
        let learning = start(None);
        assert!(!learning.may_teach(&chat(), &prompt(), Instant::now() + Duration::from_secs(9)));
        learning.teach(lesson());
        assert_eq!(observations(&learning), 0);
    }
}
