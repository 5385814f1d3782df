//! Fills a folder with a journal and a ledger of many calls, to measure with:
//! `cargo run --release --example fill_ledger -- DIRECTORY 1000000`.
//!
//! The calls are those of `tests/support/calls.rs`: three months of a company, as a server would have recorded them.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a tool: what fails here ends it")]

#[path = "../tests/support/calls.rs"]
mod calls;

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Instant;

fn main() -> io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(directory), Some(count)) = (arguments.next(), arguments.next().and_then(|count| count.parse().ok()))
    else {
        return Err(io::Error::other("usage: fill_ledger DIRECTORY RECORDS"));
    };
    let (begun, mut told) = (Instant::now(), 0);
    calls::fill(&PathBuf::from(&directory), count, |applied| {
        if applied >= told + 500_000 {
            told = applied;
            drop(writeln!(io::stdout(), "{applied} records after {:.0?}", begun.elapsed()));
        }
    });
    writeln!(io::stdout(), "{count} records in {directory} after {:.1?}", begun.elapsed())
}
