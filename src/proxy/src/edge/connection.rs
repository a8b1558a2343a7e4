//! One client connection with its limits, until it ends or the edge drains: HTTP/1.1, or HTTP/2 when it begins as that.

use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::Edge;
use super::thread::{Stop, stopped};
use crate::client::{Client, Drain, Read};
use crate::h1::Refusal;
use crate::h2;
use crate::handler;
use crate::headers::Origin;

/// A client that vanished without a word during a long response is noticed after a few of these.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Serves the connections of one thread.
pub(super) struct Connections {
    edge: Arc<Edge>,
    stop: watch::Receiver<Stop>,
}

impl Connections {
    pub(super) fn new(edge: Arc<Edge>, stop: watch::Receiver<Stop>) -> Connections {
        Connections { edge, stop }
    }

    pub(super) fn serve(&self, socket: TcpStream) -> impl Future<Output = ()> + Send + 'static {
        let edge = Arc::clone(&self.edge);
        let (drain, mut stop) = (Drain::by(self.stop.clone()), self.stop.clone());
        async move {
            let Ok(peer) = socket.peer_addr() else {
                // Gone already.
                return;
            };
            prepare(&socket);
            let _open = edge.shared.metrics.connection();
            let origin = Origin::new(peer.ip());
            let mut client = Client::new(socket, drain);
            let stopping = async {
                stopped(&mut stop).await;
            };
            tokio::pin!(stopping);
            let limits = &edge.shared.limits;
            let mut fresh = true;
            loop {
                match client.read(limits, &mut stopping).await {
                    Read::Http2 if fresh => {
                        let (socket, ahead) = client.wire.into_parts();
                        // On the heap, so that other connections take no room for it.
                        let served = h2::serve(&edge, origin, socket, ahead, &mut stopping);
                        return Box::pin(served).await;
                    }
                    Read::Http2 => {
                        let late = Refusal::Malformed("HTTP/2 begins with its connection");
                        handler::refuse(&edge, &mut client, late).await;
                        break;
                    }
                    Read::Head => {
                        fresh = false;
                        if !handler::answer(&edge, &origin, &mut client).await {
                            break;
                        }
                    }
                    Read::Refused(refusal) => {
                        handler::refuse(&edge, &mut client, refusal).await;
                        break;
                    }
                    Read::End => return,
                }
            }
            client.close(limits).await;
        }
    }
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
