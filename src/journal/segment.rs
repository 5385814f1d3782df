//! Segment: one file of the journal, `00000001.journal`.
//!
//! Header: `magic | version u32 | first seq u64 | node length u8 | node, 64 bytes | crc32 u32`. The first seq is that of
//! the first record to come, so that a journal whose older segments are gone still knows where its node stands.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::JournalError;
use crate::ids::{ID_BYTES_MAX, NodeId};

/// Bytes in front of the first frame.
pub(super) const HEADER_BYTES: usize = 8 + 4 + 8 + 1 + ID_BYTES_MAX + 4;

const MAGIC: &[u8; 8] = b"tokmeter";
/// 2: frames that are neither intents nor records.
const VERSION: u32 = 2;

/// What a segment's header says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Header {
    pub(super) node: NodeId,
    pub(super) first_seq: u64,
}

impl Header {
    /// The header as bytes.
    pub(super) fn encode(&self) -> Vec<u8> {
        let node = self.node.as_str().as_bytes();
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&self.first_seq.to_le_bytes());
        bytes.push(u8::try_from(node.len()).unwrap_or(u8::MAX));
        bytes.extend_from_slice(node);
        bytes.resize(HEADER_BYTES - 4, 0);
        let checksum = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// The header at the front of a segment file; `None` where the file is too short to have one.
    pub(super) fn decode(bytes: &[u8], path: &Path) -> Result<Option<Self>, JournalError> {
        let broken = |what| JournalError::Broken { path: path.to_owned(), offset: 0, what };
        let Some(bytes) = bytes.get(..HEADER_BYTES) else { return Ok(None) };
        let (covered, checksum) = bytes.split_last_chunk::<4>().ok_or(broken("no checksum"))?;
        let rest = covered.strip_prefix(MAGIC).ok_or(broken("not a journal file"))?;
        let (version, rest) = rest.split_first_chunk::<4>().ok_or(broken("no version"))?;
        let version = u32::from_le_bytes(*version);
        if version > VERSION {
            return Err(JournalError::TooNew { path: path.to_owned(), found: version, known: VERSION });
        }
        if crc32fast::hash(covered) != u32::from_le_bytes(*checksum) {
            return Err(broken("the header's checksum differs"));
        }
        let (first_seq, rest) = rest.split_first_chunk::<8>().ok_or(broken("no first seq"))?;
        let (length, rest) = rest.split_first().ok_or(broken("no node"))?;
        let node = rest
            .get(..usize::from(*length))
            .and_then(|node| std::str::from_utf8(node).ok())
            .and_then(|node| NodeId::parse(node).ok())
            .ok_or(broken("the node is not an id"))?;
        Ok(Some(Self { node, first_seq: u64::from_le_bytes(*first_seq) }))
    }
}

/// Where segment `number` is.
pub(super) fn path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:08}.journal"))
}

/// The numbers of the segments in `directory`, ascending; none where there is no such directory.
pub(super) fn list(directory: &Path) -> Result<Vec<u64>, JournalError> {
    let failed = |source| JournalError::Io { what: "list", path: directory.to_owned(), source };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut numbers = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".journal")).map(str::parse::<u64>);
        numbers.extend(number.and_then(Result::ok));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Makes the names in `directory` as lasting as what they name.
pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}
