use std::collections::HashSet;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use super::super::front::QUEUE_FRAMES_MAX;
use super::super::samples::{bare_record, intent, open, settings};
use super::super::{Appended, Journal, JournalError, Kind, Opened, Settings, in_full};
use super::{frames, records};

/// How long something that must happen may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn poll(wait: &mut Pin<Box<dyn Future<Output = Result<(), JournalError>> + Send>>) -> Poll<Result<(), JournalError>> {
    wait.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

/// Submits a call's intent and its record without waiting for either.
fn submit(journal: &Journal, second: i64) -> [Appended; 2] {
    let intent = intent(second);
    [journal.submit_intent(&intent).unwrap(), journal.submit_record(bare_record(&intent)).unwrap().0]
}

/// Seqs have no gap, and each call's record stands behind its intent.
fn is_in_order(folder: &std::path::Path, calls: usize) {
    let seqs: Vec<u64> = records(folder).iter().map(|record| record.seq).collect();
    assert_eq!(seqs, (1..=calls as u64).collect::<Vec<_>>());
    let mut begun = HashSet::new();
    for frame in frames(folder) {
        match frame.kind {
            Kind::Intent => assert!(begun.insert(frame.intent().unwrap().id)),
            Kind::Record => assert!(begun.remove(&frame.record().unwrap().id), "a record before its intent"),
            Kind::Progress | Kind::Gap => panic!("nobody appended one"),
        }
    }
    assert!(begun.is_empty());
}

#[test]
fn nobody_stands_still_while_a_write_is_stuck_and_what_waits_is_written_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Arc::new(open(folder.path()).journal);
    let end = journal.end();
    let written = Arc::new(Woken::default());
    let stuck = journal.writer.active();
    let mut waits: Vec<_> = thread::scope(|scope| {
        let clients = (0..4).map(|client| {
            let (journal, written) = (&journal, &written);
            scope.spawn(move || {
                let submitted = (0..50).flat_map(|call| submit(journal, client * 50 + call)).map(|appended| {
                    assert!(!journal.is_synced(&appended));
                    let written = Arc::clone(written);
                    appended.then(move |is_written| {
                        if is_written {
                            written.wake();
                        }
                    });
                    journal.synced(appended)
                });
                submitted.map(|wait| Box::pin(wait) as Pin<Box<dyn Future<Output = _> + Send>>).collect::<Vec<_>>()
            })
        });
        // They come to their ends although the write is still stuck.
        clients.collect::<Vec<_>>().into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    assert_eq!((waits.len(), journal.queued()), (400, 400));
    assert!(waits.iter_mut().all(|wait| poll(wait).is_pending()));
    // What others ask of the journal waits neither.
    assert_eq!((journal.end(), journal.failure()), (end, None));
    drop(stuck);
    journal.drain(PATIENCE);
    assert_eq!((journal.queued(), journal.end() > end), (0, true));
    is_in_order(folder.path(), 200);
    journal.append_intent(&intent(1000)).unwrap();
    // Tickets are settled behind the write: what follows them says that it is over.
    for wait in &mut waits {
        let begun = Instant::now();
        while poll(wait).is_pending() {
            assert!(begun.elapsed() < PATIENCE);
            thread::yield_now();
        }
    }
    assert_eq!(written.0.load(Ordering::SeqCst), 400);
}

#[test]
fn a_record_does_not_overtake_its_intent_that_waits() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path()).journal;
    for second in 0..100 {
        let intent = intent(second);
        let stuck = journal.writer.active();
        journal.submit_intent(&intent).unwrap();
        drop(stuck);
        // Nobody writes at this moment, and the journal's thread has yet to wake.
        journal.submit_record(bare_record(&intent)).unwrap();
        journal.drain(PATIENCE);
    }
    is_in_order(folder.path(), 100);
}

#[test]
fn seqs_have_no_gap_where_writes_stall_again_and_again() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(Settings { segment_bytes_max: 100 << 10, ..settings(folder.path()) }).unwrap().journal;
    let (calls, is_over) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let has_waited = AtomicUsize::new(0);
    thread::scope(|scope| {
        let disk = scope.spawn(|| {
            while is_over.load(Ordering::SeqCst) < 6 {
                let stuck = journal.writer.active();
                // Long enough for somebody to come in between.
                let queued = journal.queued();
                let begun = Instant::now();
                while journal.queued() == queued && begun.elapsed() < Duration::from_millis(5) {
                    thread::yield_now();
                }
                drop(stuck);
                thread::yield_now();
            }
        });
        for client in 0..6 {
            let (journal, calls, is_over, has_waited) = (&journal, &calls, &is_over, &has_waited);
            scope.spawn(move || {
                for call in 0..300 {
                    let [_, appended] = submit(journal, client * 300 + call);
                    has_waited.fetch_add(usize::from(!journal.is_synced(&appended)), Ordering::SeqCst);
                    calls.fetch_add(1, Ordering::SeqCst);
                }
                is_over.fetch_add(1, Ordering::SeqCst);
            });
        }
        disk.join().unwrap();
    });
    journal.drain(PATIENCE);
    assert!(has_waited.load(Ordering::SeqCst) > 0);
    is_in_order(folder.path(), calls.load(Ordering::SeqCst));
}

#[test]
fn a_journal_that_is_dropped_writes_what_waits() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path()).journal;
    let writer = Arc::clone(&journal.writer);
    let stuck = writer.active();
    let waits = submit(&journal, 1);
    let (over, is_over) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(move || {
            drop(journal);
            over.send(()).unwrap();
        });
        assert_eq!(is_over.recv_timeout(Duration::from_millis(50)), Err(mpsc::RecvTimeoutError::Timeout));
        drop(stuck);
        is_over.recv_timeout(PATIENCE).unwrap();
    });
    is_in_order(folder.path(), 1);
    drop(waits);
    drop(writer);
    assert!(open(folder.path()).open_intents.is_empty());
}

#[test]
fn too_many_waiting_intents_are_refused_and_records_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let Opened { journal, .. } = open(folder.path());
    let in_flight = intent(-1);
    journal.append_intent(&in_flight).unwrap();
    let stuck = journal.writer.active();
    for second in 0..i64::try_from(QUEUE_FRAMES_MAX).unwrap() {
        journal.submit_intent(&intent(second)).unwrap();
    }
    let refused = journal.submit_intent(&intent(-2)).unwrap_err();
    assert!(matches!(refused, JournalError::Refused { .. }), "{refused}");
    insta::assert_snapshot!(refused, @"the journal cannot record: the disk does not take its writes, 4096 wait already");
    journal.submit_record(bare_record(&in_flight)).unwrap();
    assert_eq!(journal.queued(), QUEUE_FRAMES_MAX + 1);
    drop(stuck);
    journal.drain(PATIENCE);
    journal.append_intent(&intent(-2)).unwrap();
    assert_eq!((records(folder.path()).len(), frames(folder.path()).len()), (1, QUEUE_FRAMES_MAX + 3));
}

#[test]
fn whoever_waits_is_told_that_the_write_failed() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Arc::new(open(folder.path()).journal);
    let in_flight = intent(1);
    journal.append_intent(&in_flight).unwrap();
    let mut stuck = journal.writer.active();
    let waiting = [
        journal.submit_record(bare_record(&in_flight)).unwrap().0,
        journal.submit_intent(&intent(2)).unwrap(),
        journal.submit_intent(&intent(3)).unwrap(),
    ];
    let failed = Arc::new(Woken::default());
    for appended in &waiting {
        let failed = Arc::clone(&failed);
        appended.then(move |is_written| {
            if !is_written {
                failed.wake();
            }
        });
    }
    stuck.break_off();
    drop(stuck);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for appended in waiting {
        let error = runtime.block_on(pin!(journal.synced(appended))).unwrap_err();
        assert!(matches!(error, JournalError::NotWritten { .. }));
        assert!(in_full(&error).contains("broken off by a test"), "{error}");
    }
    assert_eq!(failed.0.load(Ordering::SeqCst), 3);
    assert!(journal.append_record(bare_record(&in_flight)).is_err());
    assert_eq!(frames(folder.path()).len(), 1);
}

#[test]
fn who_can_help_is_told_of_a_stuck_write_again_and_again() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path()).journal;
    let woken = Arc::new(Woken::default());
    journal.wake_when_stalled(Waker::from(Arc::clone(&woken)));
    journal.append_intent(&intent(1)).unwrap();
    let stuck = journal.writer.active();
    let begun = Instant::now();
    while woken.0.load(Ordering::SeqCst) < 3 {
        assert!(begun.elapsed() < PATIENCE);
        thread::sleep(Duration::from_millis(1));
    }
    drop(stuck);
}

#[test]
fn a_full_journal_takes_records_and_no_intents_until_the_ledger_has_taken_some() {
    let folder = tempfile::tempdir().unwrap();
    let bytes_max = 1 << 20;
    let journal = Journal::open(Settings { bytes_max, ..settings(folder.path()) }).unwrap().journal;
    let mut calls = Vec::new();
    let refused = loop {
        let intent = intent(calls.len().try_into().unwrap());
        match journal.append_intent(&intent) {
            Ok(_) => calls.push(intent),
            Err(error) => break error,
        }
        if calls.len() % 2 == 1 {
            journal.append_record(bare_record(calls.last().unwrap())).unwrap();
        }
    };
    assert!(refused.to_string().contains("`ledger.journal_bytes_max` is 1048576"), "{refused}");
    assert!(journal.bytes().abs_diff(bytes_max) < 4096, "but for the last record it is full to the brim");
    let stuck = journal.writer.active();
    assert!(journal.submit_intent(&intent(-1)).is_err(), "what would wait is refused as well");
    drop(stuck);
    for open in calls.iter().skip(1).step_by(2) {
        journal.append_record(bare_record(open)).unwrap();
    }
    assert!(journal.bytes() > bytes_max);
    assert!(journal.failure().unwrap().contains("journal_bytes_max"));
    let begun = Instant::now();
    // A segment is removed once the records that end its calls are on the disk.
    while journal.failure().is_some() {
        assert!(begun.elapsed() < PATIENCE, "{:?}", journal.failure());
        thread::sleep(Duration::from_millis(5));
        journal.remove_applied(journal.end()).unwrap();
    }
    journal.append_intent(&intent(-1)).unwrap();
}
