//! Queue: jobs that wait for a thread, bounded in number and in the bytes that they hold.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Jobs in the order in which they came.
pub(super) struct Queue<J> {
    jobs_max: usize,
    bytes_max: usize,
    state: Mutex<State<J>>,
    bell: Condvar,
}

struct State<J> {
    waiting: VecDeque<(J, usize)>,
    /// Bytes of the jobs that wait and of those that are being done.
    bytes: usize,
    is_closed: bool,
}

/// What the queue holds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(in crate::meter) struct Load {
    /// Jobs that wait.
    pub(in crate::meter) jobs: usize,
    /// Bytes of these and of the jobs that are being done.
    pub(in crate::meter) bytes: usize,
}

/// The bytes of a job that is being done; they count until this is dropped.
#[must_use = "the bytes count until this is dropped"]
pub(super) struct Held<'a, J> {
    queue: &'a Queue<J>,
    bytes: usize,
}

impl<J> Queue<J> {
    pub(super) fn new(jobs_max: usize, bytes_max: usize) -> Self {
        let state = State { waiting: VecDeque::new(), bytes: 0, is_closed: false };
        Self { jobs_max, bytes_max, state: Mutex::new(state), bell: Condvar::new() }
    }

    /// Takes a job that holds so many bytes; gives it back where there is no room, and once the queue is closed.
    pub(super) fn push(&self, job: J, bytes: usize) -> Result<(), J> {
        let mut state = self.state();
        let with_it = state.bytes.saturating_add(bytes);
        if state.is_closed || state.waiting.len() >= self.jobs_max || with_it > self.bytes_max {
            return Err(job);
        }
        state.bytes = with_it;
        state.waiting.push_back((job, bytes));
        drop(state);
        self.bell.notify_all();
        Ok(())
    }

    /// The first job that `is_mine`, when there is one; `None` once the queue is closed and has none.
    pub(super) fn pop(&self, is_mine: impl Fn(&J) -> bool) -> Option<(J, Held<'_, J>)> {
        let mut state = self.state();
        loop {
            let at = state.waiting.iter().position(|(job, _)| is_mine(job));
            if let Some((job, bytes)) = at.and_then(|at| state.waiting.remove(at)) {
                return Some((job, Held { queue: self, bytes }));
            }
            if state.is_closed {
                return None;
            }
            state = self.bell.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes no more jobs; those that wait are still given out.
    pub(super) fn close(&self) {
        self.state().is_closed = true;
        self.bell.notify_all();
    }

    pub(super) fn load(&self) -> Load {
        let state = self.state();
        Load { jobs: state.waiting.len(), bytes: state.bytes }
    }

    /// Nothing that is done under the lock can panic half-way.
    fn state(&self) -> MutexGuard<'_, State<J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<J> std::fmt::Debug for Queue<J> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Queue").field("load", &self.load()).finish_non_exhaustive()
    }
}

impl<J> Drop for Held<'_, J> {
    fn drop(&mut self) {
        let mut state = self.queue.state();
        state.bytes = state.bytes.saturating_sub(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn it_is_bounded_in_number_and_in_bytes_until_they_are_done() {
        let queue = Queue::new(2, 100);
        assert_eq!(queue.push(1, 101), Err(1), "larger than everything that may be held");
        assert_eq!(queue.push(1, 60), Ok(()));
        assert_eq!(queue.push(2, 41), Err(2), "too many bytes");
        assert_eq!(queue.push(2, 40), Ok(()));
        assert_eq!(queue.push(3, 0), Err(3), "too many jobs");
        assert_eq!(queue.load(), Load { jobs: 2, bytes: 100 });
        let (first, held) = queue.pop(|_| true).unwrap();
        assert_eq!((first, queue.load()), (1, Load { jobs: 1, bytes: 100 }));
        assert_eq!(queue.push(3, 1), Err(3), "what is being done is still held");
        drop(held);
        assert_eq!(queue.push(3, 1), Ok(()));
        assert_eq!(queue.load(), Load { jobs: 2, bytes: 41 });
    }

    #[test]
    fn who_does_not_do_everything_leaves_the_rest_in_its_order() {
        let queue = Queue::new(9, 9);
        (1..=4).for_each(|job| queue.push(job, 0).unwrap());
        let is_even = |job: &u32| job.is_multiple_of(2);
        let order: Vec<u32> = [queue.pop(is_even), queue.pop(|_| true), queue.pop(|_| true), queue.pop(is_even)]
            .into_iter()
            .map(|popped| popped.unwrap().0)
            .collect();
        assert_eq!(order, [2, 1, 3, 4]);
    }

    #[test]
    fn closed_it_gives_out_what_waits_and_wakes_who_waits() {
        let queue = Queue::new(9, 9);
        queue.push(1, 0).unwrap();
        thread::scope(|scope| {
            let worker =
                scope.spawn(|| std::iter::from_fn(|| queue.pop(|_| true).map(|(job, _)| job)).collect::<Vec<_>>());
            queue.push(2, 0).unwrap();
            queue.close();
            assert_eq!(queue.push(3, 0), Err(3));
            assert_eq!(worker.join().unwrap(), [1, 2]);
        });
    }
}
