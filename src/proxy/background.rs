//! Background: finishes answers whose client has left, so that the provider's own numbers are recorded.
//!
//! Bounded in number, time and bytes; over a bound the upstream is cancelled and the call closed with what is known.

use std::sync::Arc;
use std::time::Duration;

use http::Response;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::client::legacy::ResponseFuture;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;

use super::watch::Watch;
use crate::meter::{Ending, OpenCall};
use crate::usage::Outcome;

/// Where abandoned answers are finished.
#[derive(Debug)]
pub(crate) struct Background {
    tasks: TaskTracker,
    /// Answers are also abandoned while the runtime goes down, where nothing else can be spawned.
    runtime: Handle,
    permits: Arc<Semaphore>,
    timeout: Duration,
    bytes_max: u64,
}

impl Background {
    /// Must be called within the runtime that serves calls.
    pub(crate) fn new(tasks: TaskTracker, calls_max: usize, timeout: Duration, bytes_max: u64) -> Self {
        Self { tasks, runtime: Handle::current(), permits: Arc::new(Semaphore::new(calls_max)), timeout, bytes_max }
    }

    /// Reads the rest of `body` for `watch`.
    pub(crate) fn finish_body(self: Arc<Self>, body: Incoming, mut watch: Watch) {
        match self.permit() {
            Some(permit) => {
                watch.client_left();
                let this = Arc::clone(&self);
                let finishing = async move {
                    drop(tokio::time::timeout(this.timeout, this.read_to_end(body, watch)).await);
                    drop(permit);
                };
                self.tasks.spawn_on(finishing, &self.runtime);
            }
            None => {
                watch.close(Outcome::ClientClosed);
            }
        }
    }

    /// Waits for an answer's head, then reads it; `watch` makes its reader from the head. `unanswered` is what is known
    /// where none comes.
    pub(crate) fn finish_answer(
        self: Arc<Self>,
        answer: ResponseFuture,
        call: OpenCall,
        unanswered: Ending,
        watch: impl FnOnce(&Response<Incoming>, OpenCall) -> Watch + Send + 'static,
    ) {
        let Some(permit) = self.permit() else {
            call.close(Outcome::ClientClosed, unanswered);
            return;
        };
        let this = Arc::clone(&self);
        let finishing = async move {
            let finishing = async {
                match answer.await {
                    Ok(response) => {
                        let mut watch = watch(&response, call);
                        watch.client_left();
                        this.read_to_end(response.into_body(), watch).await;
                    }
                    // Nobody can say what the call cost: it is counted as far as it can be.
                    Err(_) => {
                        call.close(Outcome::ClientClosed, unanswered);
                    }
                }
            };
            drop(tokio::time::timeout(this.timeout, finishing).await);
            drop(permit);
        };
        self.tasks.spawn_on(finishing, &self.runtime);
    }

    fn permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.permits).try_acquire_owned().ok()
    }

    /// Reads for `watch` until the end, the terminal event, or too much. Dropped on the way, what was read is known.
    async fn read_to_end(&self, mut body: Incoming, mut watch: Watch) {
        let mut bytes = 0_u64;
        loop {
            let frame = match body.frame().await {
                Some(Ok(frame)) => frame,
                Some(Err(_)) => break,
                None => {
                    watch.has_ended();
                    break;
                }
            };
            let Some(data) = frame.data_ref() else { continue };
            bytes = bytes.saturating_add(u64::try_from(data.len()).unwrap_or(u64::MAX));
            if watch.read(data) || bytes > self.bytes_max {
                break;
            }
        }
        watch.close(Outcome::ClientClosed);
    }
}
