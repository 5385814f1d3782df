//! Queue: the thread that writes what had to wait.
//!
//! It has a second duty: it watches the writes of others. A task that is stuck in a `write` keeps its thread from
//! everything else, and perhaps that was the only one awake; who can wake another is told.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::JournalError;
use super::writer::Writer;

/// How often the thread looks at the writes of others while there are any. One that it sees twice is stuck, and holds up
/// more than its own call.
const WATCH_EVERY: Duration = Duration::from_millis(10);
/// So many looks without a write in between, and the thread sleeps until there is one.
const QUIET_LOOKS: u32 = 20;

/// The thread. Dropping it writes what waits and ends it.
#[derive(Debug)]
pub(super) struct Thread {
    writer: Arc<Writer>,
    handle: Option<JoinHandle<()>>,
}

impl Thread {
    pub(super) fn start(writer: &Arc<Writer>) -> Result<Self, JournalError> {
        let theirs = Arc::clone(writer);
        let handle = thread::Builder::new().name("journal".to_owned()).spawn(move || run(&theirs));
        let handle = handle.map_err(|source| JournalError::Io {
            what: "start a thread for",
            path: writer.directory().to_owned(),
            source,
        })?;
        Ok(Self { writer: Arc::clone(writer), handle: Some(handle) })
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.writer.front.close();
        if let Some(handle) = self.handle.take()
            && handle.join().is_err()
        {
            tracing::error!("the journal's thread died");
        }
    }
}

fn run(writer: &Writer) {
    let front = &writer.front;
    let (mut quiet_looks, mut seen) = (0_u32, 0);
    let mut state = front.state();
    loop {
        let before = seen;
        if state.is_stuck(&mut seen)
            && let Some(waker) = writer.stalled.get()
        {
            drop(state);
            waker.wake_by_ref();
            state = front.state();
        }
        let (turns, is_busy) = state.turns();
        if state.has_queue() && !is_busy {
            drop(state);
            writer.write_queue();
            state = front.state();
            continue;
        }
        if state.is_closing() && !state.has_queue() {
            return;
        }
        quiet_looks = if is_busy || turns != before { 0 } else { quiet_looks.saturating_add(1) };
        let timeout = (quiet_looks < QUIET_LOOKS).then_some(WATCH_EVERY);
        state = front.sleep(state, timeout);
        if timeout.is_none() {
            quiet_looks = 0;
        }
    }
}
