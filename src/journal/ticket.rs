//! Ticket: a frame that waits for its `write`, and who waits for that.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use super::JournalError;
use super::writer::Written;

/// Settled once, by whoever writes the frame or fails to. Awaited by one task at most.
#[derive(Debug, Default)]
pub(super) struct Ticket {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Whether it was written, once that is known.
    is_written: Option<bool>,
    /// The same for the one who waits, who takes it.
    outcome: Option<Result<Written, JournalError>>,
    waker: Option<Waker>,
    then: Vec<Box<dyn FnOnce(bool) + Send>>,
}

impl fmt::Debug for State {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("State").field("outcome", &self.outcome).finish_non_exhaustive()
    }
}

impl Ticket {
    /// The frame was written, or it was not.
    pub(super) fn settle(&self, outcome: Result<Written, JournalError>) {
        let is_written = outcome.is_ok();
        let mut state = self.state();
        state.is_written = Some(is_written);
        state.outcome = Some(outcome);
        let (then, waker) = (std::mem::take(&mut state.then), state.waker.take());
        drop(state);
        for then in then {
            then(is_written);
        }
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Calls `then` with whether the frame was written, as soon as that is known; perhaps at once.
    pub(super) fn then(&self, then: impl FnOnce(bool) + Send + 'static) {
        let mut state = self.state();
        match state.is_written {
            Some(is_written) => {
                drop(state);
                then(is_written);
            }
            None => state.then.push(Box::new(then)),
        }
    }

    pub(super) fn poll(&self, context: &mut Context<'_>) -> Poll<Result<Written, JournalError>> {
        let mut state = self.state();
        if let Some(outcome) = state.outcome.take() {
            return Poll::Ready(outcome);
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }

    /// Blocks the calling thread until it is settled.
    pub(super) fn wait(&self) -> Result<Written, JournalError> {
        let waker = Waker::from(Arc::new(Sleeper(thread::current())));
        let mut context = Context::from_waker(&waker);
        loop {
            match self.poll(&mut context) {
                Poll::Ready(outcome) => return outcome,
                Poll::Pending => thread::park(),
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread that waits for a ticket.
struct Sleeper(Thread);

impl Wake for Sleeper {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
