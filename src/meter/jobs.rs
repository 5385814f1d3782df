//! Jobs: work that outlives the call that began it, and which of it was counted.
//!
//! A background response, a run, a batch is begun by one call and asked for by others, often and again: it is counted
//! once, when its result passes. What is known is held in memory and is exactly what the records say, so that a server
//! that starts learns it from them. A job that was counted is never open again.
//!
//! [`JOBS_MAX`] open and as many counted jobs are kept, some 20 MB of each; of more, the oldest are forgotten first. A
//! forgotten open job: a stored response is not counted when it is fetched, and the record of the call that began it
//! stays `unknown`. A forgotten counted job: a run or a batch whose results are fetched once more would be counted once
//! more.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::SignedDuration;

use crate::ids::Provider;
use crate::record::JobSeen;
use crate::usage::Provenance;

/// Most open, and most counted, jobs that are kept.
pub const JOBS_MAX: usize = 100_000;

/// How far back a server that starts looks for jobs. Providers keep responses and results of batches for 30 days or so.
pub const JOBS_KEPT_FOR: SignedDuration = SignedDuration::from_hours(60 * 24);

/// A job: the same whatever upstream of its provider it is asked of.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct JobKey {
    pub(super) provider: Provider,
    pub(super) id: String,
}

/// How a job stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Standing {
    /// Never seen, or forgotten.
    Unseen,
    /// Begun by a call that was recorded without usage.
    Open,
    /// In a record with its usage.
    Counted,
}

/// A change that a record is about to witness. If the record cannot be written, it must be [taken back](Jobs::take_back).
#[must_use = "a change whose record is not written must be taken back"]
#[derive(Debug)]
pub(super) struct Mark {
    job: JobKey,
    was: Standing,
    is: Standing,
}

/// Every job that is known. Only calls that have one come here.
#[derive(Debug)]
pub(super) struct Jobs {
    known: Mutex<Known>,
}

impl Jobs {
    /// None yet; at most `jobs_max` of either standing.
    pub(super) fn new(jobs_max: usize) -> Self {
        Self { known: Mutex::new(Known { open: Kept::new(jobs_max), counted: Kept::new(jobs_max) }) }
    }

    /// Learns what records say, in their order.
    pub(super) fn remember(&self, seen: impl IntoIterator<Item = JobSeen>) {
        for JobSeen { provider, job: id, provenance } in seen {
            let job = JobKey { provider, id };
            let mark = match provenance {
                Provenance::Unknown => self.begin(job),
                Provenance::Reported | Provenance::Partial | Provenance::Estimated => self.count_once(job),
                Provenance::None => None,
            };
            // The record is there already.
            drop(mark);
        }
    }

    /// A job was begun that will be counted when its result passes. `None`: it was known.
    pub(super) fn begin(&self, job: JobKey) -> Option<Mark> {
        self.change(job, Standing::Open, |was| was == Standing::Unseen)
    }

    /// Whether an open job is to be counted now: `None` where it is not open.
    pub(super) fn count_open(&self, job: JobKey) -> Option<Mark> {
        self.change(job, Standing::Counted, |was| was == Standing::Open)
    }

    /// Whether a job, open or never seen, is to be counted now: `None` where it was before.
    pub(super) fn count_once(&self, job: JobKey) -> Option<Mark> {
        self.change(job, Standing::Counted, |was| was != Standing::Counted)
    }

    /// Whether it was begun and not counted.
    pub(super) fn is_open(&self, job: &JobKey) -> bool {
        self.known().standing(job) == Standing::Open
    }

    /// Whether it was counted.
    pub(super) fn is_counted(&self, job: &JobKey) -> bool {
        self.known().standing(job) == Standing::Counted
    }

    /// Undoes a change whose record could not be written, unless the job has gone on since.
    pub(super) fn take_back(&self, mark: Mark) {
        let Mark { job, was, is } = mark;
        let mut known = self.known();
        if known.standing(&job) == is {
            known.stands(job, was);
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks and marks at once: of two calls that bring the same result, one is told to count it.
    fn change(&self, job: JobKey, is: Standing, if_was: impl FnOnce(Standing) -> bool) -> Option<Mark> {
        let mut known = self.known();
        let was = known.standing(&job);
        if !if_was(was) {
            return None;
        }
        known.stands(job.clone(), is);
        Some(Mark { job, was, is })
    }
}

#[derive(Debug)]
struct Known {
    open: Kept,
    counted: Kept,
}

impl Known {
    fn standing(&self, job: &JobKey) -> Standing {
        if self.counted.places.contains_key(job) {
            Standing::Counted
        } else if self.open.places.contains_key(job) {
            Standing::Open
        } else {
            Standing::Unseen
        }
    }

    fn stands(&mut self, job: JobKey, standing: Standing) {
        self.open.remove(&job);
        self.counted.remove(&job);
        match standing {
            Standing::Unseen => {}
            Standing::Open => {
                if let Some(forgotten) = self.open.insert(job) {
                    let (provider, job) = (&forgotten.provider, &forgotten.id);
                    tracing::warn!(%provider, job, "too many jobs are open; the oldest stays unknown");
                }
            }
            Standing::Counted => {
                self.counted.insert(job);
            }
        }
    }
}

/// Jobs of one standing, in the order in which they came to it.
#[derive(Debug)]
struct Kept {
    jobs_max: usize,
    places: HashMap<Arc<JobKey>, u64>,
    by_place: BTreeMap<u64, Arc<JobKey>>,
    next_place: u64,
}

impl Kept {
    fn new(jobs_max: usize) -> Self {
        Self { jobs_max, places: HashMap::new(), by_place: BTreeMap::new(), next_place: 0 }
    }

    /// The oldest, where there is no room for it any more.
    fn insert(&mut self, job: JobKey) -> Option<Arc<JobKey>> {
        let job = Arc::new(job);
        self.places.insert(Arc::clone(&job), self.next_place);
        self.by_place.insert(self.next_place, job);
        self.next_place = self.next_place.saturating_add(1);
        if self.places.len() <= self.jobs_max {
            return None;
        }
        let (_, oldest) = self.by_place.pop_first()?;
        self.places.remove(&oldest);
        Some(oldest)
    }

    fn remove(&mut self, job: &JobKey) {
        if let Some(place) = self.places.remove(job) {
            self.by_place.remove(&place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{JobKey, Jobs, Standing};
    use crate::ids::Provider;

    fn job(id: u64) -> JobKey {
        JobKey { provider: Provider::parse("openai").unwrap(), id: id.to_string() }
    }

    fn standings(jobs: &Jobs, ids: std::ops::Range<u64>) -> Vec<Standing> {
        ids.map(|id| jobs.known().standing(&job(id))).collect()
    }

    #[test]
    fn of_too_many_jobs_the_oldest_are_forgotten() {
        let jobs = Jobs::new(3);
        for id in 0..5 {
            assert!(jobs.begin(job(id)).is_some());
        }
        let (unseen, open, counted) = (Standing::Unseen, Standing::Open, Standing::Counted);
        assert_eq!(standings(&jobs, 0..5), [unseen, unseen, open, open, open]);
        // One that is counted leaves room for another that is open.
        assert!(jobs.count_open(job(2)).is_some());
        assert!(jobs.begin(job(5)).is_some());
        assert_eq!(standings(&jobs, 2..6), [counted, open, open, open]);
        for id in 10..13 {
            assert!(jobs.count_once(job(id)).is_some());
        }
        assert_eq!(standings(&jobs, 2..3), [unseen]);
        assert_eq!(standings(&jobs, 10..13), [counted; 3]);
        let known = jobs.known();
        assert_eq!((known.open.by_place.len(), known.counted.by_place.len()), (3, 3));
    }

    #[test]
    fn what_is_taken_back_is_as_it_was_unless_it_has_gone_on() {
        let jobs = Jobs::new(9);
        let begun = jobs.begin(job(1)).unwrap();
        let counted = jobs.count_open(job(1)).unwrap();
        jobs.take_back(begun);
        assert_eq!(standings(&jobs, 1..2), [Standing::Counted]);
        jobs.take_back(counted);
        assert_eq!(standings(&jobs, 1..2), [Standing::Open]);
        let counted = jobs.count_once(job(2)).unwrap();
        assert!(jobs.count_once(job(2)).is_none() && jobs.count_open(job(2)).is_none() && jobs.begin(job(2)).is_none());
        jobs.take_back(counted);
        assert_eq!(standings(&jobs, 2..3), [Standing::Unseen]);
    }
}
