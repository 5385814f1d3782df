//! The tools that judge tokenmeter are judged: a network that should break does, a checker that should object does.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::chaos::{ChaosProxy, Direction, End, Plan};
use crate::checker::place::Footprint;
use crate::checker::{self, Estimate, Evidence, Row, UNTAUGHT, Violation, place, sums};
use crate::machine::seed;
use crate::oracle::{Attempt, Mix, Oracle};
use crate::stand::{PATIENCE, PAYERS, Stand, upstreams};
use crate::storm::{self, Seen, Storm};

/// A server that sends back what it is sent.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            // Its clients break off: that is what they are there for.
            std::thread::spawn(move || drop(std::io::copy(&mut stream.try_clone().unwrap(), &mut stream)));
        }
    });
    address
}

fn connect(chaos: &ChaosProxy) -> TcpStream {
    let stream = TcpStream::connect(chaos.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// What comes back of `sent`, and how the connection ended if it did.
fn echoed(stream: &mut TcpStream, sent: &[u8]) -> (Vec<u8>, Option<std::io::Error>) {
    // A reset is told once: to whoever asks first.
    let written = stream.write_all(sent);
    let mut came = vec![0; sent.len()];
    let mut length = 0;
    while length < came.len() {
        match stream.read(&mut came[length..]) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) => return (came[..length].to_vec(), Some(error)),
        }
    }
    (came[..length].to_vec(), written.err())
}

#[test]
fn the_chaos_proxy_passes_everything_on_and_counts_it() {
    let chaos = ChaosProxy::start(echo()).unwrap();
    let mut stream = connect(&chaos);
    let sent = vec![7; 1_000_000];
    let their_half = stream.try_clone().unwrap();
    let writer = std::thread::spawn({
        let sent = sent.clone();
        move || {
            (&their_half).write_all(&sent).unwrap();
            their_half.shutdown(std::net::Shutdown::Write).unwrap();
        }
    });
    let mut came = Vec::new();
    stream.read_to_end(&mut came).unwrap();
    writer.join().unwrap();
    assert!(came == sent);
    let passed = chaos.passed();
    assert_eq!((passed.len(), passed[0].to_target, passed[0].to_client), (1, 1_000_000, 1_000_000));
}

#[test]
fn the_chaos_proxy_cuts_after_each_byte_in_either_direction() {
    let chaos = ChaosProxy::start(echo()).unwrap();
    for after in 0..10 {
        for direction in [Direction::ToTarget, Direction::ToClient] {
            for end in [End::Close, End::Reset] {
                chaos.plan_next([Plan::cut(direction, after, end)]);
                let (came, error) = echoed(&mut connect(&chaos), b"0123456789");
                let passed = *chaos.passed().last().unwrap();
                let count = if direction == Direction::ToTarget { passed.to_target } else { passed.to_client };
                assert_eq!(count, after, "{direction:?} {end:?}");
                assert!(came.len() as u64 <= after && b"0123456789".starts_with(&came), "{came:?}");
                if end == End::Reset {
                    assert_eq!(error.expect("it is reset").kind(), ErrorKind::ConnectionReset);
                }
            }
        }
    }
    let (came, error) = echoed(&mut connect(&chaos), b"0123456789");
    assert_eq!((came.as_slice(), error.is_none()), (&b"0123456789"[..], true), "the next one is whole");
}

#[test]
fn the_chaos_proxy_refuses_stalls_and_comes_back() {
    let chaos = ChaosProxy::start(echo()).unwrap();
    let mut open = connect(&chaos);
    assert_eq!(echoed(&mut open, b"one").0, b"one");
    chaos.set(Plan::refused());
    let begun = Instant::now();
    while TcpStream::connect(chaos.address()).is_ok() {
        assert!(begun.elapsed() < PATIENCE, "it still listens");
    }
    assert_eq!(echoed(&mut open, b"two").0, b"two", "what is open stays");
    chaos.set(Plan::half_open());
    open.write_all(b"three").unwrap();
    open.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert_eq!(open.read(&mut [0; 9]).unwrap_err().kind(), ErrorKind::WouldBlock, "nothing passes, nothing ends");
    chaos.set(Plan::default());
    open.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut came = [0; 5];
    open.read_exact(&mut came).unwrap();
    assert_eq!(&came, b"three", "what was held comes");
    assert_eq!(echoed(&mut connect(&chaos), b"four").0, b"four");
    chaos.break_off(End::Reset);
    assert_eq!(open.read(&mut [0; 9]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn the_chaos_proxy_is_as_slow_as_it_is_told() {
    let chaos = ChaosProxy::start(echo()).unwrap();
    chaos.set(Plan { delay: Duration::from_millis(20), ..Plan::default() });
    let begun = Instant::now();
    assert_eq!(echoed(&mut connect(&chaos), b"there and back").0, b"there and back");
    assert!(begun.elapsed() >= Duration::from_millis(40));
    chaos.set(Plan { bytes_per_second: Some(1_000_000), ..Plan::default() });
    let begun = Instant::now();
    assert_eq!(echoed(&mut connect(&chaos), &vec![1; 100_000]).0.len(), 100_000);
    assert!(begun.elapsed() >= Duration::from_millis(90));
}

/// All that the checker is told of a run.
#[derive(Clone)]
struct Logs {
    mix: Mix,
    attempts: Vec<Attempt>,
    seen: Vec<Seen>,
    rows: Vec<Row>,
    may_have_died: bool,
    report: Value,
    csv: String,
    metrics: String,
}

impl Logs {
    fn violations(&self) -> Vec<Violation> {
        let Self { mix, attempts, seen, rows, may_have_died, report, csv, metrics } = self;
        let evidence = Evidence { mix: *mix, attempts, seen, rows, may_have_died: *may_have_died };
        let mut violations = checker::calls(&evidence);
        violations.extend(checker::order(rows));
        violations.extend(sums::report(rows, report));
        violations.extend(sums::csv(csv, report));
        violations.extend(sums::metrics(rows, std::slice::from_ref(metrics)));
        violations.extend(sums::month(rows, metrics));
        violations
    }

    /// The first record that is so.
    fn row(&mut self, is_so: impl Fn(&Row) -> bool) -> &mut Row {
        self.rows.iter_mut().find(|row| is_so(row)).expect("such a record")
    }

    /// What the client saw of a call that came to its end with the provider's numbers.
    fn seen_whole(&mut self) -> &mut Seen {
        let id = self.row(is_reported).id.clone();
        self.seen.iter_mut().find(|seen| seen.record.as_deref() == Some(&id)).unwrap()
    }

    /// The oracle's side of the same call.
    fn attempt_at_whole(&mut self) -> &mut Attempt {
        let nonce = self.seen_whole().nonce;
        self.attempts.iter_mut().find(|attempt| attempt.nonce == nonce).unwrap()
    }
}

fn is_reported(row: &Row) -> bool {
    row.provenance == "reported" && row.outcome == "completed"
}

fn is_partial(row: &Row) -> bool {
    row.provenance == "partial" && row.outcome == "upstream_cut"
}

fn is_estimated(row: &Row) -> bool {
    row.provenance == "estimated" && row.outcome == "completed"
}

/// What is made of the logs, and the invariant that must then be named.
type Alteration = (&'static str, &'static str, fn(&mut Logs));

const ALTERATIONS: &[Alteration] = &[
    ("I1", "a record is missing", |logs| drop(logs.rows.remove(7))),
    ("I1", "a call has two records", |logs| {
        let mut row = logs.rows[7].clone();
        row.id.push('x');
        logs.rows.push(row);
    }),
    ("I1", "a record is of no call", |logs| logs.rows[7].tags.clear()),
    ("I1", "a call reached the provider twice", |logs| {
        let attempt = logs.attempts[7].clone();
        logs.attempts.push(attempt);
    }),
    ("I1", "a client was told another record", |logs| logs.seen_whole().record = Some("another".to_owned())),
    ("I2", "a count is one less", |logs| *logs.row(is_reported).tokens.get_mut("output").unwrap() -= 1),
    ("I2", "a count is there that nobody told", |logs| {
        logs.row(is_reported).tokens.insert("audio_input".to_owned(), 0);
    }),
    ("I2", "a count is gone", |logs| {
        logs.row(is_reported).tokens.remove("input");
    }),
    ("I2", "the provider's own object is another's", |logs| {
        let other = logs.rows.iter().rfind(|row| is_reported(row)).unwrap().usage_raw.clone();
        logs.row(is_reported).usage_raw = other;
    }),
    ("I2", "the model is another", |logs| logs.row(is_reported).model = Some("gpt-5".to_owned())),
    ("I2", "the service tier is gone", |logs| {
        logs.row(|row| is_reported(row) && row.provider == "openai").service_tier = None;
    }),
    ("I2", "the status is another", |logs| logs.row(is_reported).status = Some(201)),
    ("I2", "a guess passes as reported", |logs| "reported".clone_into(&mut logs.row(is_estimated).provenance)),
    ("I2", "a count that was told is ours", |logs| *logs.row(is_partial).tokens.get_mut("input").unwrap() += 1),
    ("I2", "an answer counts as nothing", |logs| "none".clone_into(&mut logs.row(is_estimated).provenance)),
    ("I3", "the truth is above the band", |logs| {
        let row = logs.row(is_estimated);
        row.estimate = Some(Estimate { low: 1, high: 2 });
        row.tokens = [("input".to_owned(), 1), ("output".to_owned(), 1)].into();
    }),
    ("I3", "the truth is below the band", |logs| {
        let row = logs.row(is_estimated);
        row.estimate = Some(Estimate { low: 10_000, high: 20_000 });
        row.tokens = [("input".to_owned(), 10_000), ("output".to_owned(), 1)].into();
    }),
    ("I3", "a guess has no band", |logs| logs.row(is_estimated).estimate = None),
    ("I4", "an id is there twice", |logs| logs.rows[7].id = logs.rows[8].id.clone()),
    ("I4", "a seq is left out", |logs| logs.rows.iter_mut().for_each(|row| row.seq += u64::from(row.seq > 7))),
    ("I5", "a row of the report is one more", |logs| {
        let count = &mut logs.report["rows"][0]["tokens"]["output"];
        *count = json!(count.as_u64().unwrap() + 1);
    }),
    ("I5", "a row of the report is gone", |logs| drop(logs.report["rows"].as_array_mut().unwrap().pop())),
    ("I5", "the CSV's total is another", |logs| {
        let (rows, total) = logs.csv.trim_end().rsplit_once('\n').unwrap();
        logs.csv = format!("{rows}\n{}", total.replacen(|digit: char| digit.is_ascii_digit(), "", 1));
    }),
    ("I5", "a counter is more than the records", |logs| {
        logs.metrics.push_str("tokenmeter_tokens_total{kind=\"output\",provenance=\"reported\"} 1\n");
    }),
    ("I5", "the month's gauge is more than the records", |logs| {
        logs.metrics.push_str("tokenmeter_month_tokens{kind=\"input\"} 1\n");
    }),
    ("I6", "what a client saw the end of is an orphan", |logs| {
        logs.may_have_died = true;
        "orphaned".clone_into(&mut logs.row(is_reported).outcome);
    }),
    ("I6", "what a client saw the end of is a guess", |logs| {
        "estimated".clone_into(&mut logs.row(is_reported).provenance);
    }),
    ("I6", "an orphan where nobody died", |logs| "orphaned".clone_into(&mut logs.row(is_estimated).outcome)),
    ("I9", "a client got other bytes", |logs| logs.seen_whole().hash ^= 1),
    ("I9", "a client took a part for the whole", |logs| logs.seen_whole().bytes -= 1),
    ("I9", "a client got another status", |logs| logs.seen_whole().status = Some(201)),
    ("I9", "a client got another retry-after", |logs| logs.seen_whole().retry_after = Some(b"1".to_vec())),
    ("I9", "a client was cut off a whole answer", |logs| logs.seen_whole().end = storm::End::Cut),
    ("I9", "a broken connection passed as an end", |logs| logs.attempt_at_whole().is_whole = false),
    ("I9", "the provider was asked something else", |logs| {
        logs.attempt_at_whole().altered = Some("else".to_owned());
    }),
    ("I11", "the provider was sent a virtual key", |logs| {
        logs.attempt_at_whole().leaked = Some("x-api-key: tm_".to_owned());
    }),
];

#[tokio::test]
async fn the_checker_names_whatever_is_wrong_by_the_invariant_that_it_breaks() {
    let mix = Mix { faulted_percent: 60, ..Mix::new(seed()) };
    let oracle = Oracle::start(mix).unwrap();
    let stand = Stand::with(|_| format!("{UNTAUGHT}{}{PAYERS}", upstreams(&oracle.base_url())));
    let (key, next) = (stand.key("lab").await, Arc::new(AtomicU64::new(0)));
    let proxies = vec![stand.proxy().to_owned()];
    let seen = Storm::start(storm::Settings { mix, proxies, key, clients: 8, next, end: 300 }).join();
    let attempts = oracle.attempts(0);
    let (rows, metrics) = checker::settled(&stand, &seen, &attempts).await;
    let report = stand.report(&["--by", "department,team,provider,model"]);
    let csv = stand.run(&["report", "--format", "csv", "--by", "provider"]);
    let logs = Logs { mix, attempts, seen, rows, may_have_died: false, report, csv, metrics };
    checker::expect_none(&logs.violations());
    for (invariant, what, alter) in ALTERATIONS {
        let mut altered = logs.clone();
        alter(&mut altered);
        let named: BTreeSet<&str> = altered.violations().iter().map(|violation| violation.invariant).collect();
        assert!(named.contains(invariant), "{what}: not named as {invariant}, but as {named:?}");
    }
}

#[test]
fn the_checker_names_what_is_wrong_with_ledger_folder_and_process() {
    let named = |violations: Vec<Violation>| violations.iter().map(|one| one.invariant).collect::<Vec<_>>();
    assert_eq!(named(checker::integrity(&Command::new("true").output().unwrap())), [""; 0]);
    assert_eq!(named(checker::integrity(&Command::new("false").output().unwrap())), ["I10"]);

    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("data")).unwrap();
    std::fs::write(folder.path().join("data/ledger.db"), "nothing but a canary").unwrap();
    assert_eq!(named(place::secrets(folder.path(), &["sparrow", "wren"])), [""; 0]);
    assert_eq!(named(place::secrets(folder.path(), &["sparrow", "canary"])), ["I11"]);

    let rest = Footprint { resident_kib: 1_000, descriptors: 20, threads: 5 };
    let same = Footprint { resident_kib: 1_100, ..rest };
    assert_eq!(named(rest.exceeded_by(&same, 100)), [""; 0]);
    let more = Footprint { resident_kib: 1_101, descriptors: 21, threads: 6 };
    assert_eq!(named(rest.exceeded_by(&more, 100)), ["I12", "I12", "I12"]);
}
