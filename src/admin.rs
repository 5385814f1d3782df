//! Admin: what operators and Prometheus ask, on an address of its own that base URLs never reach.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ALLOW, AUTHORIZATION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::ledger::LedgerError;
use crate::metrics;
use crate::report::{MonthReport, json};

mod page;

/// Time for a client to send a request's head.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(10);
/// How long stopping waits for answers to be taken.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);
/// Open connections; scrapers and people are few.
const CONNECTIONS_MAX: usize = 256;

/// Where the admin listens, and who may ask. `config` fills it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The address.
    pub listen: SocketAddr,
    /// Asked for as a bearer token everywhere but by the probes; `None` only on loopback.
    pub token: Option<SecretString>,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// What was asked for is not to be had.
    #[error("{0}")]
    Asked(String),
    /// The ledger cannot be read.
    #[error("the report cannot be read at the moment; see the server's log")]
    Failed(#[source] Option<LedgerError>),
}

/// Whether calls are taken.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Readiness {
    /// Taken and recorded.
    Ready,
    /// Taken and not recorded, and why.
    Unmetered(String),
    /// Not taken, and why.
    Unready(String),
}

/// What the admin tells; the wiring knows how to find it out.
pub trait Facts: Send + Sync {
    /// The text of `/metrics`.
    fn metrics(&self) -> String;
    /// Whether calls are taken now, and what is to be said of it.
    fn readiness(&self) -> Readiness;
    /// A month's report: of the current month, by department and team, unless told otherwise; or why it cannot be had.
    fn report(&self, month: Option<&str>, by: Option<&str>) -> Result<MonthReport, ReportError>;
}

/// A bound admin listener.
pub struct Admin {
    listener: TcpListener,
    shared: Arc<Shared>,
}

struct Shared {
    token: Option<SecretString>,
    facts: Arc<dyn Facts>,
}

impl Admin {
    /// Binds the admin's address.
    pub async fn listen(settings: Settings, facts: Arc<dyn Facts>) -> io::Result<Self> {
        let listener = TcpListener::bind(settings.listen).await?;
        Ok(Self { listener, shared: Arc::new(Shared { token: settings.token, facts }) })
    }

    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until `stop` turns true.
    pub async fn serve(self, mut stop: watch::Receiver<bool>) {
        let tasks = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                _ = stop.wait_for(|stopped| *stopped) => break,
            };
            match accepted {
                Ok((stream, _)) if tasks.len() < CONNECTIONS_MAX => {
                    tasks.spawn(connection(Arc::clone(&self.shared), stream, stop.clone()));
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "cannot accept an admin connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        tasks.close();
        if tokio::time::timeout(STOP_TIMEOUT, tasks.wait()).await.is_err() {
            tracing::debug!("an admin connection does not take its answer; cutting it");
        }
    }
}

async fn connection(shared: Arc<Shared>, stream: TcpStream, mut stop: watch::Receiver<bool>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(answer(&shared, &request).await) }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_READ_TIMEOUT);
    let mut serving = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut is_stopping = false;
    let ended = loop {
        tokio::select! {
            ended = serving.as_mut() => break ended,
            _ = stop.wait_for(|stopped| *stopped), if !is_stopping => {
                is_stopping = true;
                serving.as_mut().graceful_shutdown();
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error = &error as &dyn std::error::Error, "an admin connection broke off");
    }
}

/// Who may ask a route.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Policy {
    /// Anyone who reaches the address: probes carry no token.
    Open,
    /// Who has the token, where one is configured.
    Token,
}

#[derive(Clone, Copy)]
enum Route {
    Metrics,
    Alive,
    Ready,
    Report,
    Page,
}

/// Every route with its policy; what is not here is not found.
const ROUTES: &[(&str, Policy, Route)] = &[
    ("/metrics", Policy::Token, Route::Metrics),
    ("/healthz", Policy::Open, Route::Alive),
    ("/readyz", Policy::Open, Route::Ready),
    ("/api/v1/report", Policy::Token, Route::Report),
    ("/", Policy::Token, Route::Page),
];

async fn answer(shared: &Arc<Shared>, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    let Some((_, policy, route)) = ROUTES.iter().find(|(known, ..)| *known == path) else {
        let known: Vec<&str> = ROUTES.iter().map(|(known, ..)| *known).collect();
        return text(StatusCode::NOT_FOUND, format!("not found; known: {}\n", known.join(", ")));
    };
    if *request.method() != Method::GET && *request.method() != Method::HEAD {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".into());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    if *policy == Policy::Token && !is_allowed(shared, request) {
        let mut response = text(StatusCode::UNAUTHORIZED, "the admin token is missing or wrong\n".into());
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        return response;
    }
    match route {
        Route::Alive => text(StatusCode::OK, "alive\n".into()),
        Route::Ready => match shared.facts.readiness() {
            Readiness::Ready => text(StatusCode::OK, "ready\n".into()),
            Readiness::Unmetered(why) => text(StatusCode::OK, format!("ready, but calls pass unmetered: {why}\n")),
            Readiness::Unready(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
        },
        Route::Metrics => {
            let mut response = text(StatusCode::OK, shared.facts.metrics());
            let version = HeaderValue::from_static(metrics::CONTENT_TYPE);
            response.headers_mut().insert(CONTENT_TYPE, version);
            response
        }
        Route::Report => report(shared, request.uri().query()).await,
        Route::Page => match report_of(shared, None, None).await {
            Ok(report) => html(page::render(&report)),
            Err(error) => no_report(&error),
        },
    }
}

/// Compared by digest, so that the time taken says nothing about the token.
fn is_allowed(shared: &Shared, request: &Request<Incoming>) -> bool {
    let Some(token) = &shared.token else { return true };
    let given = request.headers().get(AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    given.is_some_and(|given| Sha256::digest(given) == Sha256::digest(token.expose_secret().as_bytes()))
}

async fn report(shared: &Arc<Shared>, query: Option<&str>) -> Response<Full<Bytes>> {
    let parameter = |name: &str| {
        query?.split('&').find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name)).map(|(_, value)| {
            percent_encoding::percent_decode_str(value).decode_utf8().map_or_else(|_| value.to_owned(), Into::into)
        })
    };
    match report_of(shared, parameter("month"), parameter("by")).await {
        Ok(report) => {
            let Ok(json) = json::text(&report) else {
                return text(StatusCode::INTERNAL_SERVER_ERROR, "the report cannot be written\n".into());
            };
            let mut response = text(StatusCode::OK, json);
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
        Err(error) => no_report(&error),
    }
}

fn no_report(error: &ReportError) -> Response<Full<Bytes>> {
    let status = match error {
        ReportError::Asked(_) => StatusCode::BAD_REQUEST,
        ReportError::Failed(cause) => {
            tracing::error!(
                error = cause.as_ref().map(|cause| cause as &dyn std::error::Error),
                "the report cannot be read"
            );
            StatusCode::SERVICE_UNAVAILABLE
        }
    };
    text(status, format!("{error}\n"))
}

/// The ledger is read off the async threads.
async fn report_of(
    shared: &Arc<Shared>,
    month: Option<String>,
    by: Option<String>,
) -> Result<MonthReport, ReportError> {
    let facts = Arc::clone(&shared.facts);
    tokio::task::spawn_blocking(move || facts.report(month.as_deref(), by.as_deref()))
        .await
        .unwrap_or(Err(ReportError::Failed(None)))
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn html(body: String) -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::OK, body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    let policy =
        "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    response
}
