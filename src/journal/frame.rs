//! Frame: one intent, record, mark of progress or gap as bytes.
//!
//! `payload length u32 | crc32 u32 | kind u8 | seq u64 | payload`, little endian; the checksum covers kind, seq and
//! payload. The payload is JSON, so no byte of it equals a kind: a frame can be told from what surrounds it. An intent
//! has no seq; in its place stands up to where the journal was on the disk when the intent was appended. By that a
//! reader tells damage from what a power cut may leave.

use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;

use super::{JournalError, Position};
use crate::ids::{NodeId, RecordId};
use crate::record::{Gap, Intent, JobSeen, Progress, Record};

/// Bytes in front of a payload.
pub(super) const HEAD_BYTES: usize = 17;

/// Longest payload. A length beyond it is damage, not a frame.
pub(super) const PAYLOAD_BYTES_MAX: usize = 4 << 20;

/// What a frame holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// A call is about to reach an upstream.
    Intent,
    /// A call is over.
    Record,
    /// What an open call has brought so far.
    Progress,
    /// Calls passed that the journal could not take.
    Gap,
}

impl Kind {
    const fn as_byte(self) -> u8 {
        match self {
            Self::Intent => 1,
            Self::Record => 2,
            Self::Progress => 3,
            Self::Gap => 4,
        }
    }

    const fn of_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Intent),
            2 => Some(Self::Record),
            3 => Some(Self::Progress),
            4 => Some(Self::Gap),
            _ => None,
        }
    }
}

/// One frame as it was read back.
#[derive(Clone, Debug)]
pub struct Frame {
    /// What it holds.
    pub kind: Kind,
    /// The node whose journal it stands in.
    pub node: Arc<NodeId>,
    /// A record's place in its node's order; 0 for anything else.
    pub seq: u64,
    pub(super) payload: Bytes,
}

impl Frame {
    /// The record, with the node of the journal and the seq of the frame, whatever its payload says: the payload was
    /// written before the seq was known.
    pub fn record(&self) -> Result<Record, serde_json::Error> {
        let mut record: Record = serde_json::from_slice(&self.payload)?;
        record.node = NodeId::clone(&self.node);
        record.seq = self.seq;
        Ok(record)
    }

    /// The intent.
    pub fn intent(&self) -> Result<Intent, serde_json::Error> {
        serde_json::from_slice(&self.payload)
    }

    /// The gap.
    pub fn gap(&self) -> Result<Gap, serde_json::Error> {
        serde_json::from_slice(&self.payload)
    }

    /// The mark of progress.
    pub fn progress(&self) -> Result<Progress, serde_json::Error> {
        serde_json::from_slice(&self.payload)
    }
}

/// A buffer with room for the head, to which the payload is appended.
pub(super) fn begin() -> Vec<u8> {
    let mut buffer = Vec::with_capacity(1024);
    buffer.resize(HEAD_BYTES, 0);
    buffer
}

/// Fills the head of a buffer made by [`begin`].
pub(super) fn seal(buffer: &mut [u8], kind: Kind, seq: u64) {
    let payload_bytes = u32::try_from(buffer.len().saturating_sub(HEAD_BYTES)).unwrap_or(u32::MAX);
    let Some((head, covered)) = buffer.split_at_mut_checked(8) else { return };
    if let Some((kind_byte, rest)) = covered.split_first_mut() {
        *kind_byte = kind.as_byte();
        if let Some((seq_bytes, _)) = rest.split_first_chunk_mut::<8>() {
            *seq_bytes = seq.to_le_bytes();
        }
    }
    let checksum = crc32fast::hash(covered);
    if let Some((length, check)) = head.split_at_mut_checked(4) {
        length.copy_from_slice(&payload_bytes.to_le_bytes());
        check.copy_from_slice(&checksum.to_le_bytes());
    }
}

/// What the front of some bytes is.
#[derive(Debug)]
pub(super) enum Decoded<'a> {
    /// A whole frame of `bytes` bytes.
    Whole { kind: Kind, seq: u64, payload: &'a [u8], bytes: usize },
    /// The beginning of a frame that needs `bytes` bytes in all, as far as one can tell.
    Partial { bytes: usize },
    /// No frame.
    Broken(&'static str),
}

/// Reads the frame at the front of `bytes`.
pub(super) fn decode(bytes: &[u8]) -> Decoded<'_> {
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else {
        return Decoded::Partial { bytes: HEAD_BYTES };
    };
    let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
    if length == 0 || length > PAYLOAD_BYTES_MAX {
        return Decoded::Broken("impossible length");
    }
    let whole = HEAD_BYTES.saturating_add(length);
    let Some((checksum, rest)) = rest.split_first_chunk::<4>() else { return Decoded::Partial { bytes: whole } };
    let Some(covered) = rest.get(..length.saturating_add(9)) else { return Decoded::Partial { bytes: whole } };
    if crc32fast::hash(covered) != u32::from_le_bytes(*checksum) {
        return Decoded::Broken("checksum differs");
    }
    let Some((kind, covered)) = covered.split_first() else { return Decoded::Broken("no kind") };
    let Some(kind) = Kind::of_byte(*kind) else { return Decoded::Broken("unknown kind") };
    let Some((seq, payload)) = covered.split_first_chunk::<8>() else { return Decoded::Broken("no seq") };
    Decoded::Whole { kind, seq: u64::from_le_bytes(*seq), payload, bytes: whole }
}

/// Up to where the journal was on the disk, as the last frame knows that begins anywhere in `bytes`.
pub(super) fn lasting_within(bytes: &[u8]) -> Position {
    let mut lasting = Position::START;
    let mut rest = bytes;
    while !rest.is_empty() {
        // The cheap test first: a kind where a kind would be.
        let is_likely = rest.get(8).copied().and_then(Kind::of_byte).is_some();
        let whole = match decode(if is_likely { rest } else { &[] }) {
            Decoded::Whole { kind, seq, bytes, .. } => {
                lasting = lasting.max(lasting_of(kind, seq));
                bytes
            }
            Decoded::Partial { .. } | Decoded::Broken(_) => 1,
        };
        rest = rest.get(whole..).unwrap_or_default();
    }
    lasting
}

/// Up to where the journal was on the disk when a frame of this kind and number was appended, as far as it tells.
pub(super) fn lasting_of(kind: Kind, number: u64) -> Position {
    match kind {
        Kind::Intent => Position::unpacked(number),
        Kind::Record | Kind::Progress | Kind::Gap => Position::START,
    }
}

/// The call's id in a payload.
pub(super) fn id_of(payload: &[u8]) -> Option<RecordId> {
    #[derive(Deserialize)]
    struct OnlyId {
        id: RecordId,
    }
    // Our own writer puts it first; reading 10,000 frames at start must not parse them.
    let at_front = payload
        .strip_prefix(br#"{"id":""#)
        .and_then(|rest| rest.get(..36))
        .and_then(|id| std::str::from_utf8(id).ok())
        .and_then(RecordId::parse);
    at_front.or_else(|| serde_json::from_slice::<OnlyId>(payload).ok().map(|only| only.id))
}

/// What a record's payload says of a job.
pub(super) fn job_of(payload: &[u8]) -> Option<JobSeen> {
    // Few records have one; reading 10,000 frames at start must not parse them.
    memchr::memmem::find(payload, br#""job":""#)?;
    serde_json::from_slice(payload).ok()
}

/// Serialises into a buffer made by [`begin`].
pub(super) fn encode(value: &impl serde::Serialize) -> Result<Vec<u8>, JournalError> {
    let mut buffer = begin();
    serde_json::to_writer(&mut buffer, value).map_err(|source| JournalError::Encode { source })?;
    Ok(buffer)
}
