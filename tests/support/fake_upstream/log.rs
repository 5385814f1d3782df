//! Log: what the fake received and how each exchange ended; also the names released and the answers canned.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine;
use http::{HeaderMap, HeaderName, HeaderValue, request};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::answer::Canned;
use super::jobs::Job;
use super::script::Script;

/// Bytes of a request body that are kept.
pub(crate) const BODY_KEPT: usize = 16 << 20;

/// Requests that are kept; of more, the older half goes.
const REQUESTS_KEPT: usize = 20_000;

/// How an exchange ended, as the fake saw it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Fate {
    /// Not yet.
    #[default]
    Open,
    /// The whole answer was handed over.
    Answered,
    /// The other side closed before the end.
    ClientClosed,
    /// The script said to cut.
    Cut,
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    /// `POST`.
    pub(crate) method: String,
    /// Path and query, as they came.
    pub(crate) target: String,
    /// `HTTP/1.1`, `HTTP/2.0`.
    pub(crate) version: String,
    /// Names and values in order of arrival.
    pub(crate) headers: HeaderMap,
    /// The body, at most its first 16 MiB.
    pub(crate) body: Vec<u8>,
    /// Its length so far.
    pub(crate) body_bytes: u64,
    /// Whether its end was seen.
    pub(crate) body_is_complete: bool,
    /// The name under which its answer is stalled now.
    pub(crate) stalled: Option<String>,
    /// Bytes of the answer's body handed to the connection.
    pub(crate) sent_bytes: u64,
    /// How it ended.
    pub(crate) fate: Fate,
}

impl Received {
    /// A header's text; `None` where it is absent or not text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// As `/__log` shows it.
    pub(crate) fn to_json(&self) -> Value {
        let base64 = base64::engine::general_purpose::STANDARD;
        let text = |value: &[u8]| std::str::from_utf8(value).map_or_else(|_| base64.encode(value), str::to_owned);
        let headers = self.headers.iter().map(|(name, value)| json!([name.as_str(), text(value.as_bytes())]));
        let (body, body_base64) = match std::str::from_utf8(&self.body) {
            Ok(body) => (Some(body), None),
            Err(_) => (None, Some(base64.encode(&self.body))),
        };
        json!({
            "method": self.method, "path": self.target, "version": self.version, "headers": headers.collect::<Value>(),
            "body": body, "body_base64": body_base64, "body_bytes": self.body_bytes,
            "body_is_complete": self.body_is_complete, "stalled": self.stalled, "sent_bytes": self.sent_bytes,
            "fate": match self.fate {
                Fate::Open => "open", Fate::Answered => "answered", Fate::ClientClosed => "client_closed", Fate::Cut => "cut",
            },
        })
    }
}

/// What the handle and the connections share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    /// By number of arrival, which does not start again when the log is forgotten.
    requests: Vec<(u64, Received)>,
    arrivals: u64,
    released: HashSet<String>,
    canned: HashMap<String, Canned>,
    /// What requests for a count are taken to carry.
    count_header: Option<(&'static str, &'static str)>,
    /// By id.
    jobs: HashMap<String, Job>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, how: impl FnOnce(&mut State) -> T) -> T {
        let result = how(&mut self.state());
        self.changed.send_replace(());
        result
    }

    fn note(&self, number: Option<u64>, what: impl FnOnce(&mut Received)) {
        let Some(number) = number else { return };
        self.change(|state| {
            let found = state.requests.binary_search_by_key(&number, |(arrival, _)| *arrival).ok();
            if let Some((_, received)) = found.and_then(|at| state.requests.get_mut(at)) {
                what(received);
            }
        });
    }

    pub(crate) fn requests(&self) -> Vec<Received> {
        self.state().requests.iter().map(|(_, received)| received.clone()).collect()
    }

    pub(crate) fn forget(&self) {
        self.change(|state| state.requests.clear());
    }

    pub(crate) fn release(&self, name: &str) {
        self.change(|state| state.released.insert(name.to_owned()));
    }

    pub(crate) fn respond_to(&self, id: &str, canned: Canned) {
        self.change(|state| state.canned.insert(id.to_owned(), canned));
    }

    pub(crate) fn answer_counts(&self, name: &'static str, value: &'static str) {
        self.change(|state| state.count_header = Some((name, value)));
    }

    pub(crate) fn count_header(&self) -> Option<(HeaderName, HeaderValue)> {
        let header = self.state().count_header;
        header.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
    }

    pub(crate) fn canned(&self, id: &str) -> Option<Canned> {
        self.state().canned.get(id).cloned()
    }

    /// An id that no job has.
    pub(crate) fn new_id(&self, prefix: &str) -> String {
        format!("{prefix}_{}", self.state().jobs.len())
    }

    pub(crate) fn keep_job(&self, id: &str, job: Job) {
        self.change(|state| state.jobs.insert(id.to_owned(), job));
    }

    /// The job as it is now that it was fetched once more.
    pub(crate) fn fetch_job(&self, id: &str) -> Option<Job> {
        self.change(|state| {
            let job = state.jobs.get_mut(id)?;
            job.fetches = job.fetches.saturating_add(1);
            Some(job.clone())
        })
    }

    pub(crate) async fn wait_for(&self, enough: impl Fn(&[Received]) -> bool) -> Vec<Received> {
        let mut changes = self.changed.subscribe();
        loop {
            let requests = self.requests();
            if enough(&requests) {
                return requests;
            }
            // The sender lives in `self`: it cannot be gone.
            drop(changes.changed().await);
        }
    }

    async fn released(&self, name: &str) {
        let mut changes = self.changed.subscribe();
        while !self.state().released.contains(name) {
            drop(changes.changed().await);
        }
    }
}

/// One exchange's line in the log. Dropped before its end is told, the other side has closed.
#[derive(Debug)]
pub(crate) struct FateGuard {
    shared: Arc<Shared>,
    /// `None`: an exchange that is not logged.
    number: Option<u64>,
    is_over: bool,
}

impl FateGuard {
    pub(crate) fn new(shared: &Arc<Shared>, head: &request::Parts, target: String) -> Self {
        let received = Received {
            method: head.method.to_string(),
            target,
            version: format!("{:?}", head.version),
            headers: head.headers.clone(),
            body: Vec::new(),
            body_bytes: 0,
            body_is_complete: false,
            stalled: None,
            sent_bytes: 0,
            fate: Fate::Open,
        };
        let number = shared.change(|state| {
            state.arrivals = state.arrivals.saturating_add(1);
            if state.requests.len() >= REQUESTS_KEPT {
                state.requests.drain(..REQUESTS_KEPT / 2);
            }
            state.requests.push((state.arrivals, received));
            state.arrivals
        });
        Self { shared: shared.clone(), number: Some(number), is_over: false }
    }

    pub(crate) fn unlogged(shared: &Arc<Shared>) -> Self {
        Self { shared: shared.clone(), number: None, is_over: false }
    }

    fn note(&self, what: impl FnOnce(&mut Received)) {
        self.shared.note(self.number, what);
    }

    pub(crate) fn body_so_far(&self, data: &[u8]) {
        self.note(|received| {
            let room = BODY_KEPT.saturating_sub(received.body.len());
            received.body.extend(data.iter().take(room));
            received.body_bytes = received.body_bytes.saturating_add(data.len() as u64);
        });
    }

    pub(crate) fn body_is_complete(&self) {
        self.note(|received| received.body_is_complete = true);
    }

    pub(crate) fn sent(&self, bytes: usize) {
        self.note(|received| received.sent_bytes = received.sent_bytes.saturating_add(bytes as u64));
    }

    /// Waits where the script holds the head back.
    pub(crate) async fn stalled_before_head(&self, script: &Script) {
        if let Some(name) = script.hold_before_head() {
            Stall { shared: self.shared.clone(), number: self.number }.until_released(name).await;
        }
    }

    /// What a body's writer waits by.
    pub(crate) fn stall(&self) -> Stall {
        Stall { shared: self.shared.clone(), number: self.number }
    }

    pub(crate) fn answered(&mut self) {
        self.end(Fate::Answered);
    }

    pub(crate) fn cut(&mut self) {
        self.end(Fate::Cut);
    }

    fn end(&mut self, fate: Fate) {
        if !std::mem::replace(&mut self.is_over, true) {
            self.note(|received| {
                received.stalled = None;
                received.fate = fate;
            });
        }
    }
}

impl Drop for FateGuard {
    fn drop(&mut self) {
        self.end(Fate::ClientClosed);
    }
}

/// A place where an answer can wait.
pub(crate) struct Stall {
    shared: Arc<Shared>,
    number: Option<u64>,
}

impl Stall {
    pub(crate) async fn until_released(&self, name: &str) {
        self.set(Some(name.to_owned()));
        self.shared.released(name).await;
        self.set(None);
    }

    fn set(&self, stalled: Option<String>) {
        self.shared.note(self.number, |received| received.stalled = stalled);
    }
}
