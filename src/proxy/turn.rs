//! Turn: a future that woke itself while it was polled is polled again at once.
//!
//! hyper wakes its own connection for the part of a body that somebody asks for. To the runtime that is one more task to be
//! run: it wakes another of its threads for it, and a call at a quiet time changes cores, which its latency shows.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// So often a future is polled in one turn; then others have theirs. hyper itself goes round up to sixteen times a poll.
const POLLS_MAX: u32 = 8;

/// Nobody polls: who wakes the future wakes its task.
const AT_REST: u8 = 0;
/// It is being polled.
const POLLED: u8 = 1;
/// It was woken since it was polled last: its task is awake.
const WOKEN: u8 = 2;

/// The turns of one future.
pub(crate) struct Turn {
    bell: Arc<Bell>,
    waker: Waker,
}

struct Bell {
    state: AtomicU8,
    /// Wakes the task.
    task: Mutex<Waker>,
}

impl Turn {
    pub(crate) fn new() -> Self {
        let bell = Arc::new(Bell { state: AtomicU8::new(AT_REST), task: Mutex::new(Waker::noop().clone()) });
        Self { waker: Waker::from(Arc::clone(&bell)), bell }
    }

    /// Polls a future by `poll`, again and again while it wakes itself.
    pub(crate) fn poll<T>(
        &mut self,
        context: &mut Context<'_>,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let state = &self.bell.state;
        self.bell.task.lock().unwrap_or_else(PoisonError::into_inner).clone_from(context.waker());
        for _ in 0..POLLS_MAX {
            // Sees what whoever woke it last had done before.
            state.swap(POLLED, Ordering::AcqRel);
            let polled = poll(&mut Context::from_waker(&self.waker));
            if polled.is_ready() || state.compare_exchange(POLLED, AT_REST, Ordering::AcqRel, Ordering::Acquire).is_ok()
            {
                return polled;
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.swap(WOKEN, Ordering::AcqRel) == AT_REST {
            self.task.lock().unwrap_or_else(PoisonError::into_inner).wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[derive(Default)]
    struct Wakes(AtomicU32);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A future that wakes itself so often and is ready when it is polled after that: how often it was polled, and its
    /// task woken, before it rests.
    fn turn_of(own_wakes: u32) -> (u32, u32, Poll<()>) {
        let (wakes, mut polls) = (Arc::new(Wakes::default()), 0);
        let task = Waker::from(Arc::clone(&wakes));
        let polled = Turn::new().poll(&mut Context::from_waker(&task), |context| {
            polls += 1;
            if polls > own_wakes {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            Poll::Pending
        });
        (polls, wakes.0.load(Ordering::Relaxed), polled)
    }

    #[test]
    fn who_wakes_itself_is_polled_in_the_same_turn_and_not_for_ever() {
        assert_eq!(turn_of(0), (1, 0, Poll::Ready(())));
        assert_eq!(turn_of(3), (4, 0, Poll::Ready(())));
        assert_eq!(turn_of(u32::MAX), (POLLS_MAX, 1, Poll::Pending));
    }

    #[test]
    fn who_is_woken_between_two_turns_wakes_its_task_of_the_last() {
        let tasks = [Arc::new(Wakes::default()), Arc::new(Wakes::default())];
        let (mut turn, mut waker) = (Turn::new(), None);
        for task in &tasks {
            let polled = turn.poll(&mut Context::from_waker(&Waker::from(Arc::clone(task))), |context| {
                waker = Some(context.waker().clone());
                Poll::<()>::Pending
            });
            assert_eq!(polled, Poll::Pending);
        }
        waker.unwrap().wake();
        assert_eq!(tasks.map(|task| task.0.load(Ordering::Relaxed)), [0, 1]);
    }
}
