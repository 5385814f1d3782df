//! Recover: what a journal holds when it is opened.
//!
//! A power cut leaves of what was not synced any part, in any order. So the first frame that is not whole ends what
//! can be told of the journal, or the first record that is missing; what follows is cut off. Where a frame knows that the place was on the disk before, it
//! is damage instead, and an error: a record was there.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io;
use std::path::Path;

use serde::de::DeserializeOwned;

use super::frame::{self, Decoded, Kind};
use super::segment::{self, Header};
use super::{JournalError, Position};
use crate::ids::{NodeId, RecordId};
use crate::record::{Intent, JobSeen, Progress};

/// A sync of the journal has failed since it was last opened.
const SYNC_FAILED: &str = "sync-failed";

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Segments by number, with their lengths.
    pub(super) segments: BTreeMap<u64, u64>,
    /// Calls without a record, and the segment of their intent.
    pub(super) open: HashMap<RecordId, u64>,
    /// Their intents, in the order of their ids.
    pub(super) open_intents: Vec<Intent>,
    /// What those had brought by the last mark, of which there is one.
    pub(super) progress: HashMap<RecordId, Progress>,
    /// What records say of jobs, each with its node and seq, in the order of the journal.
    pub(super) jobs_seen: Vec<(NodeId, u64, JobSeen)>,
    /// The node of the newest segment.
    pub(super) node: Option<NodeId>,
    /// The last seq of each node.
    pub(super) last_seqs: BTreeMap<NodeId, u64>,
    /// The newest number ever seen.
    pub(super) newest: u64,
    /// Up to where it is known to be on the disk.
    lasting: Position,
}

/// Reads every segment of `directory`. Records up to the `seq_floors` are known to be in the ledger.
pub(super) fn recover(directory: &Path, seq_floors: &BTreeMap<NodeId, u64>) -> Result<Found, JournalError> {
    let mut found = Found::default();
    let mut intents: HashMap<RecordId, (Position, Vec<u8>)> = HashMap::new();
    let mut progress: HashMap<RecordId, (Position, Vec<u8>)> = HashMap::new();
    let numbers = segment::list(directory)?;
    found.newest = numbers.last().copied().unwrap_or(0);
    for (index, number) in numbers.iter().enumerate() {
        let later = numbers.get(index.saturating_add(1)..).unwrap_or_default();
        let path = segment::path(directory, *number);
        let bytes = read(&path)?;
        let header = match Header::decode(&bytes, &path) {
            Ok(Some(header)) => header,
            Ok(None) | Err(JournalError::Broken { .. }) => {
                let begin = Position { segment: *number, offset: 0 };
                found.end_at(begin, "the header is not whole", &bytes, directory, later)?;
                break;
            }
            Err(error) => return Err(error),
        };
        let before = header.first_seq.saturating_sub(1);
        let last_seq = found.last_seqs.get(&header.node).copied().unwrap_or(before);
        if before > last_seq && seq_floors.get(&header.node).is_none_or(|floor| before > *floor) {
            let last = found.segments.last_key_value();
            let end = last.map_or(Position::START, |(segment, offset)| Position { segment: *segment, offset: *offset });
            found.end_at(
                end,
                "records are missing behind it",
                &[],
                directory,
                numbers.get(index..).unwrap_or_default(),
            )?;
            break;
        }
        let last_seq = found.last_seqs.entry(header.node.clone()).or_insert(before);
        *last_seq = (*last_seq).max(before);
        let mut rest = bytes.get(segment::HEADER_BYTES..).unwrap_or_default();
        let mut offset = segment::HEADER_BYTES as u64;
        let mut broken = None;
        while !rest.is_empty() && broken.is_none() {
            match frame::decode(rest) {
                Decoded::Whole { kind, seq, payload, bytes } => {
                    let id = || {
                        frame::id_of(payload).ok_or_else(|| JournalError::Broken {
                            path: path.clone(),
                            offset,
                            what: "a frame without an id",
                        })
                    };
                    let place = Position { segment: *number, offset };
                    found.lasting = found.lasting.max(frame::lasting_of(kind, seq));
                    match kind {
                        Kind::Intent => {
                            intents.insert(id()?, (place, payload.to_vec()));
                        }
                        Kind::Progress => {
                            let id = id()?;
                            // One behind the record of its call says nothing that the record does not.
                            if intents.contains_key(&id) {
                                progress.insert(id, (place, payload.to_vec()));
                            }
                        }
                        Kind::Record => {
                            let id = id()?;
                            intents.remove(&id);
                            progress.remove(&id);
                            *last_seq = (*last_seq).max(seq);
                            let job = frame::job_of(payload);
                            found.jobs_seen.extend(job.map(|job| (header.node.clone(), seq, job)));
                        }
                        Kind::Gap => {}
                    }
                    rest = rest.get(bytes..).unwrap_or_default();
                    offset = offset.saturating_add(bytes as u64);
                }
                Decoded::Partial { .. } => broken = Some("a frame is cut off"),
                Decoded::Broken(what) => broken = Some(what),
            }
        }
        found.segments.insert(*number, offset);
        found.node = Some(header.node);
        if let Some(what) = broken {
            found.end_at(Position { segment: *number, offset }, what, rest, directory, later)?;
            break;
        }
    }
    let mut open: Vec<_> = intents.into_iter().collect();
    open.sort_unstable_by_key(|(id, _)| *id);
    for (id, (position, payload)) in open {
        found.open_intents.push(decode(directory, position, &payload)?);
        found.open.insert(id, position.segment);
    }
    for (id, (position, payload)) in progress {
        found.progress.insert(id, decode(directory, position, &payload)?);
    }
    Ok(found)
}

impl Found {
    /// Ends the journal at `end`, where `what` was found instead of a frame: in front of `rest` of its segment, and of
    /// the segments `later`. An error where that was on the disk before.
    fn end_at(
        &mut self,
        end: Position,
        what: &'static str,
        rest: &[u8],
        directory: &Path,
        later: &[u64],
    ) -> Result<(), JournalError> {
        let path = segment::path(directory, end.segment);
        let mut lasting = self.lasting.max(frame::lasting_within(rest));
        for number in later {
            lasting = lasting.max(frame::lasting_within(&read(&segment::path(directory, *number))?));
        }
        if end < lasting {
            return Err(JournalError::Broken { path, offset: end.offset, what });
        }
        tracing::warn!(
            segment = end.segment,
            offset = end.offset,
            bytes = rest.len(),
            segments_later = later.len(),
            what,
            "the journal ends before its files do; cutting off what was never said to be on the disk"
        );
        let failed = |what| move |source| JournalError::Io { what, path, source };
        // The newest first: what is left between two cuts must not look like a journal with a hole.
        for number in later.iter().rev() {
            let path = segment::path(directory, *number);
            fs::remove_file(&path).map_err(|source| JournalError::Io { what: "remove", path, source })?;
            segment::sync_directory(directory).map_err(|source| JournalError::Io {
                what: "sync",
                path: directory.to_owned(),
                source,
            })?;
        }
        if end.offset == 0 {
            fs::remove_file(segment::path(directory, end.segment)).map_err(failed("remove"))
        } else if rest.is_empty() {
            Ok(())
        } else {
            cut(&segment::path(directory, end.segment), end.offset).map_err(failed("cut"))
        }
    }

    /// Sees to it that what was found is on the disk: what a record ends must not come back without it.
    pub(super) fn make_lasting(&self, directory: &Path) -> Result<(), JournalError> {
        let mark = directory.join(SYNC_FAILED);
        let is_doubtful = mark.exists();
        for number in self.segments.range(self.lasting.segment..).map(|(number, _)| *number) {
            let path = segment::path(directory, number);
            let synced =
                if is_doubtful { write_anew(&path) } else { File::open(&path).and_then(|file| file.sync_all()) };
            synced.map_err(|source| doubting(directory, JournalError::Io { what: "sync", path, source }))?;
        }
        let failed = |source| JournalError::Io { what: "sync", path: directory.to_owned(), source };
        segment::sync_directory(directory).map_err(|source| doubting(directory, failed(source)))?;
        if is_doubtful {
            fs::remove_file(&mark).map_err(|source| JournalError::Io { what: "remove", path: mark, source })?;
        }
        Ok(())
    }
}

/// Notes that a sync has failed. The kernel goes on showing bytes that it has given up to write, so the next process
/// must not trust a sync that succeeds. This needs no sync itself: where the note is lost, so are those bytes.
pub(super) fn doubt(directory: &Path) {
    if let Err(error) = File::create(directory.join(SYNC_FAILED)) {
        tracing::error!(error = %error, "cannot note that a sync of the journal failed");
    }
}

fn doubting(directory: &Path, error: JournalError) -> JournalError {
    doubt(directory);
    error
}

/// Puts a copy in the place of a file. Written over itself it could be spoilt where it is on the disk already.
fn write_anew(path: &Path) -> io::Result<()> {
    let copy = path.with_extension("anew");
    fs::write(&copy, fs::read(path)?)?;
    File::open(&copy)?.sync_all()?;
    fs::rename(copy, path)
}

fn read(path: &Path) -> Result<Vec<u8>, JournalError> {
    fs::read(path).map_err(|source| JournalError::Io { what: "read", path: path.to_owned(), source })
}

/// Reads the segment at `path` anew: whether it holds whole frames up to `end`.
pub(super) fn read_back(path: &Path, end: u64) -> Result<(), JournalError> {
    let bytes = read(path)?;
    let broken = |offset, what| JournalError::Broken { path: path.to_owned(), offset, what };
    Header::decode(&bytes, path)?.ok_or_else(|| broken(0, "the header is cut off"))?;
    let mut offset = segment::HEADER_BYTES as u64;
    while offset < end {
        let rest = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..)).unwrap_or_default();
        match frame::decode(rest) {
            Decoded::Whole { bytes, .. } => offset = offset.saturating_add(bytes as u64),
            Decoded::Partial { .. } => return Err(broken(offset, "a frame is cut off")),
            Decoded::Broken(what) => return Err(broken(offset, what)),
        }
    }
    Ok(())
}

fn decode<T: DeserializeOwned>(directory: &Path, position: Position, payload: &[u8]) -> Result<T, JournalError> {
    serde_json::from_slice(payload).map_err(|source| JournalError::Decode {
        path: segment::path(directory, position.segment),
        offset: position.offset,
        source,
    })
}

/// Shortens a file. Its first sync is [`Found::make_lasting`]'s, which notes a failure: a failed sync is told once.
fn cut(path: &Path, length: u64) -> io::Result<()> {
    File::options().write(true).open(path)?.set_len(length)
}
