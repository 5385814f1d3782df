//! Ids: the names by which calls, teams, keys and nodes are known everywhere.
//!
//! In: text from config, headers, files. Out: values that are well formed. Touches nothing.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest id in bytes.
pub const ID_BYTES_MAX: usize = 64;

/// Why a text is not an id.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("must be 1 to {ID_BYTES_MAX} characters of a-z, A-Z, 0-9, `.`, `_`, `-`, and start with a letter or digit")]
pub struct BadId;

fn is_well_formed(text: &str) -> bool {
    text.len() <= ID_BYTES_MAX
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident;)+) => {$(
        $(#[$doc])*
        ///
        /// ASCII letters, digits, `.`, `_`, `-`; at most [`ID_BYTES_MAX`] bytes; cheap to clone.
        #[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The id written in `text`.
            pub fn parse(text: &str) -> Result<Self, BadId> {
                if is_well_formed(text) { Ok(Self(text.into())) } else { Err(BadId) }
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "{:?}", &*self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    )+};
}

ids! {
    /// A department: what finance reports by. [`DepartmentId::unattributed`] where none is known.
    DepartmentId;
    /// A team: who pays. [`TeamId::unattributed`] where nobody is known.
    TeamId;
    /// An application of a team.
    AppId;
    /// A virtual key's public name, `k_` and hex digits; says nothing about the secret.
    KeyId;
    /// A configured upstream's name: the first path segment that selects it.
    UpstreamName;
    /// The vendor behind an upstream: what prices and labels go by.
    Provider;
    /// One tokenmeter process's journal. (node, seq) is unique in a ledger.
    NodeId;
}

/// The value of team and department where nobody is known.
pub const UNATTRIBUTED: &str = "unattributed";

impl DepartmentId {
    /// The department of calls whose team has none.
    pub fn unattributed() -> Self {
        Self(UNATTRIBUTED.into())
    }
}

impl TeamId {
    /// The team of calls without evidence of a payer.
    pub fn unattributed() -> Self {
        Self(UNATTRIBUTED.into())
    }
}

impl NodeId {
    /// The node of a record that no journal has taken yet.
    pub fn unassigned() -> Self {
        Self("unassigned".into())
    }
}

/// A call's id: a UUID version 7, so that ids sort by the time the call began.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RecordId(uuid::Uuid);

impl RecordId {
    /// A fresh id for a call that began at `started_at`.
    pub fn new(started_at: jiff::Timestamp) -> Self {
        let seconds = u64::try_from(started_at.as_second()).unwrap_or(0);
        let nanos = u32::try_from(started_at.subsec_nanosecond()).unwrap_or(0);
        Self(uuid::Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, seconds, nanos)))
    }

    /// The id written in `text`, if it is a UUID.
    pub fn parse(text: &str) -> Option<Self> {
        uuid::Uuid::parse_str(text).ok().map(Self)
    }

    /// The sixteen bytes of the id.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// The id of sixteen bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(uuid::Uuid::from_bytes(bytes))
    }
}

impl fmt::Display for RecordId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_holds_plain_ascii_only() {
        for good in ["a", "support-bot", "7.x_Y"] {
            assert_eq!(TeamId::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "-a", "a b", "客服", "a/b", "x\n", &"x".repeat(65)] {
            assert_eq!(TeamId::parse(bad), Err(BadId), "{bad:?}");
        }
    }

    #[test]
    fn record_ids_sort_by_start() {
        let early = RecordId::new(jiff::Timestamp::from_second(1_000_000).unwrap());
        let late = RecordId::new(jiff::Timestamp::from_second(1_000_001).unwrap());
        assert!(early < late);
        assert_eq!(RecordId::parse(&late.to_string()), Some(late));
    }
}
