//! Upstream: a configured endpoint, and what it is known for.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::header::{CONTENT_TYPE, HOST};
use http::{Request, Uri};
use hyper::rt::{Read, Write};
use hyper_util::client::legacy::{Client, ResponseFuture};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use secrecy::{ExposeSecret as _, SecretString};
use tower_service::Service as _;

use super::body::{self, UpstreamBody};
use super::connect::{BoxError, ConnectError, Connector, Dialer, Tls};
use super::demo::Demo;
use super::headers;
use crate::ids::{Provider, UpstreamName};
use crate::wires::Wire;

/// What is read of an HTTP/1 answer at once: what a client that does not read makes us hold, a few times. An answer's
/// head may be as long.
const HTTP1_BUFFER_BYTES: usize = 64 << 10;

/// What an upstream may send of one HTTP/2 answer before its client has read any of it, and of all on a connection: as
/// much as 128 clients that do not read leave room for, so that the other calls go on.
const HTTP2_STREAM_WINDOW_BYTES: u32 = 256 << 10;
const HTTP2_CONNECTION_WINDOW_BYTES: u32 = 32 << 20;

/// One configured endpoint. `config` fills it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The first path segment that selects it.
    pub name: UpstreamName,
    /// How its credential is sent and which dialect to expect.
    pub wire: &'static dyn Wire,
    /// The vendor: what prices and labels go by.
    pub provider: Provider,
    /// Where it is.
    pub base: Base,
    /// Put in place of a virtual key; `None`: the client's own credential passes.
    pub credential: Option<SecretString>,
    /// How often it may be asked at most to count a prompt itself; `None`: never. Only with a credential.
    pub count_every: Option<Duration>,
    /// Whether `stream_options.include_usage` is asked for where the client did not, and the extra event taken out again.
    pub adds_stream_usage: bool,
    /// What happens to an answer whose client has left.
    pub on_client_close: OnClientClose,
    /// What happens to a call that cannot be metered.
    pub unmetered: Unmetered,
    /// An HTTP proxy to reach it through: `http://[user:password@]host:port`.
    pub proxy_url: Option<SecretString>,
    /// A PEM file of certificate authorities to trust beside the system's.
    pub ca_file: Option<PathBuf>,
    /// The HTTP version spoken to it.
    pub http_version: HttpVersion,
    /// Time to connect, TLS included.
    pub connect_timeout: Duration,
    /// Time to the answer's head.
    pub head_timeout: Duration,
    /// Longest silence within an answer's body.
    pub idle_timeout: Duration,
}

/// Where an upstream is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Base {
    /// A base URL: the request's path is put behind it, unchanged.
    Url {
        /// `http` or `https`.
        scheme: http::uri::Scheme,
        /// Host and port.
        authority: http::uri::Authority,
        /// The base URL's path without a final slash, often empty.
        path: String,
    },
    /// Answered inside this process.
    Demo,
}

/// What happens to an answer whose client has left.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum OnClientClose {
    /// Streams are cancelled; whole answers, which the provider bills anyway, are finished in the background.
    #[default]
    ByKind,
    /// Cancelled.
    Cancel,
    /// Finished in the background.
    Finish,
}

/// What happens to a call that cannot be metered.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Unmetered {
    /// It passes and is recorded as `other`, provenance `unknown`.
    #[default]
    Pass,
    /// It is refused.
    Refuse,
}

/// The HTTP version spoken to an upstream.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum HttpVersion {
    /// HTTP/1.1 with a pool of connections.
    #[default]
    Http1,
    /// HTTP/2 over several connections.
    Http2,
}

/// How long it is remembered that an upstream takes no `stream_options` for a model.
const NO_STREAM_USAGE_FOR: Duration = Duration::from_hours(1);
/// Models remembered so; beyond it they are asked again.
const NO_STREAM_USAGE_MODELS_MAX: usize = 256;
/// Connections over which HTTP/2 calls are spread: one queues at the provider's stream limit.
const HTTP2_CONNECTIONS: usize = 4;
/// Idle connections kept an upstream.
const IDLE_CONNECTIONS_MAX: usize = 1024;
/// Idle time after which a connection is closed: below the 60 s and more of providers' own.
const IDLE_CONNECTION_TIMEOUT: Duration = Duration::from_secs(50);

/// A configured endpoint and its connections.
pub(crate) struct Upstream {
    pub(crate) settings: Settings,
    /// Of boxed bodies: hyper keeps room for 32 requests with each connection.
    clients: Vec<Client<Connector, Box<UpstreamBody>>>,
    turn: AtomicUsize,
    /// For connections of their own, over HTTP/1.1 whatever the others speak.
    tunnels: Connector,
    no_stream_usage: Mutex<HashMap<Option<String>, Instant>>,
}

impl Upstream {
    pub(crate) fn new(settings: Settings, tls: &Tls, demo: &Arc<Demo>) -> Result<Self, ConnectError> {
        let is_http2 = settings.http_version == HttpVersion::Http2;
        let dialer = match (&settings.base, &settings.proxy_url) {
            (Base::Demo, _) => Dialer::Demo(Arc::clone(demo)),
            (Base::Url { .. }, Some(url)) => Dialer::tunnel(url, settings.connect_timeout)?,
            (Base::Url { .. }, None) => Dialer::direct(settings.connect_timeout),
        };
        let http1 = tls.config(settings.ca_file.as_deref(), false)?;
        let tunnels = Connector::new(dialer.clone(), http1, settings.connect_timeout);
        let tls = tls.config(settings.ca_file.as_deref(), is_http2)?;
        let connections = if is_http2 { HTTP2_CONNECTIONS } else { 1 };
        let clients = (0..connections)
            .map(|_| {
                let connector = Connector::new(dialer.clone(), Arc::clone(&tls), settings.connect_timeout);
                Client::builder(TokioExecutor::new())
                    .pool_timer(TokioTimer::new())
                    .timer(TokioTimer::new())
                    .pool_idle_timeout(IDLE_CONNECTION_TIMEOUT)
                    .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
                    .http2_only(is_http2)
                    .http1_max_buf_size(HTTP1_BUFFER_BYTES)
                    .http2_initial_stream_window_size(HTTP2_STREAM_WINDOW_BYTES)
                    .http2_initial_connection_window_size(HTTP2_CONNECTION_WINDOW_BYTES)
                    .set_host(false)
                    .build(connector)
            })
            .collect();
        Ok(Self { settings, clients, turn: AtomicUsize::new(0), tunnels, no_stream_usage: Mutex::default() })
    }

    /// Sends `request`. A pooled connection that turns out to be closed before anything was written to it is replaced;
    /// nothing that may have reached the upstream is ever sent again.
    pub(crate) fn request(&self, request: Request<UpstreamBody>) -> ResponseFuture {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let client = self.clients.get(turn % self.clients.len().max(1)).or(self.clients.first());
        #[expect(clippy::expect_used, reason = "`new` makes at least one client")]
        client.expect("an upstream has a client").request(request.map(Box::new))
    }

    /// Posts JSON of our own to `path` on its host, with the credential that is configured; `None` where it cannot be
    /// asked so.
    pub(crate) fn post(
        &self,
        path: &str,
        header: Option<(&'static str, &'static str)>,
        body: Vec<u8>,
    ) -> Option<ResponseFuture> {
        let Settings { base, credential, wire, .. } = &self.settings;
        let (Base::Url { scheme, authority, .. }, Some(secret)) = (base, credential) else { return None };
        let place = wire.credential();
        let (body, _) = body::whole(vec![body.into()], Vec::new());
        let uri = Uri::builder().scheme(scheme.clone()).authority(authority.clone()).path_and_query(path);
        let mut request = Request::post(uri.build().ok()?)
            .header(HOST, authority.as_str())
            .header(CONTENT_TYPE, "application/json")
            .header(place.name, headers::secret_value(place.prefix, secret.expose_secret())?);
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        Some(self.request(request.body(body).ok()?))
    }

    /// A connection that nobody else uses, to where `uri` says.
    pub(crate) async fn connect(&self, uri: Uri) -> Result<impl Read + Write + Send + Unpin + use<>, BoxError> {
        let mut connector = self.tunnels.clone();
        std::future::poll_fn(|context| connector.poll_ready(context)).await?;
        connector.call(uri).await
    }

    /// Whether usage is to be asked for in `model`'s streams.
    pub(crate) fn adds_stream_usage(&self, model: Option<&str>, now: Instant) -> bool {
        if !self.settings.adds_stream_usage {
            return false;
        }
        let remembered = self.no_stream_usage.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.is_empty()
            || remembered
                .get(&model.map(str::to_owned))
                .is_none_or(|since| now.saturating_duration_since(*since) > NO_STREAM_USAGE_FOR)
    }

    /// Remembers that `model` takes no `stream_options`.
    pub(crate) fn remember_no_stream_usage(&self, model: Option<&str>, now: Instant) {
        let mut remembered = self.no_stream_usage.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= NO_STREAM_USAGE_MODELS_MAX {
            remembered.clear();
        }
        remembered.insert(model.map(str::to_owned), now);
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Upstream").field("settings", &self.settings).finish_non_exhaustive()
    }
}
