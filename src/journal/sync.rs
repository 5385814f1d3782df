//! Sync: one thread that makes appends lasting, many with one fsync, and looks after files and ballast.

use std::fs::File;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::guard::Guard;
use super::runway::{Rate, Runway};
use super::writer::Writer;
use super::{Appended, At, Durability, JournalError, Position};

/// How often the thread looks without being asked: the time after which `process` durability is on the disk too.
const TICK: Duration = Duration::from_secs(1);
/// The same while intents are refused: there may be space again.
const TICK_WHILE_REFUSING: Duration = Duration::from_millis(400);

/// How often a refusal that goes on is said.
const TELL_AGAIN: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    asked: Condvar,
}

#[derive(Debug, Default)]
struct State {
    synced: Position,
    is_asked: bool,
    waiting: Vec<Waker>,
    failure: Option<String>,
    runway: Runway,
    is_stopping: bool,
    has_stopped: bool,
}

/// The thread. Dropping it syncs what is left and waits for its end.
#[derive(Debug)]
pub(super) struct Thread {
    shared: Arc<Shared>,
    handle: Option<JoinHandle<()>>,
}

impl Thread {
    pub(super) fn start(writer: Arc<Writer>, guard: Guard, durability: Durability) -> Result<Self, JournalError> {
        let shared = Arc::new(Shared { state: Mutex::default(), asked: Condvar::new() });
        let path = writer.directory().to_owned();
        let theirs = Arc::clone(&shared);
        let handle = thread::Builder::new()
            .name("journal-sync".to_owned())
            .spawn(move || theirs.run(&writer, guard, durability))
            .map_err(|source| JournalError::Io { what: "start a thread for", path, source })?;
        Ok(Self { shared, handle: Some(handle) })
    }

    pub(super) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    pub(super) fn failure(&self) -> Option<String> {
        self.shared.state().failure.clone()
    }

    /// How fast the journal was appended to in the last minutes.
    pub(super) fn append_rate(&self) -> Option<Rate> {
        self.shared.state().runway.rate()
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.shared.state().is_stopping = true;
        self.shared.asked.notify_one();
        if let Some(handle) = self.handle.take()
            && handle.join().is_err()
        {
            tracing::error!("the journal's sync thread died");
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, writer: &Writer, mut guard: Guard, durability: Durability) {
        let (mut last, mut looked_at) = (Instant::now(), Instant::now());
        let mut told_at: Option<Instant> = None;
        loop {
            let is_stopping = self.wait(writer, last);
            last = Instant::now();
            self.state().runway.sample(last, writer.front.appended_bytes());
            self.sync(writer);
            if is_stopping {
                break;
            }
            if looked_at.elapsed() >= tick(writer) {
                looked_at = last;
                let why = writer.failure();
                look_after(writer, &mut guard);
                told_at = tell(why.or_else(|| writer.failure()), told_at);
                if writer.failure().is_none() {
                    told_at = tell(None, told_at);
                }
            }
            if durability == Durability::Process {
                // Nobody waits: the tick alone decides when.
                self.state().is_asked = false;
            }
        }
        let mut state = self.state();
        state.has_stopped = true;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Waits until somebody asks or a tick has passed since `last`. True: it is time to stop.
    fn wait(&self, writer: &Writer, last: Instant) -> bool {
        loop {
            // Asked anew and without our lock: a refusal may begin at any time, and an append may hold the writer's.
            let left = tick(writer).saturating_sub(last.elapsed());
            let mut state = self.state();
            if !state.is_asked && !state.is_stopping && !left.is_zero() {
                let left = left.min(TICK_WHILE_REFUSING);
                state = self.asked.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            }
            if state.is_asked || state.is_stopping || left.is_zero() {
                state.is_asked = false;
                return state.is_stopping;
            }
        }
    }

    fn sync(&self, writer: &Writer) {
        let (synced, has_failed) = {
            let state = self.state();
            (state.synced, state.failure.is_some())
        };
        if has_failed {
            return;
        }
        let Some(to_sync) = writer.to_sync(synced) else { return };
        // Not to be opened, the folder was deleted or closed to us: nothing failed to be written, and the guard sees to it.
        let Ok(directory) = File::open(writer.directory()) else { return };
        let outcome = to_sync.files.iter().try_for_each(|file| file.sync_data()).and_then(|()| {
            // A segment begun since: its name must last as well.
            if to_sync.end.segment == synced.segment { Ok(()) } else { directory.sync_all() }
        });
        let failure = outcome.err().map(|error| {
            tracing::error!(error = %error, "a sync of the journal failed, no call is taken any more");
            format!("the journal could not be synced: {error}; restart tokenmeter")
        });
        if let Some(why) = &failure {
            // Without our lock, which serving threads take: the writer's may be held by one that is stuck.
            writer.refuse_for_good(why);
        }
        let mut state = self.state();
        match failure {
            None => state.synced = to_sync.end,
            Some(why) => state.failure = Some(why),
        }
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
    }
}

fn tick(writer: &Writer) -> Duration {
    if writer.failure().is_some() { TICK_WHILE_REFUSING } else { TICK }
}

/// Says that calls are refused, now and then while they are, and when they are not any more.
fn tell(why: Option<String>, told_at: Option<Instant>) -> Option<Instant> {
    match (why, told_at) {
        (Some(why), told_at) if told_at.is_none_or(|at| at.elapsed() >= TELL_AGAIN) => {
            tracing::error!(why, "the journal takes no calls");
            Some(Instant::now())
        }
        (None, Some(_)) => {
            tracing::info!("the journal takes calls again");
            None
        }
        (_, told_at) => told_at,
    }
}

/// Looks whether everything is where it should be, and makes it so where that is possible.
fn look_after(writer: &Writer, guard: &mut Guard) {
    writer.misplaced(guard.look(writer).err().map(|error| super::in_full(&error)));
    if writer.is_suspect() {
        writer.reopen();
    }
    if writer.is_refusing() || writer.is_ballast_short() {
        writer.recover_space();
    }
}

/// Resolves when the kernel has a frame and, where that is asked for, a sync covers it.
#[derive(Debug)]
pub(super) struct Synced {
    shared: Option<Arc<Shared>>,
    at: At,
}

impl Synced {
    /// `shared` is `None` where the kernel's word is enough.
    pub(super) fn new(shared: Option<Arc<Shared>>, appended: Appended) -> Self {
        Self { shared, at: appended.0 }
    }
}

impl Future for Synced {
    type Output = Result<(), JournalError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let written = match &self.at {
            At::Written(written) => *written,
            At::Waiting(ticket) => ready!(ticket.poll(context))?,
        };
        self.at = At::Written(written);
        let Some(shared) = &self.shared else { return Poll::Ready(Ok(())) };
        let mut state = shared.state();
        if state.synced >= written.end {
            return Poll::Ready(Ok(()));
        }
        if let Some(why) = &state.failure {
            return Poll::Ready(Err(JournalError::Refused { why: why.clone() }));
        }
        if state.has_stopped {
            return Poll::Ready(Err(JournalError::Refused { why: "the journal was closed".to_owned() }));
        }
        state.waiting.push(context.waker().clone());
        if !state.is_asked {
            state.is_asked = true;
            shared.asked.notify_one();
        }
        Poll::Pending
    }
}
