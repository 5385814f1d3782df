//! strace: what a process did to its files and sockets, in order, with every byte of it.
//!
//! Run by [`traced`], read by [`syscalls`]. A syscall that another thread's interrupted in the log begins at one line
//! and ends at a later one; what happens as a consequence of its return stands behind its end.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

/// One syscall that returned, or whose process was killed in it.
#[derive(Debug)]
pub(crate) struct Syscall {
    /// Its name: `pwrite64`.
    pub(crate) name: String,
    /// Its arguments as strace shows them, strings and descriptors in hexadecimal.
    arguments: String,
    /// What it returned; −1 for an error, and where it did not return.
    pub(crate) result: i64,
    /// Whether it never returned: the kernel may have done all of it, a part, or nothing.
    pub(crate) is_unfinished: bool,
    /// The line of the log that it begins in.
    pub(crate) begun: usize,
    /// The line of the log that it has returned by.
    pub(crate) ended: usize,
}

/// `command`, traced into `log`; `arguments` are strace's further ones. The tracer stands aside, so that the process
/// that is started is the command's own.
pub(crate) fn traced(strace: &Path, log: &Path, arguments: &[&str], command: &Command) -> Command {
    let mut traced = Command::new(strace);
    traced.args(["-D", "-f", "--seccomp-bpf", "-o"]).arg(log).args(arguments);
    traced.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            traced.env(name, value);
        }
    }
    if let Some(directory) = command.get_current_dir() {
        traced.current_dir(directory);
    }
    traced
}

/// What [`syscalls`] needs to be told: everything in hexadecimal, nothing cut off, sockets with their addresses.
pub(crate) const WHOLE: &[&str] = &["-yy", "-xx", "-s", "16777216"];

/// The syscalls in a log, in the order in which they began. One that did not return ends with the log.
pub(crate) fn syscalls(log: &str) -> Vec<Syscall> {
    let mut unfinished: HashMap<&str, (usize, &str)> = HashMap::new();
    let mut all = Vec::new();
    for (number, line) in log.lines().enumerate() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        if let Some(begin) = rest.strip_suffix(" <unfinished ...>") {
            unfinished.insert(thread, (number, begin));
        } else if let Some(resumed) = rest.strip_prefix("<... ") {
            let (begun, begin) = unfinished.remove(thread).expect("what resumes was begun");
            let (_, end) = resumed.split_once(" resumed>").expect("strace's own form");
            all.extend(syscall(&format!("{begin}{end}"), begun, number));
        } else {
            all.extend(syscall(rest, number, number));
        }
    }
    let last = log.lines().count();
    all.extend(unfinished.into_values().filter_map(|(begun, begin)| syscall(&format!("{begin}) = ?"), begun, last)));
    all.sort_by_key(|one| one.begun);
    all
}

fn syscall(text: &str, begun: usize, ended: usize) -> Option<Syscall> {
    // Neither signals nor exits.
    let (name, rest) = text.split_once('(')?;
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return None;
    }
    let (arguments, result) = rest.rsplit_once(" = ")?;
    let arguments = arguments.trim_end().strip_suffix(')')?;
    let is_unfinished = result.starts_with('?');
    let digits = result.find(|one: char| !one.is_ascii_digit() && one != '-').unwrap_or(result.len());
    let result = if is_unfinished { -1 } else { result[..digits].parse().ok()? };
    Some(Syscall { name: name.to_owned(), arguments: arguments.to_owned(), result, is_unfinished, begun, ended })
}

impl Syscall {
    /// The descriptor that is its first argument.
    pub(crate) fn descriptor(&self) -> Option<i64> {
        let digits = self.arguments.find(|one: char| !one.is_ascii_digit()).unwrap_or(self.arguments.len());
        self.arguments[..digits].parse().ok()
    }

    /// What that descriptor is: a path, `TCP:[here->there]`.
    pub(crate) fn described(&self) -> String {
        let (_, rest) = self.arguments.split_once('<').unwrap_or_default();
        // An arrow ends no description: its `>` is followed by an address.
        let end = rest.find(">,").or_else(|| rest.strip_suffix('>').map(str::len));
        String::from_utf8(unescaped(end.map_or("", |end| &rest[..end]))).unwrap_or_default()
    }

    /// The strings among its arguments: paths, or the slices of a write.
    pub(crate) fn strings(&self) -> Vec<Vec<u8>> {
        self.arguments.split('"').skip(1).step_by(2).map(unescaped).collect()
    }

    /// What a write wrote or a read read; what it was to write where it did not return.
    pub(crate) fn data(&self) -> Vec<u8> {
        let mut data = self.strings().concat();
        if self.is_unfinished {
            return data;
        }
        let length = usize::try_from(self.result).unwrap_or(0);
        assert!(data.len() >= length, "{} bytes of it are not in the log: {self:?}", length - data.len());
        data.truncate(length);
        data
    }

    /// Its last argument, where that is a number.
    pub(crate) fn last_number(&self) -> u64 {
        self.arguments.rsplit(", ").next().unwrap().parse().unwrap()
    }

    /// Whether a flag such as `O_CREAT` is among its arguments.
    pub(crate) fn has(&self, flag: &str) -> bool {
        self.arguments.contains(flag)
    }
}

/// `\x61b` as bytes: strace leaves nothing else escaped where it was asked for hexadecimal.
fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len() / 4);
    let mut rest = text.as_bytes();
    while let Some((first, later)) = rest.split_first() {
        rest = later;
        let digits = later.strip_prefix(b"x").and_then(|later| later.split_first_chunk::<2>());
        if *first == b'\\'
            && let Some((digits, later)) = digits
        {
            let digits = std::str::from_utf8(digits).unwrap();
            bytes.push(u8::from_str_radix(digits, 16).unwrap());
            rest = later;
        } else {
            bytes.push(*first);
        }
    }
    bytes
}
