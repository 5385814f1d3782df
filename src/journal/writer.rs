//! Writer: appends frames to the newest segment, and keeps account of the segments before it.
//!
//! Who appends has the one lock for a checksum and a `write`. Where it is not to be had at once, because a `write` takes
//! its time, the frame waits for the journal's own thread ([`super::queue`]), and nobody else's thread stands still. What
//! is done for the files beside appending is in `upkeep`.

mod upkeep;

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::task::Waker;
use std::time::{Duration, Instant};

use super::ballast::Ballast;
use super::frame::{self, Kind};
use super::front::{Frame, Front, Told, Turn, Waiting};
use super::recover::Found;
use super::segment::{self, Header};
use super::{At, JournalError, Position};
use crate::ids::{NodeId, RecordId};

/// How long a segment that cannot be made is left alone; the one before grows on.
const ROTATE_AGAIN: Duration = Duration::from_secs(1);

/// The appending end.
#[derive(Debug)]
pub(super) struct Writer {
    directory: PathBuf,
    node: NodeId,
    segment_bytes_max: u64,
    /// How long segments are kept that nobody needs.
    keep: Duration,
    ballast: Ballast,
    /// Held over system calls: not for those who serve calls, but to append.
    active: Mutex<Active>,
    pub(super) front: Front,
    /// Up to where everything is on the disk, packed.
    lasting: AtomicU64,
    /// Woken again and again while a `write` is stuck.
    pub(super) stalled: OnceLock<Waker>,
}

#[derive(Debug)]
pub(super) struct Active {
    file: Arc<File>,
    end: Position,
    /// Bytes ever appended by this process.
    appended_bytes: u64,
    next_seq: u64,
    /// Calls without a record, and the segment of their intent.
    open: HashMap<RecordId, u64>,
    /// Segments of intents that a later segment ends or renews, and where that does: until that is on the disk, the
    /// intent alone tells of the call.
    ended_later: Vec<(u64, Position)>,
    finished: Finished,
    /// Files that the next sync must cover, beside the active one.
    to_sync: Vec<Arc<File>>,
    rotate_not_before: Option<Instant>,
    /// Intents are refused; the sync thread looks whether that can end.
    refusing: Option<String>,
    /// Something else than space failed: what is there must be read back before intents are taken again.
    is_suspect: bool,
    /// The files are no longer where they are appended to; the sync thread looks whether that is mended.
    misplaced: Option<String>,
    /// The applier says why no call can be taken.
    objection: Option<String>,
    /// Intents are refused until the journal is opened again; records are still taken.
    refusing_for_good: Option<String>,
    /// A torn frame could not be taken back: nothing may follow it until that is done.
    failed: Option<String>,
}

/// Finished segments by number, with their lengths and the sum of these.
#[derive(Clone, Debug, Default)]
struct Finished {
    lengths: BTreeMap<u64, u64>,
    bytes: u64,
}

/// A frame that the kernel has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written {
    pub(super) end: Position,
    /// A record's; else 0.
    pub(super) seq: u64,
}

/// How a writer is made.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) directory: PathBuf,
    pub(super) node: NodeId,
    pub(super) segment_bytes_max: u64,
    pub(super) bytes_max: u64,
    pub(super) keep: Duration,
    pub(super) next_seq: u64,
}

impl Writer {
    /// Begins a segment behind those found.
    pub(super) fn begin(settings: Settings, found: Found) -> Result<Self, JournalError> {
        let Settings { directory, node, segment_bytes_max, bytes_max, keep, next_seq } = settings;
        let ballast = Ballast::new(&directory);
        let number = found.newest.saturating_add(1);
        let header = Header { node: node.clone(), first_seq: next_seq };
        let made = create_segment(&directory, number, &header).or_else(|error| {
            // A full disk: what the ballast keeps is for this too.
            ballast.release();
            if is_full(&error) { create_segment(&directory, number, &header) } else { Err(error) }
        });
        let failed = |source| JournalError::Io { what: "write", path: segment::path(&directory, number), source };
        let file = Arc::new(made.map_err(failed)?);
        file.sync_all().map_err(failed)?;
        segment::sync_directory(&directory).map_err(failed)?;
        let calls = found.open.len();
        let filled = if ballast.is_short_for(calls) {
            ballast.write_anew(calls).and_then(|()| ballast.put_in_place())
        } else {
            Ok(())
        };
        let refusing = filled.err().map(|error| why_not(&error));
        let active = Active {
            file,
            end: Position { segment: number, offset: segment::HEADER_BYTES as u64 },
            appended_bytes: 0,
            next_seq,
            open: found.open,
            ended_later: Vec::new(),
            finished: Finished::of(found.segments),
            to_sync: Vec::new(),
            rotate_not_before: None,
            refusing,
            is_suspect: false,
            misplaced: None,
            objection: None,
            refusing_for_good: None,
            failed: None,
        };
        let front = Front::new(bytes_max, active.told());
        // What was found was made lasting before.
        let lasting = AtomicU64::new(active.end.packed());
        let active = Mutex::new(active);
        let stalled = OnceLock::new();
        Ok(Self { directory, node, segment_bytes_max, keep, ballast, active, front, lasting, stalled })
    }

    /// Appends an intent or a record; where another's `write` takes its time, it waits for the journal's thread.
    pub(super) fn append(&self, kind: Kind, id: RecordId, buffer: Vec<u8>) -> Result<At, JournalError> {
        check_length(&buffer)?;
        let turn = self.front.begin_or_wait(Frame { kind, id, buffer }, || match self.active.try_lock() {
            Ok(active) => Some(active),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        })?;
        match turn {
            Turn::Waits(at) => Ok(at),
            Turn::Taken(active, mut frame) => {
                let mut active = Locked { front: &self.front, active: Some(active) };
                self.append_now(&mut active, &mut frame).map(At::Written)
            }
        }
    }

    fn append_now(&self, active: &mut Active, frame: &mut Frame) -> Result<Written, JournalError> {
        match frame.kind {
            Kind::Intent => self.append_intent(active, frame.id, &mut frame.buffer),
            Kind::Record => self.append_record(active, frame.id, &mut frame.buffer),
            Kind::Progress | Kind::Gap => {
                frame::seal(&mut frame.buffer, frame.kind, 0);
                self.append_unless_refusing(active, &frame.buffer)
            }
        }
    }

    /// Appends what waits, with one `write` if that will do, and settles its tickets. Blocks.
    pub(super) fn write_queue(&self) {
        let mut active = self.active();
        let mut frames = self.front.take_batch();
        let outcomes = match self.append_as_one(&mut active, &mut frames) {
            Some(written) => written.into_iter().map(Ok).collect(),
            // Each meets its own fate.
            None => {
                frames.iter_mut().map(|waiting| self.append_now(&mut active, &mut waiting.frame)).collect::<Vec<_>>()
            }
        };
        drop(active);
        for (Waiting { frame, ticket }, outcome) in frames.into_iter().zip(outcomes) {
            if let (Kind::Record, Err(error)) = (frame.kind, &outcome) {
                // Perhaps nobody is there any more to be told.
                tracing::error!(
                    error = error as &dyn std::error::Error,
                    "a call that waited for the disk could not be recorded; it stays an intent and becomes an orphan"
                );
            }
            ticket.settle(outcome);
        }
    }

    /// `None` where that does not work; then nothing was appended.
    fn append_as_one(&self, active: &mut Active, frames: &mut [Waiting]) -> Option<Vec<Written>> {
        let bytes = frames.iter().fold(0_usize, |sum, waiting| sum.saturating_add(waiting.frame.buffer.len()));
        if active.why_not().is_some() || self.front.is_full(active.bytes(), bytes).is_some() {
            return None;
        }
        self.rotate_if_full(active, bytes);
        let (mut end, mut next_seq) = (active.end, active.next_seq);
        let (mut whole, mut written) = (Vec::with_capacity(bytes), Vec::with_capacity(frames.len()));
        for Waiting { frame, .. } in &mut *frames {
            let (number, seq) = match frame.kind {
                Kind::Record => (next_seq, next_seq),
                Kind::Intent => (self.lasting.load(Ordering::Relaxed), 0),
                Kind::Progress | Kind::Gap => (0, 0),
            };
            next_seq = next_seq.saturating_add(u64::from(frame.kind == Kind::Record));
            frame::seal(&mut frame.buffer, frame.kind, number);
            whole.extend_from_slice(&frame.buffer);
            end.offset = end.offset.saturating_add(frame.buffer.len() as u64);
            written.push(Written { end, seq });
        }
        active.write(&whole).ok()?;
        active.next_seq = next_seq;
        for Waiting { frame, .. } in frames {
            match frame.kind {
                Kind::Intent => active.begins(frame.id),
                Kind::Record => active.ends(&frame.id),
                Kind::Progress | Kind::Gap => {}
            }
        }
        Some(written)
    }

    /// Appends an intent, unless the space that is left is kept for records.
    fn append_intent(&self, active: &mut Active, id: RecordId, buffer: &mut [u8]) -> Result<Written, JournalError> {
        frame::seal(buffer, Kind::Intent, self.lasting.load(Ordering::Relaxed));
        let written = self.append_unless_refusing(active, buffer)?;
        active.begins(id);
        Ok(written)
    }

    /// Appends a mark of progress, unless intents are refused, or its call is over or was never open here. Blocks.
    pub(super) fn append_progress(&self, id: RecordId, buffer: &mut [u8]) -> Result<(), JournalError> {
        check_length(buffer)?;
        frame::seal(buffer, Kind::Progress, 0);
        let mut active = self.active();
        if active.open.contains_key(&id) {
            self.append_unless_refusing(&mut active, buffer)?;
        }
        Ok(())
    }

    /// Appends a gap, unless intents are refused. Blocks.
    pub(super) fn append_gap(&self, buffer: &mut [u8]) -> Result<Written, JournalError> {
        check_length(buffer)?;
        frame::seal(buffer, Kind::Gap, 0);
        self.append_unless_refusing(&mut self.active(), buffer)
    }

    fn append_unless_refusing(&self, active: &mut Active, buffer: &[u8]) -> Result<Written, JournalError> {
        if let Some(why) = active.why_not() {
            return Err(JournalError::Refused { why: why.clone() });
        }
        if let Some(why) = self.front.is_full(active.bytes(), buffer.len()) {
            return Err(JournalError::Refused { why });
        }
        self.rotate_if_full(active, buffer.len());
        if let Err(error) = active.write(buffer) {
            active.has_failed(&error);
            return Err(self.refused(active, error));
        }
        Ok(Written { end: active.end, seq: 0 })
    }

    /// Appends a record, on the ballast's space if there is no other. Gives it its seq.
    fn append_record(&self, active: &mut Active, id: RecordId, buffer: &mut [u8]) -> Result<Written, JournalError> {
        self.rotate_if_full(active, buffer.len());
        let seq = active.next_seq;
        frame::seal(buffer, Kind::Record, seq);
        if let Err(error) = active.write(buffer) {
            active.has_failed(&error);
            // For a record there is the space set aside, and another file.
            let way_out = if is_full(&error) {
                self.ballast.release();
                Ok(())
            } else if active.failed.is_none() {
                self.rotate(active)
            } else {
                Err(error)
            };
            if let Err(error) = way_out.and_then(|()| active.write(buffer)) {
                active.has_failed(&error);
                return Err(self.refused(active, error));
            }
        }
        active.next_seq = seq.saturating_add(1);
        active.ends(&id);
        Ok(Written { end: active.end, seq })
    }

    /// The position after the last frame.
    pub(super) fn end(&self) -> Position {
        self.front.end()
    }

    /// Why no intent is taken now.
    pub(super) fn failure(&self) -> Option<String> {
        self.front.failure()
    }

    /// Refuses intents while there is an objection to taking calls.
    pub(super) fn object(&self, why: Option<String>) {
        self.active().objection = why;
    }

    /// Refuses intents while the files are not where they are appended to.
    pub(super) fn misplaced(&self, why: Option<String>) {
        self.active().misplaced = why;
    }

    /// Refuses intents from now on. Records still go to the kernel: some may last.
    pub(super) fn refuse_for_good(&self, why: &str) {
        self.active().refusing_for_good = Some(why.to_owned());
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Whether there is no space and calls are in flight, whose records need what is left.
    pub(super) fn needs_all_space(&self) -> bool {
        let active = self.active();
        active.refusing.is_some() && !active.open.is_empty()
    }

    /// Blocks for as long as another has the turn.
    pub(super) fn active(&self) -> Locked<'_> {
        let active = self.active.lock().unwrap_or_else(PoisonError::into_inner);
        self.front.has_begun();
        Locked { front: &self.front, active: Some(active) }
    }

    fn rotate_if_full(&self, active: &mut Active, bytes: usize) {
        let is_empty = active.end.offset <= segment::HEADER_BYTES as u64;
        if is_empty || active.end.offset.saturating_add(bytes as u64) <= self.segment_bytes_max {
            return;
        }
        if active.failed.is_some() || active.rotate_not_before.is_some_and(|not_before| Instant::now() < not_before) {
            return;
        }
        if let Err(error) = self.rotate(active) {
            let segment = active.end.segment;
            tracing::warn!(error = %error, segment, "cannot begin another journal segment, this one grows on");
            active.rotate_not_before = Instant::now().checked_add(ROTATE_AGAIN);
        }
    }

    /// Goes on in a new segment.
    fn rotate(&self, active: &mut Active) -> io::Result<()> {
        let number = active.end.segment.saturating_add(1);
        let header = Header { node: self.node.clone(), first_seq: active.next_seq };
        let file = create_segment(&self.directory, number, &header)?;
        let finished = std::mem::replace(&mut active.file, Arc::new(file));
        // Synced by the thread for it: nobody's call waits for 64 MiB.
        active.to_sync.push(finished);
        let Position { segment, offset } = active.end;
        active.finished.insert(segment, offset);
        active.end = Position { segment: number, offset: segment::HEADER_BYTES as u64 };
        active.rotate_not_before = None;
        Ok(())
    }

    fn refused(&self, active: &Active, source: io::Error) -> JournalError {
        match &active.failed {
            Some(why) => JournalError::Refused { why: why.clone() },
            None => {
                JournalError::Io { what: "write", path: segment::path(&self.directory, active.end.segment), source }
            }
        }
    }
}

/// The lock, and with it the turn. What came of it is told at its end.
pub(super) struct Locked<'a> {
    front: &'a Front,
    active: Option<MutexGuard<'a, Active>>,
}

impl Deref for Locked<'_> {
    type Target = Active;

    #[expect(clippy::expect_used, reason = "only drop takes it")]
    fn deref(&self) -> &Active {
        self.active.as_ref().expect("the lock is held until the turn ends")
    }
}

impl DerefMut for Locked<'_> {
    #[expect(clippy::expect_used, reason = "only drop takes it")]
    fn deref_mut(&mut self) -> &mut Active {
        self.active.as_mut().expect("the lock is held until the turn ends")
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        let Some(active) = self.active.take() else { return };
        let told = active.told();
        self.front.end_turn(told, || drop(active));
    }
}

impl Finished {
    fn of(lengths: BTreeMap<u64, u64>) -> Self {
        let bytes = lengths.values().fold(0_u64, |sum, bytes| sum.saturating_add(*bytes));
        Self { lengths, bytes }
    }

    fn insert(&mut self, number: u64, bytes: u64) {
        self.lengths.insert(number, bytes);
        self.bytes = self.bytes.saturating_add(bytes);
    }

    fn remove(&mut self, number: u64) -> Option<u64> {
        let bytes = self.lengths.remove(&number)?;
        self.bytes = self.bytes.saturating_sub(bytes);
        Some(bytes)
    }
}

impl Active {
    /// The last frame is the intent of the call `id`, perhaps renewed.
    fn begins(&mut self, id: RecordId) {
        if let Some(before) = self.open.insert(id, self.end.segment) {
            self.ends_later(before);
        }
    }

    /// The last frame is the record of the call `id`.
    fn ends(&mut self, id: &RecordId) {
        if let Some(before) = self.open.remove(id) {
            self.ends_later(before);
        }
    }

    /// Notes that the last frame ends or renews an intent of the segment `before`.
    fn ends_later(&mut self, before: u64) {
        if before < self.end.segment {
            self.ended_later.push((before, self.end));
        }
    }

    /// Bytes of all segments.
    fn bytes(&self) -> u64 {
        self.finished.bytes.saturating_add(self.end.offset)
    }

    fn told(&self) -> Told {
        let Self { end, appended_bytes, .. } = *self;
        Told { end, bytes: self.bytes(), appended_bytes, failure: self.why_not().cloned() }
    }

    /// Why no intent is taken now.
    fn why_not(&self) -> Option<&String> {
        let reasons = [&self.failed, &self.refusing_for_good, &self.misplaced, &self.objection, &self.refusing];
        reasons.into_iter().flatten().next()
    }

    /// An append failed: no intent is taken until the sync thread finds that all is well.
    fn has_failed(&mut self, error: &io::Error) {
        self.refusing = Some(why_not(error));
        self.is_suspect |= !is_full(error);
    }

    /// Nothing can be appended any more.
    #[cfg(test)]
    pub(super) fn break_off(&mut self) {
        self.failed = Some("broken off by a test".to_owned());
    }

    /// Takes back what stands behind the last whole frame.
    fn take_back(&self) -> io::Result<()> {
        let offset = self.end.offset;
        if self.file.metadata().is_ok_and(|metadata| metadata.len() == offset) {
            return Ok(());
        }
        self.file.set_len(offset)
    }

    /// One `write` of a whole frame; takes back what is left of one that failed.
    fn write(&mut self, buffer: &[u8]) -> io::Result<()> {
        if let Some(why) = &self.failed {
            return Err(io::Error::other(why.clone()));
        }
        let offset = self.end.offset;
        let mut written = 0;
        let error = loop {
            let Some(rest) = buffer.get(written..).filter(|rest| !rest.is_empty()) else {
                self.end.offset = offset.saturating_add(written as u64);
                self.appended_bytes = self.appended_bytes.saturating_add(written as u64);
                return Ok(());
            };
            match self.file.write_at(rest, offset.saturating_add(written as u64)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break error,
                Ok(0) => break io::ErrorKind::StorageFull.into(),
                // Seldom less than all of it, and then the rest is told why.
                Ok(bytes) => written = written.saturating_add(bytes),
            }
        };
        if let Err(stuck) = self.take_back() {
            self.failed = Some(format!("half a frame cannot be taken back from the journal: {stuck}"));
            self.is_suspect = true;
        }
        Err(error)
    }
}

/// A new file with its header; taken away again where it cannot be whole.
fn create_segment(directory: &Path, number: u64, header: &Header) -> io::Result<File> {
    let path = segment::path(directory, number);
    let file = File::options().create(true).truncate(true).read(true).write(true).open(&path)?;
    if let Err(error) = file.write_all_at(&header.encode(), 0) {
        // A segment without a header behind the active one would stop every reader.
        fs::remove_file(&path)?;
        return Err(error);
    }
    Ok(file)
}

fn check_length(buffer: &[u8]) -> Result<(), JournalError> {
    if buffer.len().saturating_sub(frame::HEAD_BYTES) > frame::PAYLOAD_BYTES_MAX {
        return Err(JournalError::Refused { why: format!("a frame of {} bytes is too long", buffer.len()) });
    }
    Ok(())
}

/// Whether there is no space, so that the ballast helps, and nothing else is wrong.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn why_not(error: &io::Error) -> String {
    format!("the journal cannot be written: {error}")
}
