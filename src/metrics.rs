//! Metrics: every Prometheus family in one declaration. The only file that names `prometheus`.
//!
//! In: records and what the process notices about itself. Out: the text of `/metrics`.
//! Label values are ids, closed sets and model names; each is bounded, and what is beyond a bound is `other`, counted.

#![expect(clippy::float_arithmetic, reason = "Prometheus values are floats; the exact amounts are in the records")]

mod bounds;
mod labels;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Counter, CounterVec, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::ids::{DepartmentId, TeamId, UpstreamName};
use crate::metrics::bounds::Bounds;
pub use crate::metrics::bounds::Limits;
use crate::metrics::labels::{Cache, Key, Labels};
use crate::money::NanoUsd;
use crate::record::Record;
use crate::usage::{Outcome, TokenCounts};

/// Content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// Seconds of a whole call and of its first byte.
const CALL_SECONDS: &[f64] =
    &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0];
/// Seconds of our own work and of a journal append: both are tens of microseconds when all is well.
const OWN_SECONDS: &[f64] = &[
    0.000_005, 0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0,
];

/// The values of `kind`, in the order of [`kinds_of`].
const KINDS: [&str; 4] = ["input", "cache_read", "cache_write", "output"];

/// Families: the doc comment of each is its help text, the field's name behind `tokenmeter_` is its name.
macro_rules! families {
    ($($(#[doc = $help:literal])+ $name:ident: $kind:ident $(by [$($label:literal),+])? $(in $buckets:ident)?;)+) => {
        struct Families {$($(#[doc = $help])+ $name: $kind,)+}

        impl Families {
            fn register(registry: &Registry) -> Self {
                Self {$(
                    $name: declared(registry, families!(@new $kind, {
                        concat!("tokenmeter_", stringify!($name)), concat!($($help),+).trim()
                    } $(by [$($label),+])? $(in $buckets)?)),
                )+}
            }
        }
    };
    (@new $kind:ident, {$name:expr, $help:expr}) => { $kind::with_opts(Opts::new($name, $help)) };
    (@new $kind:ident, {$name:expr, $help:expr} in $buckets:ident) => {
        $kind::with_opts(HistogramOpts::new($name, $help).buckets($buckets.to_vec()))
    };
    (@new $kind:ident, {$name:expr, $help:expr} by [$($label:literal),+]) => {
        $kind::new(Opts::new($name, $help), &[$($label),+])
    };
    (@new $kind:ident, {$name:expr, $help:expr} by [$($label:literal),+] in $buckets:ident) => {
        $kind::new(HistogramOpts::new($name, $help).buckets($buckets.to_vec()), &[$($label),+])
    };
}

families! {
    /// Tokens consumed, by kind and by where the count comes from. The sum over all labels is the total.
    tokens_total: IntCounterVec by ["department", "team", "provider", "model", "kind", "provenance"];
    /// Of the output tokens: reasoning that the model did not show as its answer.
    reasoning_tokens_total: IntCounterVec by ["department", "team", "provider", "model"];
    /// Calls that are over, by outcome and HTTP status (`none` where there was no answer).
    requests_total: IntCounterVec by ["team", "upstream", "operation", "outcome", "code"];
    /// Cost in US dollars of the priced calls.
    cost_usd_total: CounterVec by ["department", "team", "provider", "model"];
    /// Tokens of calls for which no price is known: they are in no cost.
    unpriced_tokens_total: IntCounterVec by ["provider", "model"];
    /// From a call's begin to its end. Calls cut by the death of the process are not in it.
    request_duration_seconds: HistogramVec by ["upstream", "operation"] in CALL_SECONDS;
    /// From a call's begin to the first byte of the answer's body.
    time_to_first_byte_seconds: HistogramVec by ["upstream", "operation"] in CALL_SECONDS;
    /// Time that tokenmeter itself adds to a call before it is sent on.
    overhead_seconds: Histogram in OWN_SECONDS;
    /// Calls between their intent and their record: asked of an upstream, and not over.
    inflight_requests: IntGauge;
    /// Calls that began later, since the cores were busy and their team made more than its share of all calls.
    delayed_requests_total: IntCounterVec by ["team"];
    /// Requests that tokenmeter itself refused: they reached no provider and make no record.
    refused_total: IntCounterVec by ["reason"];
    /// Calls that passed without a record, since the journal could not take them and `on_failure` is `pass`.
    unmetered_requests_total: IntCounterVec by ["team", "upstream"];
    /// Answers in which a provider contradicted itself.
    anomalies_total: IntCounterVec by ["anomaly"];
    /// Tokens of the current month of the report's time zone, from the ledger: exact across restarts.
    month_tokens: IntGaugeVec by ["department", "team", "kind"];
    /// Cost in US dollars of the current month's priced calls, from the ledger. Absent while nothing is priced.
    month_cost_usd: GaugeVec by ["department", "team"];
    /// Bytes of the journal on disk.
    journal_bytes: IntGauge;
    /// Bytes beyond which the journal takes no calls: `ledger.journal_bytes_max`.
    journal_bytes_max: IntGauge;
    /// How long until the journal is full if the ledger takes nothing, at the rate of the last five minutes; +Inf while nothing is appended.
    journal_seconds_left: Gauge;
    /// Intents and records that wait because the disk does not take the journal's writes.
    journal_queued_frames: IntGauge;
    /// Time of one append to the journal.
    journal_append_seconds: Histogram in OWN_SECONDS;
    /// Appends to the journal that failed.
    journal_failures_total: IntCounter;
    /// Calls, and marks of open ones, that wait until the tokens that their provider did not report are counted here.
    counting_queued_jobs: IntGauge;
    /// Bytes of requests and answers that are held for it, at most `counting.queue_bytes_max`.
    counting_queued_bytes: IntGauge;
    /// Calls counted by the length of their text alone, since too much waited to be counted or tokenmeter was to stop.
    counting_by_length_total: IntCounter;
    /// Records that the ledger has taken from the journal.
    ledger_applied_records_total: IntCounter;
    /// Age of the oldest record that is in the journal and not yet in the ledger; 0 when all are.
    ledger_lag_seconds: Gauge;
    /// Batches that the ledger did not take; each is tried again.
    ledger_failures_total: IntCounter;
    /// Times that the wall clock went back by more than 5 s while tokenmeter ran. Records tell the time that it shows.
    clock_steps_back_total: IntCounter;
    /// Records whose label value was beyond the bound of that label and is shown as `other`.
    label_overflow_total: IntCounterVec by ["label"];
    /// Always 1; the version is its label.
    build_info: IntGaugeVec by ["version"];
}

fn declared<C: Collector + Clone + 'static>(registry: &Registry, family: prometheus::Result<C>) -> C {
    #[expect(clippy::expect_used, reason = "names and labels are written above, and a test registers them all")]
    let family = family.expect("a family's name and labels are valid");
    #[expect(clippy::expect_used, reason = "field names are unique, so no name is registered twice")]
    registry.register(Box::new(family.clone())).expect("no family has another's name");
    family
}

/// What the process tells Prometheus. Share it behind an `Arc`.
pub struct Metrics {
    registry: Registry,
    families: Families,
    bounds: Bounds,
    handles: Cache<Handles>,
    /// Label pairs of the month gauges now shown. Held while they change and while they are read, so that nobody
    /// scrapes half a month.
    month: Mutex<BTreeSet<(String, String)>>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// The current month of one team, as the ledger sums it.
#[derive(Clone, Debug)]
pub struct MonthRow {
    /// The department.
    pub department: DepartmentId,
    /// The team.
    pub team: TeamId,
    /// What was consumed; of-which counts are not looked at.
    pub tokens: TokenCounts,
    /// What the priced calls cost; `None` if there is none.
    pub cost: Option<NanoUsd>,
}

/// One call in flight: counts until it is dropped.
#[must_use = "the call counts as in flight until this is dropped"]
#[derive(Debug)]
pub struct Inflight(IntGauge);

impl Drop for Inflight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// Every family, with a registry of its own.
    pub fn new(limits: Limits) -> Self {
        let registry = Registry::new();
        let families = Families::register(&registry);
        families.build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        // Alerts on a rate need the series to be there before the first failure.
        for label in Limits::LABELS {
            families.label_overflow_total.with_label_values(&[label]);
        }
        Self { registry, families, bounds: Bounds::new(limits), handles: Cache::default(), month: Mutex::default() }
    }

    /// Shows `reasons` of [`Metrics::refused`] at 0, so that an alert on their rate sees the first one.
    pub fn expect_refusals(&self, reasons: &[&'static str]) {
        for reason in reasons {
            self.families.refused_total.with_label_values(&[reason]);
        }
    }

    /// Counts a call that is over, once its record is in the journal.
    pub fn record(&self, record: &Record) {
        self.handles.with(record, |key| self.handles_of(key), |handles| update(handles, record));
        if let Some(anomaly) = record.anomaly {
            self.families.anomalies_total.with_label_values(&[anomaly.as_str()]).inc();
        }
    }

    /// A call begins; it is over when the guard is dropped.
    pub fn inflight(&self) -> Inflight {
        self.families.inflight_requests.inc();
        Inflight(self.families.inflight_requests.clone())
    }

    /// tokenmeter refused a request itself. `reason` is one of a closed set.
    pub fn refused(&self, reason: &'static str) {
        self.families.refused_total.with_label_values(&[reason]).inc();
    }

    /// A call of `team` waits, so that others' find their turn.
    pub fn delayed(&self, team: &TeamId) {
        self.families.delayed_requests_total.with_label_values(&[self.bounds.team(team.as_str()).0]).inc();
    }

    /// A call passes without a record.
    pub fn unmetered(&self, team: &TeamId, upstream: &UpstreamName) {
        let (team, upstream) = (self.bounds.team(team.as_str()).0, self.bounds.upstream(upstream.as_str()).0);
        self.families.unmetered_requests_total.with_label_values(&[team, upstream]).inc();
    }

    /// What tokenmeter itself added to a call before sending it on.
    pub fn overhead_seconds(&self, seconds: f64) {
        self.families.overhead_seconds.observe(seconds);
    }

    /// The month gauges become `rows`; a team that is not in them is shown no longer.
    pub fn set_month(&self, rows: &[MonthRow]) {
        let mut sums: BTreeMap<(String, String), ([u64; 4], Option<NanoUsd>)> = BTreeMap::new();
        for row in rows {
            let pair = (
                self.bounds.department(row.department.as_str()).0.to_owned(),
                self.bounds.team(row.team.as_str()).0.to_owned(),
            );
            let (tokens, cost) = sums.entry(pair).or_default();
            for (sum, count) in tokens.iter_mut().zip(kinds_of(&row.tokens)) {
                *sum = sum.saturating_add(count);
            }
            if let Some(amount) = row.cost {
                *cost = cost.unwrap_or(NanoUsd::ZERO).checked_add(amount);
            }
        }
        let (month_tokens, month_cost) = (&self.families.month_tokens, &self.families.month_cost_usd);
        let mut shown = self.month.lock().unwrap_or_else(PoisonError::into_inner);
        for (department, team) in shown.iter().filter(|pair| !sums.contains_key(*pair)) {
            for kind in KINDS {
                gone(month_tokens.remove_label_values(&[department, team, kind]));
            }
            gone(month_cost.remove_label_values(&[department, team]));
        }
        for ((department, team), (tokens, cost)) in &sums {
            for (kind, count) in KINDS.iter().zip(tokens) {
                let count = i64::try_from(*count).unwrap_or(i64::MAX);
                month_tokens.with_label_values(&[department, team, *kind]).set(count);
            }
            match cost {
                Some(cost) => month_cost.with_label_values(&[department, team]).set(dollars(*cost)),
                None => gone(month_cost.remove_label_values(&[department, team])),
            }
        }
        *shown = sums.into_keys().collect();
    }

    /// The journal takes `bytes` on disk of at most `bytes_max`, which it will in the time that it `lasts`; so many frames
    /// wait for the disk.
    pub fn journal(&self, bytes: u64, bytes_max: u64, lasts: Option<Duration>, queued: usize) {
        let Families { journal_bytes, journal_bytes_max, journal_seconds_left, journal_queued_frames, .. } =
            &self.families;
        journal_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        journal_bytes_max.set(i64::try_from(bytes_max).unwrap_or(i64::MAX));
        journal_seconds_left.set(lasts.map_or(f64::INFINITY, |lasts| lasts.as_secs_f64()));
        journal_queued_frames.set(i64::try_from(queued).unwrap_or(i64::MAX));
    }

    /// An append to the journal took so long until the kernel had it, or it failed after all.
    pub fn journal_appended(&self, after: Duration, is_written: bool) {
        self.families.journal_append_seconds.observe(after.as_secs_f64());
        if !is_written {
            self.journal_failed();
        }
    }

    /// An append to the journal failed.
    pub fn journal_failed(&self) {
        self.families.journal_failures_total.inc();
    }

    /// So many calls and marks wait to be counted, and hold so many bytes.
    pub fn counting(&self, jobs: usize, bytes: usize) {
        self.families.counting_queued_jobs.set(i64::try_from(jobs).unwrap_or(i64::MAX));
        self.families.counting_queued_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// A call that was to be counted was only measured.
    pub fn counted_by_length(&self) {
        self.families.counting_by_length_total.inc();
    }

    /// The ledger took `records` records.
    pub fn ledger_applied(&self, records: u64) {
        self.families.ledger_applied_records_total.inc_by(records);
    }

    /// The oldest record that the ledger does not have yet is `seconds` old.
    pub fn ledger_lag_seconds(&self, seconds: f64) {
        self.families.ledger_lag_seconds.set(seconds);
    }

    /// The ledger did not take `batches` batches.
    pub fn ledger_failed(&self, batches: u64) {
        self.families.ledger_failures_total.inc_by(batches);
    }

    /// The wall clock went back, by more than what is ironed out.
    pub fn clock_stepped_back(&self) {
        self.families.clock_steps_back_total.inc();
    }

    /// The text of `/metrics`.
    pub fn render(&self) -> String {
        let shown = self.month.lock().unwrap_or_else(PoisonError::into_inner);
        let gathered = self.registry.gather();
        drop(shown);
        // The encoder only fails on a family without samples, which `gather` leaves out.
        TextEncoder::new().encode_to_string(&gathered).unwrap_or_default()
    }

    /// The children that a record of `key` moves. Slow: once for each combination of labels.
    fn handles_of(&self, key: &Key<'_>) -> Handles {
        let families = &self.families;
        let Labels { department, team, provider, model, upstream, overflowed } = Labels::bounded(key, &self.bounds);
        let (operation, outcome) = (key.operation.as_str(), key.outcome.as_str());
        let code = key.code.map_or_else(|| "none".to_owned(), |code| code.to_string());
        Handles {
            requests: families.requests_total.with_label_values(&[team, upstream, operation, outcome, &code]),
            duration: families.request_duration_seconds.with_label_values(&[upstream, operation]),
            first_byte: families.time_to_first_byte_seconds.with_label_values(&[upstream, operation]),
            consumed: model.map(|model| {
                let payer = [department, team, provider, model];
                let provenance = key.provenance.as_str();
                Consumed {
                    kinds: KINDS.map(|kind| {
                        families.tokens_total.with_label_values(&[department, team, provider, model, kind, provenance])
                    }),
                    reasoning: families.reasoning_tokens_total.with_label_values(&payer),
                    price: if key.is_priced {
                        Price::Known(families.cost_usd_total.with_label_values(&payer))
                    } else {
                        Price::Unknown(families.unpriced_tokens_total.with_label_values(&[provider, model]))
                    },
                }
            }),
            overflow: overflowed
                .iter()
                .map(|label| families.label_overflow_total.with_label_values(&[label]))
                .collect(),
        }
    }
}

/// The children of all families that one combination of labels moves.
struct Handles {
    requests: IntCounter,
    duration: Histogram,
    first_byte: Histogram,
    consumed: Option<Consumed>,
    overflow: Vec<IntCounter>,
}

struct Consumed {
    kinds: [IntCounter; 4],
    reasoning: IntCounter,
    price: Price,
}

/// Cost where a price is known, tokens without one where not: an unknown price is never a cost of 0.
enum Price {
    Known(Counter),
    Unknown(IntCounter),
}

fn update(handles: &Handles, record: &Record) {
    handles.requests.inc();
    if record.outcome != Outcome::Orphaned {
        handles.duration.observe(seconds(record.duration_ms));
        if let Some(first_byte_ms) = record.time_to_first_byte_ms {
            handles.first_byte.observe(seconds(first_byte_ms));
        }
    }
    if let Some(consumed) = &handles.consumed {
        for (counter, count) in consumed.kinds.iter().zip(kinds_of(&record.tokens)) {
            counter.inc_by(count);
        }
        consumed.reasoning.inc_by(record.tokens.reasoning.unwrap_or(0));
        match &consumed.price {
            // A counter never falls, and no price is below zero.
            Price::Known(counter) => counter.inc_by(dollars(record.cost_nanousd.unwrap_or_default()).max(0.0)),
            Price::Unknown(counter) => counter.inc_by(record.tokens.total()),
        }
    }
    for counter in &handles.overflow {
        counter.inc();
    }
}

/// The counts of [`KINDS`]; an unknown one moves nothing.
fn kinds_of(tokens: &TokenCounts) -> [u64; 4] {
    [tokens.input, tokens.cache_read, tokens.cache_write, tokens.output].map(|count| count.unwrap_or(0))
}

#[expect(clippy::cast_precision_loss, reason = "2^53 nano-dollars are nine million dollars of one call or month")]
fn dollars(amount: NanoUsd) -> f64 {
    amount.as_i64() as f64 / 1e9
}

#[expect(clippy::cast_precision_loss, reason = "2^53 milliseconds are longer than any call")]
fn seconds(millis: u64) -> f64 {
    millis as f64 / 1e3
}

/// A series that was to be removed is not there, whether it was before or not.
fn gone(removed: prometheus::Result<()>) {
    drop(removed);
}

#[cfg(test)]
mod tests;
