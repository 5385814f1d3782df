//! Counting endpoint: upstreams that count prompts themselves are asked, beside the data path, for what the meter wants
//! to know.
//!
//! One question after the other, each within a deadline, with the upstream's own credential. Whatever comes back disturbs
//! nobody: what is a count is learned of, what is none is said once, and that upstream is left alone for a while.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue};
use secrecy::ExposeSecret as _;
use tokio::sync::mpsc::{self, Receiver};

use crate::ids::UpstreamName;
use crate::meter::{Asking, Meter, Question};
use crate::proxy::Tls;
use crate::proxy::upstream::{self, Base};

/// Longest wait for a count.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A count is a few dozen bytes.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Why there is no count.
#[derive(Debug, thiserror::Error)]
enum NoCount {
    #[error("it cannot be asked")]
    Asking(#[source] reqwest::Error),
    #[error("it answered {0}")]
    Status(u16),
    #[error("its answer is too long for a count")]
    TooLong,
    #[error("its answer is no count")]
    Nonsense,
}

/// Whom the meter may ask, and where its questions come out; `None` where no upstream is to be asked.
pub(super) fn asking(upstreams: &[upstream::Settings]) -> (Option<Asking>, Option<Receiver<Question>>) {
    let every = upstreams.iter().filter_map(|one| Some((one.name.clone(), one.count_every?)));
    let every: HashMap<_, _> = every.collect();
    if every.is_empty() {
        return (None, None);
    }
    let (questions, asked) = mpsc::channel(1);
    (Some(Asking { every, questions }), Some(asked))
}

/// Who asks.
pub(super) struct CountingEndpoints {
    upstreams: HashMap<UpstreamName, Endpoint>,
    questions: Option<Receiver<Question>>,
    meter: Arc<Meter>,
}

struct Endpoint {
    client: reqwest::Client,
    /// Scheme and host.
    origin: String,
    credential: HeaderMap,
}

impl CountingEndpoints {
    pub(super) fn new(
        upstreams: &[upstream::Settings],
        tls: &Tls,
        questions: Option<Receiver<Question>>,
        meter: Arc<Meter>,
    ) -> anyhow::Result<Self> {
        let mut known = HashMap::new();
        for settings in upstreams.iter().filter(|settings| settings.count_every.is_some()) {
            let endpoint = Endpoint::new(settings, tls)
                .with_context(|| format!("cannot set up `count_endpoint` of upstream `{}`", settings.name))?;
            known.extend(endpoint.map(|endpoint| (settings.name.clone(), endpoint)));
        }
        Ok(Self { upstreams: known, questions, meter })
    }

    /// Asks until it is dropped.
    pub(super) async fn ask(self) -> Infallible {
        let Self { upstreams, questions, meter } = self;
        let Some(mut questions) = questions else { return std::future::pending().await };
        while let Some(question) = questions.recv().await {
            let Some(endpoint) = upstreams.get(&question.upstream) else { continue };
            match endpoint.count(&question).await {
                Ok(tokens) => meter.counted_by_upstream(question, tokens),
                Err(error) => {
                    let pause = meter.not_counted_by_upstream(&question);
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        upstream = %question.upstream,
                        pause_seconds = pause.as_secs(),
                        "an upstream did not count a prompt; where it has no such endpoint, turn its `count_endpoint` off"
                    );
                }
            }
        }
        std::future::pending().await
    }
}

impl Endpoint {
    /// `None` of an upstream that cannot be asked, of which config has said so.
    fn new(settings: &upstream::Settings, tls: &Tls) -> anyhow::Result<Option<Self>> {
        let (Base::Url { scheme, authority, .. }, Some(secret)) = (&settings.base, &settings.credential) else {
            return Ok(None);
        };
        let tls = tls.config(settings.ca_file.as_deref(), false)?;
        let mut client = reqwest::Client::builder()
            .tls_backend_preconfigured(rustls::ClientConfig::clone(&tls))
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .pool_max_idle_per_host(0)
            .connect_timeout(settings.connect_timeout)
            .timeout(TIMEOUT);
        if let Some(url) = &settings.proxy_url {
            // What it says of a wrong URL might hold the password in it.
            let proxy = reqwest::Proxy::all(url.expose_secret());
            client = client.proxy(proxy.map_err(|_| anyhow::anyhow!("its proxy_url is not a URL of an HTTP proxy"))?);
        }
        let place = settings.wire.credential();
        let value = format!("{}{}", place.prefix, secret.expose_secret());
        let mut value = HeaderValue::from_str(&value).context("its credential is not a header value")?;
        value.set_sensitive(true);
        let credential = HeaderMap::from_iter([(http::HeaderName::from_static(place.name), value)]);
        Ok(Some(Self { client: client.build()?, origin: format!("{scheme}://{authority}"), credential }))
    }

    async fn count(&self, question: &Question) -> Result<u64, NoCount> {
        // The path of a provider says nothing of who asked, but an error with its URL is of no use either.
        let failed = |error: reqwest::Error| NoCount::Asking(error.without_url());
        let asked = &question.asked;
        let mut request = self
            .client
            .post(format!("{}{}", self.origin, asked.path))
            .header(CONTENT_TYPE, "application/json")
            .headers(self.credential.clone())
            .body(asked.body.clone());
        if let Some((name, version)) = asked.version {
            request = request.header(name, version);
        }
        let mut answer = request.send().await.map_err(failed)?;
        if answer.status() != reqwest::StatusCode::OK {
            return Err(NoCount::Status(answer.status().as_u16()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(failed)? {
            if body.len().saturating_add(chunk.len()) > ANSWER_BYTES_MAX {
                return Err(NoCount::TooLong);
            }
            body.extend_from_slice(&chunk);
        }
        question.wire.counted(&body).ok_or(NoCount::Nonsense)
    }
}
