//! One client connection: HTTP/1.1 with its limits, until it ends or the edge drains.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::Edge;
use super::thread::{Stop, stopped};
use crate::config::Limits;
use crate::handler;

/// A client that vanished without a word during a long response is noticed after a few of these.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// hyper's own number of header fields, up to which it parses without allocating.
const HYPER_MAX_HEADERS: usize = 100;

/// Serves the connections of one thread.
pub(super) struct Connections {
    edge: Arc<Edge>,
    builder: http1::Builder,
    stop: watch::Receiver<Stop>,
}

impl Connections {
    pub(super) fn new(edge: Arc<Edge>, stop: watch::Receiver<Stop>) -> Connections {
        Connections {
            builder: server(&edge.shared.limits),
            edge,
            stop,
        }
    }

    pub(super) fn serve(&self, socket: TcpStream) -> impl Future<Output = ()> + Send + 'static {
        let edge = Arc::clone(&self.edge);
        let builder = self.builder.clone();
        let mut stop = self.stop.clone();
        async move {
            let Ok(client) = socket.peer_addr() else {
                // Gone already.
                return;
            };
            prepare(&socket);
            let _open = edge.shared.metrics.connection();
            let service = service_fn(|request| {
                let edge = Arc::clone(&edge);
                async move { Ok::<_, Infallible>(handler::answer(edge, client.ip(), request).await) }
            });
            let connection = builder.serve_connection(TokioIo::new(socket), service);
            tokio::pin!(connection);
            let ended = tokio::select! {
                // First, so that an answer that comes after the stop says that the connection closes.
                biased;
                _ = stopped(&mut stop) => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
                ended = connection.as_mut() => ended,
            };
            if let Err(error) = ended {
                // Clients break connections all the time; it is their business.
                tracing::trace!(%error, "a client connection broke");
            }
        }
    }
}

/// hyper's server with the limits set; also for static sites behind a tunnel.
pub(crate) fn server(limits: &Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_read_timeout)
        .max_buf_size(limits.connection_buffer_bytes)
        .max_header_size(limits.max_header_bytes);
    if limits.max_headers != HYPER_MAX_HEADERS {
        builder.max_headers(limits.max_headers);
    }
    builder
}

/// Without these a connection still works, only less well.
fn prepare(socket: &TcpStream) {
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE);
    let prepared = socket
        .set_nodelay(true)
        .and_then(|()| SockRef::from(socket).set_tcp_keepalive(&keepalive));
    if let Err(error) = prepared {
        tracing::trace!(%error, "options of a client socket cannot be set");
    }
}
