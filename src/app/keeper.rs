//! Keeper: the thread that keeps fresh what is read from the ledger: keys, jobs of other servers, the month gauges.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::{Books, learned};
use crate::attribution::keys::{Key, KeySet};
use crate::ledger::{Applier, CopyError, Ledger, LedgerError, read_copy, write_copy};
use crate::meter::{JOBS_MAX, Moment};
use crate::metrics::MonthRow;
use crate::period::Month;
use crate::report::DEFAULT_BY;
use crate::usage::TokenCounts;

/// How often keys and month gauges are looked after: a key made beside the server works within this time.
const LOOK_AFTER: Duration = Duration::from_millis(250);
/// How long a ledger that was moved stays open before it is opened anew: the applier is first to look at what is there.
const REOPEN_AFTER: Duration = Duration::from_secs(2);
/// How often a failure that goes on is logged.
const LOG_AGAIN: Duration = Duration::from_secs(30);
/// How often a ledger of many servers is asked what the others did.
const ASK_OTHERS: Duration = Duration::from_secs(2);
/// How often what was learned of calls is kept in the ledger.
const KEEP_LEARNED: Duration = Duration::from_mins(1);
/// How much later than it ended a call of another server may come to the ledger for its job to be learnt of.
const OTHERS_LATE: SignedDuration = SignedDuration::from_mins(10);

/// The running thread.
pub(super) struct Keeper {
    thread: JoinHandle<()>,
    stop: Sender<()>,
}

impl Keeper {
    /// Loads the keys, then looks after them.
    pub(super) fn start(books: &Books, keys: Arc<KeySet>, zone: TimeZone) -> anyhow::Result<Self> {
        let mut kept = Kept {
            ledger: None,
            books: books.clone(),
            keys,
            zone,
            misplaced_at: None,
            seen: None,
            shown: None,
            asked_others: None,
            others_since: Moment::now().at,
            learned_at: Moment::now().instant,
        };
        if let Err(error) = kept.open().and_then(Kept::load_keys) {
            if !books.places.ledger.may_be_away() || error.is_final() {
                return Err(error.into());
            }
            kept.load_copy()?;
        }
        let (stop, stopped) = channel();
        let thread = std::thread::Builder::new().name("keeper".into()).spawn(move || {
            let mut logged_at: Option<Instant> = None;
            while stopped.recv_timeout(LOOK_AFTER) == Err(RecvTimeoutError::Timeout) {
                kept.books.meter.keep_gaps();
                let Err(error) = kept.look() else {
                    logged_at = None;
                    continue;
                };
                // A file that is open may be all that is left of it; a connection to elsewhere is not.
                if kept.books.places.ledger.may_be_away() {
                    kept.ledger = None;
                }
                if logged_at.is_none_or(|at| at.elapsed() >= LOG_AGAIN) {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "cannot read the ledger; keys and month gauges are old"
                    );
                    logged_at = Some(Instant::now());
                }
            }
        })?;
        Ok(Self { thread, stop })
    }

    pub(super) fn stop(self) {
        drop(self.stop);
        if self.thread.join().is_err() {
            tracing::error!("the keeper thread panicked");
        }
    }
}

struct Kept {
    /// `None` after a failure: the next look opens it again.
    ledger: Option<Ledger>,
    books: Books,
    keys: Arc<KeySet>,
    zone: TimeZone,
    /// Since when the ledger is not the one that is there.
    misplaced_at: Option<Instant>,
    /// The version of the keys that are known.
    seen: Option<i64>,
    /// The month and the ledger's commits that the gauges show.
    shown: Option<(Month, u64)>,
    /// When the others were last asked for, and from when on what they did is not known.
    asked_others: Option<Instant>,
    others_since: Timestamp,
    /// When what was learned was last kept in the ledger.
    learned_at: Instant,
}

impl Kept {
    fn open(&mut self) -> Result<&mut Self, LedgerError> {
        if self.ledger.is_none() {
            self.ledger = Some(self.books.places.ledger()?);
        }
        Ok(self)
    }

    /// Lets go of a ledger that was put back as another file. While calls are refused for it, nobody knows what the file
    /// there is.
    fn let_go_of_another(&mut self) {
        if self.ledger.as_ref().is_none_or(Ledger::is_in_place) {
            self.misplaced_at = None;
            return;
        }
        let since = *self.misplaced_at.get_or_insert_with(|| Moment::now().instant);
        if since.elapsed() >= REOPEN_AFTER && self.books.journal.failure().is_none() {
            self.ledger = None;
        }
    }

    fn look(&mut self) -> Result<(), LedgerError> {
        self.let_go_of_another();
        self.open()?.load_keys()?;
        self.ask_others()?;
        self.show_month()?;
        self.keep_learned();
        Ok(())
    }

    fn keep_learned(&mut self) {
        if self.learned_at.elapsed() < KEEP_LEARNED {
            return;
        }
        self.learned_at = Moment::now().instant;
        if let Some(ledger) = &mut self.ledger {
            learned::keep(&self.books.meter, || Ok(ledger));
        }
    }

    fn load_keys(&mut self) -> Result<(), LedgerError> {
        let Some(ledger) = &self.ledger else { return Ok(()) };
        let version = ledger.keys_version()?;
        if self.seen == Some(version) {
            return Ok(());
        }
        let keys = ledger.keys()?;
        let places = &self.books.places;
        if places.ledger.may_be_away()
            && let Err(error) = write_copy(&places.keys_copy, &keys)
        {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "a start while the ledger is away will not know these keys"
            );
        }
        self.set_keys(keys);
        self.seen = Some(version);
        Ok(())
    }

    /// The keys as the ledger last told them, where it does not now.
    fn load_copy(&mut self) -> Result<(), CopyError> {
        if let Some(keys) = read_copy(&self.books.places.keys_copy)? {
            self.set_keys(keys);
        } else {
            tracing::error!("the ledger is away and there is no copy of its keys; not ready before it is back");
        }
        Ok(())
    }

    fn set_keys(&self, keys: Vec<crate::ledger::Key>) {
        let keys = keys.into_iter().map(|key| Key {
            id: key.id,
            sha256: key.sha256,
            team: key.team,
            app: key.app,
            is_revoked: key.revoked_at.is_some(),
        });
        self.keys.set_ledger_keys(keys.collect());
        self.books.keys_are_known.store(true, Ordering::Relaxed);
    }

    /// Learns which jobs other servers began and counted.
    fn ask_others(&mut self) -> Result<(), LedgerError> {
        let Some(ledger) = &self.ledger else { return Ok(()) };
        let is_due = self.asked_others.is_none_or(|at| at.elapsed() >= ASK_OTHERS);
        if !self.books.places.ledger.may_be_away() || !is_due {
            return Ok(());
        }
        let (now, since) = (Moment::now(), self.others_since.checked_sub(OTHERS_LATE).unwrap_or(Timestamp::MIN));
        self.books.meter.remember(ledger.jobs_seen(since, JOBS_MAX)?);
        (self.asked_others, self.others_since) = (Some(now.instant), now.at);
        // What the others consumed belongs into the month as well.
        self.shown = None;
        Ok(())
    }

    fn show_month(&mut self) -> Result<(), LedgerError> {
        let Some(ledger) = &self.ledger else { return Ok(()) };
        let month = Month::of(self.books.meter.now().at, &self.zone);
        let commits = self.books.with_applier(Applier::commits).unwrap_or(0);
        if self.shown == Some((month, commits)) {
            return Ok(());
        }
        let (first, end) = month.buckets(&self.zone);
        let rows = ledger.month_rows(first, end, &DEFAULT_BY)?;
        let rows: Vec<MonthRow> = rows.iter().filter_map(month_row).collect();
        self.books.metrics.set_month(&rows);
        self.shown = Some((month, commits));
        Ok(())
    }
}

fn month_row(row: &crate::ledger::Row) -> Option<MonthRow> {
    let [department, team] = row.values.as_slice() else { return None };
    let count = |count: i128| Some(u64::try_from(count).unwrap_or(u64::MAX));
    let tokens = TokenCounts {
        input: count(row.counts.input),
        cache_read: count(row.counts.cache_read),
        cache_write: count(row.counts.cache_write),
        output: count(row.counts.output),
        ..TokenCounts::default()
    };
    let cost = (row.counts.priced_requests > 0)
        .then(|| crate::money::NanoUsd::new(i64::try_from(row.counts.cost_nanousd).unwrap_or(i64::MAX)));
    Some(MonthRow {
        department: crate::ids::DepartmentId::parse(department).ok()?,
        team: crate::ids::TeamId::parse(team).ok()?,
        tokens,
        cost,
    })
}
