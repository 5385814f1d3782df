//! Crash states: what a disk may hold after the power failed, by what a process is known to have written and synced.
//!
//! In: its syscalls. Out: for any moment, folders as they may be found after it. What was synced by then is there. Of
//! what was not, each sector has the content of any of its writes since, or of none, and a name is there or not:
//! `fsync` of a file makes its bytes and its length lasting, only that of its folder its name. `-shm` files are left
//! out: `SQLite` makes them anew.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::path::Path;

use crate::machine::Dice;
use crate::strace::Syscall;

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

/// What happened below a folder, in the order of the log's lines.
#[derive(Debug, Default)]
pub(crate) struct Recording {
    root: String,
    steps: Vec<Step>,
    /// The lines by which something had become lasting.
    syncs: Vec<usize>,
    failed_syncs: usize,
    names: BTreeMap<String, usize>,
    inodes: usize,
    lines: usize,
}

#[derive(Debug)]
struct Step {
    change: Change,
    begun: usize,
    ended: usize,
    /// The line by which it was lasting; never, as far as it is known, where that is past the last.
    lasting: usize,
    /// A sync of it failed: the kernel shows it to every reader, takes it for written, and never writes it.
    is_given_up: bool,
}

#[derive(Debug)]
enum Change {
    Make { path: String, inode: usize },
    MakeDirectory { path: String },
    Rename { from: String, to: String },
    Remove { path: String },
    Write { inode: usize, offset: usize, data: Vec<u8> },
    Cut { inode: usize, length: usize },
}

/// What a descriptor stands for.
#[derive(Clone, Debug)]
enum Opened {
    File { inode: usize, position: usize },
    Directory(String),
}

/// What becomes of the names, or of a file's bytes, that were not synced.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    /// None of it is there.
    Lost,
    /// All of it is.
    Kept,
    /// What came first is.
    Prefix,
    /// The same, and the sectors of the next write in part.
    Torn,
    /// The same, and one of those sectors holds what nobody wrote.
    Garbage,
    /// Each sector has one of its versions.
    Reordered,
    /// The same, with the length of the newest: what is missing reads as zeros.
    Zeros,
}

const FATES: [Fate; 7] =
    [Fate::Lost, Fate::Kept, Fate::Prefix, Fate::Torn, Fate::Garbage, Fate::Reordered, Fate::Zeros];

/// A folder's files and subfolders, by path below the root.
#[derive(Debug, Default)]
pub(crate) struct State {
    directories: BTreeSet<String>,
    files: BTreeMap<String, Vec<u8>>,
}

impl Recording {
    /// Nothing yet, below `root`, which is lasting itself and empty.
    pub(crate) fn of(root: &Path) -> Self {
        Self { root: format!("{}/", root.display()), ..Self::default() }
    }

    /// Adds what the next process did; returns the line that its log begins at in all of this. Its files must be as it
    /// left them: they show what became of the calls that it was killed in.
    #[expect(clippy::too_many_lines, reason = "one arm a syscall")]
    pub(crate) fn add(&mut self, syscalls: &[Syscall]) -> usize {
        let base = self.lines;
        let is_sync = |syscall: &&Syscall| ["fsync", "fdatasync"].contains(&syscall.name.as_str());
        self.failed_syncs +=
            syscalls.iter().filter(is_sync).filter(|sync| sync.result < 0 && !sync.is_unfinished).count();
        let mut opened: HashMap<i64, Opened> = HashMap::new();
        // What a sync that did not return was to make lasting is taken not to be.
        let counts = |one: &&Syscall| if one.is_unfinished { !is_sync(one) } else { one.result >= 0 || is_sync(one) };
        let mut ordered: Vec<&Syscall> = syscalls.iter().filter(counts).collect();
        // A descriptor is there when the call that gives it returns.
        ordered.sort_by_key(|one| if one.name == "openat" { one.ended } else { one.begun });
        let mut syncs: Vec<(Opened, usize, usize, bool)> = Vec::new();
        for syscall in ordered {
            let (begun, ended) = (base + syscall.begun, base + syscall.ended);
            let begun = if syscall.name == "openat" { ended } else { begun };
            let mut changed =
                |change| self.steps.push(Step { change, begun, ended, lasting: usize::MAX, is_given_up: false });
            let below = |path: Vec<u8>| {
                let path = String::from_utf8(path).ok()?;
                path.strip_prefix(&self.root).filter(|path| !path.ends_with("-shm")).map(str::to_owned)
            };
            let is_there = |path: &String| Path::new(&self.root).join(path).exists();
            let on = syscall.descriptor().and_then(|descriptor| opened.get_mut(&descriptor));
            match syscall.name.as_str() {
                "mkdir" => {
                    let Some(path) = below(syscall.strings().swap_remove(0)) else { continue };
                    if !syscall.is_unfinished || is_there(&path) {
                        changed(Change::MakeDirectory { path });
                    }
                }
                "openat" => {
                    let path = syscall.strings().swap_remove(0);
                    if [self.root.as_bytes(), self.root.trim_end_matches('/').as_bytes()].contains(&path.as_slice()) {
                        opened.insert(syscall.result, Opened::Directory(String::new()));
                        continue;
                    }
                    let Some(path) = below(path) else {
                        opened.remove(&syscall.result);
                        continue;
                    };
                    if syscall.is_unfinished && !is_there(&path) {
                        continue;
                    }
                    let inode = if let Some(inode) = self.names.get(&path) {
                        if syscall.has("O_TRUNC") {
                            changed(Change::Cut { inode: *inode, length: 0 });
                        }
                        *inode
                    } else if syscall.has("O_CREAT") {
                        let inode = self.inodes;
                        self.inodes += 1;
                        self.names.insert(path.clone(), inode);
                        changed(Change::Make { path, inode });
                        inode
                    } else {
                        opened.insert(syscall.result, Opened::Directory(path));
                        continue;
                    };
                    opened.insert(syscall.result, Opened::File { inode, position: 0 });
                }
                "close" => {
                    opened.remove(&syscall.descriptor().unwrap());
                }
                "lseek" => {
                    if let Some(Opened::File { position, .. }) = on {
                        *position = usize::try_from(syscall.result).unwrap();
                    }
                }
                "write" | "writev" => {
                    if let Some(Opened::File { inode, position }) = on {
                        let offset = *position;
                        let data = written(syscall, &self.root, &self.names, *inode, offset);
                        *position += data.len();
                        changed(Change::Write { inode: *inode, offset, data });
                    }
                }
                "pwrite64" => {
                    if let Some(Opened::File { inode, .. }) = on {
                        let offset = usize::try_from(syscall.last_number()).unwrap();
                        let data = written(syscall, &self.root, &self.names, *inode, offset);
                        changed(Change::Write { inode: *inode, offset, data });
                    }
                }
                "ftruncate" => {
                    if let Some(Opened::File { inode, .. }) = on {
                        let length = usize::try_from(syscall.last_number()).unwrap();
                        if syscall.is_unfinished && content(&self.root, &self.names, *inode).len() != length {
                            continue;
                        }
                        changed(Change::Cut { inode: *inode, length });
                    }
                }
                "rename" => {
                    let mut paths = syscall.strings().into_iter().filter_map(below);
                    let (Some(from), Some(to)) = (paths.next(), paths.next()) else { continue };
                    if syscall.is_unfinished && is_there(&from) {
                        continue;
                    }
                    let inode = self.names.remove(&from).unwrap();
                    self.names.insert(to.clone(), inode);
                    changed(Change::Rename { from, to });
                }
                "unlink" => {
                    let Some(path) = below(syscall.strings().swap_remove(0)) else { continue };
                    if syscall.is_unfinished && is_there(&path) {
                        continue;
                    }
                    self.names.remove(&path).unwrap();
                    changed(Change::Remove { path });
                }
                "fsync" | "fdatasync" => {
                    if let Some(on) = on {
                        syncs.push((on.clone(), begun, ended, syscall.result == 0));
                    }
                }
                "read" | "recvfrom" | "sendto" | "sendmsg" => {}
                other => panic!("what does `{other}` do to files?"),
            }
        }
        syncs.sort_by_key(|(.., ended, _)| *ended);
        for (what, begun, ended, has_worked) in syncs {
            for step in self.steps.iter_mut().filter(|step| step.ended <= begun && step.change.is_synced_by(&what)) {
                if has_worked && !step.is_given_up {
                    step.lasting = step.lasting.min(ended);
                } else if step.lasting == usize::MAX {
                    step.is_given_up = true;
                }
            }
            self.syncs.push(ended);
        }
        self.lines = base + syscalls.iter().map(|syscall| syscall.ended + 1).max().unwrap_or(0);
        self.assert_is_what_is_there();
        base
    }

    /// Nothing that was done to a file is missing here: states of a run that never was prove nothing.
    fn assert_is_what_is_there(&self) {
        for (path, inode) in &self.names {
            let mut bytes = Vec::new();
            let is_of_it = |change: &Change| match change {
                Change::Write { inode: one, .. } | Change::Cut { inode: one, .. } => one == inode,
                Change::Make { .. } | Change::MakeDirectory { .. } | Change::Rename { .. } | Change::Remove { .. } => {
                    false
                }
            };
            self.steps
                .iter()
                .map(|step| &step.change)
                .filter(|one| is_of_it(one))
                .for_each(|one| one.apply(&mut bytes));
            assert!(bytes == content(&self.root, &self.names, *inode), "{path} is not what was recorded of it");
        }
    }

    /// How often something was made lasting.
    pub(crate) fn syncs(&self) -> usize {
        self.syncs.len()
    }

    /// How often that failed.
    pub(crate) fn failed_syncs(&self) -> usize {
        self.failed_syncs
    }

    /// How many names were taken away, where `is_meant`.
    pub(crate) fn removed(&self, is_meant: impl Fn(&str) -> bool) -> usize {
        self.steps.iter().filter(|step| matches!(&step.change, Change::Remove { path } if is_meant(path))).count()
    }

    /// The bytes that were written to the file last known as `path`.
    pub(crate) fn writes_to(&self, path: &str) -> usize {
        let meant = self.names.get(path);
        self.steps
            .iter()
            .filter(|step| matches!(&step.change, Change::Write { inode, .. } if Some(inode) == meant))
            .count()
    }

    /// A moment at which the power may fail: right before a sync has done its work, right after, or between two.
    pub(crate) fn moment(&self, dice: &mut Dice) -> usize {
        match dice.below(3) {
            0 => dice.one_of(&self.syncs).saturating_sub(1),
            1 => *dice.one_of(&self.syncs),
            _ => usize::try_from(dice.below(self.lines as u64)).unwrap(),
        }
    }

    /// What may be found after the power failed behind line `moment`, and in words how it came so.
    pub(crate) fn state_at(&self, moment: usize, dice: &mut Dice) -> (State, String) {
        let until = self.steps.partition_point(|step| step.begun <= moment);
        let steps = &self.steps[..until];
        // Half of the states treat all alike, which is how file systems often do.
        let for_all = dice.once_in(2).then(|| *dice.one_of(&FATES));
        let mut story = format!("line {moment}");
        let fate_of = |dice: &mut Dice| for_all.unwrap_or_else(|| *dice.one_of(&FATES));
        let names = fate_of(dice);
        write!(story, ", names {names:?}").unwrap();
        let mut state = State::default();
        let mut places: BTreeMap<&str, usize> = BTreeMap::new();
        let pending = steps.iter().filter(|step| step.change.is_of_names() && step.lasting > moment).count() as u64;
        let first = dice.below(pending + 1);
        let mut seen = 0;
        for step in steps.iter().filter(|step| step.change.is_of_names()) {
            if step.lasting > moment {
                seen += 1;
                let is_there = match names {
                    Fate::Lost => false,
                    Fate::Kept => true,
                    Fate::Prefix | Fate::Torn | Fate::Garbage => seen <= first,
                    Fate::Reordered | Fate::Zeros => dice.once_in(2),
                };
                if !is_there {
                    continue;
                }
            }
            match &step.change {
                Change::MakeDirectory { path } => {
                    state.directories.insert(path.clone());
                }
                Change::Make { path, inode } => {
                    places.insert(path, *inode);
                }
                Change::Rename { from, to } => {
                    if let Some(inode) = places.remove(from.as_str()) {
                        places.insert(to, inode);
                    }
                }
                Change::Remove { path } => {
                    places.remove(path.as_str());
                }
                Change::Write { .. } | Change::Cut { .. } => {}
            }
        }
        let mut by_inode: HashMap<usize, Vec<&Step>> = HashMap::new();
        for step in steps.iter().filter(|step| !step.is_given_up) {
            if let Change::Write { inode, .. } | Change::Cut { inode, .. } = &step.change {
                by_inode.entry(*inode).or_default().push(step);
            }
        }
        let there = |directories: &BTreeSet<String>, path: &str| {
            path.match_indices('/').all(|(slash, _)| directories.contains(&path[..slash]))
        };
        for (path, inode) in places {
            if !there(&state.directories, path) {
                continue;
            }
            let steps = by_inode.remove(&inode).unwrap_or_default();
            let (lasting, pending): (Vec<&Step>, Vec<&Step>) =
                steps.into_iter().partition(|step| step.lasting <= moment);
            let mut bytes = Vec::new();
            for step in lasting {
                step.change.apply(&mut bytes);
            }
            if !pending.is_empty() {
                let fate = fate_of(dice);
                write!(story, ", {path} {fate:?} of {}", pending.len()).unwrap();
                bytes = after(bytes, &pending, fate, dice);
            }
            state.files.insert(path.to_owned(), bytes);
        }
        let directories = state.directories.clone();
        state.directories.retain(|path| there(&directories, path));
        (state, story)
    }
}

impl Change {
    fn is_of_names(&self) -> bool {
        !matches!(self, Self::Write { .. } | Self::Cut { .. })
    }

    /// Whether an `fsync` of `what` makes this last.
    fn is_synced_by(&self, what: &Opened) -> bool {
        match (self, what) {
            (Self::Write { inode, .. } | Self::Cut { inode, .. }, Opened::File { inode: synced, .. }) => {
                inode == synced
            }
            (
                Self::Make { path, .. }
                | Self::MakeDirectory { path }
                | Self::Rename { to: path, .. }
                | Self::Remove { path },
                Opened::Directory(synced),
            ) => path.rsplit_once('/').map_or("", |(parent, _)| parent) == synced,
            _ => false,
        }
    }

    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write { offset, data, .. } => put(bytes, *offset, data),
            Self::Cut { length, .. } => bytes.resize(*length, 0),
            Self::Make { .. } | Self::MakeDirectory { .. } | Self::Rename { .. } | Self::Remove { .. } => {}
        }
    }
}

/// What a write wrote: where the process was killed in it, as much as the file has of it.
fn written(syscall: &Syscall, root: &str, names: &BTreeMap<String, usize>, inode: usize, offset: usize) -> Vec<u8> {
    let mut data = syscall.data();
    if syscall.is_unfinished {
        let content = content(root, names, inode);
        let there = content.get(offset..).unwrap_or_default();
        data.truncate(data.iter().zip(there).take_while(|(ours, theirs)| ours == theirs).count());
    }
    data
}

/// What a file holds now.
fn content(root: &str, names: &BTreeMap<String, usize>, inode: usize) -> Vec<u8> {
    let path = names.iter().find_map(|(path, named)| (*named == inode).then_some(path));
    path.map_or_else(Vec::new, |path| std::fs::read(Path::new(root).join(path)).unwrap())
}

fn put(bytes: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let end = offset + data.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset..end].copy_from_slice(data);
}

/// The parts of a write that lie in one sector each: where they begin, and their bytes.
fn sectors(change: &Change) -> Vec<(usize, &[u8])> {
    let Change::Write { offset, data, .. } = change else { return Vec::new() };
    let (mut offset, mut rest) = (*offset, data.as_slice());
    let mut parts = Vec::new();
    while !rest.is_empty() {
        let (part, later) = rest.split_at(rest.len().min(SECTOR - offset % SECTOR));
        parts.push((offset, part));
        offset += part.len();
        rest = later;
    }
    parts
}

/// A file of which `bytes` are synced and `pending` is not.
fn after(mut bytes: Vec<u8>, pending: &[&Step], fate: Fate, dice: &mut Dice) -> Vec<u8> {
    let has_cuts = pending.iter().any(|step| matches!(step.change, Change::Cut { .. }));
    match fate {
        Fate::Lost => {}
        Fate::Kept => pending.iter().for_each(|step| step.change.apply(&mut bytes)),
        Fate::Reordered | Fate::Zeros if !has_cuts => {
            let whole = pending.iter().filter_map(|step| match &step.change {
                Change::Write { offset, data, .. } => Some(offset + data.len()),
                Change::Cut { .. }
                | Change::Make { .. }
                | Change::MakeDirectory { .. }
                | Change::Rename { .. }
                | Change::Remove { .. } => None,
            });
            if fate == Fate::Zeros {
                let length = whole.max().unwrap_or(0).max(bytes.len());
                bytes.resize(length, 0);
            }
            let mut versions: BTreeMap<usize, Vec<(usize, &[u8])>> = BTreeMap::new();
            for (offset, part) in pending.iter().flat_map(|step| sectors(&step.change)) {
                versions.entry(offset / SECTOR).or_default().push((offset, part));
            }
            for versions in versions.values() {
                let newest = usize::try_from(dice.below(versions.len() as u64 + 1)).unwrap();
                versions[..newest].iter().for_each(|(offset, part)| put(&mut bytes, *offset, part));
            }
        }
        Fate::Prefix | Fate::Torn | Fate::Garbage | Fate::Reordered | Fate::Zeros => {
            let first = usize::try_from(dice.below(pending.len() as u64)).unwrap();
            pending[..first].iter().for_each(|step| step.change.apply(&mut bytes));
            if fate == Fate::Prefix {
                return bytes;
            }
            let mut parts = sectors(&pending[first].change);
            let spoilt = dice.below(parts.len() as u64);
            for (number, (offset, part)) in parts.drain(..).enumerate() {
                if fate == Fate::Garbage && number as u64 == spoilt {
                    let garbage: Vec<u8> = part.iter().map(|_| u8::try_from(dice.below(256)).unwrap()).collect();
                    put(&mut bytes, offset, &garbage);
                } else if dice.once_in(2) {
                    put(&mut bytes, offset, part);
                }
            }
        }
    }
    bytes
}

impl State {
    /// Makes these files and folders below `root`, in the place of what is there.
    pub(crate) fn write_to(&self, root: &Path) {
        for entry in std::fs::read_dir(root).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }.unwrap();
        }
        for path in &self.directories {
            std::fs::create_dir_all(root.join(path)).unwrap();
        }
        for (path, bytes) in &self.files {
            std::fs::write(root.join(path), bytes).unwrap();
        }
    }
}
