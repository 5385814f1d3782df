//! Body: what must be seen of a request before it goes on, and the body that the upstream is sent.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::idle::Idle;
use super::reply::Refused;
use crate::attribution;
use crate::framing::json_members::Members;
use crate::framing::multipart::Fields;
use crate::meter::HeldPrompt;
use crate::wires::openai::{REQUEST_MEMBERS, ask_for_usage};

/// Why a request's body does not come to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    /// The client broke off.
    #[error("the request's body broke off")]
    Broken(#[from] hyper::Error),
    /// The client fell silent.
    #[error("the request's body was silent for {0:?}")]
    Idle(Duration),
    /// It is larger than configured.
    #[error("the request's body is larger than {0} bytes, the largest that tokenmeter is configured to take")]
    TooLarge(u64),
}

impl RequestError {
    /// How the client is told.
    pub(crate) fn reason(&self) -> Refused {
        match self {
            Self::Broken(_) => Refused::Body,
            Self::Idle(_) => Refused::BodyIdle,
            Self::TooLarge(_) => Refused::BodyTooLarge,
        }
    }
}

/// A prompt of fewer bytes is copied where it is held for as long as an answer takes: the buffer that it was read into is
/// larger.
const COPIED_BYTES: u64 = 4096;

/// What a request's body is held to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Bytes that may be held to look into them.
    pub(crate) view_bytes_max: usize,
    /// Bytes in all.
    pub(crate) bytes_max: u64,
    /// Longest silence.
    pub(crate) idle_timeout: Duration,
}

/// What of a form of parts is wanted.
const FORM_FIELDS: &[&str] = &["model", "stream"];

/// How a request's body says its model and stream flag.
#[derive(Debug)]
pub(crate) enum Shape {
    /// As members of a JSON object.
    Json,
    /// As fields of a form, beside a file.
    Form(Box<Fields>),
    /// In a way that nobody looks into: a file, or compressed.
    Opaque,
}

impl Shape {
    /// What the request's headers say.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        // Clients that set no content type send JSON all the same.
        let content_type = headers.get(CONTENT_TYPE).map_or(&b"application/json"[..], |value| value.as_bytes());
        if headers.contains_key(CONTENT_ENCODING) || content_type.starts_with(b"application/octet-stream") {
            return Self::Opaque;
        }
        match Fields::of(content_type, FORM_FIELDS) {
            Some(fields) => Self::Form(Box::new(fields)),
            None if content_type.starts_with(b"multipart/") => Self::Opaque,
            None => Self::Json,
        }
    }
}

/// The head of a request body that has been looked into, and the rest that has not been read.
pub(crate) struct View {
    /// The model asked for.
    pub(crate) model: Option<String>,
    /// The `stream` flag, where there is one.
    pub(crate) stream: Option<bool>,
    members: Members,
    /// In place of the members, where it is a form.
    form: Option<Box<Fields>>,
    held: Vec<Bytes>,
    held_bytes: usize,
    rest: Option<Incoming>,
    /// Whether its prompt can be counted.
    is_prompt: bool,
    bounds: Bounds,
}

impl View {
    /// A body that nobody looks into.
    pub(crate) fn unseen(body: Incoming, bounds: Bounds) -> Self {
        let rest = (!body.is_end_stream()).then_some(body);
        Self {
            model: None,
            stream: None,
            members: Members::new(REQUEST_MEMBERS),
            form: None,
            held: Vec::new(),
            held_bytes: 0,
            rest,
            is_prompt: false,
            bounds,
        }
    }

    /// Reads `body` until its model and stream flag are known, or it ends, or as much is held as may be.
    pub(crate) async fn of(body: Incoming, shape: Shape, bounds: Bounds) -> Result<Self, RequestError> {
        let (form, is_prompt) = match shape {
            Shape::Json => (None, true),
            Shape::Form(form) => (Some(form), false),
            Shape::Opaque => return Ok(Self::unseen(body, bounds)),
        };
        let mut view = Self { form, is_prompt, ..Self::unseen(body, bounds) };
        while let Some(rest) = &mut view.rest {
            let frame = tokio::time::timeout(bounds.idle_timeout, rest.frame()).await;
            match frame.map_err(|_| RequestError::Idle(bounds.idle_timeout))? {
                Some(frame) => {
                    let Ok(data) = frame?.into_data() else { continue };
                    match &mut view.form {
                        Some(form) => form.feed(&data),
                        None => view.members.feed(&data),
                    }
                    view.held_bytes = view.held_bytes.saturating_add(data.len());
                    view.held.push(data);
                }
                None => view.rest = None,
            }
            if view.rest.as_ref().is_some_and(Body::is_end_stream) {
                view.rest = None;
            }
            if view.has_seen_enough() || view.held_bytes >= bounds.view_bytes_max {
                break;
            }
        }
        if let Some(form) = &view.form {
            let text = |name| form.value(name).and_then(|value| std::str::from_utf8(value).ok());
            view.stream = text("stream").map(|value| value.eq_ignore_ascii_case("true"));
            view.model = text("model").map(str::to_owned);
        } else {
            view.model = view.member("model");
            view.stream = view.member("stream");
        }
        Ok(view)
    }

    /// Whether nothing that decides how the call is metered can still come. A body into which something is to be put is
    /// read to its end.
    fn has_seen_enough(&self) -> bool {
        if let Some(form) = &self.form {
            // Behind a file nothing is waited for that clients send before it, if at all.
            let is_known = form.value("model").is_some() && (form.value("stream").is_some() || form.has_seen_file());
            return is_known || form.is_over();
        }
        if self.members.is_closed() {
            return ask_for_usage(&self.members).is_none();
        }
        let is_no_stream = self.members.value("stream") == Some(b"false");
        self.members.value("model").is_some() && is_no_stream
    }

    fn member<T: serde::de::DeserializeOwned>(&self, name: &str) -> Option<T> {
        serde_json::from_slice(self.members.value(name)?).ok()
    }

    /// Whether the whole body is held.
    pub(crate) fn is_whole(&self) -> bool {
        self.rest.is_none()
    }

    /// Length of the body, where it is known.
    pub(crate) fn length(&self) -> Option<u64> {
        let held = u64::try_from(self.held_bytes).ok()?;
        match &self.rest {
            None => Some(held),
            Some(rest) => rest.size_hint().exact().and_then(|rest| held.checked_add(rest)),
        }
    }

    /// The body with `stream_options` asking for usage, where the client does not ask itself and where it can be put in
    /// without touching anything else: into a whole body that is one JSON object.
    pub(crate) fn with_stream_usage(&self) -> Option<Bytes> {
        let splice = self.is_whole().then(|| ask_for_usage(&self.members))??;
        let (start, end) = (usize::try_from(splice.range.start).ok()?, usize::try_from(splice.range.end).ok()?);
        let body = self.held.concat();
        let mut spliced = BytesMut::with_capacity(body.len().saturating_add(splice.text.len()));
        spliced.extend_from_slice(body.get(..start)?);
        spliced.extend_from_slice(splice.text.as_bytes());
        spliced.extend_from_slice(body.get(end..)?);
        Some(spliced.freeze())
    }

    /// The held slices.
    pub(crate) fn into_slices(self) -> Vec<Bytes> {
        self.held
    }

    /// The body as it goes to the upstream, and the prompt as it is held for counting.
    pub(crate) fn into_parts(self) -> (UpstreamBody, Kept) {
        let Some(rest) = self.rest else {
            let (body, kept) = whole(self.held.clone(), self.held);
            if !self.is_prompt {
                kept.tee().prompt.slices = None;
            }
            return (body, kept);
        };
        let bytes = length(self.held_bytes);
        let is_kept = self.is_prompt && bytes < length(self.bounds.view_bytes_max);
        let held = self.held.clone().into();
        let prompt = HeldPrompt { slices: is_kept.then_some(self.held), bytes };
        let kept = Kept(Arc::new(Mutex::new(Tee {
            prompt,
            bytes_max: length(self.bounds.view_bytes_max),
            passed_bytes: 0,
            progress: Progress::Waiting,
            error: None,
        })));
        let rest = Rest {
            body: rest,
            idle: Idle::new(self.bounds.idle_timeout),
            bytes_left: self.bounds.bytes_max.saturating_sub(bytes),
            bounds: self.bounds,
        };
        (UpstreamBody { held, rest: Some(rest), kept: kept.clone() }, kept)
    }
}

/// A body of known slices, and the prompt that is counted for it: the client's, where ours differs.
pub(crate) fn whole(slices: Vec<Bytes>, prompt: Vec<Bytes>) -> (UpstreamBody, Kept) {
    let bytes = prompt.iter().fold(0_u64, |sum, slice| sum.saturating_add(length(slice.len())));
    // An empty body is never asked for: whether its head has left cannot be told, so it counts as sent.
    let progress = if slices.is_empty() { Progress::Ended } else { Progress::Waiting };
    let prompt = HeldPrompt { slices: Some(prompt), bytes };
    let tee = Tee { prompt, bytes_max: u64::MAX, passed_bytes: 0, progress, error: None };
    let kept = Kept(Arc::new(Mutex::new(tee)));
    (UpstreamBody { held: slices.into(), rest: None, kept: kept.clone() }, kept)
}

/// How far a body has gone to the upstream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Progress {
    /// Nothing of it has left: there may be no connection yet.
    Waiting,
    /// Some of it has.
    Passing,
    /// All of it has.
    Ended,
}

/// What is known of a body on its way, shared with whoever waits for the answer.
#[derive(Clone)]
pub(crate) struct Kept(Arc<Mutex<Tee>>);

/// Keeps what passes, unless it is more than may be held.
struct Tee {
    prompt: HeldPrompt,
    bytes_max: u64,
    /// Bytes that have gone to the upstream.
    passed_bytes: u64,
    progress: Progress,
    /// Why the client's body did not come to its end.
    error: Option<Refused>,
}

impl Tee {
    fn keep(&mut self, data: &Bytes) {
        self.prompt.bytes = self.prompt.bytes.saturating_add(length(data.len()));
        if self.prompt.bytes > self.bytes_max {
            self.prompt.slices = None;
        } else if let Some(slices) = &mut self.prompt.slices {
            slices.push(data.clone());
        }
    }
}

impl Kept {
    fn tee(&self) -> MutexGuard<'_, Tee> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The prompt: whole, or its length so far. What passes later is not held.
    pub(crate) fn take_prompt(&self) -> HeldPrompt {
        let mut tee = self.tee();
        let is_whole = tee.progress == Progress::Ended || tee.bytes_max == u64::MAX;
        let mut prompt = std::mem::take(&mut tee.prompt);
        prompt.slices = prompt.slices.filter(|_| is_whole);
        if prompt.bytes < COPIED_BYTES {
            // A slice keeps the whole buffer that it was read into.
            prompt.slices = prompt.slices.map(|slices| vec![Bytes::from(slices.concat())]);
        }
        prompt
    }

    /// How far the body has gone.
    pub(crate) fn progress(&self) -> Progress {
        self.tee().progress
    }

    /// Bytes of the body that have gone to the upstream.
    pub(crate) fn passed_bytes(&self) -> u64 {
        self.tee().passed_bytes
    }

    /// Why the client's body did not come to its end.
    pub(crate) fn error(&self) -> Option<Refused> {
        self.tee().error
    }
}

/// The body that an upstream is sent: what was held, then the rest as it comes.
pub(crate) struct UpstreamBody {
    held: VecDeque<Bytes>,
    rest: Option<Rest>,
    kept: Kept,
}

/// What of a client's body has not been read.
struct Rest {
    body: Incoming,
    idle: Idle,
    bytes_left: u64,
    bounds: Bounds,
}

impl Rest {
    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RequestError>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
            return self.idle.poll_over(context).map(|()| Some(Err(RequestError::Idle(self.bounds.idle_timeout))));
        };
        self.idle.stir();
        Poll::Ready(frame.map(|frame| {
            let frame = frame?;
            if let Some(data) = frame.data_ref() {
                let left = self.bytes_left.checked_sub(length(data.len()));
                self.bytes_left = left.ok_or(RequestError::TooLarge(self.bounds.bytes_max))?;
                return Ok(frame);
            }
            Ok(match frame.into_trailers() {
                Ok(mut trailers) => {
                    attribution::headers::strip(&mut trailers);
                    Frame::trailers(trailers)
                }
                Err(frame) => frame,
            })
        }))
    }
}

impl UpstreamBody {
    fn is_over(&self) -> bool {
        self.held.is_empty() && self.rest.as_ref().is_none_or(|rest| rest.body.is_end_stream())
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = RequestError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RequestError>>> {
        let this = self.get_mut();
        let frame = match (this.held.pop_front(), &mut this.rest) {
            (Some(slice), _) => Some(Ok(Frame::data(slice))),
            (None, Some(rest)) => {
                let frame = ready!(rest.poll_frame(context));
                let mut tee = this.kept.tee();
                match &frame {
                    Some(Ok(frame)) => frame.data_ref().into_iter().for_each(|data| tee.keep(data)),
                    Some(Err(error)) => tee.error = Some(error.reason()),
                    None => {}
                }
                frame
            }
            (None, None) => None,
        };
        let is_over = frame.is_none() || (matches!(frame, Some(Ok(_))) && this.is_over());
        let bytes =
            frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref()).map_or(0, |data| length(data.len()));
        let mut tee = this.kept.tee();
        tee.passed_bytes = tee.passed_bytes.saturating_add(bytes);
        tee.progress = if is_over { Progress::Ended } else { Progress::Passing };
        drop(tee);
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.is_over()
    }

    fn size_hint(&self) -> SizeHint {
        let held = self.held.iter().fold(0_u64, |sum, slice| sum.saturating_add(length(slice.len())));
        match &self.rest {
            None => SizeHint::with_exact(held),
            Some(rest) => {
                let rest = rest.body.size_hint();
                let mut hint = SizeHint::new();
                hint.set_lower(held.saturating_add(rest.lower()));
                if let Some(upper) = rest.upper() {
                    hint.set_upper(held.saturating_add(upper));
                }
                hint
            }
        }
    }
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
