//! Connect: how an upstream is reached: directly, through an egress proxy, or inside this process.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::Uri;
use http::header::HeaderValue;
use http::uri::Scheme;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::io::DuplexStream;
use tokio::net::TcpStream;
use tower_service::Service;

use super::demo::Demo;

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Dialing = Pin<Box<dyn Future<Output = Result<Stream, BoxError>> + Send>>;

/// Why an upstream cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The file of certificate authorities is not what it should be.
    #[error("cannot read certificates from `{}`", path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// What the reader said.
        source: rustls::pki_types::pem::Error,
    },
    /// A certificate in it is not one.
    #[error("`{}` holds a certificate that cannot be used", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What rustls said.
        source: rustls::Error,
    },
    /// It holds none.
    #[error("`{}` holds no certificate", path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// TLS could not be set up at all.
    #[error("cannot set up TLS")]
    Tls(#[source] rustls::Error),
    /// The egress proxy's URL is no URL.
    #[error("the upstream's proxy_url is not a URL of an HTTP proxy")]
    ProxyUrl,
}

/// Makes connections to one upstream: TCP, TLS, both within a deadline.
#[derive(Clone)]
pub(crate) struct Connector {
    inner: HttpsConnector<Dialer>,
    timeout: Duration,
}

#[derive(Clone)]
pub(crate) enum Dialer {
    Direct(HttpConnector),
    Tunnel(Tunnel<HttpConnector>),
    Demo(Arc<Demo>),
}

impl Connector {
    pub(crate) fn new(dialer: Dialer, tls: Arc<ClientConfig>, timeout: Duration) -> Self {
        Self { inner: HttpsConnector::from((dialer, tls)), timeout }
    }
}

impl Dialer {
    /// Connects straight to the upstream. Environment proxies are never used: keys would go where nobody configured.
    pub(crate) fn direct(timeout: Duration) -> Self {
        Self::Direct(tcp(timeout))
    }

    /// Connects through the HTTP proxy at `url`, by `CONNECT` for `http` upstreams too.
    pub(crate) fn tunnel(url: &SecretString, timeout: Duration) -> Result<Self, ConnectError> {
        let url = url.expose_secret();
        let (scheme, rest) = url.split_once("://").ok_or(ConnectError::ProxyUrl)?;
        let (user, host) = rest.rsplit_once('@').map_or((None, rest), |(user, host)| (Some(user), host));
        let uri: Uri =
            format!("{scheme}://{}", host.trim_end_matches('/')).parse().map_err(|_| ConnectError::ProxyUrl)?;
        let mut tunnel = Tunnel::new(uri, tcp(timeout));
        if let Some(user) = user {
            let value = format!("Basic {}", BASE64_STANDARD.encode(percent_decode_str(user).collect::<Vec<u8>>()));
            tunnel = tunnel.with_auth(HeaderValue::from_str(&value).map_err(|_| ConnectError::ProxyUrl)?);
        }
        Ok(Self::Tunnel(tunnel))
    }
}

fn tcp(timeout: Duration) -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(timeout));
    connector.set_keepalive(Some(Duration::from_mins(1)));
    connector
}

/// TLS as upstreams share it: the system's certificate authorities are read once.
pub struct Tls {
    roots: RootCertStore,
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
}

impl Tls {
    /// Reads the system's authorities. A system without any is no error here: an upstream over plain HTTP works all the
    /// same, one over TLS fails with its own words. Takes tens of milliseconds.
    pub fn load() -> Result<Self, ConnectError> {
        let mut roots = RootCertStore::empty();
        let (known, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if known == 0 {
            tracing::warn!("no certificate authorities on this system: install ca-certificates, or set `ca_file`");
        }
        let (http1, http2) = (config(roots.clone(), false)?, config(roots.clone(), true)?);
        Ok(Self { roots, http1, http2 })
    }

    /// TLS that trusts the system's authorities and those in `ca_file`.
    pub(crate) fn config(&self, ca_file: Option<&Path>, is_http2: bool) -> Result<Arc<ClientConfig>, ConnectError> {
        let Some(path) = ca_file else {
            return Ok(Arc::clone(if is_http2 { &self.http2 } else { &self.http1 }));
        };
        let path = path.to_path_buf();
        let read = |source| ConnectError::CaFile { path: path.clone(), source };
        let mut roots = self.roots.clone();
        for certificate in CertificateDer::pem_file_iter(&path).map_err(read)? {
            let certificate = certificate.map_err(read)?;
            roots.add(certificate).map_err(|source| ConnectError::Certificate { path: path.clone(), source })?;
        }
        if roots.len() == self.roots.len() {
            return Err(ConnectError::NoCertificate { path });
        }
        config(roots, is_http2)
    }
}

fn config(roots: RootCertStore, is_http2: bool) -> Result<Arc<ClientConfig>, ConnectError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(ConnectError::Tls)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = if is_http2 { vec![b"h2".to_vec()] } else { vec![b"http/1.1".to_vec()] };
    Ok(Arc::new(config))
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.inner.call(uri);
        let timeout = self.timeout;
        Box::pin(async move {
            let connected = tokio::time::timeout(timeout, connecting)
                .await
                .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "connect timeout"))??;
            Ok(match connected {
                MaybeHttpsStream::Http(plain) => plain,
                tls @ MaybeHttpsStream::Https(_) => Stream::Tls(Box::new(tls)),
            })
        })
    }
}

impl Service<Uri> for Dialer {
    type Response = Stream;
    type Error = BoxError;
    type Future = Dialing;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match self {
            Self::Direct(tcp) => tcp.poll_ready(context).map_err(Into::into),
            Self::Tunnel(tunnel) => tunnel.poll_ready(context).map_err(Into::into),
            Self::Demo(_) => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, uri: Uri) -> Dialing {
        match self {
            Self::Direct(tcp) => {
                let connecting = tcp.call(uri);
                Box::pin(async move { Ok(Stream::Tcp(connecting.await?)) })
            }
            Self::Tunnel(tunnel) => {
                let connecting = tunnel.call(with_port(uri));
                Box::pin(async move { Ok(Stream::Tcp(connecting.await?)) })
            }
            Self::Demo(demo) => {
                let stream = demo.connect();
                Box::pin(async move { Ok(Stream::Memory(TokioIo::new(stream))) })
            }
        }
    }
}

/// The tunnel takes 443 where no port is given, also for `http`.
fn with_port(uri: Uri) -> Uri {
    match (uri.scheme() == Some(&Scheme::HTTP), uri.port(), uri.host()) {
        (true, None, Some(host)) => format!("http://{host}:80/").parse().unwrap_or(uri),
        _ => uri,
    }
}

/// A connection to an upstream.
pub(crate) enum Stream {
    Tcp(TokioIo<TcpStream>),
    Memory(TokioIo<DuplexStream>),
    /// On the heap: the room for it would be that of every connection, for as long as it lasts.
    Tls(Box<MaybeHttpsStream<Stream>>),
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        match self {
            Self::Tcp(tcp) => tcp.connected(),
            Self::Memory(_) => Connected::new(),
            Self::Tls(tls) => tls.connected(),
        }
    }
}

impl Read for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_read(context, buffer),
            Self::Memory(memory) => Pin::new(memory).poll_read(context, buffer),
            Self::Tls(tls) => Pin::new(tls).poll_read(context, buffer),
        }
    }
}

impl Write for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_write(context, bytes),
            Self::Memory(memory) => Pin::new(memory).poll_write(context, bytes),
            Self::Tls(tls) => Pin::new(tls).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_flush(context),
            Self::Memory(memory) => Pin::new(memory).poll_flush(context),
            Self::Tls(tls) => Pin::new(tls).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_shutdown(context),
            Self::Memory(memory) => Pin::new(memory).poll_shutdown(context),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(context),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(tcp) => tcp.is_write_vectored(),
            Self::Memory(memory) => memory.is_write_vectored(),
            Self::Tls(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_write_vectored(context, slices),
            Self::Memory(memory) => Pin::new(memory).poll_write_vectored(context, slices),
            Self::Tls(tls) => Pin::new(tls).poll_write_vectored(context, slices),
        }
    }
}
