//! I11 and I12: what a process leaves behind, on disk and of itself.

use std::path::Path;
use std::time::{Duration, Instant};

use super::{Found, Violation};
use crate::stand::PATIENCE;

/// I11: which file below `folder` holds which of `canaries`.
pub(crate) fn secrets(folder: &Path, canaries: &[&str]) -> Vec<Violation> {
    let mut found = Found::default();
    look_through(folder, canaries, &mut found);
    found.0
}

fn look_through(folder: &Path, canaries: &[&str], found: &mut Found) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            look_through(&path, canaries, found);
            continue;
        }
        // A running server removes its segments and logs as it likes.
        let Ok(bytes) = std::fs::read(&path) else { continue };
        for canary in canaries {
            if let Some(at) = memchr::memmem::find(&bytes, canary.as_bytes()) {
                let around = bytes[at.saturating_sub(100)..(at + 60).min(bytes.len())].escape_ascii();
                found.add("I11", format!("{} holds `{canary}`: {around}", path.display()));
            }
        }
    }
}

/// I12: what a process holds of the machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Footprint {
    pub(crate) resident_kib: u64,
    pub(crate) descriptors: u64,
    pub(crate) threads: u64,
}

impl Footprint {
    /// That of a process now.
    pub(crate) fn of(pid: u32) -> Self {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().next().unwrap().parse().unwrap()
        };
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as u64;
        Self { resident_kib: field("VmRSS:"), descriptors, threads: field("Threads:") }
    }

    /// Waits until the process holds no more descriptors and threads than this, and says what it has not let go. It may
    /// keep `kib` of memory: what an allocator does not return.
    pub(crate) fn regained_by(&self, pid: u32, kib: u64) -> Vec<Violation> {
        let begun = Instant::now();
        loop {
            let exceeded = self.exceeded_by(&Self::of(pid), kib);
            if exceeded.is_empty() || begun.elapsed() > PATIENCE {
                return exceeded;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What `now` is more than this, but for `kib` of memory.
    pub(crate) fn exceeded_by(&self, now: &Self, kib: u64) -> Vec<Violation> {
        let mut found = Found::default();
        for (what, now, then) in [
            ("KiB of memory", now.resident_kib, self.resident_kib + kib),
            ("file descriptors", now.descriptors, self.descriptors),
            ("threads", now.threads, self.threads),
        ] {
            if now > then {
                found.add("I12", format!("the process stays at {now} {what}, and may have {then}"));
            }
        }
        found.0
    }
}
