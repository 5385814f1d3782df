//! Reader: the journal's frames in order, from any position, also while another process appends.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::frame::{self, Decoded, Frame, Kind};
use super::kept;
use super::segment::{self, Header};
use super::{JournalError, Position};
use crate::ids::NodeId;

/// The names that the journal in `directory` has had, as far as it goes back; none where there is no journal.
pub fn nodes(directory: &Path) -> Result<BTreeMap<NodeId, u64>, JournalError> {
    let mut nodes = BTreeMap::new();
    for number in kept::list_all(directory)? {
        let path = kept::path(directory, number);
        let failed = |source| JournalError::Io { what: "read", path: path.clone(), source };
        match File::open(&path).and_then(|file| read_at(&file, 0, segment::HEADER_BYTES)) {
            Ok(head) => {
                if let Some(Header { node, first_seq }) = Header::decode(&head, &path)? {
                    nodes.entry(node).or_insert(first_seq);
                }
            }
            // Removed since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(nodes)
}

/// The seq that the first record of `segment` was to have; `None` where there is no such segment.
pub fn first_seq(directory: &Path, segment: u64) -> Result<Option<u64>, JournalError> {
    let path = segment::path(directory, segment);
    match File::open(&path).and_then(|file| read_at(&file, 0, segment::HEADER_BYTES)) {
        Ok(head) => Ok(Header::decode(&head, &path)?.map(|header| header.first_seq)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(JournalError::Io { what: "read", path, source }),
    }
}

/// How much one batch holds at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Frames of any kind.
    pub frames: usize,
    /// Bytes read; a single longer frame is read all the same.
    pub bytes: usize,
}

/// Reads frames. A frame that is not whole yet is not there yet.
#[derive(Debug)]
pub struct Reader {
    directory: PathBuf,
    position: Position,
    open: Option<OpenSegment>,
}

#[derive(Debug)]
struct OpenSegment {
    file: File,
    path: PathBuf,
    node: Arc<NodeId>,
}

impl Reader {
    /// A reader of the journal in `directory` from `from`. A position in a segment that is gone stands for the next
    /// one; one past every segment or the end of its own, as a ledger has it whose journal was taken away or lost its
    /// end, for the beginning.
    pub fn open(directory: &Path, from: Position) -> Result<Self, JournalError> {
        let is_past_all = kept::list_all(directory)?.last().is_some_and(|newest| *newest < from.segment);
        let path = kept::path(directory, from.segment);
        let is_past_its_own = match fs::metadata(&path) {
            Ok(metadata) => metadata.len() < from.offset,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(source) => return Err(JournalError::Io { what: "look at", path, source }),
        };
        let position = if is_past_all || is_past_its_own { Position::START } else { from };
        Ok(Self { directory: directory.to_owned(), position, open: None })
    }

    /// Where the next frame begins.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The frames that follow, each with the position after it; none where nothing whole follows yet.
    pub fn next_batch(&mut self, limits: Limits) -> Result<Vec<(Position, Frame)>, JournalError> {
        let mut bytes_max = limits.bytes.max(frame::HEAD_BYTES);
        // Asked before reading: what a segment holds is final once there is a newer one.
        let mut newer = None;
        loop {
            if self.open.is_none() && !self.open_segment()? {
                return Ok(Vec::new());
            }
            let Some(open) = &self.open else { return Ok(Vec::new()) };
            let failed = |source| JournalError::Io { what: "read", path: open.path.clone(), source };
            let chunk = Bytes::from(read_at(&open.file, self.position.offset, bytes_max).map_err(failed)?);
            let is_short = chunk.len() < bytes_max;
            let mut rest = &chunk[..];
            let mut frames = Vec::new();
            while frames.len() < limits.frames.max(1) {
                match frame::decode(rest) {
                    Decoded::Whole { kind, seq, payload, bytes } => {
                        self.position.offset = self.position.offset.saturating_add(bytes as u64);
                        let seq = if kind == Kind::Record { seq } else { 0 };
                        let frame =
                            Frame { kind, node: Arc::clone(&open.node), seq, payload: chunk.slice_ref(payload) };
                        frames.push((self.position, frame));
                        rest = rest.get(bytes..).unwrap_or_default();
                    }
                    Decoded::Partial { bytes } => {
                        if frames.is_empty() && !is_short {
                            bytes_max = bytes.max(bytes_max.saturating_add(1));
                        }
                        break;
                    }
                    Decoded::Broken(_) if !frames.is_empty() => break,
                    Decoded::Broken(what) => {
                        return Err(JournalError::Broken {
                            path: open.path.clone(),
                            offset: self.position.offset,
                            what,
                        });
                    }
                }
            }
            if !frames.is_empty() {
                return Ok(frames);
            }
            if !is_short {
                continue;
            }
            match newer {
                Some(_) if !rest.is_empty() => {
                    let what = "a frame is cut off before the end of the journal";
                    return Err(JournalError::Broken { path: open.path.clone(), offset: self.position.offset, what });
                }
                Some(number) => {
                    self.position = Position { segment: number, offset: 0 };
                    self.open = None;
                    newer = None;
                }
                None => {
                    newer = self.newer_segment()?;
                    if newer.is_none() {
                        return Ok(Vec::new());
                    }
                }
            }
        }
    }

    fn newer_segment(&self) -> Result<Option<u64>, JournalError> {
        Ok(kept::list_all(&self.directory)?.into_iter().find(|number| *number > self.position.segment))
    }

    /// Opens the segment of the position, or the next there is. False where there is none, or its header is not
    /// written yet.
    fn open_segment(&mut self) -> Result<bool, JournalError> {
        loop {
            let numbers = kept::list_all(&self.directory)?;
            let Some(number) = numbers.iter().copied().find(|number| *number >= self.position.segment) else {
                return Ok(false);
            };
            let path = kept::path(&self.directory, number);
            let file = match File::open(&path) {
                Ok(file) => file,
                // Removed since it was listed: it was applied, and the next one is there.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.position = Position { segment: number.saturating_add(1), offset: 0 };
                    continue;
                }
                Err(source) => return Err(JournalError::Io { what: "open", path, source }),
            };
            let head = read_at(&file, 0, segment::HEADER_BYTES).map_err(|source| JournalError::Io {
                what: "read",
                path: path.clone(),
                source,
            })?;
            let Some(header) = Header::decode(&head, &path)? else { return Ok(false) };
            if number != self.position.segment {
                self.position = Position { segment: number, offset: 0 };
            }
            self.position.offset = self.position.offset.max(segment::HEADER_BYTES as u64);
            self.open = Some(OpenSegment { file, path, node: Arc::new(header.node) });
            return Ok(true);
        }
    }
}

/// Up to `bytes` bytes of `file` from `offset` on; fewer only at its end.
fn read_at(file: &File, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
    let available = file.metadata()?.len().saturating_sub(offset);
    let mut buffer = vec![0; usize::try_from(available).unwrap_or(usize::MAX).min(bytes)];
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset.saturating_add(filled as u64)) {
            Ok(0) => break,
            Ok(count) => filled = filled.saturating_add(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer.truncate(filled);
    Ok(buffer)
}
