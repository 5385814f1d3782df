//! The fake upstream: a provider that answers every API family, keeps its promises, and misbehaves on request.
//!
//! It speaks HTTP/1.1 and HTTP/2 without TLS on a thread of its own and stops when it is dropped. What it answers is
//! a function of the request alone, so that a test knows the true usage beforehand: see [`promise`]. Only work that
//! outlives its call is remembered until it is fetched: see [`jobs`]. A request's
//! `x-fake` header changes how the answer is sent ([`script`] has the grammar); `x-fake-replay: ID` asks for the
//! canned answer that [`FakeUpstream::respond_to`] left under that id. For other processes: `GET /__log` is what was
//! received, `DELETE /__log` forgets it, `POST /__release/NAME` releases a stalled answer.

#[path = "fake_upstream/answer.rs"]
mod answer;
#[path = "fake_upstream/anthropic.rs"]
mod anthropic;
#[path = "fake_upstream/azure.rs"]
mod azure;
#[path = "fake_upstream/bedrock.rs"]
pub(crate) mod bedrock;
#[path = "fake_upstream/cohere.rs"]
mod cohere;
#[path = "fake_upstream/gemini.rs"]
mod gemini;
#[path = "fake_upstream/jobs.rs"]
pub(crate) mod jobs;
#[path = "fake_upstream/log.rs"]
mod log;
#[path = "fake_upstream/mistral.rs"]
mod mistral;
#[path = "fake_upstream/ollama.rs"]
mod ollama;
#[path = "fake_upstream/openai.rs"]
mod openai;
#[path = "fake_upstream/play.rs"]
mod play;
#[path = "fake_upstream/promise.rs"]
mod promise;
#[path = "fake_upstream/script.rs"]
mod script;
#[path = "fake_upstream/session.rs"]
mod session;

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header, request};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

pub(crate) use answer::Canned;
pub(crate) use log::{Fate, Received};
pub(crate) use promise::{Promise, promise};

use answer::{Answer, Pieces};
use log::{FateGuard, Shared};
use play::{Playing, Socket};
use script::Script;

/// How long something that must happen may take on a busy machine.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

/// A provider on this machine. Dropping it closes its connections and frees its port.
pub(crate) struct FakeUpstream {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<Infallible>>,
    thread: Option<JoinHandle<()>>,
}

impl FakeUpstream {
    /// One on a free port of the loopback interface.
    pub(crate) fn start() -> io::Result<Self> {
        Self::bind(SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// One on `address`: also to come back on the port of one that was dropped.
    pub(crate) fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let served = shared.clone();
        let thread = std::thread::Builder::new().name("fake-upstream".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    _ = accept(listener, served) => {}
                }
            });
        })?;
        Ok(Self { address, shared, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://` and where it listens, without a path.
    pub(crate) fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What was received so far, in order of arrival.
    pub(crate) fn requests(&self) -> Vec<Received> {
        self.shared.requests()
    }

    /// Forgets what was received.
    pub(crate) fn forget(&self) {
        self.shared.forget();
    }

    /// Waits until what was received satisfies `enough`, and returns it; fails where that takes longer than patience.
    #[expect(clippy::panic, reason = "a story that waits in vain has failed")]
    pub(crate) async fn wait_for(&self, enough: impl Fn(&[Received]) -> bool) -> Vec<Received> {
        let waiting = tokio::time::timeout(PATIENCE, self.shared.wait_for(enough)).await;
        waiting.unwrap_or_else(|_| panic!("what was awaited did not reach the fake: {:?}", self.requests()))
    }

    /// Lets the answers go on that are stalled under `name`, and those that will be.
    pub(crate) fn release(&self, name: &str) {
        self.shared.release(name);
    }

    /// From now on, requests for a count are answered as if they had this header: `x-fake` or `x-fake-replay`.
    pub(crate) fn answer_counts(&self, name: &'static str, value: &'static str) {
        self.shared.answer_counts(name, value);
    }

    /// Answers requests that carry `x-fake-replay: id` with `canned`.
    pub(crate) fn respond_to(&self, id: &str, canned: Canned) {
        self.shared.respond_to(id, canned);
    }
}

impl Drop for FakeUpstream {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It panics only by a bug of this file, and has then said so itself.
            drop(thread.join());
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let reset = Arc::new(AtomicBool::new(false));
        let socket = TokioIo::new(Socket::new(stream, reset.clone()));
        let shared = shared.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| respond(shared.clone(), reset.clone(), request));
            // A client that goes away is a client's right; what it left is in the log.
            drop(auto::Builder::new(TokioExecutor::new()).serve_connection_with_upgrades(socket, service).await);
        });
        while connections.try_join_next().is_some() {}
    }
}

/// One exchange. An error closes the connection without an answer.
async fn respond(
    shared: Arc<Shared>,
    reset: Arc<AtomicBool>,
    mut request: Request<Incoming>,
) -> io::Result<Response<Playing>> {
    let session = session::is_asked(request.headers()).then(|| hyper::upgrade::on(&mut request));
    let (mut head, mut body) = request.into_parts();
    if head.uri.path().starts_with("/__") {
        let answer = control(&shared, &head.method, head.uri.path());
        return Playing::start(answer, Script::default(), FateGuard::unlogged(&shared), reset);
    }
    let target = head.uri.path_and_query().map_or_else(|| head.uri.path().to_owned(), ToString::to_string);
    let mut guard = FateGuard::new(&shared, &head, target.clone());
    let mut received = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(io::Error::other)?;
        if let Some(data) = frame.data_ref() {
            if received.len() < log::BODY_KEPT {
                received.extend_from_slice(data);
            }
            guard.body_so_far(data);
        }
    }
    guard.body_is_complete();
    if is_count(head.uri.path())
        && let Some((name, value)) = shared.count_header()
    {
        head.headers.insert(name, value);
    }
    let script = head.headers.get("x-fake").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let script = match script.parse::<Script>() {
        Ok(script) => script,
        Err(problem) => {
            let answer = Answer::json(StatusCode::BAD_REQUEST, &json!({"error": {"message": problem}}));
            return Playing::start(answer, Script::default(), guard, reset);
        }
    };
    if script.hangs_up_unanswered() {
        guard.stalled_before_head(&script).await;
        guard.cut();
        reset.store(script.reset, std::sync::atomic::Ordering::Release);
        return Err(io::Error::other("the script says to hang up"));
    }
    guard.stalled_before_head(&script).await;
    let is_refused = script.status.is_some() || head.headers.contains_key("x-fake-replay");
    if let Some(session) = session.filter(|_| !is_refused) {
        let answer = session::answer(&head.headers);
        session::begin(session, script, guard, reset.clone());
        return Playing::start(answer, Script::default(), FateGuard::unlogged(&shared), reset);
    }
    let canned = head.headers.get("x-fake-replay").and_then(|value| value.to_str().ok());
    let answer = match canned {
        Some(id) => match shared.canned(id) {
            Some(canned) => Answer::from(canned),
            None => {
                Answer::json(StatusCode::NOT_FOUND, &json!({"error": {"message": format!("nothing canned `{id}`")}}))
            }
        },
        None => route(&shared, &head, &target, &received, &script),
    };
    Playing::start(answer, script, guard, reset)
}

/// Whether `path` is one of those at which prompts are counted.
pub(crate) fn is_count(path: &str) -> bool {
    ["/count_tokens", "/input_tokens", ":countTokens"].iter().any(|end| path.ends_with(end))
}

/// The answer of the API that `target` belongs to, whatever stands before its known part.
fn route(shared: &Shared, head: &request::Parts, target: &str, body: &[u8], script: &Script) -> Answer {
    let (method, headers) = (&head.method, &head.headers);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    if method == Method::GET && path.ends_with("/models") {
        return models(path);
    }
    if method == Method::GET && script.status.is_none() {
        match *path.split('/').collect::<Vec<_>>() {
            [.., "responses", id] => return jobs::fetch_response(shared, id, query),
            [.., "runs", id] => return jobs::fetch_run(shared, id),
            [.., "files", _, "content"] => return jobs::file_content(),
            [.., "messages", "batches", _, "results"] => return jobs::batch_results(),
            _ => {}
        }
    }
    let mut request = serde_json::from_slice::<Value>(body).unwrap_or_default();
    if let Some(within) = request.get_mut("generateContentRequest") {
        request = within.take();
    }
    let promise = promise::of(path, &request, script);
    let verb = path.rsplit(['/', ':']).next().unwrap_or_default();
    match (method == Method::POST, verb) {
        (true, "completions") if path.contains("/deployments/") => azure::chat(&request, &promise, script),
        (true, "completions") if promise.model.starts_with("mistral-") => mistral::chat(&request, &promise, script),
        (true, "completions") if path.ends_with("/chat/completions") => openai::chat(&request, &promise, script),
        (true, "completions") => openai::text_completion(&request, &promise, script),
        (true, "responses") => jobs::responses(shared, &request, &promise, script),
        (true, "runs") => jobs::runs(shared, &request, &promise, script),
        (true, "embeddings") => openai::embeddings(&request, &promise, script),
        (true, "messages" | "rawPredict" | "streamRawPredict") => anthropic::messages(&request, &promise, script),
        (true, "count_tokens") => anthropic::count_tokens(&promise),
        (true, "generateContent") => gemini::generate(&promise, script),
        (true, "streamGenerateContent") => gemini::stream(&promise, script, query.contains("alt=sse")),
        (true, "input_tokens") => openai::count_tokens(&promise),
        (true, "countTokens") => gemini::count_tokens(&promise),
        (true, "converse") => bedrock::converse(&promise, script),
        (true, "converse-stream") => bedrock::converse_stream(&promise, script),
        (true, "invoke") => bedrock::invoke(&request, &promise, script),
        (true, "invoke-with-response-stream") => bedrock::invoke_stream(&promise, script),
        (true, "chat") if path.ends_with("/api/chat") => ollama::chat(&request, &promise, script),
        (true, "embed") if path.ends_with("/api/embed") => ollama::embed(&request, &promise, script),
        (true, "chat") => cohere::chat(&request, &promise, script),
        (true, "embed") => cohere::embed(&request, &promise, script),
        (true, "rerank") => cohere::rerank(&request, &promise, script),
        _ => {
            let status = script.status.and_then(|status| StatusCode::from_u16(status).ok()).unwrap_or(StatusCode::OK);
            let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
            let echo = json!({"method": method.as_str(), "path": target, "content_type": content_type, "body_bytes": body.len()});
            Answer::json(status, &echo)
        }
    }
}

fn models(path: &str) -> Answer {
    let list = if path.contains("/v1beta/") {
        json!({"models": [{"name": "models/gemini-2.5-flash", "displayName": "Gemini 2.5 Flash", "version": "001"}]})
    } else {
        let model = |id| json!({"id": id, "object": "model", "created": openai::CREATED, "owned_by": "fake"});
        json!({"object": "list", "data": [model("gpt-4o-mini"), model("claude-sonnet-4-5")]})
    };
    Answer::json(StatusCode::OK, &list)
}

/// The addresses by which another process looks in and helps along.
fn control(shared: &Shared, method: &Method, path: &str) -> Answer {
    let answer = match (method, path.strip_prefix("/__release/")) {
        (&Method::POST, Some(name)) => {
            shared.release(name);
            json!({"released": name})
        }
        (&Method::DELETE, None) if path == "/__log" => {
            shared.forget();
            json!([])
        }
        (&Method::GET, None) if path == "/__log" => shared.requests().iter().map(Received::to_json).collect(),
        _ => {
            return Answer::json(
                StatusCode::NOT_FOUND,
                &json!({"error": "GET or DELETE /__log, POST /__release/NAME"}),
            );
        }
    };
    Answer::json(StatusCode::OK, &answer)
}

/// One piece: the way most answers are made.
fn once(bytes: impl Into<Bytes>) -> Pieces {
    Box::new(std::iter::once(bytes.into()))
}
