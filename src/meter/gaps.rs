//! Gaps: how many calls passed unmetered, until the journal takes it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use crate::journal::{Journal, JournalError};
use crate::period::Bucket;
use crate::record::Gap;

/// One gap a bucket, so that each call is told in its own month, in whatever zone that is cut.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    by_bucket: Mutex<BTreeMap<i64, Gap>>,
    is_any: AtomicBool,
}

impl Gaps {
    /// A call that began `at` passes unmetered.
    pub(super) fn count(&self, at: Timestamp) {
        self.add(Gap { from: at, to: at, requests: 1 });
    }

    /// Puts what was counted into `journal`; what it does not take stays.
    pub(super) fn keep(&self, journal: &Journal) -> Result<(), JournalError> {
        if !self.is_any.load(Ordering::Acquire) {
            return Ok(());
        }
        self.is_any.store(false, Ordering::Release);
        loop {
            // One by one and without the lock, which calls take that pass meanwhile.
            let Some((_, gap)) = self.by_bucket().pop_first() else { return Ok(()) };
            if let Err(error) = journal.append_gap(&gap) {
                self.add(gap);
                return Err(error);
            }
            let Gap { from, to, requests } = gap;
            tracing::warn!(%from, %to, requests, "calls passed unmetered while the journal could not record");
        }
    }

    fn add(&self, added: Gap) {
        let mut by_bucket = self.by_bucket();
        let none_yet = Gap { requests: 0, ..added };
        let gap = by_bucket.entry(Bucket::of(added.to).index()).or_insert(none_yet);
        (gap.from, gap.to) = (gap.from.min(added.from), gap.to.max(added.to));
        gap.requests = gap.requests.saturating_add(added.requests);
        self.is_any.store(true, Ordering::Release);
    }

    fn by_bucket(&self) -> MutexGuard<'_, BTreeMap<i64, Gap>> {
        self.by_bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
