//! Kept: segments that the ledger has, set aside for a while in a folder of their own.
//!
//! A shared ledger may come back without its last seconds, as a standby that took over does: what it lost is offered
//! again from here. Nothing else needs them, so a start does not read them, and on a full disk they go first.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use super::JournalError;
use super::segment;

/// The folder beside the segments that are in use.
fn folder(directory: &Path) -> PathBuf {
    directory.join("kept")
}

/// Sets segment `number` aside.
pub(super) fn keep(directory: &Path, number: u64) -> io::Result<()> {
    let folder = folder(directory);
    if !folder.is_dir() {
        fs::create_dir(&folder)?;
        segment::sync_directory(directory)?;
    }
    fs::rename(segment::path(directory, number), segment::path(&folder, number))?;
    segment::sync_directory(&folder)
}

/// Removes what was set aside longer than `age` ago.
pub(super) fn remove_older(directory: &Path, age: Duration) -> Result<(), JournalError> {
    let folder = folder(directory);
    for number in segment::list(&folder)? {
        let path = segment::path(&folder, number);
        // The change of its name: what a ledger that was away for days takes at last is still kept from then on.
        let since = fs::metadata(&path).map(|metadata| Duration::from_secs(metadata.ctime().try_into().unwrap_or(0)));
        let since = since.ok().and_then(|since| UNIX_EPOCH.checked_add(since));
        // A clock that was set back makes a file of the future: it stays for now.
        if since.is_some_and(|since| since.elapsed().is_ok_and(|elapsed| elapsed >= age)) {
            fs::remove_file(&path).map_err(|source| JournalError::Io { what: "remove", path, source })?;
        }
    }
    Ok(())
}

/// Whether anything is set aside.
pub(super) fn any(directory: &Path) -> bool {
    segment::list(&folder(directory)).is_ok_and(|numbers| !numbers.is_empty())
}

/// The numbers of all segments, those set aside too, ascending.
pub(super) fn list_all(directory: &Path) -> Result<Vec<u64>, JournalError> {
    // What is set aside meanwhile is seen twice, not missed.
    let mut numbers = segment::list(directory)?;
    numbers.extend(segment::list(&folder(directory))?);
    numbers.sort_unstable();
    numbers.dedup();
    Ok(numbers)
}

/// Where segment `number` is.
pub(super) fn path(directory: &Path, number: u64) -> PathBuf {
    let kept = segment::path(&folder(directory), number);
    let in_use = segment::path(directory, number);
    if !in_use.exists() && kept.exists() { kept } else { in_use }
}
