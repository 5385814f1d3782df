//! Idle: how long a body may be silent.

use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use super::alarm::Alarm;

/// Longest silence within a body. One timer is armed an idle period, not one a chunk.
pub(crate) struct Idle {
    timeout: Duration,
    last: Instant,
    alarm: Option<Alarm>,
}

impl Idle {
    pub(crate) fn new(timeout: Duration) -> Self {
        Self { timeout, last: Instant::now(), alarm: None }
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
            let alarm = self.alarm.get_or_insert_with(|| Alarm::at(tokio::time::Instant::now() + self.timeout));
            ready!(alarm.poll(context));
            let silent = self.last.elapsed();
            if silent >= self.timeout {
                return Poll::Ready(());
            }
            let rest = self.timeout.saturating_sub(silent);
            alarm.reset(tokio::time::Instant::now() + rest);
        }
    }
}
