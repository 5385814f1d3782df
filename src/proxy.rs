//! Proxy: one call from listener to reply, in reading order.

mod alarm;
mod asking;
mod background;
mod body;
mod connect;
mod demo;
mod fairness;
mod forward;
mod gather;
mod headers;
mod idle;
mod listen;
mod load;
mod opening;
mod outgoing;
mod reply;
mod route;
mod strip;
mod tap;
mod tunnel;
mod turn;
pub mod upstream;
mod watch;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::task::TaskTracker;

use crate::attribution::Attribution;
use crate::ids::UpstreamName;
use crate::meter::Meter;
use crate::metrics::Metrics;
use crate::wires::{self, Wire};

use background::Background;
use demo::Demo;
use fairness::Fairness;
use load::Load;
use route::Routes;
use upstream::Upstream;

pub use connect::{ConnectError, Tls};
pub use listen::Listening;
pub use route::RESERVED_NAMES;

/// How the proxy listens and what it bears. `config` fills it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the proxy listens.
    pub listen: SocketAddr,
    /// Largest JSON request body that is looked into for its model and stream flag; a larger one passes unseen.
    pub body_view_bytes_max: usize,
    /// Largest request body.
    pub body_bytes_max: u64,
    /// Longest silence of a client within its request's body.
    pub body_idle_timeout: Duration,
    /// Time for a client to send a request's head. An idle connection is closed after it, so it is longer than the idle
    /// time of clients' pools: who reuses a connection just being closed sees an error.
    pub header_read_timeout: Duration,
    /// Largest request head in bytes.
    pub header_bytes_max: usize,
    /// Open client connections; beyond it, accepting waits.
    pub connections_max: usize,
    /// On SIGTERM: how long answers in flight may go on.
    pub drain_timeout: Duration,
    /// Answers finished in the background after their client left: how many at once.
    pub finish_calls_max: usize,
    /// The same: for how long each.
    pub finish_timeout: Duration,
    /// The same: how many bytes each.
    pub finish_bytes_max: u64,
    /// What becomes of calls that the journal cannot record.
    pub on_failure: OnFailure,
}

/// What becomes of a call that the journal cannot record.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum OnFailure {
    /// It is refused before it costs anything.
    #[default]
    Refuse,
    /// It passes unmetered, and is counted as such.
    Pass,
}

/// The proxy: what every call needs.
pub struct Proxy {
    settings: Settings,
    routes: Routes,
    attribution: Arc<Attribution>,
    meter: Arc<Meter>,
    metrics: Arc<Metrics>,
    background: Arc<Background>,
    load: Arc<Load>,
    fairness: Fairness,
    /// Whose error shape an unroutable request gets.
    default_wire: &'static dyn Wire,
    /// Connections and background work: whoever stops the proxy waits for them.
    tasks: TaskTracker,
}

impl Proxy {
    /// A proxy to `upstreams`.
    pub fn new(
        settings: Settings,
        upstreams: Vec<upstream::Settings>,
        attribution: Arc<Attribution>,
        meter: Arc<Meter>,
        metrics: Arc<Metrics>,
        tls: &Tls,
    ) -> Result<Arc<Self>, ConnectError> {
        metrics.expect_refusals(&reply::Refused::reasons());
        let tasks = TaskTracker::new();
        let demo = Arc::new(Demo::new(tasks.clone()));
        let default_wire = upstreams.first().map_or(&wires::openai::OpenAi as &dyn Wire, |first| first.wire);
        let upstreams: Result<Vec<_>, _> =
            upstreams.into_iter().map(|one| Upstream::new(one, tls, &demo).map(Arc::new)).collect();
        let Settings { finish_calls_max, finish_timeout, finish_bytes_max, .. } = settings;
        let background = Background::new(tasks.clone(), finish_calls_max, finish_timeout, finish_bytes_max);
        let (routes, background) = (Routes::new(upstreams?), Arc::new(background));
        let load = Arc::new(Load::new());
        let fairness = Fairness::new(Arc::clone(&load));
        Ok(Arc::new(Self {
            settings,
            routes,
            attribution,
            meter,
            metrics,
            background,
            load,
            fairness,
            default_wire,
            tasks,
        }))
    }

    /// The upstream of that name.
    pub(crate) fn upstream(&self, name: &UpstreamName) -> Option<&Upstream> {
        self.routes.named(name)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Proxy").field("settings", &self.settings).finish_non_exhaustive()
    }
}
