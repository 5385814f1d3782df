//! Ballast: a file that is given up on a full disk, so that calls in flight can still be settled.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Smallest ballast: the records of some five hundred calls in flight.
const BYTES_MIN: u64 = 1 << 20;
/// What is kept for each call in flight: its record with a long usage object.
const RECORD_BYTES: u64 = 2 << 10;
/// Written at once.
const BLOCK_BYTES: usize = 8 << 10;

#[derive(Debug)]
pub(super) struct Ballast {
    path: PathBuf,
    anew: PathBuf,
    /// Whether the one that is being written was given up meanwhile.
    is_given_up: Mutex<bool>,
}

impl Ballast {
    pub(super) fn new(directory: &Path) -> Self {
        let (path, anew) = (directory.join("ballast"), directory.join("ballast.new"));
        Self { path, anew, is_given_up: Mutex::default() }
    }

    /// Gives the space back to the disk.
    pub(super) fn release(&self) {
        let mut is_given_up = self.is_given_up();
        *is_given_up = true;
        // Emptied first: who writes a new one still holds it open, and an open file keeps its space.
        let emptied = File::options().write(true).open(&self.anew).and_then(|anew| anew.set_len(0));
        for given in [emptied, fs::remove_file(&self.anew), fs::remove_file(&self.path)] {
            if let Err(error) = given
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(error = %error, "cannot give up the ballast");
            }
        }
    }

    /// Whether there is too little for so many calls in flight, or none.
    pub(super) fn is_short_for(&self, calls: usize) -> bool {
        fs::metadata(&self.path).map_or(0, |metadata| metadata.len()) < bytes_for(calls)
    }

    /// Writes one for so many calls beside that in place: that it fits is the proof that there is space.
    pub(super) fn write_anew(&self, calls: usize) -> io::Result<()> {
        *self.is_given_up() = false;
        let written = File::create(&self.anew).and_then(|mut file| {
            // Real bytes, and no zeros: a file system may keep neither holes nor zeros on the disk.
            let block = [0xa5_u8; BLOCK_BYTES];
            for _ in 0..bytes_for(calls) / BLOCK_BYTES as u64 {
                // Held for one block: a record that needs the space waits no longer, and then nobody takes it away again.
                let is_given_up = self.is_given_up();
                if *is_given_up {
                    return Err(io::ErrorKind::NotFound.into());
                }
                file.write_all(&block)?;
            }
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

    fn is_given_up(&self) -> MutexGuard<'_, bool> {
        self.is_given_up.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// In powers of two, so that it is seldom written anew.
fn bytes_for(calls: usize) -> u64 {
    let calls = u64::try_from(calls).unwrap_or(u64::MAX);
    RECORD_BYTES.saturating_mul(calls).checked_next_power_of_two().unwrap_or(u64::MAX / 2).max(BYTES_MIN)
}
