//! Upkeep: what is done for the journal's files beside appending: synced, looked after, mended, let go of.
//!
//! For the sync thread and the applier: all of it may wait for the disk.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Writer, why_not};
use crate::journal::guard::leads_to;
use crate::journal::{JournalError, Position, in_full, kept, recover, segment};

/// What a sync has to cover.
#[derive(Debug)]
pub(in crate::journal) struct ToSync {
    pub(in crate::journal) files: Vec<Arc<File>>,
    pub(in crate::journal) end: Position,
}

impl Writer {
    /// What a sync has to cover that the last one, up to `synced`, did not.
    pub(in crate::journal) fn to_sync(&self, synced: Position) -> Option<ToSync> {
        let mut active = self.active();
        if active.end <= synced && active.to_sync.is_empty() {
            return None;
        }
        let mut files = std::mem::take(&mut active.to_sync);
        files.push(Arc::clone(&active.file));
        Some(ToSync { files, end: active.end })
    }

    /// Whether intents are refused until there is space again.
    pub(in crate::journal) fn is_refusing(&self) -> bool {
        let active = self.active();
        active.refusing.is_some() && !active.is_suspect
    }

    /// Whether something else than space failed.
    pub(in crate::journal) fn is_suspect(&self) -> bool {
        self.active().is_suspect
    }

    /// Whether the ballast is too small for the calls that are open.
    pub(in crate::journal) fn is_ballast_short(&self) -> bool {
        let calls = self.active().open.len();
        self.ballast.is_short_for(calls)
    }

    /// Reads back what was appended, takes back what is half, and goes on in a new segment: whatever failed, nothing
    /// that is there was harmed. Slow: not for the data path.
    pub(in crate::journal) fn reopen(&self) {
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
    pub(in crate::journal) fn look(&self) -> Result<(), JournalError> {
        let (file, end, finished) = {
            let active = self.active();
            (Arc::clone(&active.file), active.end, active.finished.lengths.clone())
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
            if let Some(bytes) = self.active().finished.remove(number) {
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
    pub(in crate::journal) fn recover_space(&self) {
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

    /// Notes that everything up to `position` is on the disk.
    pub(in crate::journal) fn is_lasting(&self, position: Position) {
        self.lasting.store(position.packed(), Ordering::Relaxed);
    }

    /// Deletes the segments before number `end`, up to the first that an open call still needs.
    pub(in crate::journal) fn remove_before(&self, end: u64) -> Result<(), JournalError> {
        loop {
            // Out of the account first: then nobody misses its file.
            let removed = {
                let mut active = self.active();
                let lasting = Position::unpacked(self.lasting.load(Ordering::Relaxed));
                active.ended_later.retain(|(_, end)| *end > lasting);
                let Some(oldest) = active.finished.lengths.keys().next().copied().filter(|oldest| *oldest < end) else {
                    return Ok(());
                };
                let mut needed = active.open.values().chain(active.ended_later.iter().map(|(segment, _)| segment));
                if needed.any(|segment| *segment <= oldest) {
                    return Ok(());
                }
                active.finished.remove(oldest).map(|bytes| (oldest, bytes))
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
    pub(in crate::journal) fn remove_kept(&self) -> Result<(), JournalError> {
        kept::remove_older(&self.directory, self.keep)
    }
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

fn only_if_there(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}
