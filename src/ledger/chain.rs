//! Chain: one hash a record that stands for it and for all before it, so that an edited or deleted row shows.
//!
//! In: the link before, and a record as the ledger gives it back ([`Record::into_kept`]). Out: the record's link.
//! Touches nothing. One chain a node, in the order of its seqs. A member that [`Record`] gets later must be left out of
//! its JSON while absent, else what was linked before no longer fits. Whoever may write to the ledger can also write a
//! whole new chain; that shows where a link was noted elsewhere before.

use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::ids::RecordId;
use crate::record::Record;

/// A place of a node's chain: stands for every record up to it.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct Link([u8; 16]);

impl Link {
    /// Before the first record.
    pub const START: Self = Self([0; 16]);

    /// The sixteen bytes of the link.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The link of sixteen bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

/// Its hex digits.
impl fmt::Display for Link {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{self}")
    }
}

/// The link of `record`, which follows `previous`. Two databases give the same link, since both give back the same
/// record.
pub(super) fn link(previous: &Link, record: &Record) -> Link {
    #[expect(clippy::expect_used, reason = "a record's maps have text for keys, and a vector takes every byte")]
    let json = serde_json::to_vec(record).expect("a record is JSON");
    hash(previous, &json)
}

/// The link of a place in the order that the call `id` takes a second time, without a record of its own.
pub(super) fn link_duplicate(previous: &Link, id: &RecordId) -> Link {
    hash(previous, id.as_bytes())
}

fn hash(previous: &Link, fact: &[u8]) -> Link {
    let digest = Sha256::new().chain_update(previous.0).chain_update(fact).finalize();
    let mut link = [0; 16];
    for (byte, hashed) in link.iter_mut().zip(digest) {
        *byte = hashed;
    }
    Link(link)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::samples::{full_record, intent};

    #[test]
    fn a_link_stands_for_the_record_and_for_all_before_it() {
        let record = full_record(&intent(0));
        let first = link(&Link::START, &record);
        assert_eq!(first, link(&Link::START, &record.clone()));
        assert_ne!(first, link(&first, &record));
        let mut edited = record.clone();
        edited.tokens.input = Some(813);
        assert_ne!(first, link(&Link::START, &edited));
        assert_ne!(link_duplicate(&first, &record.id), link_duplicate(&Link::START, &record.id));
    }

    #[test]
    fn a_link_is_part_of_what_is_on_disk_and_stays_as_it_is() {
        let call = crate::record::Intent { id: RecordId::from_bytes([7; 16]), ..intent(0) };
        let first = link(&Link::START, &full_record(&call));
        assert_eq!(first.to_string(), "3fb56b38780a365f60d9570dbb1fcc98");
        assert_eq!(link_duplicate(&first, &call.id).to_string(), "1506e146f95af37946a0d7c5e121196c");
    }
}
