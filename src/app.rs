//! App: everything that serves, put together, run until told to stop, and taken apart so that nothing is lost.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::admin::{self, Admin, Facts, Readiness, ReportError};
use crate::attribution::Attribution;
use crate::attribution::keys::{Key, KeySet};
use crate::config::{self, Config};
use crate::journal::{self, Journal, JournalError};
use crate::ledger::{Applier, Dimension, Ledger, LedgerError, Place, Retention};
use crate::meter::{JOBS_KEPT_FOR, JOBS_MAX, Meter, Moment};
use crate::metrics::{Limits, Metrics, MonthRow};
use crate::period::Month;
use crate::pricing::PriceBook;
use crate::proxy::upstream::{self, Base};
use crate::proxy::{OnFailure, Proxy, Tls};
use crate::report::{self, DEFAULT_BY, MonthReport};
use crate::usage::TokenCounts;

/// How often keys and month gauges are looked after: a key made beside the server works within this time.
const LOOK_AFTER: Duration = Duration::from_millis(250);
/// How long a ledger that was moved stays open before it is opened anew: the applier is first to look at what is there.
const REOPEN_AFTER: Duration = Duration::from_secs(2);
/// How long a start waits for a journal that another process holds.
const IN_USE_PATIENCE: Duration = Duration::from_secs(2);
/// How often it looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How long stopping waits for the ledger to take what the journal holds. What is left is taken at the next start.
const APPLY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long stopping counts tokens before it counts by length.
const COUNT_PATIENCE: Duration = Duration::from_secs(10);
/// How long tasks that were cut may take to let go.
const CUT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where what is configured keeps its records.
#[derive(Clone, Debug)]
pub struct Places {
    /// The journal's folder.
    pub journal: PathBuf,
    /// The ledger.
    pub ledger: Place,
}

impl Places {
    /// The places of `ledger`.
    pub fn of(ledger: &config::Ledger) -> Self {
        Self { journal: ledger.directory.join("journal"), ledger: Place::Sqlite(ledger.directory.join("ledger.db")) }
    }

    /// The ledger; made where nothing was kept here before.
    pub fn ledger(&self) -> Result<Ledger, LedgerError> {
        self.ledger.check(&self.journal)?;
        Ledger::open(&self.ledger)
    }
}

/// Runs the server until SIGTERM or SIGINT. `listening` is told the addresses once both are bound.
pub fn serve(config: Config, listening: impl FnOnce(&Addresses)) -> anyhow::Result<()> {
    // One thread may be stuck in a `write`: there must be another.
    let threads = std::thread::available_parallelism().map_or(2, |cores| cores.get().max(2));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .context("cannot start threads")?;
    // Beside the books: each of them takes as long.
    let tls = std::thread::Builder::new().name("tls".into()).spawn(Tls::load)?;
    let books = Books::open(&config)?;
    let tls = tls.join().map_err(|_| anyhow::anyhow!("cannot load the certificate authorities"))??;
    books.journal.wake_when_stalled(Waker::from(Arc::new(Rouse(runtime.handle().clone()))));
    let stop = watch::Sender::new(false);
    let keys = Arc::new(KeySet::new(config.attribution.keys.clone()));
    let keeper = Keeper::start(&books, Arc::clone(&keys), config.report.zone.clone())?;
    let served = runtime.block_on(run(config, &books, &tls, keys, &stop, listening));
    // Calls that outlived the drain end here; each still closes, so the meter must outlive the runtime.
    runtime.shutdown_timeout(CUT_TIMEOUT);
    keeper.stop();
    books.close();
    served
}

/// Wakes another of the runtime's threads. Of two threads one waits for the network and the other may sleep; if the first
/// then gets stuck in a task, nobody looks at the network until something wakes the second.
struct Rouse(Handle);

impl Wake for Rouse {
    fn wake(self: Arc<Self>) {
        drop(self.0.spawn(async {}));
    }
}

/// Where the server listens, and whom it knows.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// The proxy.
    pub proxy: std::net::SocketAddr,
    /// Metrics, health, pages.
    pub admin: std::net::SocketAddr,
    /// Names of the upstreams.
    pub upstreams: Vec<String>,
    /// The one line to set in a client: a variable, and the path behind the proxy's address.
    pub client_line: Option<(&'static str, String)>,
    /// Where records are kept.
    pub directory: PathBuf,
}

async fn run(
    config: Config,
    books: &Books,
    tls: &Tls,
    keys: Arc<KeySet>,
    stop: &watch::Sender<bool>,
    listening: impl FnOnce(&Addresses),
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let upstreams = config.upstreams.iter().map(|upstream| upstream.name.to_string()).collect();
    let client_line = client_line(&config.upstreams);
    let attribution = Arc::new(Attribution::new(config.attribution, keys));
    let (proxy_address, on_failure) = (config.proxy.listen, config.proxy.on_failure);
    let (meter, metrics) = (Arc::clone(&books.meter), Arc::clone(&books.metrics));
    let proxy = Proxy::new(config.proxy, config.upstreams, attribution, meter, metrics, tls)?;
    let proxy = proxy.listen().await.with_context(|| format!("cannot listen on {proxy_address} (`listen.proxy`)"))?;
    let live = Arc::new(Live {
        books: books.clone(),
        zone: config.report.zone,
        on_failure,
        is_draining: AtomicBool::new(false),
        told: Mutex::default(),
    });
    let admin_address = config.admin.listen;
    let settings = admin::Settings { listen: admin_address, token: config.admin.token };
    let admin = Admin::listen(settings, Arc::clone(&live) as Arc<dyn Facts>)
        .await
        .with_context(|| format!("cannot listen on {admin_address} (`listen.admin`)"))?;
    listening(&Addresses {
        proxy: proxy.address()?,
        admin: admin.address()?,
        upstreams,
        client_line,
        directory: config.ledger.directory,
    });

    let admin_stop = watch::Sender::new(false);
    let serving_admin = admin.serve(admin_stop.subscribe());
    let serving_proxy = async {
        proxy.serve(stop.subscribe()).await;
        admin_stop.send_replace(true);
    };
    let both = async { tokio::join!(serving_proxy, serving_admin) };
    let signals = async {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        tracing::info!("told to stop; calls in flight may end, a second signal cuts them");
        live.is_draining.store(true, Ordering::Relaxed);
        stop.send_replace(true);
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        tracing::warn!("told to stop again; cutting calls in flight");
    };
    tokio::select! { _ = both => {}, () = signals => {} }
    Ok(())
}

/// What a client of the first upstream with a well-known variable is told.
fn client_line(upstreams: &[upstream::Settings]) -> Option<(&'static str, String)> {
    upstreams.iter().find_map(|one| {
        let Base::Url { path, .. } = &one.base else { return None };
        let name = &one.name;
        match one.wire.name() {
            "openai" if path.is_empty() => Some(("OPENAI_BASE_URL", format!("/{name}/v1"))),
            "openai" => Some(("OPENAI_BASE_URL", format!("/{name}"))),
            "anthropic" => Some(("ANTHROPIC_BASE_URL", format!("/{name}"))),
            "gemini" => Some(("GOOGLE_GEMINI_BASE_URL", format!("/{name}"))),
            _ => None,
        }
    })
}

/// The journal, the ledger behind it, and what writes to them.
#[derive(Clone)]
struct Books {
    places: Places,
    journal: Arc<Journal>,
    metrics: Arc<Metrics>,
    meter: Arc<Meter>,
    applier: Arc<Mutex<Option<Applier>>>,
}

impl Books {
    fn open(config: &Config) -> anyhow::Result<Self> {
        // Beside the rest: it takes longer than reading the journal.
        let prices = std::thread::Builder::new().name("prices".into()).spawn(PriceBook::bundled)?;
        let places = Places::of(&config.ledger);
        std::fs::create_dir_all(&config.ledger.directory)
            .with_context(|| format!("cannot make `{}` (`ledger.directory`)", config.ledger.directory.display()))?;
        // Behind the journal's lock nobody else applies or removes any more, and no other server's ledger is migrated.
        let lock = lock_journal(&places.journal)?;
        let ledger = places.ledger()?;
        let seq_floors = ledger.last_seqs()?;
        let opened = Journal::open_locked(journal_settings(&config.ledger, &places.journal, seq_floors), lock)?;
        let jobs_since = Moment::now().at.checked_sub(JOBS_KEPT_FOR).unwrap_or(Timestamp::MIN);
        let jobs_seen = ledger.jobs_seen(jobs_since, JOBS_MAX.saturating_mul(2))?;
        drop(ledger);
        let journal = Arc::new(opened.journal);
        let metrics = Arc::new(Metrics::new(Limits::default()));
        let prices = Arc::new(prices.join().map_err(|_| anyhow::anyhow!("cannot load the list prices"))?);
        let meter =
            Meter::start(Arc::clone(&journal), prices, Arc::clone(&metrics)).context("cannot start a thread")?;
        meter.remember(jobs_seen.into_iter().chain(opened.jobs_seen));
        let orphans = opened.open_intents.len();
        if orphans > 0 {
            tracing::warn!(
                calls = orphans,
                "calls were in flight when the process before died; recording them as orphaned"
            );
        }
        let mut progress = opened.progress;
        for intent in opened.open_intents {
            let brought = progress.remove(&intent.id);
            meter.close_orphan(intent, brought, Moment::now());
        }
        let retention = config.ledger.keep_records.map(|keep| Retention { keep, now: || Moment::now().at });
        let applier = Applier::start(Arc::clone(&journal), &places.ledger, retention, || {})?;
        Ok(Self { places, journal, metrics, meter, applier: Arc::new(Mutex::new(Some(applier))) })
    }

    fn with_applier<T>(&self, read: impl FnOnce(&Applier) -> T) -> Option<T> {
        self.applier.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(read)
    }

    /// Counts, records and applies what is left.
    fn close(&self) {
        self.meter.stop(COUNT_PATIENCE);
        self.meter.keep_gaps();
        let applier = self.applier.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(applier) = applier
            && !applier.stop(APPLY_TIMEOUT)
        {
            tracing::warn!("the ledger lags behind the journal; the next start applies what is left");
        }
    }
}

/// A reading command holds the journal while it applies it; a server that starts in that moment waits for it.
fn lock_journal(directory: &Path) -> Result<journal::Lock, JournalError> {
    let begun = Moment::now().instant;
    loop {
        match journal::Lock::of(directory) {
            Err(JournalError::InUse { .. }) if begun.elapsed() < IN_USE_PATIENCE => std::thread::sleep(LOOK_AGAIN),
            locked => return locked,
        }
    }
}

fn journal_settings(
    ledger: &config::Ledger,
    directory: &Path,
    seq_floors: BTreeMap<crate::ids::NodeId, u64>,
) -> journal::Settings {
    let durability = match ledger.durability {
        config::Durability::Process => journal::Durability::Process,
        config::Durability::Power => journal::Durability::Power,
    };
    let directory = directory.to_owned();
    journal::Settings {
        directory,
        durability,
        segment_bytes_max: journal::SEGMENT_BYTES_MAX,
        bytes_max: ledger.journal_bytes_max,
        node: ledger.node.clone(),
        seq_floors,
    }
}

/// What the admin tells of a running server.
struct Live {
    books: Books,
    zone: TimeZone,
    on_failure: OnFailure,
    is_draining: AtomicBool,
    /// What the counters of the applier were when they were last told to Prometheus.
    told: Mutex<(u64, u64)>,
}

impl Facts for Live {
    fn metrics(&self) -> String {
        let metrics = &self.books.metrics;
        let journal = &self.books.journal;
        metrics.journal(journal.bytes(), journal.bytes_max(), journal.lasts(), journal.queued());
        let now = self.books.with_applier(|applier| (applier.records_applied(), applier.failures(), applier.lag()));
        if let Some((applied, failures, lag)) = now {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            metrics.ledger_applied(applied.saturating_sub(told.0));
            metrics.ledger_failed(failures.saturating_sub(told.1));
            metrics.ledger_lag_seconds(lag.as_secs_f64());
            *told = (applied, failures);
        }
        metrics.render()
    }

    fn readiness(&self) -> Readiness {
        if self.is_draining.load(Ordering::Relaxed) {
            return Readiness::Unready("told to stop; calls in flight are ending".into());
        }
        match (self.books.journal.failure(), self.on_failure) {
            (None, _) => Readiness::Ready,
            (Some(why), OnFailure::Refuse) => Readiness::Unready(why),
            (Some(why), OnFailure::Pass) => Readiness::Unmetered(why),
        }
    }

    fn report(&self, month: Option<&str>, by: Option<&str>) -> Result<MonthReport, ReportError> {
        let failed = |error| ReportError::Failed(Some(error));
        let month = match month {
            Some(month) => Month::parse(month).map_err(|error| ReportError::Asked(format!("`month` {error}")))?,
            None => Month::of(Moment::now().at, &self.zone),
        };
        let by = dimensions(by).map_err(ReportError::Asked)?;
        let ledger = self.books.places.ledger().map_err(failed)?;
        let settings = report::Settings { timezone: self.zone.clone() };
        MonthReport::read(&ledger, month, &settings, &by).map_err(failed)
    }
}

/// The dimensions that a report is asked for; by default department and team.
pub fn dimensions(by: Option<&str>) -> Result<Vec<Dimension>, String> {
    let Some(by) = by else { return Ok(DEFAULT_BY.to_vec()) };
    by.split(',')
        .map(|name| {
            Dimension::by_name(name.trim()).ok_or_else(|| {
                let known: Vec<&str> = Dimension::ALL.iter().map(|known| known.as_str()).collect();
                format!("cannot report by `{name}`; known: {}", known.join(", "))
            })
        })
        .collect()
}

/// The thread that keeps what is read from the ledger fresh: keys, and the month gauges.
struct Keeper {
    thread: JoinHandle<()>,
    stop: Sender<()>,
}

impl Keeper {
    /// Loads the keys, then looks after them.
    fn start(books: &Books, keys: Arc<KeySet>, zone: TimeZone) -> anyhow::Result<Self> {
        let mut kept = Kept {
            ledger: books.places.ledger()?,
            misplaced_at: None,
            books: books.clone(),
            keys,
            zone,
            seen: None,
            shown: None,
        };
        kept.load_keys()?;
        let (stop, stopped) = channel();
        let thread = std::thread::Builder::new().name("keeper".into()).spawn(move || {
            while stopped.recv_timeout(LOOK_AFTER) == Err(RecvTimeoutError::Timeout) {
                kept.books.meter.keep_gaps();
                if let Err(error) = kept.reopen().and_then(|()| kept.load_keys()).and_then(|()| kept.show_month()) {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "cannot read the ledger; keys and month gauges are old"
                    );
                }
            }
        })?;
        Ok(Self { thread, stop })
    }

    fn stop(self) {
        drop(self.stop);
        if self.thread.join().is_err() {
            tracing::error!("the keeper thread panicked");
        }
    }
}

struct Kept {
    ledger: Ledger,
    books: Books,
    keys: Arc<KeySet>,
    zone: TimeZone,
    /// Since when the ledger is not the one that is there.
    misplaced_at: Option<Instant>,
    /// The version of the keys that are known.
    seen: Option<i64>,
    /// The month and the ledger's commits that the gauges show.
    shown: Option<(Month, u64)>,
}

impl Kept {
    /// Opens the ledger anew once it was put back. While calls are refused for it, nobody knows what the file there is.
    fn reopen(&mut self) -> Result<(), LedgerError> {
        if self.ledger.is_in_place() {
            self.misplaced_at = None;
            return Ok(());
        }
        let since = *self.misplaced_at.get_or_insert_with(|| Moment::now().instant);
        if since.elapsed() >= REOPEN_AFTER && self.books.journal.failure().is_none() {
            self.ledger = self.books.places.ledger()?;
        }
        Ok(())
    }

    fn load_keys(&mut self) -> Result<(), LedgerError> {
        let version = self.ledger.keys_version()?;
        if self.seen == Some(version) {
            return Ok(());
        }
        let keys = self.ledger.keys()?.into_iter().map(|key| Key {
            id: key.id,
            sha256: key.sha256,
            team: key.team,
            app: key.app,
            is_revoked: key.revoked_at.is_some(),
        });
        self.keys.set_ledger_keys(keys.collect());
        self.seen = Some(version);
        Ok(())
    }

    fn show_month(&mut self) -> Result<(), LedgerError> {
        let month = Month::of(Moment::now().at, &self.zone);
        let commits = self.books.with_applier(Applier::commits).unwrap_or(0);
        if self.shown == Some((month, commits)) {
            return Ok(());
        }
        let (first, end) = month.buckets(&self.zone);
        let rows = self.ledger.month_rows(first, end, &DEFAULT_BY)?;
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
