//! Journal: append-only files of intents and records on this node's disk: what the data path writes.
//!
//! In: [`Intent`]s, [`Record`]s, [`Progress`] of open calls, [`Gap`]s. Out: frames in order, to the applier and to who
//! reads a month. An append is one `write` on the calling task: when it returns, the kernel has it and the death of this
//! process cannot lose it. Where another's `write` is stuck, the frame waits in a queue instead and the caller for
//! [`Journal::synced`]: no thread that serves calls waits for a disk, but the one that was first.

mod ballast;
mod bell;
mod frame;
mod front;
mod guard;
mod kept;
mod queue;
mod reader;
mod recover;
mod runway;
mod segment;
mod sync;
mod ticket;
mod writer;

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, TryLockError};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use crate::ids::{NodeId, RecordId};
use crate::record::{Gap, Intent, JobSeen, Progress, Record};

pub use frame::{Frame, Kind};
pub use reader::{Limits, Reader, first_seq, nodes};

use ticket::Ticket;
use writer::{Writer, Written};

/// Default of [`Settings::segment_bytes_max`].
pub const SEGMENT_BYTES_MAX: u64 = 64 << 20;

/// Default of [`Settings::bytes_max`].
pub const BYTES_MAX: u64 = 4 << 30;

/// The least that [`Settings::bytes_max`] may be.
pub const BYTES_MAX_LEAST: u64 = 1 << 20;

/// So many segments at least make a full journal: what is applied is deleted by whole segments.
const SEGMENTS_LEAST: u64 = 8;

/// With less room left no call is taken: an intent takes about as much.
const ROOM_MIN: u64 = 1 << 10;

/// Where the journal is and how lasting. `config` fills it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The journal's own folder; made if missing.
    pub directory: PathBuf,
    /// What an append survives.
    pub durability: Durability,
    /// A segment that would grow past this is followed by the next.
    pub segment_bytes_max: u64,
    /// A journal that would grow past this refuses intents until the ledger has taken some of it. Records of calls in
    /// flight are still taken.
    pub bytes_max: u64,
    /// How long a segment is kept after the ledger has it: a ledger that lost its last seconds gets them again.
    pub keep: Duration,
    /// This process's name in records; `None`: the one the journal began with, else a random one.
    pub node: Option<NodeId>,
    /// The last seq of each node that the ledger holds. A journal that lost its end with the machine's power, or was
    /// taken away, goes on behind it: a seq is never given twice.
    pub seq_floors: BTreeMap<NodeId, u64>,
}

impl Settings {
    /// A journal in `directory` as it is where nothing else is said.
    pub fn at(directory: PathBuf) -> Self {
        Self {
            directory,
            durability: Durability::default(),
            segment_bytes_max: SEGMENT_BYTES_MAX,
            bytes_max: BYTES_MAX,
            keep: Duration::ZERO,
            node: None,
            seq_floors: BTreeMap::new(),
        }
    }
}

/// What an append survives.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Durability {
    /// The death of the process at any instant; of the machine, but for the last second or so.
    #[default]
    Process,
    /// The death of the machine, once [`Journal::synced`] says so.
    Power,
}

/// A place between two frames. Ordered as the journal is.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Position {
    /// Number of the segment, from 1.
    pub segment: u64,
    /// Bytes from the beginning of the segment's file.
    pub offset: u64,
}

impl Position {
    /// In front of every frame.
    pub const START: Self = Self { segment: 0, offset: 0 };

    /// The position in 64 bits; of one that does not fit, the beginning.
    fn packed(self) -> u64 {
        match (u32::try_from(self.segment), u32::try_from(self.offset)) {
            (Ok(segment), Ok(offset)) => u64::from(segment) << 32 | u64::from(offset),
            (Err(_), _) | (_, Err(_)) => 0,
        }
    }

    /// What [`Position::packed`] made 64 bits of.
    fn unpacked(bits: u64) -> Self {
        Self { segment: bits >> 32, offset: bits & u64::from(u32::MAX) }
    }
}

/// A frame was appended, or waits for a disk that takes its time.
#[derive(Debug)]
pub struct Appended(At);

#[derive(Debug)]
enum At {
    /// The kernel has it.
    Written(Written),
    Waiting(Arc<Ticket>),
}

impl At {
    /// Blocks until the kernel has it.
    fn wait(self) -> Result<Written, JournalError> {
        match self {
            Self::Written(written) => Ok(written),
            Self::Waiting(ticket) => ticket.wait(),
        }
    }
}

impl Appended {
    /// Calls `then` with whether the frame was written, as soon as that is known: at once, or on the journal's thread.
    pub fn then(&self, then: impl FnOnce(bool) + Send + 'static) {
        match &self.0 {
            At::Written(_) => then(true),
            At::Waiting(ticket) => ticket.then(then),
        }
    }
}

/// Why the journal cannot be opened, read or appended to.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file system refused.
    #[error("cannot {what} `{}`", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another process appends to it.
    #[error("journal `{}` is in use by another process; stop it or choose another `ledger.directory`", directory.display())]
    InUse {
        /// The journal's folder.
        directory: PathBuf,
    },
    /// Bytes that were written whole cannot be read back.
    #[error(
        "journal file `{}` is broken at byte {offset}: {what}; put a whole copy in its place, or move it away to go on without what the ledger does not hold of it",
        path.display()
    )]
    Broken {
        /// The segment.
        path: PathBuf,
        /// Where the broken frame begins.
        offset: u64,
        /// How it is broken.
        what: &'static str,
    },
    /// A whole frame does not hold what this binary knows.
    #[error("journal file `{}` holds a frame at byte {offset} that cannot be read", path.display())]
    Decode {
        /// The segment.
        path: PathBuf,
        /// Where the frame begins.
        offset: u64,
        /// Why not.
        source: serde_json::Error,
    },
    /// Written by a newer binary.
    #[error("journal file `{}` has format {found}, this binary knows {known}; upgrade tokenmeter", path.display())]
    TooNew {
        /// The segment.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest known here.
        known: u32,
    },
    /// What waited for the disk is not there after all.
    #[error("what waited for the disk could not be written")]
    NotWritten {
        /// Why not.
        source: Box<JournalError>,
    },
    /// It does not take this now.
    #[error("the journal cannot record: {why}")]
    Refused {
        /// What is wrong.
        why: String,
    },
    /// An intent or record has no JSON form, or is far too long.
    #[error("cannot write a frame")]
    Encode {
        /// Why not.
        source: serde_json::Error,
    },
}

/// An opened journal, and what the process before left open.
#[derive(Debug)]
pub struct Opened {
    /// Ready to append to.
    pub journal: Journal,
    /// Calls that were in flight when the process before died: each is owed a record.
    pub open_intents: Vec<Intent>,
    /// What those had brought by the last mark, of which there is one.
    pub progress: HashMap<RecordId, Progress>,
    /// What the records that the ledger does not hold yet say of jobs, in their order.
    pub jobs_seen: Vec<JobSeen>,
}

/// The journal of one node. Shared as `Arc<Journal>`; dropping it syncs what is left and lets go of the folder.
#[derive(Debug)]
pub struct Journal {
    node: NodeId,
    durability: Durability,
    writer: Arc<Writer>,
    /// Ends before the next, which syncs what this one wrote.
    _writing: queue::Thread,
    syncing: sync::Thread,
}

impl Journal {
    /// Opens or begins the journal of `settings.directory`, cuts off a torn tail, and starts a new segment: a position
    /// that was handed out before never comes to mean something else.
    pub fn open(settings: Settings) -> Result<Opened, JournalError> {
        let lock = Lock::of(&settings.directory)?;
        Self::open_locked(settings, lock)
    }

    /// The same for who has taken the folder's lock already.
    pub fn open_locked(settings: Settings, lock: Lock) -> Result<Opened, JournalError> {
        let Settings { directory, durability, segment_bytes_max, bytes_max, keep, node, seq_floors } = settings;
        let mut found = recover::recover(&directory, &seq_floors)?;
        found.make_lasting(&directory)?;
        let node = match node.or_else(|| found.node.take()) {
            Some(node) => node,
            None => random_node()?,
        };
        let last_of = |seqs: &BTreeMap<NodeId, u64>| seqs.get(&node).copied().unwrap_or(0);
        let next_seq = last_of(&found.last_seqs).max(last_of(&seq_floors)).saturating_add(1);
        let open_intents = std::mem::take(&mut found.open_intents);
        let progress = std::mem::take(&mut found.progress);
        let jobs_seen = std::mem::take(&mut found.jobs_seen).into_iter();
        let jobs_seen = jobs_seen
            .filter(|(node, seq, _)| seq_floors.get(node).is_none_or(|applied| seq > applied))
            .map(|(.., seen)| seen)
            .collect();
        let settings = writer::Settings {
            directory,
            node: node.clone(),
            segment_bytes_max: segment_bytes_max.min(bytes_max / SEGMENTS_LEAST),
            bytes_max,
            keep,
            next_seq,
        };
        let writer = Arc::new(Writer::begin(settings, found)?);
        let writing = queue::Thread::start(&writer)?;
        let guard = guard::Guard::new(writer.directory(), lock)?;
        let syncing = sync::Thread::start(Arc::clone(&writer), guard, durability)?;
        let journal = Self { node, durability, writer, _writing: writing, syncing };
        Ok(Opened { journal, open_intents, progress, jobs_seen })
    }

    /// The node of every record appended here.
    pub fn node(&self) -> &NodeId {
        &self.node
    }

    /// A call is about to reach an upstream. An error means that it must not: its record could not be kept. Never waits for
    /// another's `write`: what is returned may have to be [awaited](Self::synced).
    pub fn submit_intent(&self, intent: &Intent) -> Result<Appended, JournalError> {
        self.writer.append(Kind::Intent, intent.id, frame::encode(intent)?).map(Appended)
    }

    /// An open call has brought this so far. Nothing is written of one that is over: its record says more. Blocks.
    pub fn append_progress(&self, progress: &Progress) -> Result<(), JournalError> {
        self.writer.append_progress(progress.id, &mut frame::encode(progress)?)
    }

    /// A call is over. Gives the record its node and seq, and cuts its instants to the microsecond, which is what the
    /// ledger keeps; the record that comes back is the one that everybody else must use. Never waits for another's
    /// `write`: where the record has to, its seq is still 0.
    pub fn submit_record(&self, mut record: Record) -> Result<(Appended, Record), JournalError> {
        record.node = self.node.clone();
        record.started_at = to_the_microsecond(record.started_at);
        record.ended_at = to_the_microsecond(record.ended_at);
        // The seq is not known before the write: the frame's own is what counts when it is read.
        record.seq = 0;
        let mut buffer = frame::encode(&record)?;
        if buffer.len() > frame::PAYLOAD_BYTES_MAX {
            // The evidence is the only member without a bound. The counts matter more.
            record.usage_raw = None;
            buffer = frame::encode(&record)?;
        }
        let at = self.writer.append(Kind::Record, record.id, buffer)?;
        if let At::Written(written) = &at {
            record.seq = written.seq;
        }
        Ok((Appended(at), record))
    }

    /// Calls passed unmetered while no intent was taken. Blocks until the kernel has it.
    pub fn append_gap(&self, gap: &Gap) -> Result<Appended, JournalError> {
        self.writer.append_gap(&mut frame::encode(gap)?).map(|written| Appended(At::Written(written)))
    }

    /// [Submits](Self::submit_intent) an intent and blocks until the kernel has it: for threads that may.
    pub fn append_intent(&self, intent: &Intent) -> Result<Appended, JournalError> {
        let Appended(at) = self.submit_intent(intent)?;
        Ok(Appended(At::Written(at.wait()?)))
    }

    /// [Submits](Self::submit_record) a record and blocks until the kernel has it: for threads that may.
    pub fn append_record(&self, record: Record) -> Result<(Appended, Record), JournalError> {
        let (Appended(at), mut record) = self.submit_record(record)?;
        let written = at.wait()?;
        record.seq = written.seq;
        Ok((Appended(At::Written(written)), record))
    }

    /// Whether what was appended is as lasting as the durability asks: then there is nothing to wait for.
    pub fn is_synced(&self, appended: &Appended) -> bool {
        self.durability == Durability::Process && matches!(appended.0, At::Written(_))
    }

    /// Waits until what was appended is as lasting as the durability says: for `process`, until the kernel has it, which
    /// is at once unless the disk is stuck; for `power` also for the next group fsync. A failed fsync is an error for ever
    /// after: the kernel forgets what it could not write, so a second try that succeeds proves nothing. Who opens the journal again writes it again.
    pub fn synced(
        self: &Arc<Self>,
        appended: Appended,
    ) -> impl Future<Output = Result<(), JournalError>> + Send + 'static + use<> {
        sync::Synced::new((self.durability == Durability::Power).then(|| self.syncing.shared()), appended)
    }

    /// Has `waker` woken, every now and then, for as long as a `write` keeps the thread of its caller.
    pub fn wake_when_stalled(&self, waker: Waker) {
        if self.writer.stalled.set(waker).is_err() {
            tracing::debug!("somebody is woken already when the journal stalls");
        }
    }

    /// The position after the last frame.
    pub fn end(&self) -> Position {
        self.writer.end()
    }

    /// Why no call can be taken now.
    pub fn failure(&self) -> Option<String> {
        self.syncing.failure().or_else(|| self.writer.failure())
    }

    /// Takes no call while there is an objection, such as a ledger that cannot be what it was. What is in flight is
    /// recorded all the same.
    pub fn object(&self, why: Option<String>) {
        self.writer.object(why);
    }

    /// Whether the disk is full and calls are in flight: what space is left, the ballast's, is for their records.
    pub fn needs_all_space(&self) -> bool {
        self.writer.needs_all_space()
    }

    /// Why nothing that is appended will be on the disk for certain until the journal is opened again: a sync failed.
    pub fn sync_failure(&self) -> Option<String> {
        self.syncing.failure()
    }

    /// Bytes on disk, ballast aside.
    pub fn bytes(&self) -> u64 {
        self.writer.front.bytes()
    }

    /// Beyond so many no call is taken.
    pub fn bytes_max(&self) -> u64 {
        self.writer.front.bytes_max()
    }

    /// How long until it is full if the ledger takes nothing and calls go on as in the last minutes. `None` while there
    /// are none.
    pub fn lasts(&self) -> Option<Duration> {
        let left = self.bytes_max().saturating_sub(self.bytes());
        // One that fills at once is full before a rate is known.
        if left < ROOM_MIN { Some(Duration::ZERO) } else { self.syncing.append_rate()?.lasts(left) }
    }

    /// Frames that wait for a disk that takes its time.
    pub fn queued(&self) -> usize {
        self.writer.front.queued()
    }

    /// Blocks the calling thread until nothing waits for the disk, for at most `timeout`.
    pub fn drain(&self, timeout: Duration) {
        self.writer.front.drain(timeout);
    }

    /// Where the files are.
    pub fn directory(&self) -> &Path {
        self.writer.directory()
    }

    /// Blocks the calling thread until something is appended after `seen`, somebody unparks it, or `timeout` passes.
    /// For one reader: the applier.
    pub fn wait_for_append(&self, seen: Position, timeout: Duration) {
        // Asked once the bell would be heard: an append that this look misses rings it.
        self.writer.front.bell.wait(timeout, || self.end() <= seen);
    }

    /// Lets go of the segments that end before `up_to`, oldest first, and stops at the first that holds the intent of a
    /// call still open, or ended by a record that is not on the disk yet: what follows may hold the records of others
    /// in it.
    pub fn remove_applied(&self, up_to: Position) -> Result<(), JournalError> {
        self.writer.remove_before(up_to.segment)
    }

    /// Removes the segments that were kept for long enough behind the ledger. Looks at every one.
    pub fn remove_kept(&self) -> Result<(), JournalError> {
        self.writer.remove_kept()
    }
}

/// The right to change a journal's files, held by one process at a time.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Lock {
    /// Makes the journal's folder where there is none, and takes its lock. An error where another process has it.
    pub fn of(directory: &Path) -> Result<Self, JournalError> {
        let failed = |source| JournalError::Io { what: "make", path: directory.to_owned(), source };
        make_directory(directory).map_err(failed)?;
        Self::take(directory)?.ok_or_else(|| JournalError::InUse { directory: directory.to_owned() })
    }

    /// Takes it; `None` where another process has it.
    pub fn take(directory: &Path) -> Result<Option<Self>, JournalError> {
        let path = directory.join("lock");
        let failed = |source| JournalError::Io { what: "lock", path: path.clone(), source };
        let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }

    /// Cuts off a torn tail, so that a [`Reader`] sees whole frames only. Records up to the `seq_floors` are in the
    /// ledger.
    pub fn cut_torn_tail(&self, directory: &Path, seq_floors: &BTreeMap<NodeId, u64>) -> Result<(), JournalError> {
        recover::recover(directory, seq_floors).map(drop)
    }
}

/// The error with all its causes.
pub(crate) fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Makes `directory`, and those above it that are missing, and their names as lasting as what will be in them.
pub fn make_directory(directory: &Path) -> io::Result<()> {
    let missing = directory.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists()).count();
    fs::create_dir_all(directory)?;
    // Its own name in any case: who made it may have died before this.
    for made in directory.ancestors().take(missing.max(1)) {
        let parent = made.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        match segment::sync_directory(parent) {
            // A folder may be ours to enter and not to read; then nobody can sync it.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            synced => synced?,
        }
    }
    Ok(())
}

fn to_the_microsecond(at: jiff::Timestamp) -> jiff::Timestamp {
    jiff::Timestamp::from_microsecond(at.as_microsecond()).unwrap_or(at)
}

fn random_node() -> Result<NodeId, JournalError> {
    // Seeded by the system, for every state anew.
    let random = RandomState::new().hash_one(0) & 0xff_ffff;
    NodeId::parse(&format!("n-{random:06x}"))
        .map_err(|_| JournalError::Refused { why: "no name for this node".to_owned() })
}

/// A name that no journal has had, `name` in front of it: for a node whose last seq nobody can be asked for.
pub fn fresh_node(name: Option<&NodeId>) -> Result<NodeId, JournalError> {
    let random = format!("{:016x}", RandomState::new().hash_one(0));
    let name = name.map_or("n", NodeId::as_str);
    let room = crate::ids::ID_BYTES_MAX.saturating_sub(random.len().saturating_add(1));
    let name = name.get(..room.min(name.len())).unwrap_or("n");
    NodeId::parse(&format!("{name}-{random}"))
        .map_err(|_| JournalError::Refused { why: "no name for this node".to_owned() })
}

#[cfg(test)]
pub(crate) mod samples;

#[cfg(test)]
mod tests;
