//! Problem: what is wrong in a config file, where, and what to do.
//!
//! Touches nothing.

use std::fmt;
use std::path::PathBuf;

/// One problem of a configuration. All are collected before anything fails.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    /// The file, if there is one: built-in defaults have none.
    pub file: Option<PathBuf>,
    /// Line in the file, from 1.
    pub line: Option<usize>,
    /// The key's full path: `upstream.base_url`.
    pub key: String,
    /// What is wrong, as a lower-case fragment.
    pub what: String,
    /// What to do, and the known values where they are few.
    pub help: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.file, self.line) {
            (Some(file), Some(line)) => write!(formatter, "{}:{line}: ", file.display())?,
            (Some(file), None) => write!(formatter, "{}: ", file.display())?,
            (None, _) => {}
        }
        if !self.key.is_empty() {
            write!(formatter, "`{}` ", self.key)?;
        }
        write!(formatter, "{}\n    {}", self.what, self.help)
    }
}
