//! Tap: an answer on its way to the client, and the cheap copy that the observer reads.
//!
//! Bytes go on as they come. The record is in the journal before the client gets the end: the terminal event of a
//! stream, else the last frame. A tap that is dropped before the end closes its call, or hands it to the background.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::OnFailure;
use super::background::Background;
use super::idle::Idle;
use super::strip::Strip;
use super::watch::Watch;
use crate::journal::{Journal, JournalError};
use crate::usage::Outcome;

/// Why an answer breaks off. The client sees a cut connection, never a complete answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The upstream broke off.
    #[error("the upstream broke off its answer")]
    Upstream(#[source] hyper::Error),
    /// The upstream fell silent.
    #[error("the upstream was silent for {0:?}")]
    Idle(Duration),
    /// The record could not be made durable.
    #[error("the call's record could not be written")]
    Journal(#[source] JournalError),
}

/// An upstream's answer body on its way through.
pub(crate) struct Tap {
    /// Read before the answer was known to be this one; goes first.
    head: Option<Bytes>,
    inner: Option<Incoming>,
    watch: Option<Watch>,
    strip: Option<Strip>,
    idle: Idle,
    background: Option<Arc<Background>>,
    journal: Arc<Journal>,
    on_failure: OnFailure,
    /// What waits for the disk, and what is let go then: with `durability = "power"`, or where a write is stuck.
    syncing: Option<(Syncing, Option<Frame<Bytes>>)>,
}

type Syncing = Pin<Box<dyn Future<Output = Result<(), JournalError>> + Send>>;

/// Whether the end may be let go: where traffic matters more than its records, it may although its record may be lost.
fn may_go(synced: Result<(), JournalError>, on_failure: OnFailure) -> Result<(), JournalError> {
    match (synced, on_failure) {
        (Err(error), OnFailure::Pass) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "an answer ends, its record may be lost");
            Ok(())
        }
        (synced, _) => synced,
    }
}

/// How a tap is made.
pub(crate) struct Settings {
    pub(crate) idle_timeout: Duration,
    /// Takes out the usage event that we caused.
    pub(crate) strips_usage: bool,
    /// Finishes the call when its client leaves; `None`: the upstream is cancelled.
    pub(crate) background: Option<Arc<Background>>,
    pub(crate) journal: Arc<Journal>,
    pub(crate) on_failure: OnFailure,
}

impl Tap {
    pub(crate) fn new(head: Option<Bytes>, inner: Incoming, watch: Watch, settings: Settings) -> Self {
        let mut tap = Self {
            head: head.filter(|head| !head.is_empty()),
            inner: Some(inner),
            watch: Some(watch),
            strip: settings.strips_usage.then(Strip::new),
            idle: Idle::new(settings.idle_timeout),
            background: settings.background,
            journal: settings.journal,
            on_failure: settings.on_failure,
            syncing: None,
        };
        if tap.head.is_none() && tap.inner.as_ref().is_some_and(Body::is_end_stream) {
            // No body: the head is the end.
            tap.finish(Outcome::Completed, None);
        }
        tap
    }

    /// Waits until the head of an answer without a body may go: it is the end.
    pub(crate) async fn head_may_go(&mut self) -> Result<(), JournalError> {
        match self.syncing.take() {
            Some((syncing, _)) => may_go(syncing.await, self.on_failure),
            None => Ok(()),
        }
    }

    /// Closes the call; `last` is let go when the record is as durable as configured.
    fn finish(&mut self, outcome: Outcome, last: Option<Frame<Bytes>>) -> Option<Frame<Bytes>> {
        let appended = self.watch.take().and_then(|watch| watch.close(outcome));
        match appended {
            Some(appended) if !self.journal.is_synced(&appended) => {
                self.syncing = Some((Box::pin(self.journal.synced(appended)), last));
                None
            }
            Some(_) | None => last,
        }
    }

    fn poll_inner(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(head) = self.head.take() {
            return Poll::Ready(Some(Ok(Frame::data(head))));
        }
        let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
        match Pin::new(inner).poll_frame(context) {
            Poll::Ready(frame) => {
                self.idle.stir();
                Poll::Ready(frame.map(|frame| frame.map_err(BodyError::Upstream)))
            }
            Poll::Pending => {
                if let Some(watch) = &mut self.watch {
                    watch.poll_mark(context);
                }
                ready!(self.idle.poll_over(context));
                Poll::Ready(Some(Err(BodyError::Idle(self.idle.timeout()))))
            }
        }
    }

    fn is_last(&self) -> bool {
        self.head.is_none() && self.inner.as_ref().is_none_or(Body::is_end_stream)
    }
}

impl Body for Tap {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        loop {
            if let Some((syncing, held)) = &mut this.syncing {
                let synced = ready!(syncing.as_mut().poll(context));
                let held = held.take();
                this.syncing = None;
                if let Err(error) = may_go(synced, this.on_failure) {
                    this.inner = None;
                    return Poll::Ready(Some(Err(BodyError::Journal(error))));
                }
                if let Some(frame) = held {
                    return Poll::Ready(Some(Ok(frame)));
                }
            }
            let frame = match ready!(this.poll_inner(context)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => {
                    this.finish(Outcome::UpstreamCut, None);
                    this.syncing = None;
                    this.inner = None;
                    // What is held back is the begin of an event, maybe of the one that the client did not ask for.
                    this.strip = None;
                    return Poll::Ready(Some(Err(error)));
                }
                None => {
                    this.inner = None;
                    let rest = this.strip.take().map(Strip::end).filter(|rest| !rest.is_empty());
                    let last = this.finish(Outcome::Completed, rest.map(Frame::data));
                    if this.syncing.is_some() {
                        continue;
                    }
                    return Poll::Ready(last.map(Ok));
                }
            };
            let frame = match frame.into_data() {
                Ok(data) => {
                    let is_terminal = this.watch.as_mut().is_some_and(|watch| watch.read(&data));
                    let is_last = this.is_last();
                    let mut data = match &mut this.strip {
                        Some(strip) => strip.pass(&data),
                        None => data,
                    };
                    if is_last && let Some(strip) = this.strip.take() {
                        data = super::strip::joined(data, strip.end());
                    }
                    let frame = (!data.is_empty()).then(|| Frame::data(data));
                    if is_terminal || is_last { this.finish(Outcome::Completed, frame) } else { frame }
                }
                Err(trailers) => {
                    let is_last = this.is_last();
                    if is_last { this.finish(Outcome::Completed, Some(trailers)) } else { Some(trailers) }
                }
            };
            if let Some(frame) = frame {
                return Poll::Ready(Some(Ok(frame)));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.syncing.is_none() && self.watch.is_none() && self.is_last()
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.inner, &self.strip, &self.head) {
            (Some(inner), None, None) if self.syncing.is_none() => inner.size_hint(),
            _ => SizeHint::new(),
        }
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        // The client left before the end. What was read so far was still spent.
        let Some(watch) = self.watch.take() else { return };
        match (self.background.take(), self.inner.take()) {
            (Some(background), Some(inner)) => background.finish_body(inner, watch),
            _ => {
                watch.close(Outcome::ClientClosed);
            }
        }
    }
}
