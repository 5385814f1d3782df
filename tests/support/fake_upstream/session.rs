//! Session: a WebSocket that says hello and echoes, until the script says otherwise.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::{SinkExt as _, StreamExt as _};
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderMap, HeaderValue, StatusCode};
use hyper::rt::Executor;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::answer::Answer;
use super::log::FateGuard;
use super::script::Script;

/// Whether a WebSocket is asked for.
pub(crate) fn is_asked(headers: &HeaderMap) -> bool {
    headers.get(UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// The head that opens it. Of the subprotocols offered the last is taken.
pub(crate) fn answer(asked: &HeaderMap) -> Answer {
    let mut headers = HeaderMap::new();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert("x-fake-session", HeaderValue::from_static("1"));
    let key = asked.get(SEC_WEBSOCKET_KEY).map_or(&[][..], HeaderValue::as_bytes);
    headers.extend(HeaderValue::from_str(&derive_accept_key(key)).ok().map(|accept| (SEC_WEBSOCKET_ACCEPT, accept)));
    let offered = asked.get(SEC_WEBSOCKET_PROTOCOL).and_then(|value| value.to_str().ok());
    let taken = offered.and_then(|offered| offered.rsplit(',').next()?.trim().parse().ok());
    headers.extend(taken.map(|taken: HeaderValue| (SEC_WEBSOCKET_PROTOCOL, taken)));
    Answer { status: StatusCode::SWITCHING_PROTOCOLS, headers, pieces: Box::new(std::iter::empty()), length: Some(0) }
}

/// Talks once the connection has switched.
pub(crate) fn begin(session: OnUpgrade, script: Script, guard: FateGuard, reset: Arc<AtomicBool>) {
    TokioExecutor::new().execute(async move {
        if let Ok(socket) = session.await {
            let socket = WebSocketStream::from_raw_socket(TokioIo::new(socket), Role::Server, None).await;
            talk(socket, &script, guard, &reset).await;
        }
    });
}

async fn talk<S>(mut socket: WebSocketStream<S>, script: &Script, mut guard: FateGuard, reset: &AtomicBool)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let (stall, mut echoes) = (guard.stall(), 0_u64);
    if socket.send(Message::text("hello")).await.is_err() {
        return;
    }
    loop {
        if script.stall_after == Some(echoes) {
            stall.until_released(script.hold_in_body()).await;
        }
        if script.cut_after == Some(echoes) {
            reset.store(script.reset, Ordering::Release);
            return guard.cut();
        }
        let Some(Ok(message)) = socket.next().await else { return };
        let length = message.len();
        if message.is_close() {
            // The library answers it while the end is waited for.
            while let Some(Ok(_)) = socket.next().await {}
            return guard.answered();
        }
        if !(message.is_text() || message.is_binary()) {
            continue;
        }
        guard.body_so_far(&message.clone().into_data());
        let is_bye = message.to_text().is_ok_and(|text| text == "bye");
        let sent = if is_bye { socket.close(None).await } else { socket.send(message).await };
        if sent.is_err() {
            return;
        }
        guard.sent(length);
        echoes = echoes.saturating_add(1);
        if is_bye {
            while let Some(Ok(_)) = socket.next().await {}
            return guard.answered();
        }
    }
}
