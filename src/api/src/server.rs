//! Listeners: TLS on the network, a Unix socket that only its owner may open.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use crate::access::Channel;
use crate::app::App;
use crate::router::router;

/// A client that sends its request's head more slowly than this is closed.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(10);
/// From the TCP connection to the end of the TLS handshake.
const TLS_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections at once of each listener, so that a crowd on the network does not shut out the
/// machine's owner; more wait in the listener's backlog.
const MAX_CONNECTIONS: usize = 1024;

/// A connection this quiet is probed: one that follows logs may have nothing to say for hours, and its
/// client may be gone without a word. It holds one of [`MAX_CONNECTIONS`] until that is noticed.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_RETRIES: u32 = 3;
/// What was sent and not acknowledged for so long will not be. Linux alone would try for a quarter of an hour.
const UNACKNOWLEDGED: Duration = Duration::from_secs(60);

pub struct Config {
    pub listen: SocketAddr,
    pub unix_socket: PathBuf,
    /// Follows certificate renewals.
    pub tls: Arc<rustls::ServerConfig>,
}

/// Why the API could not be served.
#[derive(Debug, thiserror::Error)]
pub enum ApiStartError {
    #[error("the API cannot listen on {address}")]
    Bind {
        address: SocketAddr,
        source: std::io::Error,
    },
    #[error("the API cannot listen on the socket {}", path.display())]
    BindUnix {
        path: PathBuf,
        source: std::io::Error,
    },
}

/// Bound and not yet serving.
pub struct Api {
    tcp: TcpListener,
    unix: UnixListener,
    tls: Arc<rustls::ServerConfig>,
    unix_path: PathBuf,
}

/// Serving. [`ApiHandle::stop`] ends it in order; dropped, it ends as well and leaves the socket's file behind.
pub struct ApiHandle {
    stop: watch::Sender<bool>,
    unix_path: PathBuf,
}

impl Api {
    pub async fn bind(config: Config) -> Result<Api, ApiStartError> {
        let address = config.listen;
        let tcp = TcpListener::bind(address)
            .await
            .map_err(|source| ApiStartError::Bind { address, source })?;
        let path = config.unix_socket;
        let unix = bind_unix(&path).map_err(|source| ApiStartError::BindUnix {
            path: path.clone(),
            source,
        })?;
        Ok(Api {
            tcp,
            unix,
            tls: config.tls,
            unix_path: path,
        })
    }

    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    pub fn spawn(self, app: App) -> ApiHandle {
        let (stop, stopped) = watch::channel(false);
        let router = router(app);
        let slots = || Arc::new(Semaphore::new(MAX_CONNECTIONS));
        tokio::spawn(serve_tls(
            self.tcp,
            self.tls,
            router.clone(),
            slots(),
            stopped.clone(),
        ));
        tokio::spawn(serve_unix(self.unix, router, slots(), stopped));
        ApiHandle {
            stop,
            unix_path: self.unix_path,
        }
    }
}

impl ApiHandle {
    /// Accepts no more, and ends connections after their present request.
    pub fn stop(&self) {
        let _ = self.stop.send(true);
        let _ = std::fs::remove_file(&self.unix_path);
    }
}

/// The data folder is held by a lock, so a socket file found here is a leftover.
fn bind_unix(path: &std::path::Path) -> std::io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn serve_tls(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    router: Router,
    slots: Arc<Semaphore>,
    mut stopped: watch::Receiver<bool>,
) {
    let acceptor = TlsAcceptor::from(tls);
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop_asked(&mut stopped) => return,
        };
        let Some((stream, _)) = accepted_or_pause(accepted).await else {
            continue;
        };
        if let Err(error) = tune(&stream) {
            tracing::debug!(%error, "an API connection was not tuned");
        }
        let (acceptor, router, stopped) = (acceptor.clone(), router.clone(), stopped.clone());
        tokio::spawn(async move {
            let _slot = slot;
            if let Ok(Ok(stream)) =
                tokio::time::timeout(TLS_HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await
            {
                serve_connection(stream, router, Channel::Network, stopped).await;
            }
        });
    }
}

async fn serve_unix(
    listener: UnixListener,
    router: Router,
    slots: Arc<Semaphore>,
    mut stopped: watch::Receiver<bool>,
) {
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop_asked(&mut stopped) => return,
        };
        let Some((stream, _)) = accepted_or_pause(accepted).await else {
            continue;
        };
        let (router, stopped) = (router.clone(), stopped.clone());
        tokio::spawn(async move {
            let _slot = slot;
            serve_connection(stream, router, Channel::Local, stopped).await;
        });
    }
}

/// Answers leave at once, and a client that vanished is noticed whether there is something to send it
/// (the time-out) or not (the probes).
fn tune(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let probes = TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_RETRIES);
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&probes)?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))
}

/// Returns when the API is to stop, or its handle is gone.
async fn stop_asked(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stop| *stop).await;
}

/// Out of descriptors or the like: a pause keeps the loop from spinning until some are closed.
async fn accepted_or_pause<T>(accepted: std::io::Result<T>) -> Option<T> {
    match accepted {
        Ok(accepted) => Some(accepted),
        Err(error) => {
            tracing::warn!(%error, "the API could not accept a connection");
            tokio::time::sleep(Duration::from_millis(50)).await;
            None
        }
    }
}

async fn serve_connection<S>(
    stream: S,
    router: Router,
    channel: Channel,
    mut stopped: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service =
        hyper::service::service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(channel);
            let mut router = router.clone();
            async move { tower_service::Service::call(&mut router, request).await }
        });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ_TIMEOUT);
    let connection = http.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop_asked(&mut stopped) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an API connection ended early");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_client_that_vanished_is_noticed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (_client, (server, _)) = (client.unwrap(), accepted.unwrap());
        tune(&server).unwrap();
        let socket = SockRef::from(&server);
        assert!(socket.keepalive().unwrap() && server.nodelay().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE_AFTER);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(UNACKNOWLEDGED));
    }
}
