//! Connections: TCP with TLS, or a Unix socket. The only file that knows either.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use http::Uri;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tower_service::Service;

use crate::body::Body;
use crate::error::ClientError;
use crate::limits;

/// Where to connect to and the pool of open connections.
pub(crate) struct Transport {
    pub(crate) http: HttpClient<Connector, Body>,
    targets: Vec<Target>,
    /// The target that answered last; tried first next time.
    preferred: AtomicUsize,
}

/// One address: as people write it, and as the HTTP client wants it.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) name: String,
    /// Scheme and authority.
    pub(crate) base: String,
}

impl Transport {
    pub(crate) fn tls(
        addresses: Vec<String>,
        tls: Arc<rustls::ClientConfig>,
    ) -> Result<Transport, ClientError> {
        if addresses.is_empty() || addresses.len() > limits::ADDRESSES {
            return Err(ClientError::Setup(format!(
                "a cluster needs 1 to {} API addresses, not {}",
                limits::ADDRESSES,
                addresses.len()
            )));
        }
        let targets = addresses
            .iter()
            .map(|a| Target::tls(a))
            .collect::<Result<_, _>>()?;
        Ok(Transport::new(
            Connector::Tls(tokio_rustls::TlsConnector::from(tls)),
            targets,
        ))
    }

    pub(crate) fn unix(socket: PathBuf) -> Transport {
        let target = Target {
            name: socket.display().to_string(),
            base: "http://local".to_owned(),
        };
        Transport::new(Connector::Unix(socket), vec![target])
    }

    fn new(connector: Connector, targets: Vec<Target>) -> Transport {
        let http = HttpClient::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(limits::IDLE_CONNECTION)
            .build(connector);
        Transport {
            http,
            targets,
            preferred: AtomicUsize::new(0),
        }
    }

    /// All targets with their index, the one that answered last first.
    pub(crate) fn in_turn(&self) -> impl Iterator<Item = (usize, &Target)> {
        let first = self.preferred.load(Ordering::Relaxed);
        let n = self.targets.len();
        (0..n)
            .map(move |i| (first + i) % n)
            .map(|i| (i, &self.targets[i]))
    }

    pub(crate) fn prefer(&self, index: usize) {
        self.preferred.store(index, Ordering::Relaxed);
    }

    pub(crate) fn addresses(&self) -> Vec<String> {
        self.targets.iter().map(|t| t.name.clone()).collect()
    }
}

impl Target {
    fn tls(address: &str) -> Result<Target, ClientError> {
        let base = format!("https://{address}");
        let whole = base
            .parse::<Uri>()
            .ok()
            .filter(|uri| uri.path() == "/" && uri.port_u16().is_some_and(|p| p > 0))
            .and_then(|uri| uri.host().map(str::len))
            .is_some_and(|host| host > 0);
        if !whole || address.contains('@') || address.contains('/') {
            return Err(ClientError::Setup(format!(
                "'{address}' is not an API address: write HOST:PORT, such as 192.0.2.1:7601"
            )));
        }
        Ok(Target {
            name: address.to_owned(),
            base,
        })
    }
}

#[derive(Clone)]
pub(crate) enum Connector {
    Tls(tokio_rustls::TlsConnector),
    Unix(PathBuf),
}

impl Service<Uri> for Connector {
    type Response = Io;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = std::io::Result<Io>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            tokio::time::timeout(limits::CONNECT_DEADLINE, connector.open(uri))
                .await
                .unwrap_or_else(|_| {
                    Err(std::io::Error::new(
                        std::io::ErrorKind::TimedOut,
                        format!(
                            "no connection within {} s",
                            limits::CONNECT_DEADLINE.as_secs()
                        ),
                    ))
                })
        })
    }
}

impl Connector {
    async fn open(self, uri: Uri) -> std::io::Result<Io> {
        let io: Box<dyn Duplex> = match self {
            Connector::Unix(path) => Box::new(UnixStream::connect(path).await?),
            Connector::Tls(tls) => {
                let no_host = || std::io::Error::other("the address has no host and port");
                let host = uri.host().ok_or_else(no_host)?;
                let port = uri.port_u16().ok_or_else(no_host)?;
                let bare = host.trim_start_matches('[').trim_end_matches(']');
                let name = ServerName::try_from(bare.to_owned()).map_err(std::io::Error::other)?;
                let tcp = TcpStream::connect((bare, port)).await?;
                tcp.set_nodelay(true)?;
                Box::new(tls.connect(name, tcp).await?)
            }
        };
        Ok(Io(TokioIo::new(io)))
    }
}

pub(crate) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

/// One open connection in the form hyper wants.
pub(crate) struct Io(TokioIo<Box<dyn Duplex>>);

impl Connection for Io {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl hyper::rt::Read for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl hyper::rt::Write for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
