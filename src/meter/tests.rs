//! What counts, and what was counted before.

mod orphans;

use std::path::Path;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use http::Method;
use serde_json::json;

use super::{Ending, HeldPrompt, Meter, Moment, Settings};
use crate::ids::Provider;
use crate::journal::samples::{intent, open};
use crate::journal::{Frame, Journal, Kind, Limits, Position, Reader};
use crate::metrics::{Limits as LabelLimits, Metrics};
use crate::operation::Operation;
use crate::pricing::PriceBook;
use crate::record::{Intent, JobSeen, Record};
use crate::usage::{Outcome, Provenance, TokenCounts};
use crate::wires::openai::OpenAi;
use crate::wires::prompt::Prompt;
use crate::wires::{Consumption, Countable, CredentialHeader, Exchange, Job, Observer, Reading, UsageSeen, Wire};

use Consumption::{Now, Result as TheResult, Stored};
use Provenance::{Estimated, None as Nothing, Partial, Reported, Unknown};

/// An answer that says what the test says.
struct Says(Reading);

impl Observer for Says {
    fn unit(&mut self, _: &[u8]) {}

    fn is_terminal(&self) -> bool {
        false
    }

    fn reading(&mut self) -> Reading {
        self.0.clone()
    }

    fn delivered(&self) -> Countable {
        Countable { text: "some words".to_owned(), ..Countable::default() }
    }
}

/// A wire whose every request is text.
#[derive(Debug)]
struct Plain;

impl Wire for Plain {
    fn name(&self) -> &'static str {
        "plain"
    }

    fn recognise<'a>(&self, _: &Method, _: &'a str) -> Option<Exchange<'a>> {
        None
    }

    fn credential(&self) -> CredentialHeader {
        OpenAi.credential()
    }

    fn error_body(&self, _: u16, _: &str, _: &str) -> String {
        String::new()
    }

    fn members(&self) -> &'static [&'static str] {
        &[]
    }

    fn observer(&self, _: Operation, _: &str) -> Box<dyn Observer> {
        Box::new(Says(Reading::default()))
    }

    fn prompt(&self, _: Operation, body: &[u8]) -> Option<Prompt> {
        Some(Prompt { texts: vec![String::from_utf8(body.to_vec()).unwrap()], ..Prompt::default() })
    }
}

/// A call, from its open to its close.
#[derive(Clone)]
struct Call {
    consumption: Consumption,
    operation: Operation,
    provider: &'static str,
    object: Option<&'static str>,
    is_stream: bool,
    request: Option<&'static str>,
    status: Option<u16>,
    outcome: Outcome,
    is_whole: bool,
    is_unreadable: bool,
    reading: Reading,
}

/// A whole answer to `consumption` that says `reading`.
fn call(consumption: Consumption, operation: Operation, reading: Reading) -> Call {
    Call {
        consumption,
        operation,
        provider: "openai",
        object: None,
        is_stream: false,
        request: Some("{}"),
        status: Some(200),
        outcome: Outcome::Completed,
        is_whole: false,
        is_unreadable: false,
        reading,
    }
}

fn response(consumption: Consumption, reading: Reading) -> Call {
    call(consumption, Operation::Responses, reading)
}

fn run(consumption: Consumption, reading: Reading) -> Call {
    call(consumption, Operation::InvokeAgent, reading)
}

/// The results of the batch `b_1`, of which only the path has the name.
fn results(reading: Reading) -> Call {
    Call { object: Some("b_1"), ..call(TheResult, Operation::Batch, reading) }
}

/// Under way, without usage.
fn queued(id: &str) -> Reading {
    Reading { job: Some(Job { id: id.to_owned(), is_over: false }), ..Reading::default() }
}

/// Over, with usage.
fn over(id: &str) -> Reading {
    Reading { job: Some(Job { id: id.to_owned(), is_over: true }), ..told() }
}

/// Usage of nothing that has a name.
fn told() -> Reading {
    let tokens = TokenCounts { input: Some(30), output: Some(7), ..TokenCounts::default() };
    Reading {
        model: Some("gpt-5".to_owned()),
        usage: UsageSeen::Final,
        tokens,
        units: [("searches".to_owned(), 2)].into(),
        ..Reading::default()
    }
}

/// A meter over a journal in a folder of its own.
struct Stand {
    folder: tempfile::TempDir,
    meter: Arc<Meter>,
}

impl Stand {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let meter = meter(open(folder.path()).journal);
        Self { folder, meter }
    }

    /// Makes `calls` one after the other, ends, and returns the folder and their records in that order.
    fn end_after(self, calls: &[Call]) -> (tempfile::TempDir, Vec<Record>) {
        for (second, call) in (0..).zip(calls) {
            call.make(&self.meter, second);
        }
        self.meter.stop(Duration::from_secs(20));
        let mut records = records(self.folder.path());
        // What is counted here follows when it is counted.
        records.sort_by_key(|record| record.started_at);
        (self.folder, records)
    }

    fn records(self, calls: &[Call]) -> Vec<Record> {
        self.end_after(calls).1
    }
}

fn meter(journal: Journal) -> Arc<Meter> {
    let metrics = Arc::new(Metrics::new(LabelLimits::default()));
    Meter::start(Arc::new(journal), Arc::new(PriceBook::bundled()), metrics, &Settings::default()).unwrap()
}

fn records(directory: &Path) -> Vec<Record> {
    frames(directory, Kind::Record).iter().map(|frame| frame.record().unwrap()).collect()
}

fn frames(directory: &Path, kind: Kind) -> Vec<Frame> {
    let mut reader = Reader::open(directory, Position::START).unwrap();
    let mut all = Vec::new();
    loop {
        let frames = reader.next_batch(Limits { frames: usize::MAX, bytes: 1 << 20 }).unwrap();
        if frames.is_empty() {
            return all;
        }
        all.extend(frames.into_iter().map(|(_, frame)| frame).filter(|frame| frame.kind == kind));
    }
}

impl Call {
    /// Makes it `second` seconds into the month.
    fn make(&self, meter: &Arc<Meter>, second: i64) {
        let intent = Intent {
            operation: self.operation,
            provider: Provider::parse(self.provider).unwrap(),
            stream: self.is_stream,
            is_consumption: self.consumption == Now,
            ..intent(second)
        };
        let (mut open, _) = meter.open(Moment::now(), intent, &Plain, self.consumption).unwrap();
        if let Some(object) = self.object {
            open.fetches(object.to_owned());
        }
        let slices = self.request.map(|request| vec![request.into()]);
        open.hold_prompt(HeldPrompt { slices, bytes: 2 });
        open.sent();
        if let Some(status) = self.status {
            open.answered(status);
        }
        let ending = Ending {
            observer: Some(Box::new(Says(self.reading.clone()))),
            is_whole: self.is_whole,
            is_unreadable: self.is_unreadable,
            ..Ending::default()
        };
        open.close(self.outcome, ending);
    }
}

/// Makes each list of calls with a meter of its own, and compares what they are recorded as.
fn counted_as(table: &[(&str, &[Call], &[Provenance])]) {
    for (what, calls, expected) in table {
        let records = Stand::new().records(calls);
        let provenances: Vec<_> = records.iter().map(|record| record.provenance).collect();
        assert_eq!(provenances, *expected, "{what}: {records:#?}");
        for record in records {
            let is_counted = record.provenance == Reported;
            assert_eq!(record.tokens.total(), if is_counted { 37 } else { record.tokens.total() }, "{what}");
            if matches!(record.provenance, Nothing | Unknown) {
                assert!(record.tokens.is_empty() && record.units.is_empty(), "{what}: {record:#?}");
                assert!(record.cost_nanousd.is_none() && record.estimate.is_none(), "{what}: {record:#?}");
            }
        }
    }
}

#[test]
fn a_job_is_counted_once_when_its_result_passes() {
    let (queued, over) = (queued("r_1"), over("r_1"));
    let begun = response(Now, queued.clone());
    let poll = response(Stored, queued.clone());
    let result = response(Stored, over.clone());
    counted_as(&[
        (
            "a background response",
            &[begun.clone(), poll.clone(), result.clone(), result.clone(), poll.clone()],
            &[Unknown, Nothing, Reported, Nothing, Nothing],
        ),
        (
            "one that was reported when it was made",
            &[response(Now, over.clone()), result.clone()],
            &[Reported, Nothing],
        ),
        ("one that began elsewhere", &[poll, result.clone()], &[Nothing, Nothing]),
        (
            "a run",
            &[
                run(Now, queued.clone()),
                run(TheResult, queued.clone()),
                run(TheResult, over.clone()),
                run(TheResult, over.clone()),
            ],
            &[Unknown, Nothing, Reported, Nothing],
        ),
        (
            "a run that began elsewhere",
            &[run(TheResult, over.clone()), run(TheResult, over.clone())],
            &[Reported, Nothing],
        ),
        ("a run whose stream ended", &[run(Now, over.clone()), run(TheResult, over.clone())], &[Reported, Nothing]),
        (
            "a run that went on with the tools' answers",
            &[run(Now, queued.clone()), run(Now, queued.clone()), run(Now, over.clone()), run(TheResult, over.clone())],
            &[Unknown, Unknown, Reported, Nothing],
        ),
        ("a batch", &[results(told()), results(told())], &[Reported, Nothing]),
        ("what is made again", &[response(Now, over.clone()), response(Now, over)], &[Reported, Reported]),
    ]);
}

#[test]
fn a_job_is_its_providers_whatever_the_upstream_is_called() {
    let elsewhere = Call { provider: "azure", ..results(told()) };
    let begun = Call { provider: "azure", ..response(Now, queued("r_1")) };
    counted_as(&[
        ("one id of two providers", &[results(told()), elsewhere.clone(), elsewhere], &[Reported, Reported, Nothing]),
        ("begun at another", &[begun, response(Stored, over("r_1"))], &[Unknown, Nothing]),
    ]);
}

#[test]
fn half_a_list_counts_nothing_and_leaves_its_job_to_the_whole() {
    let half = |outcome| Call { outcome, ..results(told()) };
    let finished = Call { outcome: Outcome::ClientClosed, is_whole: true, ..results(told()) };
    let interim = Reading { usage: UsageSeen::Interim, ..told() };
    let range = Call { status: Some(206), ..results(told()) };
    let unread = Call { is_unreadable: true, ..results(told()) };
    counted_as(&[
        (
            "its client left, its upstream broke off",
            &[half(Outcome::ClientClosed), half(Outcome::UpstreamCut), results(told()), half(Outcome::ClientClosed)],
            &[Nothing, Nothing, Reported, Nothing],
        ),
        ("finished when its client had left", &[finished, results(told())], &[Reported, Nothing]),
        ("a range of a file", &[range, results(told())], &[Nothing, Reported]),
        ("a list has no last word", &[results(interim.clone()), results(interim)], &[Reported, Nothing]),
        ("not readable", &[unread.clone(), results(told()), unread], &[Unknown, Reported, Nothing]),
        (
            "a run says itself that it is over",
            &[Call { outcome: Outcome::ClientClosed, ..run(TheResult, over("r_1")) }, run(TheResult, over("r_1"))],
            &[Reported, Nothing],
        ),
    ]);
}

#[test]
fn what_fails_begins_nothing_and_counts_nothing() {
    let refused = |call: Call| Call { status: Some(404), outcome: Outcome::Completed, ..call };
    let unsized_id = "x".repeat(300);
    counted_as(&[
        (
            "a refused beginning",
            &[refused(response(Now, queued("r_1"))), response(Stored, over("r_1"))],
            &[Nothing, Nothing],
        ),
        ("a refused result", &[refused(results(told())), results(told())], &[Nothing, Reported]),
        ("results that are not there yet", &[results(Reading::default()), results(told())], &[Nothing, Reported]),
        (
            "over without usage",
            &[
                response(Now, queued("r_1")),
                response(Stored, Reading { usage: UsageSeen::Nothing, ..over("r_1") }),
                response(Stored, over("r_1")),
            ],
            &[Unknown, Nothing, Reported],
        ),
        (
            "an id that is none",
            &[response(Now, queued(&unsized_id)), response(Stored, over(&unsized_id))],
            &[Unknown, Nothing],
        ),
        ("a result without a name", &[run(TheResult, told())], &[Unknown]),
        ("nothing by nature", &[call(Consumption::None, Operation::Other, over("r_1"))], &[Nothing]),
    ]);
}

#[test]
fn what_broke_off_is_counted_here_unless_it_goes_on_in_the_background() {
    let cut =
        |request, outcome| Call { is_stream: true, outcome, request: Some(request), ..response(Now, queued("r_1")) };
    let result = response(Stored, over("r_1"));
    let said = r#"{"input":"\"background\":true","background":false}"#;
    counted_as(&[
        ("a stream whose client left", &[cut("{}", Outcome::ClientClosed), result.clone()], &[Estimated, Nothing]),
        ("a stream without its last event", &[cut(said, Outcome::Completed), result.clone()], &[Estimated, Nothing]),
        (
            "a stream in the background",
            &[cut(r#"{"background":true}"#, Outcome::ClientClosed), result.clone(), result.clone()],
            &[Unknown, Reported, Nothing],
        ),
        (
            "a run's stream",
            &[
                Call { is_stream: true, outcome: Outcome::UpstreamCut, ..run(Now, queued("r_1")) },
                run(TheResult, over("r_1")),
            ],
            &[Unknown, Reported],
        ),
        (
            "a server that tells no usage",
            &[response(Now, Reading { usage: UsageSeen::Nothing, tokens: TokenCounts::default(), ..over("r_1") })],
            &[Estimated],
        ),
    ]);
}

#[test]
fn units_are_counts_too() {
    let units = |name: &str| Reading { units: [(name.to_owned(), 9)].into(), ..Reading::default() };
    let record = |call: Call| Stand::new().records(&[call]).remove(0);
    let told =
        record(call(Now, Operation::Transcription, Reading { usage: UsageSeen::Final, ..units("audio_seconds") }));
    assert_eq!((told.provenance, told.units["audio_seconds"], told.tokens.is_empty()), (Reported, 9, true));
    let seen = record(call(Now, Operation::ImageGeneration, units("images")));
    assert_eq!((seen.provenance, seen.units["images"]), (Estimated, 9));
    let some = Reading {
        usage: UsageSeen::Interim,
        tokens: TokenCounts { input: Some(3), ..TokenCounts::default() },
        ..Reading::default()
    };
    assert_eq!(record(call(Now, Operation::Transcription, some)).provenance, Partial);
    assert_eq!(record(call(Now, Operation::ImageGeneration, Reading::default())).provenance, Unknown);
    assert_eq!(record(call(Now, Operation::Moderation, Reading::default())).provenance, Nothing);
}

#[test]
fn speech_is_counted_by_the_characters_of_its_text() {
    let speech = |request| Call { request, ..call(Now, Operation::Speech, Reading::default()) };
    let record = |call: Call| Stand::new().records(&[call]).remove(0);
    let counted = record(speech(Some("说 four")));
    assert_eq!((counted.provenance, &counted.units), (Estimated, &[("characters".to_owned(), 6)].into()));
    assert!(counted.tokens.is_empty() && counted.estimate.is_none());
    assert_eq!(record(speech(None)).provenance, Unknown, "a text that was not held");
    let failed = record(Call { status: Some(429), ..speech(Some("four")) });
    assert_eq!((failed.provenance, failed.units.is_empty()), (Nothing, true));
}

#[test]
fn a_record_names_the_job_that_it_began_counted_or_asked_for() {
    let calls = [
        response(Now, queued("r_1")),
        response(Stored, queued("r_1")),
        response(Stored, over("r_1")),
        results(told()),
        response(Now, over("r_2")),
        Call { is_stream: true, outcome: Outcome::ClientClosed, ..response(Stored, Reading::default()) },
    ];
    let records = Stand::new().records(&calls);
    let jobs: Vec<_> = records.iter().map(|record| record.job.as_deref()).collect();
    assert_eq!(jobs, [Some("r_1"), Some("r_1"), Some("r_1"), Some("b_1"), None, None]);
    assert_eq!(json!(records[2])["job"], "r_1");
    assert_eq!(json!(records[4]).get("job"), None);
}

#[test]
fn of_many_fetches_at_once_one_counts() {
    let stand = Stand::new();
    let threads = 8;
    let barrier = Barrier::new(threads);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                barrier.wait();
                results(told()).make(&stand.meter, 0);
            });
        }
    });
    let records = stand.records(&[]);
    assert_eq!(records.iter().filter(|record| record.provenance == Reported).count(), 1);
    assert_eq!(records.len(), threads);
}

#[test]
fn jobs_are_known_again_after_a_restart() {
    let before = [
        response(Now, queued("open")),
        response(Now, queued("counted")),
        response(Stored, over("counted")),
        results(told()),
    ];
    let (folder, _) = Stand::new().end_after(&before);
    let opened = open(folder.path());
    let meter = meter(opened.journal);
    meter.remember(opened.jobs_seen);
    let after = [
        response(Stored, over("counted")),
        results(told()),
        response(Stored, over("open")),
        response(Stored, over("open")),
    ];
    for call in &after {
        call.make(&meter, 9);
    }
    let provenances: Vec<_> = records(folder.path()).iter().map(|record| record.provenance).collect();
    assert_eq!(provenances[before.len()..], [Nothing, Nothing, Reported, Nothing]);
}

#[test]
fn what_an_old_record_says_does_not_open_a_job_that_was_counted() {
    let stand = Stand::new();
    let seen = |provenance| JobSeen { provider: Provider::parse("openai").unwrap(), job: "r_1".to_owned(), provenance };
    stand.meter.remember([seen(Reported), seen(Unknown), seen(Nothing)]);
    let records = stand.records(&[response(Stored, over("r_1"))]);
    assert_eq!(records[0].provenance, Nothing);
}

#[test]
fn a_result_whose_record_could_not_be_written_is_still_to_be_counted() {
    // No frame is so long.
    let unwritable =
        |call: Call| Call { reading: Reading { model: Some("m".repeat(5 << 20)), ..call.reading }, ..call };
    let calls = [
        unwritable(response(Now, queued("lost"))),
        response(Stored, over("lost")),
        response(Now, queued("r_1")),
        unwritable(response(Stored, over("r_1"))),
        response(Stored, over("r_1")),
        unwritable(results(told())),
        results(told()),
    ];
    let provenances: Vec<_> = Stand::new().records(&calls).iter().map(|record| record.provenance).collect();
    assert_eq!(provenances, [Nothing, Unknown, Reported, Reported]);
}
