//! Listen: accepts connections, speaks HTTP/1.1 or HTTP/2 on them, and drains them at the end.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::opening::Opened;
use super::turn::Turn;
use super::{Proxy, forward};

/// HTTP/2 streams a connection.
const HTTP2_STREAMS_MAX: u32 = 250;
/// HTTP/2 window of one stream: what one stalled client can hold of an answer.
const HTTP2_STREAM_WINDOW_BYTES: u32 = 64 << 10;
/// HTTP/2 window of one connection.
const HTTP2_CONNECTION_WINDOW_BYTES: u32 = 1 << 20;
/// Answer bytes buffered an HTTP/2 stream; hyper's default of 400 KiB is 4 GB at ten thousand streams.
const HTTP2_SEND_BUFFER_BYTES: usize = 64 << 10;
/// Streams that we reset ourselves before a peer is taken for hostile.
const HTTP2_LOCAL_RESETS_MAX: usize = 128;
/// How long bytes sent to a client may stay unacknowledged, or it may take none: who stops reading for longer is cut, so
/// that it does not hold an upstream for ever.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_mins(2);
/// Pause after an accept that failed for want of file descriptors, so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A place among the connections that may be open; a tunnel keeps that of the connection that it came from.
pub(crate) type Seat = Arc<OwnedSemaphorePermit>;

/// A bound proxy that takes no connections yet.
#[derive(Debug)]
pub struct Listening {
    proxy: Arc<Proxy>,
    listener: TcpListener,
}

impl Proxy {
    /// Binds the proxy's address.
    pub async fn listen(self: Arc<Self>) -> io::Result<Listening> {
        let listener = TcpListener::bind(self.settings.listen).await?;
        Ok(Listening { proxy: self, listener })
    }
}

impl Listening {
    /// Where it listens: the port is known even if 0 was configured.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Takes connections until `stop` turns true, then lets calls in flight end, for as long as the settings say.
    pub async fn serve(self, mut stop: watch::Receiver<bool>) {
        let Self { proxy, listener } = self;
        let connections = Arc::new(Semaphore::new(proxy.settings.connections_max));
        let (drain, draining) = watch::channel(false);
        loop {
            let permit = tokio::select! {
                permit = Arc::clone(&connections).acquire_owned() => permit,
                _ = stop.wait_for(|stopped| *stopped) => break,
            };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = stop.wait_for(|stopped| *stopped) => break,
            };
            match (accepted, permit) {
                (Ok((stream, _)), Ok(permit)) => {
                    proxy.tasks.spawn(connection(Arc::clone(&proxy), stream, draining.clone(), Arc::new(permit)));
                }
                (Err(error), _) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                (Ok(_), Err(_)) => break,
            }
        }
        drop(listener);
        drain.send_replace(true);
        proxy.tasks.close();
        if tokio::time::timeout(proxy.settings.drain_timeout, proxy.tasks.wait()).await.is_err() {
            tracing::warn!(calls = proxy.tasks.len(), "drain timeout passed; cutting what is left");
        }
    }
}

/// Serves one connection until it ends, or until it is told to drain and has.
async fn connection(proxy: Arc<Proxy>, stream: TcpStream, mut draining: watch::Receiver<bool>, seat: Seat) {
    let is_tuned = stream.set_nodelay(true).and_then(|()| {
        // A client that is gone without a word is noticed while we send, not after the kernel's quarter of an hour.
        socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))
    });
    if let Err(error) = is_tuned {
        tracing::debug!(error = &error as &dyn std::error::Error, "cannot tune a connection");
    }
    let has_begun = Arc::new(AtomicBool::new(false));
    let service = {
        let (proxy, has_begun, seat) = (Arc::clone(&proxy), Arc::clone(&has_begun), Arc::clone(&seat));
        service_fn(move |request| {
            has_begun.store(true, Ordering::Relaxed);
            let (proxy, seat) = (Arc::clone(&proxy), Arc::clone(&seat));
            // On the heap, and only until the answer's head is known: a stream needs none of it, and hyper would keep the
            // room for it as long as the connection lasts.
            let call = Box::pin(forward::call(proxy, seat, request));
            async move { Ok::<_, Infallible>(call.await) }
        })
    };
    let settings = &proxy.settings;
    // hyper waits for ever for HTTP/2's first request, and for the first of HTTP/1.1 only from here on.
    let first_request_by = tokio::time::Instant::now() + settings.header_read_timeout;
    // A first request that is there is answered, also while draining.
    let opened = tokio::select! {
        biased;
        opened = Opened::new(stream) => opened,
        () = tokio::time::sleep_until(first_request_by) => return,
        _ = draining.wait_for(|draining| *draining) => return,
    };
    let no_request = async {
        tokio::time::sleep_until(first_request_by).await;
        if has_begun.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    let broke_off = |error: &(dyn std::error::Error + 'static)| tracing::debug!(error, "a connection broke off");
    match opened {
        Ok(opened) if opened.is_http2() => {
            let serving = http2(settings).serve_connection(opened, service);
            // Seldom, and large.
            let served = Box::pin(serve(serving, http2::Connection::graceful_shutdown, draining, no_request)).await;
            served.unwrap_or_else(|error| broke_off(&error));
        }
        Ok(opened) => {
            let serving = http1(settings).serve_connection(opened, service).with_upgrades();
            let served = serve(serving, http1::UpgradeableConnection::graceful_shutdown, draining, no_request).await;
            served.unwrap_or_else(|error| broke_off(&error));
        }
        Err(error) => broke_off(&error),
    }
    drop(seat);
}

/// Serves a connection, which is closed where `no_request` has come in time, until it ends or is drained.
async fn serve<C: Future<Output = hyper::Result<()>>>(
    serving: C,
    drain: impl FnOnce(Pin<&mut C>),
    mut draining: watch::Receiver<bool>,
    no_request: impl Future<Output = ()>,
) -> hyper::Result<()> {
    let (mut serving, mut turn) = (pin!(serving), Turn::new());
    tokio::select! {
        // What has come is looked at before idle connections are closed.
        biased;
        served = poll_fn(|context| turn.poll(context, |context| serving.as_mut().poll(context))) => return served,
        () = no_request => return Ok(()),
        _ = draining.wait_for(|draining| *draining) => {}
    }
    drain(serving.as_mut());
    poll_fn(|context| turn.poll(context, |context| serving.as_mut().poll(context))).await
}

/// `max_headers` stays hyper's 100: set, be it to 100, it has the room for them cleared at every call.
fn http1(settings: &super::Settings) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(settings.header_read_timeout)
        .max_buf_size(settings.header_bytes_max)
        .auto_date_header(false);
    builder
}

fn http2(settings: &super::Settings) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .initial_stream_window_size(HTTP2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(HTTP2_CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(HTTP2_SEND_BUFFER_BYTES)
        .max_local_error_reset_streams(HTTP2_LOCAL_RESETS_MAX)
        .max_header_list_size(u32::try_from(settings.header_bytes_max).unwrap_or(u32::MAX))
        .keep_alive_interval(Duration::from_secs(20))
        .auto_date_header(false);
    builder
}
