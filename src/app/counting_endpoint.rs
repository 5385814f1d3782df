//! Counting endpoint: upstreams that count prompts themselves are asked, beside the data path, for what the meter wants
//! to know.
//!
//! One question after the other, each within a deadline, the way that calls go and with the upstream's own credential.
//! Whatever comes back disturbs nobody: what is a count is learned of, what is none is said once, and that upstream is left
//! alone for a while.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http_body_util::{BodyExt as _, Limited};
use tokio::sync::mpsc::{self, Receiver};

use crate::meter::{Asking, Meter, Question};
use crate::proxy::Proxy;
use crate::proxy::upstream;

/// Longest wait for a count.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A count is a few dozen bytes.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Why there is no count.
#[derive(Debug, thiserror::Error)]
enum NoCount {
    #[error("it cannot be asked")]
    Asking,
    #[error("it does not answer")]
    Silent(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("it did not answer in {} s", TIMEOUT.as_secs())]
    Late,
    #[error("it answered {0}")]
    Status(StatusCode),
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
    pub(super) proxy: Arc<Proxy>,
    pub(super) questions: Option<Receiver<Question>>,
    pub(super) meter: Arc<Meter>,
}

impl CountingEndpoints {
    /// Asks until it is dropped.
    pub(super) async fn ask(self) -> Infallible {
        let Self { proxy, questions, meter } = self;
        let Some(mut questions) = questions else { return std::future::pending().await };
        while let Some(question) = questions.recv().await {
            let counted = tokio::time::timeout(TIMEOUT, count(&proxy, &question)).await;
            match counted.unwrap_or(Err(NoCount::Late)) {
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

async fn count(proxy: &Proxy, question: &Question) -> Result<u64, NoCount> {
    let asked = &question.asked;
    let upstream = proxy.upstream(&question.upstream).ok_or(NoCount::Asking)?;
    let asking = upstream.post(&asked.path, asked.version, asked.body.clone()).ok_or(NoCount::Asking)?;
    let answer = asking.await.map_err(|error| NoCount::Silent(error.into()))?;
    if answer.status() != StatusCode::OK {
        return Err(NoCount::Status(answer.status()));
    }
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(NoCount::Silent)?;
    question.wire.counted(&body.to_bytes()).ok_or(NoCount::Nonsense)
}
