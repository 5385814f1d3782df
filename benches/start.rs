//! How long a killed server is away: from the start of the process to `/readyz` 200, with a ledger of a million records
//! and a journal of which ten thousand frames are not applied yet. `cargo bench --bench start`
//!
//! `cargo bench --bench start -- RECORDS FRAMES ROUNDS` for other sizes; 0 rounds only leave such a folder behind. The ledger is made once, by the real applier, in
//! `target/tmp`, and kept; that takes a minute or so.

#![expect(clippy::unwrap_used, reason = "what fails here fails the bench")]
#![expect(clippy::indexing_slicing, reason = "so does what is not there")]
#![expect(clippy::print_stdout, reason = "a bench says what it measured")]

#[path = "../tests/support/calls.rs"]
mod calls;
#[path = "../tests/support/intents.rs"]
mod intents;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tokenmeter::journal::Journal;

/// Of the frames that are not applied, those of calls in flight: an intent and a mark each.
const IN_FLIGHT: usize = 50;
const PATIENCE: Duration = Duration::from_mins(1);

fn main() {
    let numbers: Vec<usize> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let number = |at: usize, usual| numbers.get(at).copied().unwrap_or(usual);
    let (records, frames, rounds) = (number(0, 1_000_000), number(1, 10_000), number(2, 11));
    let directory = ledger_of(records);
    let config = directory.join("tokenmeter.toml");
    let text = format!(
        "[listen]\nproxy = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n[ledger]\ndirectory = {:?}\n",
        directory.join("data").display().to_string()
    );
    std::fs::write(&config, text).unwrap();
    // Whatever an earlier run left is applied.
    let (server, admin, _) = start(&config);
    kill_when_applied(server, &admin);
    if rounds == 0 {
        fill(&directory, frames);
        println!("left as a kill leaves it: {}", directory.display());
        return;
    }
    let mut times = Vec::new();
    for _ in 0..rounds {
        fill(&directory, frames);
        let (server, admin, time) = start(&config);
        println!("ready after {} ms", time.as_millis());
        times.push(time);
        kill_when_applied(server, &admin);
    }
    times.sort_unstable();
    println!(
        "{records} records, {frames} frames to apply, {rounds} starts: median {:?}, worst {:?}",
        times[rounds / 2],
        times[rounds - 1]
    );
}

/// The folder with a ledger of so many records.
fn ledger_of(records: usize) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("start-{records}"));
    if directory.exists() {
        return directory;
    }
    println!("making a ledger of {records} records in {}", directory.display());
    let unfinished = directory.with_extension("unfinished");
    if unfinished.exists() {
        std::fs::remove_dir_all(&unfinished).unwrap();
    }
    let data = unfinished.join("data");
    calls::fill(&data, u64::try_from(records).unwrap(), |_| {});
    std::fs::rename(&unfinished, &directory).unwrap();
    directory
}

/// Appends so many frames, as a server that was killed leaves them.
fn fill(directory: &Path, frames: usize) {
    let journal = Journal::open(calls::settings(&directory.join("data"))).unwrap().journal;
    let calls = frames / 2;
    for number in 0..calls {
        let record = calls::record(u64::try_from(number).unwrap(), u64::try_from(calls).unwrap());
        let intent = intents::intent(&record);
        journal.append_intent(&intent).unwrap();
        if number >= IN_FLIGHT {
            journal.append_record(record).unwrap();
        } else {
            journal.append_progress(&intents::progress(intent.id, intent.started_at, 100)).unwrap();
        }
    }
}

/// Starts the server: its process, its admin's address, and how long it took until it was ready.
fn start(config: &Path) -> (Child, String, Duration) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tokenmeter"));
    command.arg("--config").arg(config).arg("serve").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let begun = Instant::now();
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines().map(Result::unwrap);
    let admin = lines.find_map(|line| line.trim().strip_prefix("admin").map(str::to_owned)).unwrap();
    let admin = admin.trim().trim_start_matches("http://").split(' ').next().unwrap().to_owned();
    while !get(&admin, "/readyz").starts_with("HTTP/1.1 200") {}
    (child, admin, begun.elapsed())
}

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Kills the server once its ledger has everything.
fn kill_when_applied(mut server: Child, admin: &str) {
    let begun = Instant::now();
    while !get(admin, "/metrics").lines().any(|line| line == "tokenmeter_ledger_lag_seconds 0") {
        assert!(begun.elapsed() < PATIENCE, "the ledger lags behind");
        std::thread::sleep(Duration::from_millis(50));
    }
    server.kill().unwrap();
    server.wait().unwrap();
}
