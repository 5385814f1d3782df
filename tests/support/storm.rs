//! The storm: many clients at once, over HTTP/1.1 and HTTP/2, who note what they saw of each call.
//!
//! What they ask is the [`Mix`]'s, so that an [`crate::oracle::Oracle`] of the same mix knows it. A storm runs on a
//! thread of its own, until it has made all its calls or its server is gone.

use std::hash::{DefaultHasher, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::task::JoinSet;

use crate::oracle::{Api, Manners, Mix, Plan};

/// Clients that share an HTTP/2 connection.
const CLIENTS_PER_CONNECTION: u64 = 8;

type Http = Client<HttpConnector, Full<Bytes>>;

/// What a client saw of its call.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) nonce: u64,
    pub(crate) is_http2: bool,
    /// The record's id, where a head came that tells it.
    pub(crate) record: Option<String>,
    pub(crate) status: Option<u16>,
    pub(crate) retry_after: Option<Vec<u8>>,
    /// Bytes of the answer's body that came, and their [`hash`].
    pub(crate) bytes: u64,
    pub(crate) hash: u64,
    pub(crate) end: End,
}

/// How a client's call was over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum End {
    /// The body came to its end.
    Whole,
    /// The connection broke, or the server is gone.
    Cut,
    /// The client itself left.
    Left,
}

/// What a run of clients is.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) mix: Mix,
    /// Base URLs of the proxies: each client has one.
    pub(crate) proxies: Vec<String>,
    /// A virtual key, sent as each SDK sends it.
    pub(crate) key: String,
    pub(crate) clients: u64,
    /// Calls are numbered from here on, over several storms.
    pub(crate) next: Arc<AtomicU64>,
    /// The number at which the clients stop; `u64::MAX`: when their server is gone.
    pub(crate) end: u64,
}

/// Clients at work.
pub(crate) struct Storm(JoinHandle<Vec<Seen>>);

impl Storm {
    /// Sends them off.
    pub(crate) fn start(settings: Settings) -> Self {
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(rage(settings))
        };
        Self(std::thread::Builder::new().name("storm".to_owned()).spawn(run).unwrap())
    }

    /// Waits until they are done; what they saw, call by call.
    pub(crate) fn join(self) -> Vec<Seen> {
        self.0.join().unwrap()
    }
}

async fn rage(settings: Settings) -> Vec<Seen> {
    let mut clients = JoinSet::new();
    let mut http2 = None;
    for client in 0..settings.clients {
        // Every other one over HTTP/2, some of them over one connection.
        let is_http2 = client % 2 == 1;
        let http = match &http2 {
            Some(shared) if is_http2 && client % CLIENTS_PER_CONNECTION != 1 => Http::clone(shared),
            _ => Client::builder(TokioExecutor::new()).http2_only(is_http2).build_http(),
        };
        if is_http2 {
            http2 = Some(http.clone());
        }
        let place = usize::try_from(client).unwrap() % settings.proxies.len();
        let proxy = settings.proxies[place].clone();
        clients.spawn(work(settings.clone(), http, proxy, is_http2));
    }
    clients.join_all().await.into_iter().flatten().collect()
}

/// Calls one after the other.
async fn work(settings: Settings, http: Http, proxy: String, is_http2: bool) -> Vec<Seen> {
    let mut all = Vec::new();
    loop {
        let nonce = settings.next.fetch_add(1, Ordering::Relaxed);
        if nonce >= settings.end {
            return all;
        }
        let plan = settings.mix.call(nonce);
        let request = request(&plan, &proxy, &settings.key);
        let mut seen = Seen {
            nonce,
            is_http2,
            record: None,
            status: None,
            retry_after: None,
            bytes: 0,
            hash: hash(&[]),
            end: End::Cut,
        };
        let is_gone = call(&http, request, plan.manners, &mut seen).await;
        all.push(seen);
        if is_gone && settings.end == u64::MAX {
            return all;
        }
    }
}

fn request(plan: &Plan, proxy: &str, key: &str) -> Request<Full<Bytes>> {
    let (name, value) = match plan.api {
        Api::Chat | Api::Responses => ("authorization", format!("Bearer {key}")),
        Api::Messages => ("x-api-key", key.to_owned()),
        Api::Generate => ("x-goog-api-key", key.to_owned()),
    };
    Request::post(format!("{proxy}{}", plan.path()))
        .header(header::CONTENT_TYPE, "application/json")
        .header(name, value)
        .header("x-tokenmeter-tags", format!("call={}", plan.nonce))
        .body(Full::from(plan.request()))
        .unwrap()
}

/// Makes a call and notes what is seen of it; whether its server is gone.
async fn call(http: &Http, request: Request<Full<Bytes>>, manners: Manners, seen: &mut Seen) -> bool {
    let patience = if let Manners::LeavesIn(patience) = manners { patience } else { Duration::from_mins(1) };
    let response = match tokio::time::timeout(patience, http.request(request)).await {
        Err(_) => {
            seen.end = End::Left;
            return false;
        }
        Ok(Err(error)) => return error.is_connect(),
        Ok(Ok(response)) => response,
    };
    let header = |name: &str| response.headers().get(name).map(|value| value.as_bytes().to_vec());
    seen.status = Some(response.status().as_u16());
    seen.record = header("x-tokenmeter-record").map(|id| String::from_utf8(id).unwrap());
    seen.retry_after = header("retry-after");
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    let patience = if let Manners::LeavesAfterBytes(patience) = manners { patience } else { u64::MAX };
    seen.end = loop {
        match body.frame().await {
            None => break End::Whole,
            Some(Err(_)) => break End::Cut,
            Some(Ok(frame)) => bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
        }
        if bytes.len() as u64 > patience {
            break End::Left;
        }
    };
    (seen.bytes, seen.hash) = (bytes.len() as u64, hash(&bytes));
    false
}

/// By which bodies are compared.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}
