//! Tunnel: a WebSocket between a client and an upstream. Its bytes are passed and counted; what it costs nobody can say.
//!
//! An upgrade of HTTP/1.1 on both sides, over a connection of its own to the upstream, also where others are HTTP/2.
//! Extended CONNECT (RFC 8441) is not offered, so that clients with HTTP/2 open a connection of HTTP/1.1 for it too.

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use secrecy::ExposeSecret as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::Instant;

use super::asking::{Answer, Failed, Failure, ReadingPlan};
use super::body::{self, UpstreamBody};
use super::forward::{self, Admitted, Refusal};
use super::idle::Idle;
use super::listen::Seat;
use super::outgoing::Outgoing;
use super::reply::{self, ReplyBody};
use super::upstream::Upstream;
use super::{Proxy, headers, watch};
use crate::attribution;
use crate::framing::websocket::CloseFinder;
use crate::journal::{Appended, Journal};
use crate::meter::{Ending, Moment, OpenCall};
use crate::usage::Outcome;

/// What is held of each direction.
const BUFFER_BYTES: usize = 8 << 10;
/// Buffers of one direction that pass before the other has its turn.
const TURN_BUFFERS: usize = 8;
/// How long either side may take over its part of a closing that has begun.
const CLOSING_MAX: Duration = Duration::from_secs(5);

/// How often the intent of an open session is renewed, so that the journal need not be kept from its begin on.
const RENEWED_EVERY: Duration = Duration::from_mins(10);

/// Whether `request` asks for a WebSocket.
pub(crate) fn is_asked(request: &Request<Incoming>) -> bool {
    let says = |name: &HeaderName, word: &str| {
        let values = request.headers().get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|one| one.trim().eq_ignore_ascii_case(word))
    };
    request.method() == Method::GET
        && request.version() == Version::HTTP_11
        && says(&UPGRADE, "websocket")
        && says(&CONNECTION, "upgrade")
        && request.body().is_end_stream()
}

/// Asks the upstream for the WebSocket. Its refusal passes as it is.
pub(crate) async fn open(
    proxy: &Arc<Proxy>,
    seat: Seat,
    began: Moment,
    admitted: Admitted,
    mut request: Request<Incoming>,
) -> Result<Response<ReplyBody>, Refusal> {
    let client = hyper::upgrade::on(&mut request);
    let (head, _) = request.into_parts();
    let offered = attribution::headers::offered_subprotocols(&head.headers);
    let model = admitted.model_in_path.clone().or_else(|| head.uri.query().and_then(model_in));
    let outgoing = Outgoing::new(head, &admitted, true)?;
    let (upstream, wire) = (Arc::clone(&admitted.upstream), admitted.wire);
    let reading = ReadingPlan {
        wire,
        operation: admitted.operation,
        provider: upstream.settings.provider.clone(),
        consumption: admitted.consumption,
        background: None,
    };
    let intent = admitted.intent(began, model, true, None);
    let call = forward::open(proxy, began, &intent, wire, reading.consumption).await?;
    proxy.metrics.overhead_seconds(began.instant.elapsed().as_secs_f64());
    let mut answer = match ask(proxy, &upstream, outgoing, call).await {
        Ok(answer) => answer,
        Err(failed) => return Ok(failed.reply(&upstream, wire)),
    };
    if answer.response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let upgrade = answer.response.headers().get(UPGRADE).cloned();
        let mut response = forward::pass(proxy, &upstream, answer, None, &reading, false).reply().await;
        if let Some(upgrade) = upgrade.filter(|_| response.status() == StatusCode::UPGRADE_REQUIRED) {
            upgrades_to(response.headers_mut(), upgrade);
        }
        return Ok(response);
    }
    let upgraded = hyper::upgrade::on(&mut answer.response);
    let response = switching(&upstream, &answer, offered.as_deref());
    let tunnel = Tunnel::new(answer.call, upstream.settings.idle_timeout);
    let journal = Arc::clone(proxy.meter.journal());
    proxy.tasks.spawn(async move {
        tunnel.run(client, upgraded, &journal).await;
        drop(seat);
    });
    Ok(response)
}

/// The model that a realtime API is asked for in the query; Azure calls it a deployment.
fn model_in(query: &str) -> Option<String> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let (_, model) = pairs.find(|(name, _)| matches!(*name, "model" | "deployment"))?;
    percent_decode_str(model).decode_utf8().ok().map(Cow::into_owned)
}

/// Connects and waits for the answer's head. Dropped while it waits, its client has left.
async fn ask(proxy: &Proxy, upstream: &Upstream, outgoing: Outgoing, mut call: OpenCall) -> Result<Answer, Failed> {
    let (body, kept) = body::whole(Vec::new(), Vec::new());
    let mut request = outgoing.with(body);
    let stream = match upstream.connect(request.uri().clone()).await {
        Ok(stream) => stream,
        Err(error) => return Err(Failed::new(Failure::Connect(error), call)),
    };
    call.sent();
    // Without a pool in between the request names its target as a server wants it.
    let target = request.uri().path_and_query().map(|target| Uri::from(target.clone()));
    *request.uri_mut() = target.unwrap_or_default();
    let asking = async {
        let (mut sender, connection) = http1::handshake::<_, UpstreamBody>(stream).await?;
        proxy.tasks.spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(error = &error as &dyn std::error::Error, "a tunnel's connection broke off");
            }
        });
        sender.send_request(request).await
    };
    match tokio::time::timeout(upstream.settings.head_timeout, asking).await {
        Ok(Ok(response)) => Ok(Answer { response, call, kept }),
        Ok(Err(error)) => Err(Failed::new(Failure::Broken(error.into()), call)),
        Err(_) => Err(Failed::new(Failure::Silent, call)),
    }
}

/// The head that tells the client that the tunnel is open.
fn switching(upstream: &Upstream, answer: &Answer, offered: Option<&str>) -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody::Whole(None));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = answer.response.headers().clone();
    let headers = response.headers_mut();
    let upgrade = headers.get(UPGRADE).cloned().unwrap_or(HeaderValue::from_static("websocket"));
    headers::leave_upstream(headers);
    upgrades_to(headers, upgrade);
    // An upstream that takes the subprotocol which is the credential names it; the client knows it by its own key.
    if let Some(secret) = &upstream.settings.credential
        && let Some(taken) = headers.get(SEC_WEBSOCKET_PROTOCOL)
        && memchr::memmem::find(taken.as_bytes(), secret.expose_secret().as_bytes()).is_some()
    {
        headers.remove(SEC_WEBSOCKET_PROTOCOL);
        let own = offered.and_then(attribution::headers::subprotocol_with_key);
        headers.extend(own.and_then(|own| headers::secret_value("", own)).map(|own| (SEC_WEBSOCKET_PROTOCOL, own)));
    }
    reply::tell_record(&mut response, answer.call.id());
    response
}

fn upgrades_to(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, protocol);
}

/// An open tunnel and its call. Dropped while it is open, it was cut here: the call is closed with what passed.
struct Tunnel {
    call: Option<OpenCall>,
    idle_timeout: Duration,
    to_upstream: Direction,
    to_client: Direction,
}

/// Which side ended a tunnel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum End {
    Client,
    Upstream,
    /// Neither said anything for too long.
    Silence,
}

type Socket = TokioIo<Upgraded>;

impl Tunnel {
    fn new(mut call: OpenCall, idle_timeout: Duration) -> Self {
        call.answered(StatusCode::SWITCHING_PROTOCOLS.as_u16());
        let (to_upstream, to_client) = (Direction::default(), Direction::default());
        Self { call: Some(call), idle_timeout, to_upstream, to_client }
    }

    /// Passes bytes until one side ends, closes the call, then the other side.
    async fn run(mut self, client: OnUpgrade, upstream: OnUpgrade, journal: &Arc<Journal>) {
        // The upstream has switched already; the client has when our head has gone out.
        let (mut client, mut upstream) = match tokio::try_join!(client, upstream) {
            Ok((client, upstream)) => (TokioIo::new(client), TokioIo::new(upstream)),
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "a tunnel's client left before it was open");
                return;
            }
        };
        let mut idle = Idle::new(self.idle_timeout);
        let mut renewing = tokio::time::interval_at(Instant::now() + RENEWED_EVERY, RENEWED_EVERY);
        let end = loop {
            let passing = std::future::poll_fn(|context| self.poll(context, &mut client, &mut upstream, &mut idle));
            tokio::select! {
                end = passing => break end,
                _ = renewing.tick() => {}
            }
            if let Some(call) = &self.call {
                call.renew();
            }
        };
        let outcome = match end {
            _ if self.has_closed() => Outcome::Completed,
            End::Client => Outcome::ClientClosed,
            End::Upstream | End::Silence => Outcome::UpstreamCut,
        };
        if let Some(appended) = self.close(outcome)
            && !journal.is_synced(&appended)
            && let Err(error) = journal.synced(appended).await
        {
            tracing::error!(error = &error as &dyn std::error::Error, "a tunnel's record may be lost");
        }
        // What a side still has of us it gets, if it takes it soon.
        let closing = async { tokio::join!(close(client), close(upstream)) };
        drop(tokio::time::timeout(CLOSING_MAX, closing).await);
    }

    /// Whether either side said that the session is over: what comes then is only the connections' end.
    fn has_closed(&self) -> bool {
        self.to_upstream.frames.has_closed() || self.to_client.frames.has_closed()
    }

    fn poll(
        &mut self,
        context: &mut Context<'_>,
        client: &mut Socket,
        upstream: &mut Socket,
        idle: &mut Idle,
    ) -> Poll<End> {
        let passed = |this: &Self| this.to_client.bytes.saturating_add(this.to_upstream.bytes);
        let before = passed(self);
        match self.to_client.poll(context, upstream, client) {
            Poll::Ready(Over::Reading) => return Poll::Ready(End::Upstream),
            Poll::Ready(Over::Writing) => return Poll::Ready(End::Client),
            Poll::Pending => {}
        }
        if self.to_client.bytes > 0
            && let Some(call) = &mut self.call
        {
            call.first_byte();
        }
        if !self.to_upstream.is_over {
            match self.to_upstream.poll(context, client, upstream) {
                Poll::Ready(Over::Reading) if !self.has_closed() => return Poll::Ready(End::Client),
                // The other side's last words are on their way.
                Poll::Ready(_) => {
                    self.to_upstream.is_over = true;
                    *idle = Idle::new(self.idle_timeout.min(CLOSING_MAX));
                }
                Poll::Pending => {}
            }
        }
        if passed(self) != before {
            idle.stir();
        }
        idle.poll_over(context).map(|()| End::Silence)
    }

    fn close(&mut self, outcome: Outcome) -> Option<Appended> {
        let units = watch::units_of(self.to_upstream.bytes, self.to_client.bytes);
        self.call.take()?.close(outcome, Ending { units, ..Ending::default() })
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        let _: Option<Appended> = self.close(Outcome::ClientClosed);
    }
}

/// Ends a connection in order: what the other side still sends is taken, for else its kernel is told of a reset, which
/// takes away what it has not read of ours.
async fn close(mut socket: Socket) {
    let mut rest = [0_u8; 1 << 10];
    if socket.shutdown().await.is_ok() {
        while socket.read(&mut rest).await.is_ok_and(|bytes| bytes > 0) {}
    }
}

/// One way through a tunnel.
struct Direction {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    is_flushed: bool,
    is_over: bool,
    /// Bytes that went through.
    bytes: u64,
    frames: CloseFinder,
}

/// Why no more goes through.
enum Over {
    /// Nothing more comes.
    Reading,
    /// Nothing more is taken.
    Writing,
}

impl Default for Direction {
    fn default() -> Self {
        let buffer = vec![0; BUFFER_BYTES].into();
        Self { buffer, start: 0, end: 0, is_flushed: true, is_over: false, bytes: 0, frames: CloseFinder::default() }
    }
}

impl Direction {
    /// Ready when it is over.
    fn poll(&mut self, context: &mut Context<'_>, from: &mut Socket, to: &mut Socket) -> Poll<Over> {
        for _ in 0..TURN_BUFFERS {
            while let Some(chunk) = self.buffer.get(self.start..self.end).filter(|chunk| !chunk.is_empty()) {
                match ready!(Pin::new(&mut *to).poll_write(context, chunk)) {
                    Ok(written) if written > 0 => {
                        self.start = self.start.saturating_add(written);
                        self.bytes = self.bytes.saturating_add(u64::try_from(written).unwrap_or(u64::MAX));
                        self.is_flushed = false;
                    }
                    Ok(_) | Err(_) => return Poll::Ready(Over::Writing),
                }
            }
            let mut room = ReadBuf::new(&mut self.buffer);
            match Pin::new(&mut *from).poll_read(context, &mut room) {
                Poll::Ready(Ok(())) if !room.filled().is_empty() => {
                    self.frames.feed(room.filled());
                    (self.start, self.end) = (0, room.filled().len());
                }
                Poll::Ready(_) => return Poll::Ready(Over::Reading),
                Poll::Pending => {
                    if !self.is_flushed {
                        self.is_flushed = ready!(Pin::new(&mut *to).poll_flush(context)).is_ok();
                    }
                    return Poll::Pending;
                }
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}
