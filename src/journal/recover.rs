//! Recover: what a journal holds when it is opened.
//!
//! Cuts off a torn tail of the newest segment. Anything else that is broken is an error: a record was there.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::path::Path;

use serde::de::DeserializeOwned;

use super::frame::{self, Decoded, Kind};
use super::segment::{self, Header};
use super::{JournalError, Position};
use crate::ids::{NodeId, RecordId};
use crate::record::{Intent, JobSeen, Progress};

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
}

/// Reads every segment of `directory`.
pub(super) fn recover(directory: &Path) -> Result<Found, JournalError> {
    let mut found = Found::default();
    let mut intents: HashMap<RecordId, (Position, Vec<u8>)> = HashMap::new();
    let mut progress: HashMap<RecordId, (Position, Vec<u8>)> = HashMap::new();
    let numbers = segment::list(directory)?;
    for number in &numbers {
        let is_newest = Some(number) == numbers.last();
        found.newest = *number;
        let path = segment::path(directory, *number);
        let bytes = fs::read(&path).map_err(|source| JournalError::Io { what: "read", path: path.clone(), source })?;
        let Some(header) = Header::decode(&bytes, &path)? else {
            if !is_newest {
                return Err(JournalError::Broken { path, offset: 0, what: "the header is cut off" });
            }
            // The process died while it made this file: nothing can be in it.
            fs::remove_file(&path).map_err(|source| JournalError::Io { what: "remove", path, source })?;
            continue;
        };
        let last_seq = found.last_seqs.entry(header.node.clone()).or_default();
        *last_seq = (*last_seq).max(header.first_seq.saturating_sub(1));
        let mut rest = bytes.get(segment::HEADER_BYTES..).unwrap_or_default();
        let mut offset = segment::HEADER_BYTES as u64;
        while !rest.is_empty() {
            let broken = match frame::decode(rest) {
                Decoded::Whole { kind, seq, payload, bytes } => {
                    let id = || {
                        frame::id_of(payload).ok_or_else(|| JournalError::Broken {
                            path: path.clone(),
                            offset,
                            what: "a frame without an id",
                        })
                    };
                    let place = Position { segment: *number, offset };
                    match kind {
                        Kind::Intent => {
                            intents.insert(id()?, (place, payload.to_vec()));
                        }
                        // One behind the record of its call says nothing that the record does not.
                        Kind::Progress if !intents.contains_key(&id()?) => {}
                        Kind::Progress => {
                            progress.insert(id()?, (place, payload.to_vec()));
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
                    continue;
                }
                Decoded::Partial { .. } => "a frame is cut off",
                Decoded::Broken(what) => what,
            };
            if !is_newest || frame::any_within(rest) {
                return Err(JournalError::Broken { path, offset, what: broken });
            }
            cut(&path, offset).map_err(|source| JournalError::Io { what: "cut", path: path.clone(), source })?;
            rest = &[];
        }
        found.segments.insert(*number, offset);
        found.node = Some(header.node);
    }
    let mut open: Vec<_> = intents.into_iter().collect();
    open.sort_unstable_by_key(|(id, _)| *id);
    for (id, (position, payload)) in open {
        found.open_intents.push(read(directory, position, &payload)?);
        found.open.insert(id, position.segment);
    }
    for (id, (position, payload)) in progress {
        found.progress.insert(id, read(directory, position, &payload)?);
    }
    Ok(found)
}

fn read<T: DeserializeOwned>(directory: &Path, position: Position, payload: &[u8]) -> Result<T, JournalError> {
    serde_json::from_slice(payload).map_err(|source| JournalError::Decode {
        path: segment::path(directory, position.segment),
        offset: position.offset,
        source,
    })
}

/// Reads the segment at `path` anew: whether it holds whole frames up to `end`.
pub(super) fn read_back(path: &Path, end: u64) -> Result<(), JournalError> {
    let failed = |source| JournalError::Io { what: "read back", path: path.to_owned(), source };
    let bytes = fs::read(path).map_err(failed)?;
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

/// Shortens a file for good.
fn cut(path: &Path, length: u64) -> std::io::Result<()> {
    let file = File::options().write(true).open(path)?;
    file.set_len(length)?;
    file.sync_all()
}
