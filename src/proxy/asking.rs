//! Asking: between the request that leaves and the answer's head that comes.
//!
//! The client may leave meanwhile: hyper then drops the future that waits here. A whole answer, which the provider bills
//! anyway, is finished in the background; a stream is cancelled.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::client::legacy::{Error as ClientError, ResponseFuture};

use super::background::Background;
use super::body::{Kept, Progress, UpstreamBody};
use super::connect::BoxError;
use super::reply::{self, Refused, ReplyBody};
use super::upstream::Upstream;
use super::watch::{Look, Passed, Reader, Watch};
use crate::ids::Provider;
use crate::meter::{Ending, OpenCall};
use crate::operation::Operation;
use crate::usage::{Outcome, Units};
use crate::wires::{Consumption, Wire};

/// How an answer will be read, and what happens to it if its client leaves.
#[derive(Clone)]
pub(crate) struct ReadingPlan {
    pub(crate) wire: &'static dyn Wire,
    pub(crate) operation: Operation,
    pub(crate) provider: Provider,
    pub(crate) consumption: Consumption,
    /// `None`: the upstream is cancelled.
    pub(crate) background: Option<Arc<Background>>,
}

impl ReadingPlan {
    /// The watch over `response`, whose request is `kept`.
    pub(crate) fn watch(&self, response: &Response<Incoming>, mut call: OpenCall, kept: &Kept) -> Watch {
        call.answered(response.status().as_u16());
        let look = if self.consumption == Consumption::None {
            Look::Away
        } else if self.is_unread() {
            Look::Count(Passed::new(kept.clone()))
        } else {
            Look::Read(self.reader(response))
        };
        Watch::new(call, look)
    }

    fn reader(&self, response: &Response<Incoming>) -> Reader {
        let header = |name| response.headers().get(name).map(HeaderValue::as_bytes);
        // A batch's results are lines, whatever they are called.
        let content_type =
            if self.operation == Operation::Batch { Some(&b"application/jsonl"[..]) } else { header(CONTENT_TYPE) };
        let mut observer = self.wire.observer(self.operation, self.provider.as_str());
        observer.head(response.headers());
        Reader { framer: self.wire.framer(content_type, header(CONTENT_ENCODING)), observer }
    }

    /// Whether it costs something and nobody reads it: then bytes are counted.
    fn is_unread(&self) -> bool {
        self.consumption != Consumption::None && matches!(self.operation, Operation::Other | Operation::Realtime)
    }

    /// How a call ends that has no answer.
    fn ending(&self, kept: &Kept) -> Ending {
        let units = if self.is_unread() { Passed::new(kept.clone()).units() } else { Units::default() };
        Ending { units, ..Ending::default() }
    }
}

/// An answer whose head has come.
pub(crate) struct Answer {
    pub(crate) response: Response<Incoming>,
    pub(crate) call: OpenCall,
    /// Its request.
    pub(crate) kept: Kept,
}

impl Answer {
    /// The upstream broke off before it was known what to do with its answer.
    pub(crate) fn cut_off(self) -> Failed {
        Failed { failure: Failure::CutOff, call: Some(self.call), ending: Ending::default() }
    }
}

/// A call that waits for its answer's head. Dropped while it waits, its client has left.
pub(crate) struct Asking<'a> {
    waiting: Option<(ResponseFuture, OpenCall)>,
    kept: Kept,
    upstream: &'a Upstream,
    reading: &'a ReadingPlan,
}

impl<'a> Asking<'a> {
    /// Sends `request`.
    pub(crate) fn begin(
        upstream: &'a Upstream,
        request: Request<UpstreamBody>,
        call: OpenCall,
        kept: Kept,
        reading: &'a ReadingPlan,
    ) -> Self {
        Self { waiting: Some((upstream.request(request), call)), kept, upstream, reading }
    }
}

impl Asking<'_> {
    /// Waits for the answer's head.
    pub(crate) async fn answer(mut self) -> Result<Answer, Failed> {
        let answer = loop {
            match tokio::time::timeout(self.upstream.settings.head_timeout, self.head()).await {
                // The body is still on its way, and has a timeout of its own.
                Err(_) if self.kept.progress() != Progress::Ended => {}
                Ok(answer) => break answer.map_err(|error| Failure::of(error, &self.kept)),
                Err(_) => break Err(Failure::Silent),
            }
        };
        let progress = self.kept.progress();
        let call = self.take().map(|(_, mut call)| {
            if answer.as_ref().err().is_none_or(|failure| failure.may_have_cost(progress)) {
                call.sent();
            }
            call
        });
        match (answer, call) {
            (Ok(response), Some(call)) => Ok(Answer { response, call, kept: self.kept.clone() }),
            (Ok(_), None) => Err(Failed { failure: Failure::Silent, call: None, ending: Ending::default() }),
            (Err(failure), call) => Err(Failed { failure, call, ending: self.reading.ending(&self.kept) }),
        }
    }

    /// The answer's head.
    async fn head(&mut self) -> Result<Response<Incoming>, ClientError> {
        std::future::poll_fn(|context| match &mut self.waiting {
            Some((answer, _)) => Pin::new(answer).poll(context),
            None => Poll::Pending,
        })
        .await
    }

    fn take(&mut self) -> Option<(ResponseFuture, OpenCall)> {
        let (answer, mut call) = self.waiting.take()?;
        call.hold_prompt(self.kept.take_prompt());
        Some((answer, call))
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let progress = self.kept.progress();
        let Some((answer, mut call)) = self.take() else { return };
        // No provider works on half a request, nor on one that never left.
        if progress != Progress::Ended {
            call.close(Outcome::ClientClosed, Ending::default());
            return;
        }
        call.sent();
        match &self.reading.background {
            Some(background) => {
                let unanswered = self.reading.ending(&self.kept);
                let (reading, kept) = (self.reading.clone(), self.kept.clone());
                let watch = move |response: &Response<Incoming>, call| reading.watch(response, call, &kept);
                Arc::clone(background).finish_answer(answer, call, unanswered, watch);
            }
            None => {
                call.close(Outcome::ClientClosed, self.reading.ending(&self.kept));
            }
        }
    }
}

/// Why no answer came.
pub(crate) enum Failure {
    /// No connection: nothing was sent.
    Connect(BoxError),
    /// The client's own body did not come to its end.
    ClientBody(Refused),
    /// The connection broke before the answer's head.
    Broken(BoxError),
    /// The connection broke, or fell silent, within an answer that the client has seen nothing of.
    CutOff,
    /// The head timeout passed.
    Silent,
}

impl Failure {
    fn of(error: ClientError, kept: &Kept) -> Self {
        match kept.error() {
            Some(reason) => Self::ClientBody(reason),
            None if error.is_connect() => Self::Connect(error.into()),
            None => Self::Broken(error.into()),
        }
    }

    /// Whether the provider may have worked on the call.
    fn may_have_cost(&self, progress: Progress) -> bool {
        match self {
            Self::Connect(_) | Self::ClientBody(_) => false,
            Self::Broken(_) | Self::CutOff | Self::Silent => progress != Progress::Waiting,
        }
    }
}

/// A call without an answer.
pub(crate) struct Failed {
    failure: Failure,
    call: Option<OpenCall>,
    ending: Ending,
}

impl Failed {
    pub(crate) fn new(failure: Failure, call: OpenCall) -> Self {
        Self { failure, call: Some(call), ending: Ending::default() }
    }

    /// Closes the call and tells the client.
    pub(crate) fn reply(self, upstream: &Upstream, wire: &dyn Wire) -> Response<ReplyBody> {
        let Self { failure, call, ending } = self;
        let name = &upstream.settings.name;
        let record = call.as_ref().and_then(OpenCall::id);
        let (status, code, message, outcome) = match &failure {
            Failure::Connect(error) => {
                tracing::warn!(upstream = %name, error = &**error as &dyn std::error::Error, "no connection to an upstream");
                let message = format!("tokenmeter has no connection to upstream `{name}`");
                (StatusCode::BAD_GATEWAY, "upstream_unreachable", message, Outcome::UpstreamError)
            }
            Failure::ClientBody(reason) => {
                let message = "the request's body broke off, fell silent, or is too large".to_owned();
                (reason.status(), reason.as_str(), message, Outcome::ClientClosed)
            }
            Failure::Broken(error) => {
                tracing::warn!(upstream = %name, error = &**error as &dyn std::error::Error, "an upstream broke off");
                let message = format!("upstream `{name}` broke the connection before it answered");
                (StatusCode::BAD_GATEWAY, "upstream_cut", message, Outcome::UpstreamCut)
            }
            Failure::CutOff => {
                tracing::warn!(upstream = %name, "an upstream broke off its answer");
                let message = format!("upstream `{name}` broke off its answer");
                (StatusCode::BAD_GATEWAY, "upstream_cut", message, Outcome::UpstreamCut)
            }
            Failure::Silent => {
                tracing::warn!(upstream = %name, "an upstream did not answer in time");
                let message = format!("upstream `{name}` did not begin to answer in time");
                (StatusCode::GATEWAY_TIMEOUT, "upstream_timeout", message, Outcome::UpstreamCut)
            }
        };
        if let Some(call) = call {
            call.close(outcome, ending);
        }
        reply::failed(wire, status, code, &message, record)
    }
}
