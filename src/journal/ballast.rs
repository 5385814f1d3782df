//! Ballast: a file that is given up on a full disk, so that calls in flight can still be settled.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Size of the ballast: the records of some two thousand calls in flight.
const BALLAST_BYTES: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct Ballast {
    path: PathBuf,
    anew: PathBuf,
}

impl Ballast {
    pub(super) fn new(directory: &Path) -> Self {
        Self { path: directory.join("ballast"), anew: directory.join("ballast.new") }
    }

    /// Gives the space back to the disk.
    pub(super) fn release(&self) {
        for path in [&self.path, &self.anew] {
            if let Err(error) = fs::remove_file(path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(error = %error, "cannot give up the ballast");
            }
        }
    }

    /// Makes it where it is missing or too short.
    pub(super) fn fill_if_missing(&self) -> io::Result<()> {
        if fs::metadata(&self.path).is_ok_and(|metadata| metadata.len() >= BALLAST_BYTES as u64) {
            return Ok(());
        }
        self.write_anew()?;
        self.put_in_place()
    }

    /// Writes a second one beside the first: that it fits is the proof that there is space again.
    pub(super) fn write_anew(&self) -> io::Result<()> {
        let written = File::create(&self.anew).and_then(|mut file| {
            // Real bytes, and no zeros: a file system may keep neither holes nor zeros on the disk.
            let block = [0xa5_u8; 8 << 10];
            (0..BALLAST_BYTES / block.len()).try_for_each(|_| file.write_all(&block))?;
            file.sync_data()
        });
        if written.is_err() {
            match fs::remove_file(&self.anew) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        written
    }

    /// Makes the one just written the ballast. Fails where it was given up meanwhile.
    pub(super) fn put_in_place(&self) -> io::Result<()> {
        fs::rename(&self.anew, &self.path)
    }
}
