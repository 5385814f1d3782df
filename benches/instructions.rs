//! How many instructions the hot paths take, each held to its bound:
//! `CARGO_PROFILE_DEV_OPT_LEVEL=3 CARGO_INCREMENTAL=0 cargo bench --profile dev --bench instructions`.
//!
//! Valgrind counts, so it does not matter what else the machine does. `tests/run` does this, with the dependencies that the
//! tests have built, of which only tokenmeter itself is built anew, optimised: the numbers are there to be held against their
//! bounds, not to be multiplied with. What a path waits for, and what the kernel does for it, is not in them. A name, or a
//! part of one, counts those alone. Gungraun would do the same with a runner to be installed in its very version.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what fails here fails the bench"
)]
#![expect(clippy::print_stdout, reason = "a bench says what it measured")]

#[expect(dead_code, reason = "each bench uses what it needs")]
#[path = "../tests/support/calls.rs"]
mod calls;
#[path = "support/hot.rs"]
mod hot;
#[expect(dead_code, reason = "each bench uses what it needs")]
#[path = "../tests/support/intents.rs"]
mod intents;

use std::hint::black_box;
use std::process::{Command, ExitCode};

/// How often a path runs while it is counted, after it has run as often to be warm.
const TIMES: u64 = 500;
/// Above its bound by so many per cent, a path has become more expensive: another compiler moves it by one or two.
const TOLERATED_PERCENT: u64 = 5;

/// A path, and the instructions that it takes at most. Whoever makes one cheaper lowers its bound.
const BOUNDS: &[(&str, u64)] = &[
    ("attribution by key", 6_600),
    ("request", 6_800),
    ("request of 200 KB", 172_000),
    ("chunk of a stream", 2_650),
    ("chunk of a stream, at the meter", 2_700),
    ("small answer", 49_600),
    ("price", 6_600),
    ("journal, a record", 22_000),
    ("call, from intent to record", 93_700),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [first, name] = &arguments[..]
        && first == "--count"
    {
        let mut path = hot::path(name);
        (0..TIMES).for_each(|_| path());
        counted_here(&mut *path);
        return ExitCode::SUCCESS;
    }
    println!("{:<34} {:>12} {:>9}", "path", "instructions", "bound");
    let mut is_kept = true;
    for (name, bound) in BOUNDS.iter().filter(|(name, _)| arguments.iter().all(|part| name.contains(part.as_str()))) {
        let measured = instructions(name);
        let is_above = measured * 100 > bound * (100 + TOLERATED_PERCENT);
        is_kept &= !is_above;
        let verdict = if is_above {
            "  more than its bound: make it cheaper, or raise the bound in benches/instructions.rs and say why"
        } else if measured * 100 < bound * (100 - 2 * TOLERATED_PERCENT) {
            "  well below its bound: lower it in benches/instructions.rs"
        } else {
            ""
        };
        println!("{name:<34} {measured:>12} {bound:>9}{verdict}");
    }
    if is_kept { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What Valgrind counts within this function is what is told; it finds it by its name.
#[inline(never)]
fn counted_here(path: &mut dyn FnMut()) {
    for _ in 0..TIMES {
        black_box(&mut *path)();
    }
}

/// Runs this program once more, under Valgrind: what the path takes once.
fn instructions(name: &str) -> u64 {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--toggle-collect=*counted_here*", "--callgrind-out-file=/dev/null"]);
    command.arg(std::env::current_exe().unwrap()).args(["--count", name]);
    let output = command.output().expect("Valgrind is missing: `tests/run` installs Debian's package `valgrind`");
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{text}");
    let collected = text.lines().find_map(|line| line.split_once("Collected : "));
    let (_, collected) = collected.unwrap_or_else(|| panic!("Valgrind does not tell what it counted:\n{text}"));
    collected.trim().parse::<u64>().unwrap() / TIMES
}
