//! What becomes of a journal whose files are taken away while it is open.

use std::fs::{self, File};

use super::super::samples::{bare_record, intent, open, settings};
use super::super::{Journal, JournalError, Kind, Limits, Lock, Position, Reader, Settings, segment};
use super::{fill, frames, records, segments};
use crate::record::Gap;

const EVERYTHING: Limits = Limits { frames: usize::MAX, bytes: 1 << 20 };

/// Lets the guard look, as the sync thread does every second.
fn look(journal: &Journal) -> Result<(), JournalError> {
    journal.writer.look()
}

#[test]
fn a_deleted_file_is_written_back_and_its_readers_miss_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path()).journal;
    fill(&journal, 3);
    let mut reader = Reader::open(folder.path(), Position::START).unwrap();
    assert_eq!(reader.next_batch(EVERYTHING).unwrap().len(), 6);
    let path = segment::path(folder.path(), 1);
    fs::remove_file(&path).unwrap();
    // Appended to the file without a name.
    fill(&journal, 2);
    look(&journal).unwrap();
    fill(&journal, 1);
    assert_eq!(records(folder.path()).iter().map(|record| record.seq).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    let mut seqs = Vec::new();
    loop {
        let batch = reader.next_batch(EVERYTHING).unwrap();
        if batch.is_empty() {
            break;
        }
        seqs.extend(batch.into_iter().filter(|(_, frame)| frame.kind == Kind::Record).map(|(_, frame)| frame.seq));
    }
    assert_eq!(seqs, [4, 5, 6]);
    assert_eq!(segments(folder.path()), [1, 2]);
}

#[test]
fn a_file_that_took_anothers_name_is_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path()).journal;
    fill(&journal, 3);
    let path = segment::path(folder.path(), 1);
    fs::remove_file(&path).unwrap();
    fs::write(&path, b"somebody's").unwrap();
    look(&journal).unwrap();
    assert_eq!(frames(folder.path()).len(), 6);
    assert_eq!(fs::read(path.with_extension("aside")).unwrap(), b"somebody's");
}

#[test]
fn a_file_cut_short_takes_no_calls_and_what_is_in_flight_goes_where_it_can_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path()).journal;
    let open_call = intent(9);
    fill(&journal, 3);
    journal.append_intent(&open_call).unwrap();
    File::options().write(true).open(segment::path(folder.path(), 1)).unwrap().set_len(100).unwrap();
    assert!(matches!(look(&journal).unwrap_err(), JournalError::Broken { .. }));
    assert!(journal.append_intent(&intent(10)).is_err());
    assert!(journal.failure().unwrap().contains("cut short"));
    journal.append_record(bare_record(&open_call)).unwrap();
    let second = fs::read(segment::path(folder.path(), 2)).unwrap();
    assert!(second.len() > segment::HEADER_BYTES);
}

#[test]
fn a_deleted_folder_and_its_lock_come_back_within_a_second() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("journal");
    let journal = open(&directory).journal;
    fill(&journal, 3);
    fs::remove_dir_all(&directory).unwrap();
    let begun = std::time::Instant::now();
    while !directory.join("ballast").exists() || segments(&directory) != [1, 2] {
        assert!(begun.elapsed() < std::time::Duration::from_secs(10), "{:?}", journal.failure());
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert!(Lock::take(&directory).unwrap().is_none());
    fill(&journal, 1);
    drop(journal);
    assert_eq!(frames(&directory).len(), 8);
    assert_eq!(open(&directory).journal.append_record(bare_record(&intent(0))).unwrap().1.seq, 5);
}

#[test]
fn a_finished_file_that_is_deleted_is_missed_once() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(Settings { segment_bytes_max: 3 << 10, ..settings(folder.path()) }).unwrap().journal;
    fill(&journal, 20);
    let before = journal.bytes();
    fs::remove_file(segment::path(folder.path(), 1)).unwrap();
    look(&journal).unwrap();
    assert!(journal.bytes() < before);
    journal.remove_applied(journal.end()).unwrap();
}

#[test]
fn an_objection_refuses_calls_and_takes_records() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path()).journal;
    let call = intent(0);
    journal.append_intent(&call).unwrap();
    journal.object(Some("the ledger is gone".to_owned()));
    assert_eq!(
        journal.append_intent(&intent(1)).unwrap_err().to_string(),
        "the journal cannot record: the ledger is gone"
    );
    journal.append_record(bare_record(&call)).unwrap();
    journal.object(None);
    journal.append_intent(&intent(1)).unwrap();
}

#[test]
fn a_gap_is_read_back_and_disturbs_no_seq() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path()).journal;
    fill(&journal, 1);
    let gap = Gap { from: super::at(1), to: super::at(2), requests: 7 };
    journal.append_gap(&gap).unwrap();
    fill(&journal, 1);
    let frames = frames(folder.path());
    let gaps: Vec<Gap> =
        frames.iter().filter(|frame| frame.kind == Kind::Gap).map(|frame| frame.gap().unwrap()).collect();
    assert_eq!(gaps, [gap]);
    assert_eq!(records(folder.path()).iter().map(|record| record.seq).collect::<Vec<_>>(), [1, 2]);
    drop(journal);
    // Behind a gap a journal goes on as before.
    assert_eq!(open(folder.path()).journal.append_record(bare_record(&intent(5))).unwrap().1.seq, 3);
}
