//! Alarm: a timer that is asked again and again by the task that set it, which then costs a look.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::task::coop;
use tokio::time::{Instant, Sleep};

/// Goes off at its deadline.
pub(crate) struct Alarm {
    sleep: Pin<Box<Sleep>>,
    /// Who is woken. Known to the timer: to tell it once more is what costs.
    wakes: Option<Waker>,
}

impl Alarm {
    pub(crate) fn at(deadline: Instant) -> Self {
        Self { sleep: Box::pin(tokio::time::sleep_until(deadline)), wakes: None }
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.sleep.deadline()
    }

    pub(crate) fn reset(&mut self, deadline: Instant) {
        self.sleep.as_mut().reset(deadline);
        self.wakes = None;
    }

    /// Ready from the deadline on.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let is_set = self.wakes.as_ref().is_some_and(|waker| waker.will_wake(context.waker()));
        if is_set && !self.sleep.is_elapsed() {
            return Poll::Pending;
        }
        // A task that has used up its turn is told to wait before the timer has heard of it.
        let hears = coop::has_budget_remaining();
        let polled = self.sleep.as_mut().poll(context);
        self.wakes = (polled.is_pending() && hears).then(|| context.waker().clone());
        polled
    }
}
