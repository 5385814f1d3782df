//! Keys: virtual keys that were made with `tokenmeter keys new`. Of a secret only its SHA-256 is kept.

use std::fs::{self, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::{AppId, KeyId, TeamId};

/// A virtual key, without its secret.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
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

/// Why a copy of the keys cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("the copy of the keys in `{}` cannot be {what}", path.display())]
pub struct CopyError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// Keeps a copy of `keys` in the file at `path`, for a start while the ledger is away. It holds no secret, and nobody
/// else may read it all the same.
pub fn write_copy(path: &Path, keys: &[Key]) -> Result<(), CopyError> {
    let new = path.with_extension("new");
    let write = || -> io::Result<()> {
        let mut file = File::create(&new)?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(&serde_json::to_vec(keys)?)?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    write().map_err(|source| CopyError { what: "written", path: path.to_owned(), source })
}

/// The copy in the file at `path`; `None` where there is none.
pub fn read_copy(path: &Path) -> Result<Option<Vec<Key>>, CopyError> {
    let failed = |source| CopyError { what: "read", path: path.to_owned(), source };
    match fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).map_err(|error| failed(error.into()))?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
    }
}
