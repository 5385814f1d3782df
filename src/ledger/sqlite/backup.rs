//! Backup of `SQLite`: a copy of one state of the file, also while a server writes.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use super::{Sqlite, word};
use crate::ledger::{ChainEnd, LedgerError, Link, count};

impl Sqlite {
    /// Writes a copy of the ledger as it is now to the new file `to`. The copy is whole and lasting before it has that
    /// name. Records go on being applied meanwhile. What the copy holds: how far each node's records go.
    pub(in crate::ledger) fn back_up(&self, to: &Path) -> Result<Vec<ChainEnd>, LedgerError> {
        let failed = |what, path: &Path| {
            let path = path.to_owned();
            move |source| LedgerError::BackUp { what, path, source }
        };
        let taken = || failed("overwrite", to)(io::Error::from(io::ErrorKind::AlreadyExists));
        if to.symlink_metadata().is_ok() {
            return Err(taken());
        }
        let (Some(name), Some(folder)) = (to.file_name(), to.parent()) else {
            return Err(failed("write", to)(io::Error::from(io::ErrorKind::InvalidFilename)));
        };
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let mut part = name.to_owned();
        part.push(format!(".{}.part", std::process::id()));
        let part = Unfinished(folder.join(part));
        // Only a process of the same number that died in the middle can have left it.
        drop(part.remove());
        let target =
            part.0.to_str().ok_or_else(|| failed("name", to)(io::Error::from(io::ErrorKind::InvalidFilename)))?;
        self.connection.execute("VACUUM INTO ?", [target])?;
        File::open(&part.0).and_then(|file| file.sync_all()).map_err(failed("write", &part.0))?;
        let ends = chain_ends(&Connection::open_with_flags(&part.0, OpenFlags::SQLITE_OPEN_READ_ONLY)?)?;
        // Asked again: writing took its time.
        if to.symlink_metadata().is_ok() {
            return Err(taken());
        }
        fs::rename(&part.0, to).map_err(failed("write", to))?;
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("write", folder))?;
        Ok(ends)
    }
}

fn chain_ends(connection: &Connection) -> Result<Vec<ChainEnd>, LedgerError> {
    let mut statement = connection.prepare("SELECT node, last_seq, chain FROM positions ORDER BY node")?;
    let ends = statement.query_map((), |row| {
        Ok(ChainEnd { node: word(0, row.get(0)?)?, seq: count(row.get(1)?), link: Link::from_bytes(row.get(2)?) })
    })?;
    Ok(ends.collect::<Result<_, _>>()?)
}

/// A file that is removed unless it was renamed.
struct Unfinished(PathBuf);

impl Unfinished {
    fn remove(&self) -> io::Result<()> {
        fs::remove_file(&self.0)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Renamed, or never made: both are fine.
        drop(self.remove());
    }
}
