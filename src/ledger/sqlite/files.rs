//! Files: whether the names of a database still lead to the files that a connection has open.
//!
//! `SQLite` goes on in files that were deleted, until the last one closes them and all is gone. What is open is whole,
//! so it is written back under the name; but not over another file, which somebody put there.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::ledger::LedgerError;

/// What follows the file's name for each of a database's files: the pages, the log of changes, the log's index.
const SUFFIXES: [&str; 3] = ["", "-wal", "-shm"];

/// The files that a connection has open.
#[derive(Debug)]
pub(super) struct Files {
    path: PathBuf,
    open: [Option<FileId>; 3],
}

/// Device and inode.
type FileId = (u64, u64);

impl Files {
    /// Those of the connection that was just opened to `path`, and has read something.
    pub(super) fn of(path: &Path) -> Self {
        Self { path: path.to_owned(), open: SUFFIXES.map(|suffix| id_of(&beside(path, suffix)).unwrap_or(None)) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether every name leads to the file that is open.
    pub(super) fn are_in_place(&self) -> bool {
        let named = SUFFIXES.map(|suffix| id_of(&beside(&self.path, suffix)).unwrap_or(None));
        named == self.open
    }

    /// Looks: whether all is in its place, or something was deleted. An error: what is there is not what is open.
    pub(super) fn look(&self) -> Result<bool, LedgerError> {
        let path = self.path.clone();
        let named = match id_of(&path) {
            Ok(named) => named,
            // Not to be told: the disk is away, or not to be read for now.
            Err(source) => return Err(LedgerError::Deleted { path, source }),
        };
        if named.is_some() && named != self.open[0] {
            return Err(LedgerError::Replaced { path });
        }
        if named.is_some() && fs::metadata(&path).is_ok_and(|metadata| metadata.len() == 0) {
            return Err(LedgerError::Damaged { path, source: None });
        }
        Ok(self.are_in_place())
    }

    /// Writes what is open back under its name; `copy` makes a lasting copy of it in a file that is not there yet.
    pub(super) fn write_back(&self, copy: impl FnOnce(&Path) -> Result<(), LedgerError>) -> io::Result<()> {
        let whole = beside(&self.path, ".back");
        fs::remove_file(&whole).or_else(only_if_there)?;
        copy(&whole).map_err(io::Error::other)?;
        // Logs of the file that was there must not be taken for this one's.
        for suffix in ["-wal", "-shm"] {
            fs::remove_file(beside(&self.path, suffix)).or_else(only_if_there)?;
        }
        fs::rename(&whole, &self.path)?;
        super::sync_directory_of(&self.path)
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// What `path` leads to; `None`: nothing.
fn id_of(path: &Path) -> io::Result<Option<FileId>> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some((metadata.dev(), metadata.ino()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn only_if_there(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}
