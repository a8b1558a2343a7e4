//! One client connection with its limits, from the kernel's hands until it ends or the edge drains: HTTP/1.1, or HTTP/2 when it
//! begins as that.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::thread::{Stop, stopped};
use super::{Edge, Shared};
use crate::client::{Client, Drain, Read, Socket};
use crate::h1::Refusal;
use crate::h2;
use crate::handler;
use crate::origin::{Origin, Scheme};
use crate::proxy_protocol;
use crate::seats::Seats;

/// A client that vanished without a word during a long response is noticed after a few of these.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Serves the connections of one thread.
pub(super) struct Connections {
    edge: Arc<Edge>,
    stop: watch::Receiver<Stop>,
    /// Turns to do a TLS handshake.
    handshakes: Arc<Semaphore>,
}

impl Connections {
    pub(super) fn new(edge: Arc<Edge>, stop: watch::Receiver<Stop>) -> Connections {
        let turns = edge.shared.limits.tls_handshakes_per_thread;
        Connections {
            edge,
            stop,
            handshakes: Arc::new(Semaphore::new(turns)),
        }
    }

    pub(super) fn serve(
        &self,
        mut socket: TcpStream,
        scheme: Scheme,
    ) -> impl Future<Output = ()> + Send + 'static {
        let edge = Arc::clone(&self.edge);
        let handshakes = Arc::clone(&self.handshakes);
        let (drain, stop) = (Drain::by(self.stop.clone()), self.stop.clone());
        async move {
            let shared = &edge.shared;
            let Ok(peer) = socket.peer_addr() else {
                // Gone already.
                return;
            };
            prepare(&socket);
            let _open = shared.metrics.connection();
            let Some(peer) = speaks_for(shared, &mut socket, peer.ip()).await else {
                return;
            };
            let origin = Origin::new(peer, scheme, &shared.trusted_proxies);
            // A proxy in front brings many clients from one address.
            let seat = match shared.trusts(peer) {
                true => None,
                false => Some(Seats::take(&shared.seats, peer)),
            };
            if let Some(Err(_)) = seat {
                shared.metrics.connections_refused.inc();
                return;
            }
            match (scheme, &shared.tls) {
                (Scheme::Http, _) => carry(&edge, origin, Client::new(socket, drain), stop).await,
                // On the heap, so that a connection without TLS takes no room for it.
                (Scheme::Https, Some(tls)) => {
                    let shaken = Box::pin(tls.accept(socket, &handshakes, &shared.limits)).await;
                    if let Some(stream) = shaken {
                        let client = Client::new(stream, drain);
                        Box::pin(carry(&edge, origin, client, stop)).await;
                    }
                }
                (Scheme::Https, None) => {}
            }
        }
    }
}

/// The address at the other end, where a load balancer stands between. Nothing if the connection is to end: it does not begin
/// as one of its sender has to.
async fn speaks_for(shared: &Shared, socket: &mut TcpStream, peer: IpAddr) -> Option<IpAddr> {
    if !shared.speaks_for_others(peer) {
        return Some(peer);
    }
    let limits = &shared.limits;
    let header = proxy_protocol::read(socket, limits.proxy_header_bytes);
    let refused = match timeout(limits.proxy_header_wait, header).await {
        Ok(Ok(client)) => return Some(client.unwrap_or(peer)),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "it did not come in time".to_owned(),
    };
    tracing::debug!(%peer, reason = refused, "a PROXY header is refused");
    shared.metrics.proxy_headers_refused.inc();
    None
}

/// Answers a connection's requests, one after another.
async fn carry<T: Socket>(
    edge: &Arc<Edge>,
    origin: Origin,
    mut client: Client<T>,
    mut stop: watch::Receiver<Stop>,
) {
    let limits = &edge.shared.limits;
    let stopping = async {
        stopped(&mut stop).await;
    };
    tokio::pin!(stopping);
    let agreed = client.wire.io.is_http2();
    let mut fresh = true;
    loop {
        match client.read(limits, &mut stopping).await {
            Read::Http2 if fresh && agreed != Some(false) => {
                let (io, ahead) = client.wire.into_parts();
                // On the heap, so that other connections take no room for it.
                return Box::pin(h2::serve(edge, origin, io, ahead, &mut stopping)).await;
            }
            Read::Http2 => {
                let late =
                    Refusal::Malformed("HTTP/2 begins with its connection, if it was agreed on");
                handler::refuse(edge, &mut client, late).await;
                break;
            }
            // RFC 9113 section 3.4. A client that has agreed to HTTP/2 would understand no answer of HTTP/1.1.
            Read::Head | Read::Refused(_) if agreed == Some(true) => break,
            Read::Head => {
                fresh = false;
                // On the heap for as long as it lasts: it takes several times as much as a connection that waits.
                // Made where it stays: it is some kilobytes, which would be copied for each request.
                let place = Box::new_uninit();
                let answered = Box::write(place, handler::answer(edge, &origin, &mut client));
                if !Box::into_pin(answered).await {
                    break;
                }
            }
            Read::Refused(refusal) => {
                handler::refuse(edge, &mut client, refusal).await;
                break;
            }
            Read::End => return client.end(),
        }
    }
    client.close(limits).await;
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
