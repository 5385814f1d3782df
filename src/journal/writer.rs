//! Writer: appends frames to the newest segment, and keeps account of the segments before it.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::ballast::Ballast;
use super::frame::{self, Kind};
use super::recover::Found;
use super::segment::{self, Header};
use super::{Appended, JournalError, Position};
use crate::ids::{NodeId, RecordId};

/// How long a segment that cannot be made is left alone; the one before grows on.
const ROTATE_AGAIN: Duration = Duration::from_secs(1);

/// The appending end. One lock, held for a checksum and a `write`.
#[derive(Debug)]
pub(super) struct Writer {
    directory: PathBuf,
    node: NodeId,
    segment_bytes_max: u64,
    ballast: Ballast,
    active: Mutex<Active>,
    /// Up to where everything is on the disk, packed.
    lasting: AtomicU64,
}

#[derive(Debug)]
struct Active {
    file: Arc<File>,
    end: Position,
    next_seq: u64,
    /// Calls without a record, and the segment of their intent.
    open: HashMap<RecordId, u64>,
    /// Segments of intents that a later segment ends or renews, and where that does: until that is on the disk, the
    /// intent alone tells of the call.
    ended_later: Vec<(u64, Position)>,
    /// Finished segments by number, with their lengths.
    finished: BTreeMap<u64, u64>,
    /// Files that the next sync must cover, beside the active one.
    to_sync: Vec<Arc<File>>,
    rotate_not_before: Option<Instant>,
    /// Intents are refused; the sync thread looks whether that can end.
    refusing: Option<String>,
    /// Intents are refused until the journal is opened again; records are still taken.
    refusing_for_good: Option<String>,
    /// A torn frame could not be taken back: nothing may follow it until the journal is opened again.
    failed: Option<String>,
}

/// What a sync has to cover.
#[derive(Debug)]
pub(super) struct ToSync {
    pub(super) files: Vec<Arc<File>>,
    pub(super) end: Position,
}

impl Writer {
    /// Begins a segment behind those found.
    pub(super) fn begin(
        directory: PathBuf,
        node: NodeId,
        segment_bytes_max: u64,
        next_seq: u64,
        found: Found,
    ) -> Result<Self, JournalError> {
        let ballast = Ballast::new(&directory);
        let number = found.newest.saturating_add(1);
        let header = Header { node: node.clone(), first_seq: next_seq };
        let made = create_segment(&directory, number, &header).or_else(|error| {
            // A full disk: what the ballast keeps is for this too.
            ballast.release();
            if error.kind() == io::ErrorKind::StorageFull {
                create_segment(&directory, number, &header)
            } else {
                Err(error)
            }
        });
        let failed = |source| JournalError::Io { what: "write", path: segment::path(&directory, number), source };
        let file = Arc::new(made.map_err(failed)?);
        file.sync_all().map_err(failed)?;
        segment::sync_directory(&directory).map_err(failed)?;
        let refusing = ballast.fill_if_missing().err().map(|error| why_not(&error));
        let active = Active {
            file,
            end: Position { segment: number, offset: segment::HEADER_BYTES as u64 },
            next_seq,
            open: found.open,
            ended_later: Vec::new(),
            finished: found.segments,
            to_sync: Vec::new(),
            rotate_not_before: None,
            refusing,
            refusing_for_good: None,
            failed: None,
        };
        // What was found was made lasting before.
        let lasting = AtomicU64::new(active.end.packed());
        Ok(Self { directory, node, segment_bytes_max, ballast, active: Mutex::new(active), lasting })
    }

    /// Appends an intent, unless the space that is left is kept for records.
    pub(super) fn append_intent(&self, id: RecordId, buffer: &mut [u8]) -> Result<Appended, JournalError> {
        check_length(buffer)?;
        frame::seal(buffer, Kind::Intent, self.lasting.load(Ordering::Relaxed));
        let mut active = self.active();
        if let Some(why) = active.refusing_for_good.as_ref().or(active.refusing.as_ref()) {
            return Err(JournalError::Refused { why: why.clone() });
        }
        self.rotate_if_full(&mut active, buffer.len());
        if let Err(error) = active.write(buffer) {
            active.refusing = Some(why_not(&error));
            return Err(self.refused(&active, error));
        }
        let end = active.end;
        if let Some(before) = active.open.insert(id, end.segment) {
            active.ends_later(before);
        }
        Ok(Appended(end))
    }

    /// Appends a record, on the ballast's space if there is no other. Gives it its seq.
    pub(super) fn append_record(&self, id: RecordId, buffer: &mut [u8]) -> Result<(Appended, u64), JournalError> {
        check_length(buffer)?;
        let mut active = self.active();
        self.rotate_if_full(&mut active, buffer.len());
        let seq = active.next_seq;
        frame::seal(buffer, Kind::Record, seq);
        if let Err(error) = active.write(buffer) {
            active.refusing = Some(why_not(&error));
            if error.kind() != io::ErrorKind::StorageFull {
                return Err(self.refused(&active, error));
            }
            self.ballast.release();
            active.write(buffer).map_err(|error| self.refused(&active, error))?;
        }
        active.next_seq = seq.saturating_add(1);
        if let Some(before) = active.open.remove(&id) {
            active.ends_later(before);
        }
        Ok((Appended(active.end), seq))
    }

    /// The position after the last frame.
    pub(super) fn end(&self) -> Position {
        self.active().end
    }

    /// Why no intent is taken now.
    pub(super) fn failure(&self) -> Option<String> {
        let active = self.active();
        [&active.failed, &active.refusing_for_good, &active.refusing].into_iter().flatten().next().cloned()
    }

    /// Refuses intents from now on. Records still go to the kernel: some may last.
    pub(super) fn refuse_for_good(&self, why: &str) {
        self.active().refusing_for_good = Some(why.to_owned());
    }

    /// Bytes of all segments.
    pub(super) fn bytes(&self) -> u64 {
        let active = self.active();
        active.finished.values().fold(active.end.offset, |sum, bytes| sum.saturating_add(*bytes))
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// What a sync has to cover that the last one, up to `synced`, did not.
    pub(super) fn to_sync(&self, synced: Position) -> Option<ToSync> {
        let mut active = self.active();
        if active.end <= synced && active.to_sync.is_empty() {
            return None;
        }
        let mut files = std::mem::take(&mut active.to_sync);
        files.push(Arc::clone(&active.file));
        Some(ToSync { files, end: active.end })
    }

    /// Whether intents are refused until there is space again.
    pub(super) fn is_refusing(&self) -> bool {
        let active = self.active();
        active.refusing.is_some() && active.failed.is_none()
    }

    /// Takes intents again if the ballast can be written anew. Slow: not for the data path.
    pub(super) fn recover_space(&self) {
        let written = self.ballast.write_anew();
        let mut active = self.active();
        // Under the lock: a record that needed the space has taken the new ballast too, and then it is not in place.
        match written.and_then(|()| self.ballast.put_in_place()) {
            Ok(()) => active.refusing = None,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => active.refusing = Some(why_not(&error)),
        }
    }

    /// Notes that everything up to `position` is on the disk.
    pub(super) fn is_lasting(&self, position: Position) {
        self.lasting.store(position.packed(), Ordering::Relaxed);
    }

    /// Deletes the segments before number `end`, up to the first that an open call still needs.
    pub(super) fn remove_before(&self, end: u64) -> Result<(), JournalError> {
        loop {
            let number = {
                let mut active = self.active();
                let lasting = Position::unpacked(self.lasting.load(Ordering::Relaxed));
                active.ended_later.retain(|(_, end)| *end > lasting);
                let Some(oldest) = active.finished.keys().next().copied().filter(|oldest| *oldest < end) else {
                    return Ok(());
                };
                let mut needed = active.open.values().chain(active.ended_later.iter().map(|(segment, _)| segment));
                if needed.any(|segment| *segment <= oldest) {
                    return Ok(());
                }
                oldest
            };
            let path = segment::path(&self.directory, number);
            let failed = |source| JournalError::Io { what: "remove", path: path.clone(), source };
            fs::remove_file(&path).or_else(only_if_there).map_err(failed)?;
            // One by one: an intent that came back after a power cut without its record would be settled twice.
            segment::sync_directory(&self.directory).map_err(failed)?;
            self.active().finished.remove(&number);
        }
    }

    fn active(&self) -> MutexGuard<'_, Active> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rotate_if_full(&self, active: &mut Active, bytes: usize) {
        let is_empty = active.end.offset <= segment::HEADER_BYTES as u64;
        if is_empty || active.end.offset.saturating_add(bytes as u64) <= self.segment_bytes_max {
            return;
        }
        if active.failed.is_some() || active.rotate_not_before.is_some_and(|not_before| Instant::now() < not_before) {
            return;
        }
        let number = active.end.segment.saturating_add(1);
        let header = Header { node: self.node.clone(), first_seq: active.next_seq };
        match create_segment(&self.directory, number, &header) {
            Ok(file) => {
                let finished = std::mem::replace(&mut active.file, Arc::new(file));
                // Synced by the thread for it: nobody's call waits for 64 MiB.
                active.to_sync.push(finished);
                let Position { segment, offset } = active.end;
                active.finished.insert(segment, offset);
                active.end = Position { segment: number, offset: segment::HEADER_BYTES as u64 };
                active.rotate_not_before = None;
            }
            Err(error) => {
                tracing::warn!(error = %error, segment = number, "cannot begin a journal segment, the last one grows on");
                active.rotate_not_before = Instant::now().checked_add(ROTATE_AGAIN);
            }
        }
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

impl Active {
    /// Notes that the last frame ends or renews an intent of the segment `before`.
    fn ends_later(&mut self, before: u64) {
        if before < self.end.segment {
            self.ended_later.push((before, self.end));
        }
    }

    /// One `write` of a whole frame; takes back what a shorter one left.
    fn write(&mut self, buffer: &[u8]) -> io::Result<()> {
        if let Some(why) = &self.failed {
            return Err(io::Error::other(why.clone()));
        }
        let offset = self.end.offset;
        let written = loop {
            match self.file.write_at(buffer, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                written => break written,
            }
        };
        let error = match written {
            Ok(bytes) if bytes == buffer.len() => {
                self.end.offset = offset.saturating_add(bytes as u64);
                return Ok(());
            }
            Ok(_) => io::ErrorKind::StorageFull.into(),
            Err(error) => error,
        };
        let is_clean = self.file.metadata().is_ok_and(|metadata| metadata.len() == offset);
        if !is_clean && let Err(stuck) = self.file.set_len(offset) {
            self.failed = Some(format!("half a frame cannot be taken back ({stuck}); restart tokenmeter"));
        }
        Err(error)
    }
}

/// A new file with its header; taken away again where it cannot be whole.
fn create_segment(directory: &Path, number: u64, header: &Header) -> io::Result<File> {
    let path = segment::path(directory, number);
    let file = File::options().create(true).truncate(true).write(true).open(&path)?;
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

fn why_not(error: &io::Error) -> String {
    format!("the journal cannot be written: {error}")
}

fn only_if_there(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}
