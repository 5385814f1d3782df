//! How upstreams are reached: over TLS, through a company's egress proxy, over HTTP/2.

#![expect(
    clippy::disallowed_methods,
    reason = "what stands between tokenmeter and its upstream here ends with the test"
)]

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use crate::asks::{chat, chat_stream};
use crate::stand::{PAYERS, Stand};
use crate::websockets;

/// A name of an upstream that only an egress proxy can find.
pub(crate) const ELSEWHERE: &str = "provider.invalid";

/// TLS in front of `behind`; returns where, and the authority's certificate as PEM.
pub(crate) async fn tls_in_front_of(behind: SocketAddr) -> (SocketAddr, String) {
    let made = rcgen::generate_simple_self_signed(["localhost", ELSEWHERE].map(str::to_owned)).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::task::spawn(async move {
                // A client that does not trust us hangs up here; that is its story.
                let Ok(mut plain) = acceptor.accept(stream).await else { return };
                let mut upstream = TcpStream::connect(behind).await.unwrap();
                drop(copy_bidirectional(&mut plain, &mut upstream).await);
            });
        }
    });
    (address, made.cert.pem())
}

/// An egress proxy that takes `CONNECT` only, and finds [`ELSEWHERE`] at `elsewhere`; returns where it is, and the heads
/// that it was sent.
pub(crate) async fn egress_proxy(elsewhere: Option<SocketAddr>) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let heads: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = Arc::clone(&heads);
    tokio::task::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let seen = Arc::clone(&seen);
            tokio::task::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                let head = String::from_utf8(head).unwrap();
                let target = head.strip_prefix("CONNECT ").unwrap().split(' ').next().unwrap().to_owned();
                seen.lock().unwrap().push(head);
                let found = elsewhere.filter(|_| target.starts_with(ELSEWHERE));
                let connecting = found.map_or(target, |address| address.to_string());
                let mut upstream = TcpStream::connect(connecting).await.unwrap();
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                drop(copy_bidirectional(&mut stream, &mut upstream).await);
            });
        }
    });
    (address, heads)
}

/// A stand whose upstream `openai` is at `base` and has `keys` more.
pub(crate) fn stand_with(make: impl FnOnce(SocketAddr) -> (String, String)) -> Stand {
    Stand::with(|fake| {
        let fake = fake.strip_prefix("http://").unwrap().parse().unwrap();
        let (base, keys) = make(fake);
        format!("[[upstream]]\nname = \"openai\"\nwire = \"openai\"\nbase_url = \"{base}\"\n{keys}\n{PAYERS}")
    })
}

pub(crate) fn blocking<T>(future: impl Future<Output = T>) -> T {
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(future))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_behind_a_private_authority_is_trusted_by_its_ca_file_alone() {
    let mut authority = tempfile::NamedTempFile::new().unwrap();
    let mut address = None;
    let trusting = stand_with(|fake| {
        let (at, pem) = blocking(tls_in_front_of(fake));
        authority.write_all(pem.as_bytes()).unwrap();
        address = Some(at);
        (format!("https://localhost:{}", at.port()), format!("ca_file = {:?}", authority.path().display().to_string()))
    });
    let reply = trusting.ask(&chat()).send().await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(trusting.only_record()["provenance"], "reported");

    let doubting = stand_with(|_| (format!("https://localhost:{}", address.unwrap().port()), String::new()));
    let reply = doubting.ask(&chat()).send().await;
    assert_eq!(reply.status, 502);
    assert_eq!(reply.json()["error"]["code"], "upstream_unreachable");
    let record = doubting.only_record();
    assert_eq!((&record["outcome"], &record["provenance"]), (&"upstream_error".into(), &"none".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_egress_proxy_is_asked_to_connect_and_told_its_password() {
    let (proxy, heads) = egress_proxy(None).await;
    let stand = stand_with(|fake| (format!("http://{fake}"), format!("proxy_url = \"http://{proxy}\"")));
    assert_eq!(stand.ask(&chat()).send().await.status, 200);
    assert!(heads.lock().unwrap()[0].starts_with(&format!("CONNECT {} ", stand.fake.address())));

    let mut secret = tempfile::NamedTempFile::new().unwrap();
    writeln!(secret, "http://user:p%40ss@{proxy}").unwrap();
    let path = secret.path().display().to_string();
    let stand = stand_with(|fake| (format!("http://{fake}"), format!("proxy_url_file = {path:?}")));
    assert_eq!(stand.ask(&chat()).send().await.status, 200);
    // `user:p@ss`
    assert!(heads.lock().unwrap()[1].contains("Basic dXNlcjpwQHNz"), "{heads:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_goes_the_same_way_as_everything_else_but_over_http1() {
    let mut authority = tempfile::NamedTempFile::new().unwrap();
    let (proxy, heads) = egress_proxy(None).await;
    let stand = stand_with(|fake| {
        let (at, pem) = blocking(tls_in_front_of(fake));
        authority.write_all(pem.as_bytes()).unwrap();
        let ca_file = authority.path().display().to_string();
        let keys = format!("ca_file = {ca_file:?}\nproxy_url = \"http://{proxy}\"\nhttp_version = \"2\"");
        (format!("https://localhost:{}", at.port()), keys)
    });
    let (mut socket, _) = websockets::open(&stand, "/openai/v1/realtime", &[]).await.unwrap();
    websockets::echo_after_hello(&mut socket).await;
    socket.close(None).await.unwrap();
    assert!(websockets::ends_in_order(&mut socket).await);
    assert_eq!(heads.lock().unwrap().len(), 1);
    assert_eq!(stand.fake.requests()[0].version, "HTTP/1.1");
    assert_eq!(stand.only_record()["outcome"], "completed");
}

#[tokio::test]
async fn an_upstream_is_spoken_to_over_http2_where_asked_for() {
    let stand = stand_with(|fake| (format!("http://{fake}"), "http_version = \"2\"".to_owned()));
    let whole = stand.ask(&chat()).send().await;
    let stream = stand.ask(&chat_stream()).send().await;
    assert_eq!((whole.status.as_u16(), stream.status.as_u16()), (200, 200));
    assert!(stand.fake.requests().iter().all(|request| request.version == "HTTP/2.0"));
    for record in stand.records_when(2) {
        assert_eq!(record["provenance"], "reported");
    }
}
