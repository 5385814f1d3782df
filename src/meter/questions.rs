//! Questions: now and then an upstream is asked itself for the count of a prompt that was counted here.
//!
//! Decides which call is worth a question and queues it; wiring asks, and brings back what [`super::Meter`] learns of it.
//! One question waits at most, and an upstream is asked no more often than it is configured. The answer corrects later
//! estimates only: it makes no record and changes none.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{Permit, Sender};

use super::learning::Lesson;
use crate::ids::UpstreamName;
use crate::wires::Wire;
use crate::wires::counts::CountRequest;

/// A longer prompt is not sent a second time.
pub(super) const PROMPT_BYTES_MAX: u64 = 256 << 10;
/// How long an upstream is left alone that gave no count.
const PAUSE: Duration = Duration::from_mins(10);

/// Whom to ask how often, and where questions go.
#[derive(Debug)]
pub struct Asking {
    /// The shortest time between two questions, by upstream; one that is not there is never asked.
    pub every: HashMap<UpstreamName, Duration>,
    /// The way to who asks. Its room bounds what waits; where there is none, a call asks nothing.
    pub questions: Sender<Question>,
}

/// A prompt whose count is to be asked for.
pub struct Question {
    /// Whom to ask.
    pub upstream: UpstreamName,
    /// The wire that reads the answer.
    pub wire: &'static dyn Wire,
    /// What to ask.
    pub asked: CountRequest,
    /// What its answer teaches.
    pub(super) lesson: Box<Lesson>,
}

/// A question with a place to wait in.
pub(super) struct Ready<'a> {
    question: Question,
    place: Permit<'a, Question>,
}

impl Ready<'_> {
    pub(super) fn ask(self) {
        self.place.send(self.question);
    }
}

/// Decides who is asked when.
#[derive(Debug)]
pub(super) struct Questions {
    asking: Option<Asking>,
    not_before: Mutex<HashMap<UpstreamName, Instant>>,
}

impl Questions {
    /// `None`: nobody is ever asked.
    pub(super) fn new(asking: Option<Asking>) -> Self {
        Self { asking, not_before: Mutex::default() }
    }

    /// The question that `make` makes, where `upstream` may be asked at `now` and there is a place; then the next has to
    /// wait. `make` is not called otherwise.
    pub(super) fn prepare(
        &self,
        upstream: &UpstreamName,
        now: Instant,
        make: impl FnOnce() -> Option<Question>,
    ) -> Option<Ready<'_>> {
        let asking = self.asking.as_ref()?;
        let every = *asking.every.get(upstream)?;
        // Held from here on: no other thread gets past this line, so that none asks the same upstream beside us.
        let place = asking.questions.try_reserve().ok()?;
        if self.not_before.lock().unwrap_or_else(PoisonError::into_inner).get(upstream).is_some_and(|due| now < *due) {
            return None;
        }
        let question = make()?;
        self.postpone(upstream, now, every);
        Some(Ready { question, place })
    }

    /// Leaves `upstream` alone for a while, since it gave no count. For how long.
    pub(super) fn pause(&self, upstream: &UpstreamName, now: Instant) -> Duration {
        let every = self.asking.as_ref().and_then(|asking| asking.every.get(upstream)).copied();
        let pause = every.unwrap_or_default().max(PAUSE);
        self.postpone(upstream, now, pause);
        pause
    }

    fn postpone(&self, upstream: &UpstreamName, now: Instant, time: Duration) {
        let mut not_before = self.not_before.lock().unwrap_or_else(PoisonError::into_inner);
        not_before.insert(upstream.clone(), now.checked_add(time).unwrap_or(now));
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::{self, Receiver};

    use super::*;
    use crate::journal::samples::{full_record, intent};
    use crate::meter::HeldPrompt;
    use crate::wires::anthropic::Anthropic;

    const MINUTE: Duration = Duration::from_mins(1);

    fn name(name: &str) -> UpstreamName {
        UpstreamName::parse(name).unwrap()
    }

    fn questions() -> (Questions, Receiver<Question>) {
        let (questions, asked) = mpsc::channel(1);
        let every = HashMap::from([(name("one"), MINUTE), (name("other"), MINUTE)]);
        (Questions::new(Some(Asking { every, questions })), asked)
    }

    fn question(upstream: &str) -> Question {
        let lesson = Lesson::new(&full_record(&intent(1)), &Anthropic, HeldPrompt::default(), None);
        let asked = CountRequest { path: "/v1/messages/count_tokens".to_owned(), version: None, body: Vec::new() };
        Question { upstream: name(upstream), wire: &Anthropic, asked, lesson: Box::new(lesson) }
    }

    fn ask(questions: &Questions, upstream: &str, now: Instant) -> bool {
        let ready = questions.prepare(&name(upstream), now, || Some(question(upstream)));
        ready.map(Ready::ask).is_some()
    }

    #[test]
    fn an_upstream_is_asked_once_in_its_time_and_one_question_waits_at_most() {
        let (questions, mut asked) = questions();
        let now = Instant::now();
        assert!(!ask(&questions, "unknown", now));
        assert!(questions.prepare(&name("one"), now, || None).is_none(), "there is nothing to ask of this call");
        assert!(ask(&questions, "one", now), "which costs the next no time");
        assert!(!ask(&questions, "other", now), "no place");
        assert!(asked.try_recv().is_ok());
        assert!(ask(&questions, "other", now));
        assert!(asked.try_recv().is_ok());
        assert!(!ask(&questions, "one", now + MINUTE / 2), "not due");
        assert!(ask(&questions, "one", now + MINUTE));
    }

    #[test]
    fn who_gives_no_count_is_left_alone_for_longer() {
        let (questions, mut asked) = questions();
        let now = Instant::now();
        assert!(ask(&questions, "one", now));
        assert!(asked.try_recv().is_ok());
        assert_eq!(questions.pause(&name("one"), now), PAUSE);
        assert!(!ask(&questions, "one", now + PAUSE / 2));
        assert!(ask(&questions, "one", now + PAUSE));
    }

    #[test]
    fn nobody_is_asked_where_nobody_is_configured_or_nobody_asks_any_more() {
        let now = Instant::now();
        assert!(!ask(&Questions::new(None), "one", now));
        let (questions, asked) = questions();
        drop(asked);
        assert!(!ask(&questions, "one", now));
    }
}
