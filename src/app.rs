//! App: everything that serves, put together, run until told to stop, and taken apart so that nothing is lost.

mod counting_endpoint;
mod keeper;
mod learned;

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};
use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::Receiver;
use tokio::sync::watch;

use self::counting_endpoint::CountingEndpoints;
use self::keeper::Keeper;
use crate::admin::{self, Admin, Facts, Readiness, ReportError};
use crate::attribution::Attribution;
use crate::attribution::keys::KeySet;
use crate::config::{self, Config};
use crate::journal::{self, Journal, JournalError};
use crate::ledger::{Applier, Dimension, Ledger, LedgerError, Place, Retention};
use crate::meter::{Asking, JOBS_KEPT_FOR, JOBS_MAX, Meter, Moment, Question};
use crate::metrics::{Limits, Metrics};
use crate::period::Month;
use crate::pricing::PriceBook;
use crate::proxy::upstream::{self, Base};
use crate::proxy::{OnFailure, Proxy, Tls};
use crate::report::{self, DEFAULT_BY, MonthReport};

/// How long a start waits for another process to let go of this one's name in a shared ledger.
const NODE_PATIENCE: Duration = Duration::from_secs(10);
/// How often it looks whether a sync of the journal failed.
const LOOK_AT_SYNCS: Duration = Duration::from_millis(250);
/// How long a start waits for a journal that another process holds.
const IN_USE_PATIENCE: Duration = Duration::from_secs(2);
/// How often it looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How long stopping waits for the ledger to take what the journal holds. What is left is taken at the next start.
const APPLY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long calls are refused, and `/readyz` says why, before a journal that could not be synced ends the process.
const SYNC_FAILED_GRACE: Duration = Duration::from_secs(5);
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
    /// A copy of the keys of a ledger that may be away.
    pub keys_copy: PathBuf,
}

impl Places {
    /// The places of `ledger`.
    pub fn of(ledger: &config::Ledger) -> Self {
        let directory = &ledger.directory;
        let place = match &ledger.postgres {
            Some(settings) => Place::Postgres(Arc::clone(settings)),
            None => Place::Sqlite(directory.join("ledger.db")),
        };
        Self { journal: directory.join("journal"), ledger: place, keys_copy: directory.join("keys.json") }
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
    let (asking, questions) = counting_endpoint::asking(&config.upstreams);
    let books = Books::open(&config, asking)?;
    let tls = tls.join().map_err(|_| anyhow::anyhow!("cannot load the certificate authorities"))??;
    books.journal.wake_when_stalled(Waker::from(Arc::new(Rouse(runtime.handle().clone()))));
    let stop = watch::Sender::new(false);
    let keys = Arc::new(KeySet::new(config.attribution.keys.clone()));
    let keeper = Keeper::start(&books, Arc::clone(&keys), config.report.zone.clone())?;
    let served = runtime.block_on(run(config, &books, &tls, keys, questions, &stop, listening));
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
    questions: Option<Receiver<Question>>,
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
    let proxy = Proxy::new(config.proxy, config.upstreams, attribution, Arc::clone(&meter), metrics, tls)?;
    let endpoints = CountingEndpoints { proxy: Arc::clone(&proxy), questions, meter };
    let proxy = proxy.listen().await.with_context(|| format!("cannot listen on {proxy_address} (`listen.proxy`)"))?;
    let live = Arc::new(Live {
        books: books.clone(),
        zone: config.report.zone,
        on_failure,
        is_draining: AtomicBool::new(false),
        told: Mutex::default(),
        reporting: Mutex::default(),
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
    let failure = OnceCell::new();
    let signals = async {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("told to stop; calls in flight may end, a second signal cuts them"),
            _ = interrupt.recv() => tracing::info!("told to stop; calls in flight may end, a second signal cuts them"),
            why = sync_failure(&live.books.journal) => {
                tokio::time::sleep(SYNC_FAILED_GRACE).await;
                tracing::error!("ending for want of a journal; calls in flight may end, a signal cuts them");
                failure.get_or_init(|| why);
            }
        }
        live.is_draining.store(true, Ordering::Relaxed);
        stop.send_replace(true);
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        tracing::warn!("told to stop again; cutting calls in flight");
    };
    // Who asks upstreams ends with the calls: a question under way is dropped.
    tokio::select! { _ = both => {}, () = signals => {}, never = endpoints.ask() => match never {} }
    failure.into_inner().map_or(Ok(()), |why| Err(anyhow::anyhow!(why)))
}

/// Waits until a sync of `journal` has failed; why it did. What follows can be made sure of only by who opens the
/// journal anew, so the process ends with an error and whoever looks after it starts the next.
async fn sync_failure(journal: &Journal) -> String {
    loop {
        if let Some(why) = journal.sync_failure() {
            return why;
        }
        tokio::time::sleep(LOOK_AT_SYNCS).await;
    }
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
    /// From the ledger, or from the copy of what it last said.
    keys_are_known: Arc<AtomicBool>,
}

impl Books {
    fn open(config: &Config, asking: Option<Asking>) -> anyhow::Result<Self> {
        let places = Places::of(&config.ledger);
        journal::make_directory(&config.ledger.directory)
            .with_context(|| format!("cannot make `{}` (`ledger.directory`)", config.ledger.directory.display()))?;
        // Behind the journal's lock nobody else applies or removes any more, and no other server's ledger is migrated.
        let lock = lock_journal(&places.journal)?;
        let mut ledger = unless_away(&places.ledger, places.ledger())?;
        let seq_floors = match &ledger {
            Some(open) => unless_away(&places.ledger, open.last_seqs())?,
            None => None,
        };
        if seq_floors.is_none() {
            ledger = None;
        }
        let opened = Journal::open_locked(journal_settings(&config.ledger, &places.journal, seq_floors)?, lock)?;
        let jobs_since = Moment::now().at.checked_sub(JOBS_KEPT_FOR).unwrap_or(Timestamp::MIN);
        let jobs_seen = match &ledger {
            Some(open) => unless_away(&places.ledger, open.jobs_seen(jobs_since, JOBS_MAX.saturating_mul(2)))?,
            None => None,
        };
        let calibration = config.counting.learn.then(|| learned::load(ledger.as_ref()));
        drop(ledger);
        let journal = Arc::new(opened.journal);
        let metrics = Arc::new(Metrics::new(Limits::default()));
        let prices = Arc::new(PriceBook::bundled());
        let settings = &config.counting;
        let (theirs, counters) = (Arc::clone(&journal), Arc::clone(&metrics));
        let meter = Meter::start_learning(theirs, prices, counters, settings, calibration, asking)
            .context("cannot start a thread")?;
        meter.remember(jobs_seen.into_iter().flatten().chain(opened.jobs_seen));
        // Before the first record: a name that another process has must not get a second order of records.
        let retention = config.ledger.keep_records.map(|keep| Retention { keep, now: || Moment::now().at });
        let applier = start_applier(&journal, &places.ledger, retention)?;
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
            meter.close_orphan(intent, brought, meter.now());
        }
        let applier = Arc::new(Mutex::new(Some(applier)));
        Ok(Self { places, journal, metrics, meter, applier, keys_are_known: Arc::default() })
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
        learned::keep(&self.meter, || self.places.ledger());
    }
}

/// What the ledger at `place` said; `None` where it is away, which it may be.
fn unless_away<T>(place: &Place, said: Result<T, LedgerError>) -> Result<Option<T>, LedgerError> {
    match said {
        Err(error) if place.may_be_away() && !error.is_final() => {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "the ledger is away; calls are taken, and recorded under a new name of this node"
            );
            Ok(None)
        }
        said => said.map(Some),
    }
}

/// A process that was just killed, or cut off, may still be known to the ledger.
fn start_applier(journal: &Arc<Journal>, place: &Place, retention: Option<Retention>) -> Result<Applier, LedgerError> {
    let begun = Moment::now().instant;
    loop {
        match Applier::start(Arc::clone(journal), place, retention, || {}) {
            Err(LedgerError::NodeTaken { .. }) if begun.elapsed() < NODE_PATIENCE => std::thread::sleep(LOOK_AGAIN),
            started => return started,
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

/// The last seqs of the ledger are `None` where it is away. A journal that lost its end with the machine's power might
/// then give a seq twice: so it goes on under a name that has had none.
fn journal_settings(
    ledger: &config::Ledger,
    directory: &Path,
    seq_floors: Option<BTreeMap<crate::ids::NodeId, u64>>,
) -> Result<journal::Settings, JournalError> {
    let durability = match ledger.durability {
        config::Durability::Process => journal::Durability::Process,
        config::Durability::Power => journal::Durability::Power,
    };
    let directory = directory.to_owned();
    let node = match &seq_floors {
        Some(_) => ledger.node.clone(),
        None => Some(journal::fresh_node(ledger.node.as_ref())?),
    };
    Ok(journal::Settings {
        directory,
        durability,
        segment_bytes_max: ledger.journal_segment_bytes_max,
        bytes_max: ledger.journal_bytes_max,
        keep: ledger.journal_keep,
        node,
        seq_floors: seq_floors.unwrap_or_default(),
    })
}

/// What the admin tells of a running server.
struct Live {
    books: Books,
    zone: TimeZone,
    on_failure: OnFailure,
    is_draining: AtomicBool,
    /// What the counters of the applier were when they were last told to Prometheus.
    told: Mutex<(u64, u64)>,
    reporting: Mutex<()>,
}

impl Facts for Live {
    fn metrics(&self) -> String {
        let metrics = &self.books.metrics;
        let journal = &self.books.journal;
        metrics.journal(journal.bytes(), journal.bytes_max(), journal.lasts(), journal.queued());
        let (jobs, bytes) = self.books.meter.counting_load();
        metrics.counting(jobs, bytes);
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
        let is_draining = self.is_draining.load(Ordering::Relaxed);
        if !self.books.keys_are_known.load(Ordering::Relaxed) {
            return Readiness::Unready(
                "the virtual keys are not known: the ledger is away, and no copy is here".into(),
            );
        }
        match (self.books.journal.failure(), self.on_failure) {
            (Some(why), OnFailure::Refuse) => Readiness::Unready(why),
            (_, _) if is_draining => Readiness::Unready("told to stop; calls in flight are ending".into()),
            (Some(why), OnFailure::Pass) => Readiness::Unmetered(why),
            (None, _) => Readiness::Ready,
        }
    }

    fn report(&self, month: Option<&str>, by: Option<&str>) -> Result<MonthReport, ReportError> {
        let failed = |error| ReportError::Failed(Some(error));
        let month = match month {
            Some(month) => Month::parse(month).map_err(|error| ReportError::Asked(format!("`month` {error}")))?,
            None => Month::of(self.books.meter.now().at, &self.zone),
        };
        let by = dimensions(by).map_err(ReportError::Asked)?;
        // One at a time: each is a connection of its own.
        let _alone = self.reporting.lock().unwrap_or_else(PoisonError::into_inner);
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
