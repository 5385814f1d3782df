//! Bell: wakes the one reader that waits for an append.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, Thread};
use std::time::Duration;

#[derive(Debug, Default)]
pub(super) struct Bell {
    is_awaited: AtomicBool,
    thread: Mutex<Option<Thread>>,
}

impl Bell {
    /// Blocks the calling thread until it rings, somebody unparks it, or `timeout` passes; not at all unless `still`, which
    /// is asked once the bell would be heard.
    pub(super) fn wait(&self, timeout: Duration, still: impl FnOnce() -> bool) {
        *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread::current());
        self.is_awaited.store(true, Ordering::SeqCst);
        if still() {
            thread::park_timeout(timeout);
        }
        self.is_awaited.store(false, Ordering::SeqCst);
    }

    pub(super) fn ring(&self) {
        // A plain load first: under load nobody sleeps, and the line stays shared.
        if self.is_awaited.load(Ordering::SeqCst)
            && self.is_awaited.swap(false, Ordering::SeqCst)
            && let Some(thread) = &*self.thread.lock().unwrap_or_else(PoisonError::into_inner)
        {
            thread.unpark();
        }
    }
}
