//! Front: what everybody may know of the writer without waiting for a disk: where it stands, and what waits for it.
//!
//! Its lock is held for looks and notes, never over a system call that a disk answers.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::bell::Bell;
use super::frame::Kind;
use super::ticket::Ticket;
use super::{At, JournalError, Position};
use crate::ids::RecordId;

/// Frames that may wait before intents are refused. Records wait in any number: there is one a call in flight.
pub(super) const QUEUE_FRAMES_MAX: usize = 4096;
/// Bytes that may wait before intents are refused.
const QUEUE_BYTES_MAX: usize = 16 << 20;
/// Bytes that are written at once.
const BATCH_BYTES: usize = 256 << 10;

/// How long an append waits for another's `write`, which takes a few microseconds when all is well.
const SPIN: Duration = Duration::from_micros(20);
/// A `write` that took this long after it was seen says that the disk is slow.
const SLOW: Duration = Duration::from_millis(10);
/// How long after that the journal's thread does all the writing: a disk that throttles does so again and again.
const AVOID_SLOW: Duration = Duration::from_secs(1);
/// A `write` that does not return for this long makes the node unready: others may still take calls.
const UNREADY: Duration = Duration::from_secs(5);

/// A frame on its way: all but its seq is known.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) kind: Kind,
    pub(super) id: RecordId,
    /// As [`super::frame::encode`] makes it.
    pub(super) buffer: Vec<u8>,
}

/// A frame and who waits for it.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) frame: Frame,
    pub(super) ticket: Arc<Ticket>,
}

#[derive(Debug)]
pub(super) struct Front {
    bytes_max: u64,
    state: Mutex<State>,
    /// Whether nobody writes, for those who spin.
    is_free: AtomicBool,
    /// For the journal's thread.
    work: Condvar,
    turn_over: Condvar,
    /// Rung for the reader when something was appended.
    pub(super) bell: Bell,
}

#[expect(clippy::struct_excessive_bools, reason = "each says who must be woken")]
#[derive(Debug)]
pub(super) struct State {
    told: Told,
    /// Whether somebody has the turn to write, and how many turns there were.
    is_busy: bool,
    turns: u64,
    /// When the journal's thread saw for the second time that it is the same turn: who appends reads no clock.
    stuck_since: Option<Instant>,
    slow_until: Option<Instant>,
    queue: VecDeque<Waiting>,
    queue_bytes: usize,
    /// Whether the journal's thread looks at the turns of others.
    is_watched: bool,
    thread_sleeps: bool,
    /// Somebody waits for the end of a turn.
    is_awaited: bool,
    is_closing: bool,
}

/// What the writer tells of itself at the end of each turn.
#[derive(Clone, Debug)]
pub(super) struct Told {
    /// The position after the last frame.
    pub(super) end: Position,
    /// Bytes of all segments.
    pub(super) bytes: u64,
    /// Bytes ever appended by this process.
    pub(super) appended_bytes: u64,
    /// Why no intent is taken.
    pub(super) failure: Option<String>,
}

impl Front {
    pub(super) fn new(bytes_max: u64, told: Told) -> Self {
        let state = State {
            told,
            is_busy: false,
            turns: 0,
            stuck_since: None,
            slow_until: None,
            queue: VecDeque::new(),
            queue_bytes: 0,
            is_watched: false,
            thread_sleeps: false,
            is_awaited: false,
            is_closing: false,
        };
        Self {
            bytes_max,
            state: Mutex::new(state),
            is_free: AtomicBool::new(true),
            work: Condvar::new(),
            turn_over: Condvar::new(),
            bell: Bell::default(),
        }
    }

    /// Begins the caller's turn, which has the lock that `take` gives; or lets `frame` wait where that is not to be had
    /// within the time of a few writes.
    pub(super) fn begin_or_wait<T>(&self, frame: Frame, take: impl Fn() -> Option<T>) -> Result<Turn<T>, JournalError> {
        let mut begun = None;
        let mut state = self.state();
        loop {
            if state.may_write_inline()
                && let Some(taken) = take()
            {
                self.begin(&mut state);
                if !std::mem::replace(&mut state.is_watched, true) {
                    self.wake_thread(&mut state);
                }
                return Ok(Turn::Taken(taken, frame));
            }
            let begun = *begun.get_or_insert_with(Instant::now);
            if !state.may_write_inline() || state.stuck_since.is_some() || begun.elapsed() >= SPIN {
                return self.enqueue(&mut state, frame).map(|ticket| Turn::Waits(At::Waiting(ticket)));
            }
            drop(state);
            while !self.is_free.load(Ordering::Acquire) && begun.elapsed() < SPIN {
                std::hint::spin_loop();
            }
            state = self.state();
        }
    }

    /// Notes that the caller, who has the writer's lock, has the turn.
    pub(super) fn has_begun(&self) {
        self.begin(&mut self.state());
    }

    fn begin(&self, state: &mut State) {
        state.is_busy = true;
        state.turns = state.turns.wrapping_add(1);
        self.is_free.store(false, Ordering::Relaxed);
    }

    /// Ends the turn: `told` is what came of it. `unlock` lets go of the writer's lock.
    pub(super) fn end_turn(&self, told: Told, unlock: impl FnOnce()) {
        let mut state = self.state();
        let has_appended = state.told.end != told.end;
        state.told = told;
        state.is_busy = false;
        if state.stuck_since.take().is_some_and(|since| since.elapsed() >= SLOW) {
            state.slow_until = Instant::now().checked_add(AVOID_SLOW);
        }
        // Under this lock too: who sees that nobody writes finds the writer's open.
        unlock();
        self.is_free.store(true, Ordering::Release);
        if !state.queue.is_empty() {
            self.wake_thread(&mut state);
        }
        if std::mem::take(&mut state.is_awaited) {
            self.turn_over.notify_all();
        }
        drop(state);
        if has_appended {
            self.bell.ring();
        }
    }

    /// Lets a frame wait; an intent only where it would be taken and the queue is short.
    fn enqueue(&self, state: &mut State, frame: Frame) -> Result<Arc<Ticket>, JournalError> {
        let bytes = state.queue_bytes.saturating_add(frame.buffer.len());
        if frame.kind != Kind::Record {
            let why = if let Some(why) = &state.told.failure {
                Some(why.clone())
            } else if state.queue.len() >= QUEUE_FRAMES_MAX || bytes > QUEUE_BYTES_MAX {
                Some(format!("the disk does not take its writes, {} wait already", state.queue.len()))
            } else {
                self.is_full(state.told.bytes, bytes)
            };
            if let Some(why) = why {
                return Err(JournalError::Refused { why });
            }
        }
        let ticket = Arc::new(Ticket::default());
        state.queue_bytes = bytes;
        state.queue.push_back(Waiting { frame, ticket: Arc::clone(&ticket) });
        if !state.is_busy || !state.is_watched {
            self.wake_thread(state);
        }
        Ok(ticket)
    }

    /// The next frames in their order, as many as make one write.
    pub(super) fn take_batch(&self) -> Vec<Waiting> {
        let mut state = self.state();
        let (mut count, mut bytes) = (0_usize, 0_usize);
        for waiting in &state.queue {
            let with_it = bytes.saturating_add(waiting.frame.buffer.len());
            if count > 0 && with_it > BATCH_BYTES {
                break;
            }
            (count, bytes) = (count.saturating_add(1), with_it);
        }
        state.queue_bytes = state.queue_bytes.saturating_sub(bytes);
        state.queue.drain(..count).collect()
    }

    /// Why `more` bytes beside `held` are too many.
    pub(super) fn is_full(&self, held: u64, more: usize) -> Option<String> {
        let bytes_max = self.bytes_max;
        (held.saturating_add(more as u64) > bytes_max).then(|| {
            format!(
                "it holds {held} bytes that the ledger has not taken, and `ledger.journal_bytes_max` is {bytes_max}"
            )
        })
    }

    /// The position after the last frame.
    pub(super) fn end(&self) -> Position {
        self.state().told.end
    }

    pub(super) fn bytes(&self) -> u64 {
        self.state().told.bytes
    }

    pub(super) fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    pub(super) fn appended_bytes(&self) -> u64 {
        self.state().told.appended_bytes
    }

    /// Frames that wait for the disk.
    pub(super) fn queued(&self) -> usize {
        self.state().queue.len()
    }

    /// Why no intent is taken now.
    pub(super) fn failure(&self) -> Option<String> {
        let state = self.state();
        let told = state.told.failure.clone();
        told.or_else(|| self.is_full(state.told.bytes, 0)).or_else(|| {
            let stuck = state.stuck_since?.elapsed();
            if stuck < UNREADY {
                return None;
            }
            Some(format!("the disk has not taken a write of the journal for {} s", stuck.as_secs()))
        })
    }

    /// Blocks until nothing waits and nobody writes, for at most `timeout`.
    pub(super) fn drain(&self, timeout: Duration) {
        let begun = Instant::now();
        let mut state = self.state();
        while state.is_busy || !state.queue.is_empty() {
            let left = timeout.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return;
            }
            state.is_awaited = true;
            state = self.turn_over.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Tells the journal's thread to end once nothing waits.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.is_closing = true;
        self.wake_thread(&mut state);
    }

    fn wake_thread(&self, state: &mut State) {
        if std::mem::take(&mut state.thread_sleeps) {
            self.work.notify_one();
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For the journal's thread: sleeps until there may be something to do, for at most `timeout`. `None`: until there is.
    pub(super) fn sleep<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        timeout: Option<Duration>,
    ) -> MutexGuard<'a, State> {
        state.thread_sleeps = true;
        let mut state = if let Some(timeout) = timeout {
            self.work.wait_timeout(state, timeout).unwrap_or_else(PoisonError::into_inner).0
        } else {
            state.is_watched = false;
            self.work.wait(state).unwrap_or_else(PoisonError::into_inner)
        };
        (state.thread_sleeps, state.is_watched) = (false, true);
        state
    }
}

/// What becomes of a frame.
#[derive(Debug)]
pub(super) enum Turn<T> {
    /// It is written now, by the caller.
    Taken(T, Frame),
    Waits(At),
}

impl State {
    /// Whether who appends may write himself. Not in front of what waits: a call's intent comes before its record.
    fn may_write_inline(&mut self) -> bool {
        if self.slow_until.is_some_and(|until| Instant::now() >= until) {
            self.slow_until = None;
        }
        self.queue.is_empty() && self.slow_until.is_none()
    }

    /// Looks whether it is the turn that was seen before, which is stuck then. `seen` is for the next look.
    pub(super) fn is_stuck(&mut self, seen: &mut u64) -> bool {
        let was_seen = std::mem::replace(seen, self.turns) == self.turns;
        if self.is_busy && was_seen && self.stuck_since.is_none() {
            self.stuck_since = Some(Instant::now());
        }
        self.stuck_since.is_some()
    }

    /// How many turns there were, and whether one is under way.
    pub(super) fn turns(&self) -> (u64, bool) {
        (self.turns, self.is_busy)
    }

    pub(super) fn has_queue(&self) -> bool {
        !self.queue.is_empty()
    }

    pub(super) fn is_closing(&self) -> bool {
        self.is_closing
    }
}
