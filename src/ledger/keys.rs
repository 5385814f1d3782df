//! Keys: virtual keys that were made with `tokenmeter keys new`. Of a secret only its SHA-256 is kept.

use jiff::Timestamp;

use crate::ids::{AppId, KeyId, TeamId};

/// A virtual key, without its secret.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Key {
    /// Its public name.
    pub id: KeyId,
    /// SHA-256 of the secret.
    pub sha256: [u8; 32],
    /// Who pays for its calls.
    pub team: TeamId,
    /// The team's application, where the key is one's.
    pub app: Option<AppId>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was revoked; `None`: it is good.
    pub revoked_at: Option<Timestamp>,
}
