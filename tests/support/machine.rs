//! Machine: what stories take from the machine they run on: programs that `tests/run` installs, a seed.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

/// The program (or file) that the variable `TOKENMETER_TEST_{what}` names. `None`, said loudly, where there is none;
/// where CI runs, that fails.
#[expect(clippy::disallowed_methods, reason = "what is installed is the machine's business")]
pub(crate) fn tool(what: &str) -> Option<PathBuf> {
    let variable = format!("TOKENMETER_TEST_{what}");
    let found = std::env::var_os(&variable).map(PathBuf::from).filter(|path| path.exists());
    if found.is_none() {
        eprintln!("\n!!! SKIPPED for want of {variable}: `tests/run` installs and exports it\n");
        let is_ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
        assert!(!is_ci, "{variable} must be set where CI runs");
    }
    found
}

/// The seed of a story that is random: `TOKENMETER_SEED`, else a new one; printed, so that a failure can be replayed.
#[expect(clippy::disallowed_methods, reason = "a seed from outside replays a failure, a clock makes a new one")]
pub(crate) fn seed() -> u64 {
    let given = std::env::var("TOKENMETER_SEED").ok().map(|seed| seed.parse().unwrap());
    let seed = given.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs());
    eprintln!("TOKENMETER_SEED={seed} replays this");
    seed
}

/// Whether `TOKENMETER_LONG=1` asks for the long variant of a story that has one.
#[expect(clippy::disallowed_methods, reason = "how long tests may take is for who runs them to say")]
pub(crate) fn is_long() -> bool {
    std::env::var("TOKENMETER_LONG").is_ok_and(|long| long == "1")
}

/// This instant, as records tell theirs.
#[expect(clippy::disallowed_methods, reason = "what the server's clock says is held against a clock")]
pub(crate) fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

/// A small generator: the same for the same seed.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        let mut dice = Self(seed ^ 0x9E37_79B9_7F4A_7C15);
        dice.0 = dice.0.max(1);
        // Seeds that lie side by side give throws that do not.
        for _ in 0..8 {
            dice.below(2);
        }
        dice
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit.max(1)
    }

    /// True once in `odds` throws.
    pub(crate) fn once_in(&mut self, odds: u64) -> bool {
        self.below(odds) == 0
    }

    /// One of `choices`.
    pub(crate) fn one_of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[usize::try_from(self.below(choices.len() as u64)).unwrap()]
    }
}
