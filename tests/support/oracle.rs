//! The oracle: a provider whose every answer is known beforehand, and who notes what really happened to each.
//!
//! It speaks `OpenAI`'s chat completions and Responses, Anthropic's Messages and Gemini's `generateContent`, whole and as
//! streams. What a request is answered, what usage is reported and what goes wrong are functions of the [`Mix`] and the
//! number in the prompt: [`Mix::call`], [`Answer::of`]. So nothing but [`Attempt`]s has to be kept: what came, and how
//! much of the answer was written to the socket. It speaks HTTP/1.1 by hand, on a thread of its own, since what matters
//! is when bytes leave and how connections end.
//!
//! What is asked and what a client saw is [`crate::storm`]'s, what must follow is [`crate::checker`]'s.

#[path = "oracle/answer.rs"]
pub(crate) mod answer;
#[path = "oracle/plan.rs"]
pub(crate) mod plan;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

pub(crate) use answer::{ANSWER_CANARY, Answer};
pub(crate) use plan::{Api, Break, Fault, Manners, Mix, PROMPT_CANARY, Plan};

use crate::stand::PATIENCE;

/// How long an answer that stalls is silent.
const SILENCE: Duration = Duration::from_millis(40);

/// A request that the oracle received, and what became of its answer.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    pub(crate) nonce: u64,
    /// The request's body, where it is not the one that was asked, byte for byte.
    pub(crate) altered: Option<String>,
    /// What of the request's head must never leave tokenmeter.
    pub(crate) leaked: Option<String>,
    /// The answer's head was written.
    pub(crate) has_head: bool,
    /// Bytes of the answer's body that the kernel took.
    pub(crate) written: u64,
    /// The answer was written to its end.
    pub(crate) is_whole: bool,
    /// Usage was asked for in a chat stream: by the client, or by tokenmeter.
    pub(crate) is_usage_asked: bool,
}

/// A provider on this machine. Dropping it closes its connections.
pub(crate) struct Oracle {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    mix: Mix,
    attempts: Mutex<Vec<Attempt>>,
    /// Exchanges that are not over.
    open: AtomicUsize,
}

impl Oracle {
    /// One that answers by `mix`.
    pub(crate) fn start(mix: Mix) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { mix, attempts: Mutex::default(), open: AtomicUsize::new(0) });
        let (stop, stopped) = oneshot::channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let served = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("oracle".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    accepted = accept(listener, served) => accepted.unwrap(),
                }
            });
        })?;
        Ok(Self { address, shared, stop: Some(stop), thread: Some(thread) })
    }

    /// `http://` and where it listens, without a path.
    pub(crate) fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What came from the `from`th on, in order of arrival, once no answer is under way.
    pub(crate) fn attempts(&self, from: usize) -> Vec<Attempt> {
        let begun = Instant::now();
        while self.shared.open.load(Ordering::Acquire) > 0 {
            assert!(begun.elapsed() < PATIENCE, "an answer of the oracle does not end");
            std::thread::sleep(Duration::from_millis(1));
        }
        self.shared.attempts.lock().unwrap()[from..].to_vec()
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It panics only by a bug of this file, and has then said so itself.
            drop(thread.join());
        }
    }
}

async fn accept(listener: std::net::TcpListener, shared: Arc<Shared>) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let mut connection = Connection { stream, unread: Vec::new() };
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            // Whoever it talks to may go at any time: what was written is in the log.
            while let Ok(true) = connection.exchange(&shared).await {}
        });
        while connections.try_join_next().is_some() {}
    }
}

/// A connection of a client, who may send one request after the other.
struct Connection {
    stream: TcpStream,
    unread: Vec<u8>,
}

/// A request that came whole.
struct Request {
    /// In lower case.
    head: String,
    body: Vec<u8>,
}

impl Connection {
    /// One request and its answer; false where the connection is over.
    async fn exchange(&mut self, shared: &Shared) -> io::Result<bool> {
        let Some(request) = self.request().await? else { return Ok(false) };
        let Some(nonce) = plan::nonce_of(&request.body) else {
            return Err(io::Error::other("a request without a number"));
        };
        let open = Open::begin(shared, nonce, &request);
        let plan = shared.mix.call(nonce);
        if let Some(pause) = plan.pause {
            tokio::time::sleep(pause).await;
        }
        if let Fault::NoHead(end) = plan.fault {
            self.end(end).await;
            return Ok(false);
        }
        let answer = Answer::of(&plan, open.is_usage_asked);
        self.write(&plan, &answer, &open).await
    }

    /// The next request; `None` where the client has no more.
    async fn request(&mut self) -> io::Result<Option<Request>> {
        let head_end = loop {
            if let Some(at) = memchr::memmem::find(&self.unread, b"\r\n\r\n") {
                break at + 4;
            }
            if !self.more().await? {
                return Ok(None);
            }
        };
        let head: Vec<u8> = self.unread.drain(..head_end).collect();
        let head = String::from_utf8(head).map_err(io::Error::other)?.to_lowercase();
        let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        if header("transfer-encoding:") == Some("chunked") {
            let mut body = Vec::new();
            loop {
                let line_end = loop {
                    if let Some(at) = memchr::memmem::find(&self.unread, b"\r\n") {
                        break at;
                    }
                    if !self.more().await? {
                        return Ok(None);
                    }
                };
                let size = std::str::from_utf8(&self.unread[..line_end]).map_err(io::Error::other)?;
                let size = usize::from_str_radix(size, 16).map_err(io::Error::other)?;
                let Some(chunk) = self.take(line_end + 2 + size + 2).await? else { return Ok(None) };
                if size == 0 {
                    return Ok(Some(Request { head, body }));
                }
                body.extend_from_slice(&chunk[line_end + 2..line_end + 2 + size]);
            }
        }
        let length = header("content-length:").and_then(|length| length.parse().ok()).unwrap_or(0);
        Ok(self.take(length).await?.map(|body| Request { head, body }))
    }

    /// The next `length` bytes.
    async fn take(&mut self, length: usize) -> io::Result<Option<Vec<u8>>> {
        while self.unread.len() < length {
            if !self.more().await? {
                return Ok(None);
            }
        }
        Ok(Some(self.unread.drain(..length).collect()))
    }

    async fn more(&mut self) -> io::Result<bool> {
        self.unread.reserve(4096);
        Ok(self.stream.read_buf(&mut self.unread).await? > 0)
    }

    /// Writes the answer as far as the plan lets it; false where the connection is over.
    async fn write(&mut self, plan: &Plan, answer: &Answer, open: &Open<'_>) -> io::Result<bool> {
        let length = if plan.is_stream && answer.status == 200 {
            "transfer-encoding: chunked".to_owned()
        } else {
            format!("content-length: {}", answer.length())
        };
        let is_chunked = length.starts_with('t');
        let retry_after = answer.retry_after.map_or_else(String::new, |value| format!("retry-after: {value}\r\n"));
        let head = format!(
            "HTTP/1.1 {} {}\r\ncontent-type: {}\r\n{retry_after}{length}\r\n\r\n",
            answer.status,
            if answer.status == 200 { "OK" } else { "Spoilt" },
            answer.content_type
        );
        let cut = answer.cut(plan);
        let mut left = cut.unwrap_or(u64::MAX);
        // What needs no pause goes in one write, so that the oracle is cheap.
        let mut out = Out { bytes: head.into_bytes(), of_body: 0 };
        for piece in &answer.pieces {
            let bytes = piece.text.as_bytes();
            let now = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            left -= now as u64;
            out.push(&bytes[..now], is_chunked);
            if let Some(pause) = plan.pause {
                self.flush(&mut out, open).await?;
                tokio::time::sleep(pause).await;
            }
            if left == 0 {
                break;
            }
        }
        let broken = match plan.fault {
            Fault::Cut(_, end) | Fault::Stall(_, end) => Some(end),
            Fault::None | Fault::Status(..) | Fault::NoHead(_) | Fault::NoUsage | Fault::ErrorEvent(_) => None,
        };
        if broken.is_none() && is_chunked {
            out.bytes.extend_from_slice(b"0\r\n\r\n");
        }
        self.flush(&mut out, open).await?;
        let Some(end) = broken else {
            open.note(|attempt| attempt.is_whole = true);
            return Ok(true);
        };
        if matches!(plan.fault, Fault::Stall(..)) {
            tokio::time::sleep(SILENCE).await;
        }
        self.end(end).await;
        Ok(false)
    }

    async fn flush(&mut self, out: &mut Out, open: &Open<'_>) -> io::Result<()> {
        let of_body = std::mem::take(&mut out.of_body);
        // Noted beforehand: what is written can be read before this task goes on.
        open.note(|attempt| {
            attempt.has_head = true;
            attempt.written += of_body;
        });
        self.stream.write_all(&out.bytes).await?;
        out.bytes.clear();
        Ok(())
    }

    async fn end(&mut self, end: Break) {
        // Both are noticed by the other side, whatever this side is told.
        match end {
            Break::Close => drop(self.stream.shutdown().await),
            Break::Reset => drop(self.stream.set_zero_linger()),
        }
    }
}

/// Bytes on their way.
struct Out {
    bytes: Vec<u8>,
    of_body: u64,
}

impl Out {
    fn push(&mut self, piece: &[u8], is_chunked: bool) {
        if piece.is_empty() {
            return;
        }
        self.of_body += piece.len() as u64;
        if is_chunked {
            self.bytes.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        }
        self.bytes.extend_from_slice(piece);
        if is_chunked {
            self.bytes.extend_from_slice(b"\r\n");
        }
    }
}

/// An exchange under way, in the log.
struct Open<'a> {
    shared: &'a Shared,
    at: usize,
    is_usage_asked: bool,
}

impl<'a> Open<'a> {
    fn begin(shared: &'a Shared, nonce: u64, request: &Request) -> Self {
        shared.open.fetch_add(1, Ordering::AcqRel);
        let asked = shared.mix.call(nonce).request();
        let (altered, is_usage_asked) = compare(asked.as_bytes(), &request.body);
        let leaks = ["x-tokenmeter", "tm_"];
        let leaked = request.head.lines().find(|line| leaks.iter().any(|leak| line.contains(leak)));
        let attempt = Attempt {
            nonce,
            altered,
            leaked: leaked.map(str::to_owned),
            has_head: false,
            written: 0,
            is_whole: false,
            is_usage_asked,
        };
        let mut attempts = shared.attempts.lock().unwrap();
        attempts.push(attempt);
        Self { shared, at: attempts.len() - 1, is_usage_asked }
    }

    fn note(&self, note: impl FnOnce(&mut Attempt)) {
        note(&mut self.shared.attempts.lock().unwrap()[self.at]);
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.shared.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// How `came` differs from `asked`, unless by the one thing that tokenmeter may add; and whether usage is asked for.
fn compare(asked: &[u8], came: &[u8]) -> (Option<String>, bool) {
    const OPTION: &[u8] = b"\"stream_options\":{\"include_usage\":true}";
    let is_usage_asked = memchr::memmem::find(came, OPTION).is_some();
    if asked == came {
        return (None, is_usage_asked);
    }
    let added = OPTION.len() + 1;
    let same = asked.iter().zip(came).take_while(|(one, other)| one == other).count();
    let is_added = came.len() == asked.len() + added
        && is_usage_asked
        && memchr::memmem::find(asked, b"stream_options").is_none()
        // The bytes around what was added may be alike: then it seems to begin later.
        && (0..=same).rev().take(added).any(|at| came[at + added..] == asked[at..]);
    let altered = (!is_added).then(|| came.escape_ascii().to_string());
    (altered, is_usage_asked)
}
