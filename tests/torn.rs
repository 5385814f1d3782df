//! A journal torn at any byte loses what was torn and nothing else: every whole record is in the ledger once, nothing is
//! invented, and calls without a record are orphans with what their last mark says.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]
#![expect(clippy::indexing_slicing, reason = "so does what is not there")]

#[expect(dead_code, reason = "a few calls are enough here")]
#[path = "support/calls.rs"]
mod calls;
#[path = "support/intents.rs"]
mod intents;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use intents::{intent, progress};
use jiff::Timestamp;
use tempfile::TempDir;
use tokenmeter::ids::RecordId;
use tokenmeter::journal::{Journal, JournalError, Kind, Limits, Opened, Position, Reader, Settings};
use tokenmeter::ledger::{Filter, Ledger, catch_up};
use tokenmeter::meter::{self, Meter, Moment};
use tokenmeter::metrics::{self, Metrics};
use tokenmeter::pricing::PriceBook;
use tokenmeter::record::{Intent, Record, Tags};
use tokenmeter::usage::Outcome;

/// So small that a few calls fill one.
const SEGMENT_BYTES_MAX: u64 = 4 << 10;
/// At one of so many bytes, and around the end of each frame, the torn journal is applied to a ledger, twice; elsewhere it is
/// seen to be repaired to the same bytes. `TOKENMETER_LONG` applies it everywhere.
const APPLIED_EVERY: usize = 8;
const PATIENCE: Duration = Duration::from_secs(20);

/// What is known of a call: how it ended, and its output tokens.
type Known = BTreeMap<RecordId, (Outcome, Option<u64>)>;

/// A data folder as a process left it, and what its frames mean.
struct Left {
    folder: TempDir,
    /// The newest segment, whole.
    newest: Vec<u8>,
    number: u64,
    /// Where each of its frames ends, and what that does to what is known of calls.
    frames: Vec<(usize, Meaning)>,
    /// Where its intents end, and up to where each knows it to be on the disk.
    synced: Vec<(usize, usize)>,
    /// What the frames before it mean.
    before: Known,
}

/// What a frame does.
#[derive(Clone, Copy, Debug)]
enum Meaning {
    Begins(RecordId),
    Brought(RecordId, u64),
    Ends(RecordId, Option<u64>),
}

impl Meaning {
    fn apply(self, known: &mut Known) {
        match self {
            Self::Begins(id) => known.insert(id, (Outcome::Orphaned, None)),
            Self::Brought(id, tokens) => known.insert(id, (Outcome::Orphaned, Some(tokens))),
            Self::Ends(id, output) => known.insert(id, (Outcome::Completed, output)),
        };
    }
}

impl Left {
    /// Four segments and a ledger that has the first of them; calls are open across the last.
    fn make() -> Self {
        // In memory where that is possible: every try is synced.
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        // As a server does: a journal whose ledger is gone is not applied to a new one.
        drop(Ledger::open(&calls::place(folder.path())).unwrap());
        let mut calls = (0..100).map(|number| short(calls::record(number, 100)));
        let mut before = Known::new();
        let across = {
            let journal = open(folder.path()).unwrap().journal;
            for _ in 0..12 {
                let (intent, record) = calls.next().unwrap();
                journal.append_intent(&intent).unwrap();
                let (_, record) = journal.append_record(record).unwrap();
                Meaning::Ends(record.id, record.tokens.output).apply(&mut before);
            }
            let across: Vec<_> = calls.by_ref().take(2).collect();
            for (intent, _) in &across {
                journal.append_intent(intent).unwrap();
                Meaning::Begins(intent.id).apply(&mut before);
            }
            let marked = across[1].0.id;
            journal.append_progress(&progress(marked, at(), 40)).unwrap();
            Meaning::Brought(marked, 40).apply(&mut before);
            across
        };
        apply(folder.path());
        assert!(segments(folder.path()).len() >= 3, "several segments");
        // Opened again by who does not settle what was open, so that the newest segment begins here.
        let Opened { journal, open_intents, .. } = open(folder.path()).unwrap();
        assert_eq!(open_intents.len(), across.len());
        let (young, its_record) = calls.next().unwrap();
        journal.append_progress(&progress(across[0].0.id, at(), 7)).unwrap();
        journal.append_intent(&young).unwrap();
        journal.append_progress(&progress(young.id, at(), 3)).unwrap();
        journal.append_record(across[1].1.clone()).unwrap();
        journal.append_progress(&progress(across[0].0.id, at(), 90)).unwrap();
        journal.append_record(its_record).unwrap();
        journal.append_intent(&calls.next().unwrap().0).unwrap();
        let number = journal.end().segment;
        drop(journal);
        let newest = fs::read(segment(folder.path(), number)).unwrap();
        let mut reader = Reader::open(&folder.path().join("journal"), Position { segment: number, offset: 0 }).unwrap();
        let frames = reader.next_batch(Limits { frames: usize::MAX, bytes: 1 << 20 }).unwrap();
        let frames: Vec<_> = frames
            .iter()
            .map(|(after, frame)| {
                let meaning = match frame.kind {
                    Kind::Intent => Meaning::Begins(frame.intent().unwrap().id),
                    Kind::Progress => {
                        let progress = frame.progress().unwrap();
                        Meaning::Brought(progress.id, progress.delivered_tokens)
                    }
                    Kind::Gap => unreachable!("nobody appended one"),
                    Kind::Record => {
                        let record = frame.record().unwrap();
                        Meaning::Ends(record.id, record.tokens.output)
                    }
                };
                (usize::try_from(after.offset).unwrap(), meaning)
            })
            .collect();
        assert_eq!((frames.len(), frames.last().unwrap().0), (7, newest.len()));
        // An intent has, in the place of a seq, up to where the journal was on the disk when it was appended.
        let begins = frames.windows(2).map(|pair| (pair[0].0, pair[1]));
        let synced: Vec<_> = begins
            .filter(|(_, (_, meaning))| matches!(meaning, Meaning::Begins(_)))
            .map(|(begin, (end, _))| (end, u64::from_le_bytes(newest[begin + 9..begin + 17].try_into().unwrap())))
            .map(|(end, synced)| (end, usize::try_from(synced - (number << 32)).unwrap()))
            .collect();
        assert_eq!(synced.len(), 2);
        Self { folder, newest, number, frames, synced, before }
    }

    /// Up to where the newest segment is known to have been on the disk, by the intents that a change at `at` leaves.
    fn synced_but_for(&self, at: usize) -> usize {
        let told = self.synced.iter().filter(|(end, _)| self.frame_with(at) != Some(*end));
        told.map(|(_, synced)| *synced).max().unwrap()
    }

    /// Where the frame ends that has the byte `at`; `None` in the header.
    fn frame_with(&self, at: usize) -> Option<usize> {
        let header = self.frames[0].0 - frame_bytes(&self.newest);
        (at >= header).then(|| self.frames.iter().map(|(end, _)| *end).find(|end| *end > at).unwrap())
    }

    /// The folder with `newest` in the place of its newest segment.
    fn with(&self, newest: &[u8]) -> TempDir {
        let folder = tempfile::tempdir_in(self.folder.path().parent().unwrap()).unwrap();
        fs::create_dir(folder.path().join("journal")).unwrap();
        for number in segments(self.folder.path()) {
            fs::copy(segment(self.folder.path(), number), segment(folder.path(), number)).unwrap();
        }
        // A mebibyte that nobody changes.
        fs::hard_link(self.folder.path().join("journal/ballast"), folder.path().join("journal/ballast")).unwrap();
        fs::copy(self.folder.path().join("ledger.db"), folder.path().join("ledger.db")).unwrap();
        fs::write(segment(folder.path(), self.number), newest).unwrap();
        folder
    }

    /// What is known where the newest segment's frames up to `length` are whole.
    fn known_at(&self, length: usize) -> Known {
        let mut known = self.before.clone();
        self.frames.iter().filter(|(end, _)| *end <= length).for_each(|(_, meaning)| meaning.apply(&mut known));
        known
    }
}

/// The call without what only makes its frames long.
fn short(record: Record) -> (Intent, Record) {
    let outcome = Outcome::Completed;
    let record = Record { app: None, key: None, tags: Tags::new(), usage_raw: None, price: None, outcome, ..record };
    (intent(&record), record)
}

fn at() -> Timestamp {
    "2026-11-01T12:00:00Z".parse().unwrap()
}

fn segment(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("journal/{number:08}.journal"))
}

fn segments(folder: &Path) -> BTreeSet<u64> {
    let names = fs::read_dir(folder.join("journal")).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter_map(|name| name.to_str().unwrap().strip_suffix(".journal")?.parse().ok()).collect()
}

fn open(folder: &Path) -> Result<Opened, JournalError> {
    Journal::open(Settings { segment_bytes_max: SEGMENT_BYTES_MAX, ..calls::settings(folder) })
}

fn apply(folder: &Path) {
    catch_up(&folder.join("journal"), &calls::place(folder), PATIENCE).unwrap();
}

/// Starts as a server does, as far as its books go, and stops. What was open.
fn start(folder: &Path) -> Result<usize, JournalError> {
    let Opened { journal, open_intents, mut progress, .. } = open(folder)?;
    let metrics = Arc::new(Metrics::new(metrics::Limits::default()));
    let meter =
        Meter::start(Arc::new(journal), Arc::new(PriceBook::bundled()), metrics, &meter::Settings::default()).unwrap();
    let open = open_intents.len();
    for intent in open_intents {
        let brought = progress.remove(&intent.id);
        meter.close_orphan(intent, brought, Moment::now());
    }
    meter.stop(PATIENCE);
    drop(meter);
    apply(folder);
    Ok(open)
}

/// What the ledger knows of every call, once it is seen to be in order.
fn known(folder: &Path) -> Known {
    let ledger = Ledger::open(&calls::place(folder)).unwrap();
    let verified = ledger.verify().unwrap().unwrap();
    let records = ledger.records(&Filter::default(), None, usize::MAX).unwrap();
    assert_eq!(verified.records, u64::try_from(records.len()).unwrap());
    let mut seqs: Vec<u64> = records.iter().map(|record| record.seq).collect();
    seqs.sort_unstable();
    assert!(seqs.iter().copied().eq(1..=verified.records), "a gap or a double in {seqs:?}");
    let known: Known = records.iter().map(|record| (record.id, (record.outcome, record.tokens.output))).collect();
    assert_eq!(known.len(), records.len(), "a call is there twice");
    known
}

#[test]
fn a_journal_torn_at_any_byte_keeps_every_whole_record_once() {
    let left = Left::make();
    let every = if std::env::var_os("TOKENMETER_LONG").is_some() { 1 } else { APPLIED_EVERY };
    let mut outcomes = BTreeSet::new();
    for length in 0..=left.newest.len() {
        let folder = left.with(&left.newest[..length]);
        // The repair leaves what a tear at the end of the last whole frame would have left, byte for byte.
        let ends = || left.frames.iter().map(|(end, _)| *end);
        let header = ends().next().unwrap() - frame_bytes(&left.newest);
        let whole = ends().filter(|end| *end <= length).max().unwrap_or(if length < header { 0 } else { header });
        let is_applied = length == whole || length.is_multiple_of(every) || ends().any(|end| end == length + 1);
        if !is_applied {
            drop(open(folder.path()).unwrap());
            let repaired = fs::read(segment(folder.path(), left.number)).unwrap_or_default();
            assert_eq!(repaired, &left.newest[..whole], "torn at {length}");
            continue;
        }
        let expected = left.known_at(length);
        let orphans = expected.values().filter(|(outcome, _)| *outcome == Outcome::Orphaned).count();
        assert_eq!(start(folder.path()).unwrap(), orphans, "open at {length}");
        let found = known(folder.path());
        assert_eq!(found, expected, "torn at {length}");
        // Whoever comes next finds nothing to do.
        assert_eq!(start(folder.path()).unwrap(), 0, "open again at {length}");
        assert_eq!(known(folder.path()), found, "opened again at {length}");
        outcomes.insert(found.len());
    }
    assert_eq!(outcomes, BTreeSet::from([14, 15, 16]));
}

#[test]
fn a_journal_with_a_changed_byte_is_cut_there_or_refused_by_name_and_never_believed() {
    let left = Left::make();
    let header = left.frames[0].0 - frame_bytes(&left.newest);
    let (mut cut, mut refused) = (0, 0);
    for at in (0..left.newest.len()).step_by(5) {
        for flip in [0x01, 0x80] {
            let mut newest = left.newest.clone();
            newest[at] ^= flip;
            let folder = left.with(&newest);
            let begin = left.frames.iter().map(|(end, _)| *end).filter(|end| *end <= at).max();
            let begin = if at < header { 0 } else { begin.unwrap_or(header) };
            // A power cut may have left it so, or may not.
            let is_damage = begin < left.synced_but_for(at);
            match start(folder.path()) {
                Ok(_) => {
                    assert!(!is_damage, "a change at {at} is not seen");
                    assert_eq!(known(folder.path()), left.known_at(begin), "changed at {at}");
                    cut += 1;
                }
                Err(JournalError::Broken { path, offset, .. }) => {
                    assert!(is_damage, "what may be torn at {at} stops the start");
                    assert_eq!((path, usize::try_from(offset).unwrap()), (segment(folder.path(), left.number), begin));
                    let before = known(folder.path());
                    assert!(before.iter().all(|(id, known)| left.before.get(id) == Some(known)), "changed at {at}");
                    refused += 1;
                }
                // The format's number.
                Err(JournalError::TooNew { .. }) => assert!((8..12).contains(&at), "{at}"),
                Err(error) => panic!("changed at {at}: {error}"),
            }
        }
    }
    assert!(cut > 0 && refused > 0, "{cut} were cut, {refused} refused");
}

/// Bytes of the first frame of a segment.
fn frame_bytes(segment: &[u8]) -> usize {
    let payload = segment.windows(7).position(|seven| seven == b"{\"id\":\"").unwrap() - 17;
    let length = u32::from_le_bytes(segment[payload..payload + 4].try_into().unwrap());
    17 + usize::try_from(length).unwrap()
}
