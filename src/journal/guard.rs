//! Guard: looks whether the journal's names still lead to the files that are open, and mends it where they do not.
//!
//! A file that was deleted or replaced takes appends as before, but nobody will read them. What an open file holds is
//! written back under its name; what cannot be mended is said, and no call is taken until it is right again.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::writer::Writer;
use super::{JournalError, Lock};

#[derive(Debug)]
pub(super) struct Guard {
    lock: Lock,
    /// The file system that the journal was begun on.
    device: u64,
}

impl Guard {
    /// Guards the journal of `directory`, whose `lock` it keeps.
    pub(super) fn new(directory: &Path, lock: Lock) -> Result<Self, JournalError> {
        let device = fs::metadata(directory).map_err(failed("look at", directory))?.dev();
        Ok(Self { lock, device })
    }

    /// Looks and mends. An error says why the journal cannot be relied on now.
    pub(super) fn look(&mut self, writer: &Writer) -> Result<(), JournalError> {
        let directory = writer.directory();
        match fs::metadata(directory) {
            Ok(found) => self.is_same_device(&found, directory)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let parent = directory.parent().unwrap_or(Path::new("."));
                self.is_same_device(&fs::metadata(parent).map_err(failed("look at", parent))?, parent)?;
                tracing::error!(directory = %directory.display(), "the journal's folder was deleted; making it again");
                fs::create_dir(directory).map_err(failed("make", directory))?;
            }
            Err(error) => return Err(failed("look at", directory)(error)),
        }
        if !leads_to(&directory.join("lock"), &self.lock.file)? {
            let lock = Lock::take(directory)?;
            self.lock = lock.ok_or_else(|| JournalError::InUse { directory: directory.to_owned() })?;
        }
        writer.look()
    }

    /// A folder on another file system is no deleted one: what is written there would be hidden when the right one is back.
    fn is_same_device(&self, found: &Metadata, path: &Path) -> Result<(), JournalError> {
        if found.dev() == self.device {
            return Ok(());
        }
        let path = path.display();
        let why = format!("`{path}` is on another file system than when tokenmeter started; mount the right one there");
        Err(JournalError::Refused { why })
    }
}

/// Whether the name `path` leads to the open `file`.
pub(super) fn leads_to(path: &Path, file: &File) -> Result<bool, JournalError> {
    let open = file.metadata().map_err(failed("look at", path))?;
    match fs::metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (open.dev(), open.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed("look at", path)(error)),
    }
}

fn failed(what: &'static str, path: &Path) -> impl Fn(io::Error) -> JournalError {
    move |source| JournalError::Io { what, path: path.to_owned(), source }
}
