mod places;
mod stalls;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;

use super::samples::{at, bare_record, full_record, intent, json, open, progress, settings};
use super::{Durability, Frame, Journal, JournalError, Kind, Limits, Lock, Opened, Position, Reader};
use crate::ids::NodeId;
use crate::record::Record;
use crate::usage::Provenance;

const EVERYTHING: Limits = Limits { frames: usize::MAX, bytes: 1 << 20 };

fn frames(directory: &Path) -> Vec<Frame> {
    let mut reader = Reader::open(directory, Position::START).unwrap();
    let mut frames = Vec::new();
    loop {
        let batch = reader.next_batch(EVERYTHING).unwrap();
        if batch.is_empty() {
            return frames;
        }
        frames.extend(batch.into_iter().map(|(_, frame)| frame));
    }
}

fn records(directory: &Path) -> Vec<Record> {
    frames(directory).iter().filter(|frame| frame.kind == Kind::Record).map(|frame| frame.record().unwrap()).collect()
}

fn segments(directory: &Path) -> Vec<u64> {
    super::segment::list(directory).unwrap()
}

/// Appends `calls` whole calls, the first of them with every member set.
fn fill(journal: &Journal, calls: i64) -> Vec<Record> {
    let call = |second| {
        let intent = intent(second);
        journal.append_intent(&intent).unwrap();
        let record = if second == 0 { full_record(&intent) } else { bare_record(&intent) };
        journal.append_record(record).unwrap().1
    };
    (0..calls).map(call).collect()
}

/// Settings of a journal that can be asked to sync.
fn power(directory: &Path) -> super::Settings {
    super::Settings { durability: Durability::Power, ..settings(directory) }
}

/// Waits until everything appended so far is on the disk.
fn sync(journal: &Arc<Journal>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime
        .block_on(journal.synced(super::Appended(super::At::Written(super::Written { end: journal.end(), seq: 0 }))))
        .unwrap();
}

/// Overwrites what `segment` holds from `offset` on.
fn spoil(directory: &Path, segment: u64, offset: usize, spoilt: &[u8]) {
    let path = super::segment::path(directory, segment);
    let mut bytes = fs::read(&path).unwrap();
    bytes[offset..offset + spoilt.len()].copy_from_slice(spoilt);
    fs::write(&path, bytes).unwrap();
}

#[test]
fn a_record_comes_back_as_it_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let Opened { journal, .. } = open(folder.path());
    let written = fill(&journal, 2);
    assert_eq!(
        records(folder.path()).iter().map(json).collect::<Vec<_>>(),
        written.iter().map(json).collect::<Vec<_>>()
    );
    assert_eq!(written.iter().map(|record| record.seq).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(written[0].node.as_str(), "n1");
}

#[test]
fn instants_are_cut_to_the_microsecond() {
    let folder = tempfile::tempdir().unwrap();
    let Opened { journal, .. } = open(folder.path());
    let mut record = bare_record(&intent(0));
    record.ended_at = jiff::Timestamp::from_nanosecond(record.ended_at.as_nanosecond() + 1_999).unwrap();
    let (_, record) = journal.append_record(record).unwrap();
    assert_eq!(record.ended_at.as_nanosecond(), at(0).as_nanosecond() + 1_000);
}

#[test]
fn a_tail_torn_at_any_byte_leaves_the_whole_frames_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let Opened { journal, .. } = open(folder.path());
    fill(&journal, 10);
    drop(journal);
    let bytes = fs::read(super::segment::path(folder.path(), 1)).unwrap();
    let ends: Vec<u64> = {
        let mut reader = Reader::open(folder.path(), Position::START).unwrap();
        reader.next_batch(EVERYTHING).unwrap().iter().map(|(after, _)| after.offset).collect()
    };
    assert_eq!(ends.len(), 20);
    assert_eq!(*ends.last().unwrap(), bytes.len() as u64);
    // In memory where that is possible: every cut is synced.
    let torn = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    for length in 0..=bytes.len() {
        for number in segments(torn.path()) {
            fs::remove_file(super::segment::path(torn.path(), number)).unwrap();
        }
        fs::write(super::segment::path(torn.path(), 1), &bytes[..length]).unwrap();
        let whole = ends.iter().filter(|end| **end <= length as u64).count();
        // What a reading command sees before anybody repairs it.
        assert_eq!(frames(torn.path()).len(), whole, "read at {length}");
        let found = super::recover::recover(torn.path(), &BTreeMap::new()).unwrap();
        assert_eq!(frames(torn.path()).len(), whole, "recovered at {length}");
        assert_eq!(found.open_intents.len(), whole % 2, "open at {length}");
        let last_seq = found.last_seqs.values().max().copied().unwrap_or(0);
        assert_eq!(last_seq, whole as u64 / 2, "seq at {length}");
    }
}

#[test]
fn a_journal_goes_on_where_the_process_before_it_died() {
    let folder = tempfile::tempdir().unwrap();
    let lost = intent(99);
    {
        let Opened { journal, .. } = open(folder.path());
        fill(&journal, 3);
        journal.append_intent(&lost).unwrap();
    }
    let half = super::segment::path(folder.path(), 1);
    let mut bytes = fs::read(&half).unwrap();
    bytes.extend_from_slice(&[200, 0, 0, 0, 1, 2, 3]);
    fs::write(&half, bytes).unwrap();
    let Opened { journal, open_intents, .. } = open(folder.path());
    assert_eq!(open_intents, std::slice::from_ref(&lost));
    let (_, record) = journal.append_record(bare_record(&lost)).unwrap();
    assert_eq!(record.seq, 4);
    drop(journal);
    assert_eq!(open(folder.path()).open_intents, []);
}

#[test]
fn damage_to_what_was_on_the_disk_is_an_error_with_its_place() {
    for (in_segment, offset_in_frame) in [(1, 0), (1, 20), (2, 0), (2, 20)] {
        let folder = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            let journal = Arc::new(Journal::open(power(folder.path())).unwrap().journal);
            fill(&journal, 2);
            sync(&journal);
            // The first frame to know of it.
            fill(&journal, 1);
        }
        spoil(folder.path(), in_segment, super::segment::HEADER_BYTES + offset_in_frame, &[0x55]);
        let error = Journal::open(settings(folder.path())).unwrap_err();
        let JournalError::Broken { path: named, offset, .. } = error else { panic!("{error}") };
        assert_eq!(
            (named, offset),
            (super::segment::path(folder.path(), in_segment), super::segment::HEADER_BYTES as u64)
        );
    }
}

#[test]
fn a_hole_in_what_was_never_on_the_disk_ends_the_journal() {
    let header = super::segment::HEADER_BYTES;
    // A frame that is zeros, one in which a byte is another, a header that was not written, one that was in part.
    for (in_segment, offset, spoilt, whole) in
        [(1, 0, vec![0; 64], 0), (1, 700, vec![1], 1), (2, 0, vec![0; header], 20), (2, 30, vec![9; 100], 20)]
    {
        let folder = tempfile::tempdir().unwrap();
        let begun = super::Settings { segment_bytes_max: 16 << 10, ..settings(folder.path()) };
        let journal = Journal::open(begun).unwrap().journal;
        fill(&journal, 60);
        let in_first = frames(folder.path()).len();
        assert_eq!((in_first, segments(folder.path()).len() > 2), (120, true));
        let ends = Reader::open(folder.path(), Position::START).unwrap().next_batch(EVERYTHING).unwrap();
        // What the first segment holds whole.
        let whole = if whole == 20 { ends.len() } else { whole };
        let at = if in_segment == 1 { header + offset } else { offset };
        drop(journal);
        spoil(folder.path(), in_segment, at, &spoilt);
        let Opened { journal, .. } = open(folder.path());
        let left = frames(folder.path());
        assert_eq!(left.len(), whole, "{in_segment} {offset}");
        let last_seq = left.iter().map(|frame| frame.seq).max().unwrap_or(0);
        let (_, record) = journal.append_record(bare_record(&intent(0))).unwrap();
        assert_eq!(record.seq, last_seq + 1);
        drop(journal);
        open(folder.path());
    }
}

#[test]
fn a_segment_that_lost_whole_records_ends_the_journal_unless_the_ledger_has_them() {
    let folder = tempfile::tempdir().unwrap();
    let begun = super::Settings { segment_bytes_max: 16 << 10, ..settings(folder.path()) };
    fill(&Journal::open(begun).unwrap().journal, 60);
    let first = super::segment::path(folder.path(), 1);
    let ends = Reader::open(folder.path(), Position::START).unwrap().next_batch(EVERYTHING).unwrap();
    // Its last call is lost, at the very end of the one before.
    let (end, _) = ends[ends.len() - 3];
    File::options().write(true).open(first).unwrap().set_len(end.offset).unwrap();
    let last_seq = ends[..ends.len() - 2].iter().map(|(_, frame)| frame.seq).max().unwrap();

    let seq_floors = [(NodeId::parse("n1").unwrap(), last_seq + 1)].into();
    let applied = super::Settings { seq_floors, ..settings(folder.path()) };
    drop(Journal::open(applied).unwrap());
    assert_eq!(records(folder.path()).last().unwrap().seq, 60);

    // What came behind was never on the disk, as far as anybody was told.
    let Opened { journal, .. } = open(folder.path());
    assert_eq!(records(folder.path()).last().unwrap().seq, last_seq);
    assert_eq!(journal.append_record(bare_record(&intent(0))).unwrap().1.seq, last_seq + 1);
}

#[test]
fn an_intent_stays_until_its_record_is_on_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let settings = super::Settings { segment_bytes_max: 4 << 10, ..power(folder.path()) };
    let journal = Arc::new(Journal::open(settings).unwrap().journal);
    let long = intent(7);
    journal.append_intent(&long).unwrap();
    fill(&journal, 20);
    sync(&journal);
    journal.append_record(bare_record(&long)).unwrap();
    journal.remove_applied(journal.end()).unwrap();
    assert_eq!(segments(folder.path())[0], 1);
    sync(&journal);
    journal.remove_applied(journal.end()).unwrap();
    assert_eq!(segments(folder.path()), [journal.end().segment]);
}

#[test]
fn a_journal_whose_sync_failed_is_written_anew() {
    let folder = tempfile::tempdir().unwrap();
    let written = fill(&open(folder.path()).journal, 3);
    let first = super::segment::path(folder.path(), 1);
    let doubtful = File::open(&first).unwrap();
    super::recover::doubt(folder.path());
    drop(open(folder.path()));
    assert_eq!(
        records(folder.path()).iter().map(json).collect::<Vec<_>>(),
        written.iter().map(json).collect::<Vec<_>>()
    );
    // Not the same bytes synced again: the kernel may have given up to write those.
    let inode = |file: &File| std::os::unix::fs::MetadataExt::ino(&file.metadata().unwrap());
    assert_ne!(inode(&File::open(&first).unwrap()), inode(&doubtful));
    drop(open(folder.path()));
    let anew = inode(&File::open(&first).unwrap());
    drop(open(folder.path()));
    assert_eq!(inode(&File::open(&first).unwrap()), anew);
}

#[test]
fn a_position_says_the_same_in_64_bits() {
    for position in [Position::START, Position { segment: 7, offset: 1 << 31 }, Position { segment: 1, offset: 0 }] {
        assert_eq!(Position::unpacked(position.packed()), position);
    }
    // What is too far away for that tells nothing rather than something wrong.
    assert_eq!(Position::unpacked(Position { segment: 1, offset: 1 << 32 }.packed()), Position::START);
}

#[test]
fn a_second_process_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let first = open(folder.path());
    let error = Journal::open(settings(folder.path())).unwrap_err();
    assert!(matches!(error, JournalError::InUse { .. }), "{error}");
    assert!(Lock::take(folder.path()).unwrap().is_none());
    drop(first);
    assert!(Lock::take(folder.path()).unwrap().is_some());
}

#[test]
fn seqs_have_no_gap_whoever_appends() {
    let folder = tempfile::tempdir().unwrap();
    let Opened { journal, .. } =
        Journal::open(super::Settings { segment_bytes_max: 200 << 10, ..settings(folder.path()) }).unwrap();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| fill(&journal, 500));
        }
    });
    assert!(segments(folder.path()).len() > 5);
    let seqs: Vec<u64> = records(folder.path()).iter().map(|record| record.seq).collect();
    assert_eq!(seqs, (1..=4000).collect::<Vec<_>>());
    assert_eq!(frames(folder.path()).len(), 8000);
    let on_disk: u64 =
        segments(folder.path()).iter().map(|number| super::segment::path(folder.path(), *number)).map(bytes_of).sum();
    assert_eq!(journal.bytes(), on_disk);
}

fn bytes_of(path: std::path::PathBuf) -> u64 {
    fs::metadata(path).unwrap().len()
}

#[test]
fn segments_go_once_applied_but_for_open_intents() {
    let folder = tempfile::tempdir().unwrap();
    let settings = super::Settings { segment_bytes_max: 4 << 10, ..power(folder.path()) };
    let journal = Arc::new(Journal::open(settings.clone()).unwrap().journal);
    fill(&journal, 20);
    let long = intent(7);
    journal.append_intent(&long).unwrap();
    let of_long = journal.end().segment;
    fill(&journal, 20);
    assert!(of_long > 2 && journal.end().segment > of_long + 2);
    sync(&journal);
    journal.remove_applied(journal.end()).unwrap();
    assert_eq!(segments(folder.path())[0], of_long);
    drop(journal);

    let Opened { journal, open_intents, .. } = Journal::open(settings.clone()).unwrap();
    let journal = Arc::new(journal);
    assert_eq!(open_intents, std::slice::from_ref(&long));
    journal.remove_applied(journal.end()).unwrap();
    assert_eq!(segments(folder.path())[0], of_long);
    journal.append_record(bare_record(&long)).unwrap();
    sync(&journal);
    journal.remove_applied(journal.end()).unwrap();
    assert_eq!(segments(folder.path()), [journal.end().segment]);
    drop(journal);

    // Nothing but a header is left of the seqs given so far.
    let Opened { journal, .. } = Journal::open(settings.clone()).unwrap();
    journal.remove_applied(journal.end()).unwrap();
    drop(journal);
    let Opened { journal, .. } = Journal::open(super::Settings { node: None, ..settings }).unwrap();
    assert_eq!(journal.node().as_str(), "n1");
    assert_eq!(journal.append_record(bare_record(&intent(0))).unwrap().1.seq, 42);
}

#[test]
fn an_intent_that_is_renewed_holds_back_no_segment_before() {
    let folder = tempfile::tempdir().unwrap();
    let settings = super::Settings { segment_bytes_max: 4 << 10, ..settings(folder.path()) };
    let Opened { journal, .. } = Journal::open(settings.clone()).unwrap();
    let long = intent(7);
    journal.append_intent(&long).unwrap();
    fill(&journal, 20);
    journal.append_intent(&long).unwrap();
    let renewed = journal.end().segment;
    assert!(renewed > 2);
    drop(journal);

    // Also where a process that starts finds both.
    let Opened { journal, open_intents, .. } = Journal::open(settings).unwrap();
    assert_eq!(open_intents, std::slice::from_ref(&long));
    journal.remove_applied(journal.end()).unwrap();
    assert_eq!(segments(folder.path())[0], renewed);
    journal.append_record(bare_record(&long)).unwrap();
    drop(journal);
    assert!(
        Journal::open(super::Settings { node: None, ..super::samples::settings(folder.path()) })
            .unwrap()
            .open_intents
            .is_empty()
    );
}

#[test]
fn an_open_call_is_found_with_its_last_mark() {
    let folder = tempfile::tempdir().unwrap();
    let settings = super::Settings { segment_bytes_max: 4 << 10, ..settings(folder.path()) };
    let Opened { journal, .. } = Journal::open(settings.clone()).unwrap();
    let (marked, renewed, unmarked, ended, unknown) = (intent(1), intent(2), intent(3), intent(4), intent(5));
    for one in [&marked, &renewed, &unmarked, &ended] {
        journal.append_intent(one).unwrap();
    }
    for tokens in [7, 50] {
        for one in [&marked, &renewed, &ended, &unknown] {
            journal.append_progress(&progress(one, 60, tokens)).unwrap();
        }
        // Into another segment.
        fill(&journal, 20);
    }
    journal.append_intent(&renewed).unwrap();
    journal.append_record(bare_record(&ended)).unwrap();
    let end = journal.end();
    journal.append_progress(&progress(&ended, 61, 99)).unwrap();
    assert_eq!(journal.end(), end, "nothing is written behind a call's record");
    drop(journal);

    let Opened { open_intents, progress, .. } = Journal::open(settings).unwrap();
    assert_eq!(open_intents, [marked.clone(), renewed.clone(), unmarked]);
    let mut found: Vec<_> = progress.values().map(|mark| (mark.id, mark.delivered_tokens)).collect();
    found.sort_unstable();
    assert_eq!(found, [(marked.id, 50), (renewed.id, 50)]);
    let kinds: Vec<_> = frames(folder.path()).iter().map(|frame| (frame.kind == Kind::Progress, frame.seq)).collect();
    // Two marks of three calls.
    assert_eq!(kinds.iter().filter(|(is_mark, _)| *is_mark).count(), 6);
    assert!(kinds.iter().all(|(is_mark, seq)| !is_mark || *seq == 0));
}

#[test]
fn a_mark_behind_the_record_of_its_call_says_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (ended, open_still) = (intent(1), intent(2));
    {
        let Opened { journal, .. } = open(folder.path());
        for one in [&ended, &open_still] {
            journal.append_intent(one).unwrap();
            journal.append_progress(&progress(one, 60, 7)).unwrap();
        }
    }
    // As a writer would leave them that does not look: the mark in a segment of its own, behind the record.
    let marks = tempfile::tempdir().unwrap();
    {
        let Opened { journal, .. } = open(marks.path());
        journal.append_intent(&ended).unwrap();
        journal.append_record(bare_record(&ended)).unwrap();
        let begin = journal.end().offset;
        drop(journal);
        let first = super::segment::path(folder.path(), 1);
        let mut bytes = fs::read(&first).unwrap();
        let whole = fs::read(super::segment::path(marks.path(), 1)).unwrap();
        let mark = frame_of_mark(&bytes);
        bytes.extend_from_slice(&whole[super::segment::HEADER_BYTES..usize::try_from(begin).unwrap()]);
        bytes.extend_from_slice(&mark);
        fs::write(first, bytes).unwrap();
    }
    let Opened { open_intents, progress, .. } = open(folder.path());
    assert_eq!(open_intents, std::slice::from_ref(&open_still));
    assert_eq!(progress.into_keys().collect::<Vec<_>>(), [open_still.id]);
}

/// The first mark's frame in a segment, as it stands there.
fn frame_of_mark(segment: &[u8]) -> Vec<u8> {
    let mut rest = &segment[super::segment::HEADER_BYTES..];
    loop {
        match super::frame::decode(rest) {
            super::frame::Decoded::Whole { kind: Kind::Progress, bytes, .. } => return rest[..bytes].to_vec(),
            super::frame::Decoded::Whole { bytes, .. } => rest = &rest[bytes..],
            other @ (super::frame::Decoded::Partial { .. } | super::frame::Decoded::Broken(_)) => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_journal_of_the_first_format_is_read_and_one_of_the_next_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let lost = intent(9);
    {
        let Opened { journal, .. } = open(folder.path());
        fill(&journal, 2);
        journal.append_intent(&lost).unwrap();
    }
    let path = super::segment::path(folder.path(), 1);
    let written = fs::read(&path).unwrap();
    let in_format = |version: u32| {
        let mut bytes = written.clone();
        bytes[8..12].copy_from_slice(&version.to_le_bytes());
        let covered = super::segment::HEADER_BYTES - 4;
        let checksum = crc32fast::hash(&bytes[..covered]).to_le_bytes();
        bytes[covered..super::segment::HEADER_BYTES].copy_from_slice(&checksum);
        fs::write(&path, bytes).unwrap();
    };
    in_format(3);
    let error = Journal::open(settings(folder.path())).unwrap_err();
    assert!(matches!(error, JournalError::TooNew { found: 3, known: 2, .. }), "{error}");
    in_format(1);
    let Opened { journal, open_intents, .. } = open(folder.path());
    assert_eq!(open_intents, [lost]);
    drop(journal);
    assert_eq!(records(folder.path()).len(), 2);
}

#[test]
fn a_journal_taken_away_goes_on_behind_the_ledger() {
    let folder = tempfile::tempdir().unwrap();
    let seq_floors = [(NodeId::parse("n1").unwrap(), 81_734)].into();
    let Opened { journal, .. } = Journal::open(super::Settings { seq_floors, ..settings(folder.path()) }).unwrap();
    assert_eq!(journal.append_record(bare_record(&intent(0))).unwrap().1.seq, 81_735);
}

#[test]
fn a_node_without_a_name_gets_one_that_it_keeps() {
    let folder = tempfile::tempdir().unwrap();
    let unnamed = || super::Settings { node: None, ..settings(folder.path()) };
    let first = Journal::open(unnamed()).unwrap().journal.node().clone();
    assert!(first.as_str().starts_with("n-"), "{first}");
    assert_eq!(*Journal::open(unnamed()).unwrap().journal.node(), first);
}

#[test]
fn power_durability_waits_for_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let power = super::Settings { durability: Durability::Power, ..settings(folder.path()) };
    let journal = Arc::new(Journal::open(power).unwrap().journal);
    assert!(!journal.is_synced(&journal.append_intent(&intent(99)).unwrap()));
    let appended: Vec<_> = (0..50).map(|second| journal.append_intent(&intent(second)).unwrap()).collect();
    let last = journal.append_intent(&intent(50)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(journal.synced(last)).unwrap();
    // What was appended before it is on the disk with it; `stories::syncs` counts the syncs of a crowd.
    for appended in appended {
        assert!(journal.synced(appended).now_or_never().is_some_and(|synced| synced.is_ok()));
    }
}

#[test]
fn process_durability_waits_for_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Arc::new(open(folder.path()).journal);
    let wait = pin!(journal.synced(journal.append_intent(&intent(0)).unwrap()));
    assert!(matches!(wait.poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(()))));
}

#[test]
fn a_reader_is_woken_by_an_append() {
    let folder = tempfile::tempdir().unwrap();
    let journal = &open(folder.path()).journal;
    thread::scope(|scope| {
        let seen = journal.end();
        let waiter = scope.spawn(move || {
            let begun = Instant::now();
            while journal.end() <= seen {
                journal.wait_for_append(seen, Duration::from_secs(20));
            }
            begun.elapsed()
        });
        fill(journal, 1);
        assert!(waiter.join().unwrap() < Duration::from_secs(10));
    });
}

#[test]
fn a_reader_that_comes_in_small_steps_sees_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let journal =
        Journal::open(super::Settings { segment_bytes_max: 3 << 10, ..settings(folder.path()) }).unwrap().journal;
    fill(&journal, 20);
    let mut reader = Reader::open(folder.path(), Position::START).unwrap();
    let mut seqs = Vec::new();
    loop {
        let batch = reader.next_batch(Limits { frames: 3, bytes: 64 }).unwrap();
        if batch.is_empty() {
            break;
        }
        let after = batch.last().unwrap().0;
        seqs.extend(batch.into_iter().map(|(_, frame)| frame.seq).filter(|seq| *seq > 0));
        reader = Reader::open(folder.path(), after).unwrap();
    }
    assert_eq!(seqs, (1..=20).collect::<Vec<_>>());
}

#[test]
fn ten_thousand_frames_open_fast() {
    let folder = tempfile::tempdir().unwrap();
    fill(&open(folder.path()).journal, 5_000);
    let begun = Instant::now();
    drop(open(folder.path()));
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[test]
fn what_records_say_of_jobs_is_found_again_but_for_what_the_ledger_holds() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path()).journal;
    let append = |second, job: Option<&str>, provenance| {
        let mut record = full_record(&intent(second));
        record.job = job.map(str::to_owned);
        record.provenance = provenance;
        // What only looks like a job, within the provider's own words, is none.
        record.usage_raw = Some(serde_json::value::RawValue::from_string(r#"{"job":"other"}"#.to_owned()).unwrap());
        journal.append_record(record).unwrap().1
    };
    let written = [
        append(0, Some("resp_1"), Provenance::Unknown),
        append(1, None, Provenance::Reported),
        append(2, Some("resp_1"), Provenance::Reported),
        append(3, Some("resp_2"), Provenance::Unknown),
    ];
    drop(journal);
    let seen = |applied: u64| {
        let seq_floors = [(NodeId::parse("n1").unwrap(), applied)].into();
        Journal::open(super::Settings { seq_floors, ..settings(folder.path()) }).unwrap().jobs_seen
    };
    let expected: Vec<_> = written.iter().filter_map(Record::job_seen).collect();
    assert_eq!(expected.len(), 3);
    assert_eq!(seen(0), expected);
    assert_eq!(seen(1), expected[1..]);
    assert_eq!(seen(9), []);
}
