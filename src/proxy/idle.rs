//! Idle: how long a body may be silent.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

/// Longest silence within a body. One timer is armed an idle period, not one a chunk.
pub(crate) struct Idle {
    timeout: Duration,
    last: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Idle {
    pub(crate) fn new(timeout: Duration) -> Self {
        Self { timeout, last: Instant::now(), timer: None }
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Something moved.
    pub(crate) fn stir(&mut self) {
        self.last = Instant::now();
    }

    /// Ready when nothing stirred for the timeout.
    pub(crate) fn poll_over(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(self.timeout)));
            ready!(timer.as_mut().poll(context));
            let silent = self.last.elapsed();
            if silent >= self.timeout {
                return Poll::Ready(());
            }
            let rest = self.timeout.saturating_sub(silent);
            timer.as_mut().reset(tokio::time::Instant::now() + rest);
        }
    }
}
