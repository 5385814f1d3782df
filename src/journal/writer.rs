//! Writer: appends frames to the newest segment, and keeps account of the segments before it.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::ballast::Ballast;
use super::frame::{self, Kind};
use super::guard::leads_to;
use super::kept;
use super::recover::{self, Found};
use super::segment::{self, Header};
use super::{Appended, JournalError, Position, in_full};
use crate::ids::{NodeId, RecordId};

/// How long a segment that cannot be made is left alone; the one before grows on.
const ROTATE_AGAIN: Duration = Duration::from_secs(1);

/// The appending end. One lock, held for a checksum and a `write`.
#[derive(Debug)]
pub(super) struct Writer {
    directory: PathBuf,
    node: NodeId,
    segment_bytes_max: u64,
    /// How long segments are kept that nobody needs.
    keep: Duration,
    ballast: Ballast,
    active: Mutex<Active>,
}

#[derive(Debug)]
struct Active {
    file: Arc<File>,
    end: Position,
    next_seq: u64,
    /// Calls without a record, and the segment of their intent.
    open: HashMap<RecordId, u64>,
    /// Finished segments by number, with their lengths.
    finished: BTreeMap<u64, u64>,
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
        keep: Duration,
        next_seq: u64,
        found: Found,
    ) -> Result<Self, JournalError> {
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
            next_seq,
            open: found.open,
            finished: found.segments,
            to_sync: Vec::new(),
            rotate_not_before: None,
            refusing,
            is_suspect: false,
            misplaced: None,
            objection: None,
            refusing_for_good: None,
            failed: None,
        };
        Ok(Self { directory, node, segment_bytes_max, keep, ballast, active: Mutex::new(active) })
    }

    /// Appends an intent, unless the space that is left is kept for records.
    pub(super) fn append_intent(&self, id: RecordId, buffer: &mut [u8]) -> Result<Appended, JournalError> {
        check_length(buffer)?;
        frame::seal(buffer, Kind::Intent, 0);
        let mut active = self.active();
        let appended = self.append_unless_refusing(&mut active, buffer)?;
        active.open.insert(id, appended.0.segment);
        Ok(appended)
    }

    /// Appends a gap, unless intents are refused.
    pub(super) fn append_gap(&self, buffer: &mut [u8]) -> Result<Appended, JournalError> {
        check_length(buffer)?;
        frame::seal(buffer, Kind::Gap, 0);
        self.append_unless_refusing(&mut self.active(), buffer)
    }

    fn append_unless_refusing(&self, active: &mut Active, buffer: &[u8]) -> Result<Appended, JournalError> {
        if let Some(why) = active.why_not() {
            return Err(JournalError::Refused { why: why.clone() });
        }
        self.rotate_if_full(active, buffer.len());
        if let Err(error) = active.write(buffer) {
            active.has_failed(&error);
            return Err(self.refused(active, error));
        }
        Ok(Appended(active.end))
    }

    /// Appends a record, on the ballast's space if there is no other. Gives it its seq.
    pub(super) fn append_record(&self, id: RecordId, buffer: &mut [u8]) -> Result<(Appended, u64), JournalError> {
        check_length(buffer)?;
        let mut active = self.active();
        self.rotate_if_full(&mut active, buffer.len());
        let seq = active.next_seq;
        frame::seal(buffer, Kind::Record, seq);
        if let Err(error) = active.write(buffer) {
            active.has_failed(&error);
            if !is_full(&error) {
                return Err(self.refused(&active, error));
            }
            self.ballast.release();
            if let Err(error) = active.write(buffer) {
                active.has_failed(&error);
                return Err(self.refused(&active, error));
            }
        }
        active.next_seq = seq.saturating_add(1);
        active.open.remove(&id);
        Ok((Appended(active.end), seq))
    }

    /// The position after the last frame.
    pub(super) fn end(&self) -> Position {
        self.active().end
    }

    /// Why no intent is taken now.
    pub(super) fn failure(&self) -> Option<String> {
        self.active().why_not().cloned()
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
        active.refusing.is_some() && !active.is_suspect
    }

    /// Whether there is no space and calls are in flight, whose records need what is left.
    pub(super) fn needs_all_space(&self) -> bool {
        let active = self.active();
        active.refusing.is_some() && !active.open.is_empty()
    }

    /// Whether something else than space failed.
    pub(super) fn is_suspect(&self) -> bool {
        self.active().is_suspect
    }

    /// Whether the ballast is too small for the calls that are open.
    pub(super) fn is_ballast_short(&self) -> bool {
        let calls = self.active().open.len();
        self.ballast.is_short_for(calls)
    }

    /// Reads back what was appended, takes back what is half, and goes on in a new segment: whatever failed, nothing
    /// that is there was harmed. Slow: not for the data path.
    pub(super) fn reopen(&self) {
        let end = self.end();
        let path = segment::path(&self.directory, end.segment);
        let reopened = recover::read_back(&path, end.offset).and_then(|()| {
            let mut active = self.active();
            active.take_back().and_then(|()| self.rotate(&mut active)).map_err(|source| JournalError::Io {
                what: "go on behind",
                path,
                source,
            })?;
            active.failed = None;
            active.is_suspect = false;
            Ok(())
        });
        if let Err(error) = reopened {
            self.active().refusing = Some(in_full(&error));
        }
    }

    /// Looks whether the names of the segments lead to them. The active one is written back where its does not.
    pub(super) fn look(&self) -> Result<(), JournalError> {
        let (file, end, finished) = {
            let active = self.active();
            (Arc::clone(&active.file), active.end, active.finished.clone())
        };
        let path = segment::path(&self.directory, end.segment);
        if !leads_to(&path, &file)? {
            tracing::error!(file = %path.display(), "a journal file was deleted or replaced; writing it back");
            let failed = |source| JournalError::Io { what: "write back", path: path.clone(), source };
            self.put_back(end.segment).map_err(failed)?;
        }
        let bytes = file.metadata().map_or(0, |metadata| metadata.len());
        if bytes < end.offset {
            // What is still appended goes where it can be read.
            let mut active = self.active();
            if active.end.segment == end.segment
                && let Err(error) = self.rotate(&mut active)
            {
                tracing::error!(error = %error, "records are appended behind a hole in the journal");
            }
            drop(active);
            let broken = JournalError::Broken { path, offset: bytes, what: "it was cut short while it was open" };
            self.refuse_for_good(&in_full(&broken));
            return Err(broken);
        }
        let there = segment::list(&self.directory)?;
        for number in finished.into_keys().filter(|number| there.binary_search(number).is_err()) {
            // Asked again: it may have been applied and removed by ourselves meanwhile.
            if let Some(bytes) = self.active().finished.remove(&number) {
                let path = segment::path(&self.directory, number);
                tracing::error!(file = %path.display(), bytes, "a journal file was deleted; what the ledger did not hold of it is lost");
            }
        }
        Ok(())
    }

    /// Writes what the open segment `number` holds back under its name, sets aside what is there, and goes on in a new
    /// one: readers that have the old file open find everything in it, and then the next.
    fn put_back(&self, number: u64) -> io::Result<()> {
        let mut active = self.active();
        if active.end.segment != number {
            // It is finished meanwhile, and then it is missed as such.
            return Ok(());
        }
        let path = segment::path(&self.directory, number);
        let beside = path.with_extension("back");
        let file = File::options().create(true).truncate(true).read(true).write(true).open(&beside)?;
        copy(&active.file, &file, active.end.offset)?;
        fs::rename(&path, path.with_extension("aside")).or_else(only_if_there)?;
        fs::rename(&beside, &path)?;
        active.file = Arc::new(file);
        self.rotate(&mut active)
    }

    /// Takes intents again if the ballast can be written anew. Slow: not for the data path.
    pub(super) fn recover_space(&self) {
        let calls = self.active().open.len();
        let written = self.ballast.write_anew(calls).or_else(|error| {
            if error.kind() != io::ErrorKind::StorageFull || !kept::any(&self.directory) {
                return Err(error);
            }
            tracing::warn!("the disk is full: journal segments that were kept for the ledger's sake are removed");
            kept::remove_older(&self.directory, Duration::ZERO).map_err(io::Error::other)?;
            self.ballast.write_anew(calls)
        });
        let mut active = self.active();
        // Under the lock: a record that needed the space has taken the new ballast too, and then it is not in place.
        match written.and_then(|()| self.ballast.put_in_place()) {
            Ok(()) if active.is_suspect => {}
            Ok(()) => active.refusing = None,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => active.refusing = Some(why_not(&error)),
        }
    }

    /// Deletes the segments before number `end`, up to the first that an open call still needs.
    pub(super) fn remove_before(&self, end: u64) -> Result<(), JournalError> {
        loop {
            // Out of the account first: then nobody misses its file.
            let removed = {
                let mut active = self.active();
                let Some(oldest) = active.finished.keys().next().copied().filter(|oldest| *oldest < end) else {
                    return Ok(());
                };
                if active.open.values().any(|segment| *segment <= oldest) {
                    return Ok(());
                }
                active.finished.remove(&oldest).map(|bytes| (oldest, bytes))
            };
            let Some((number, bytes)) = removed else { return Ok(()) };
            let path = segment::path(&self.directory, number);
            let failed = |source| JournalError::Io { what: "remove", path: path.clone(), source };
            if let Err(error) = self.let_go(number).or_else(only_if_there) {
                self.active().finished.insert(number, bytes);
                return Err(failed(error));
            }
            // One by one: an intent that came back after a power cut without its record would be settled twice.
            segment::sync_directory(&self.directory).map_err(failed)?;
        }
    }

    fn let_go(&self, number: u64) -> io::Result<()> {
        if self.keep.is_zero() {
            fs::remove_file(segment::path(&self.directory, number))
        } else {
            kept::keep(&self.directory, number)
        }
    }

    /// Removes the segments that were kept for long enough.
    pub(super) fn remove_kept(&self) -> Result<(), JournalError> {
        kept::remove_older(&self.directory, self.keep)
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

impl Active {
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

    /// Takes back what stands behind the last whole frame.
    fn take_back(&self) -> io::Result<()> {
        let offset = self.end.offset;
        if self.file.metadata().is_ok_and(|metadata| metadata.len() == offset) {
            return Ok(());
        }
        self.file.set_len(offset)
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

/// The first `bytes` bytes of `from` into `to`.
fn copy(from: &File, to: &File, bytes: u64) -> io::Result<()> {
    let mut chunk = vec![0; 1 << 20];
    let mut offset = 0;
    while offset < bytes {
        let wanted = usize::try_from(bytes.saturating_sub(offset)).unwrap_or(usize::MAX).min(chunk.len());
        let part = chunk.get_mut(..wanted).unwrap_or_default();
        from.read_exact_at(part, offset)?;
        to.write_all_at(part, offset)?;
        offset = offset.saturating_add(wanted as u64);
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

fn only_if_there(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}
