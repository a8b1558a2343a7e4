//! The accepting end: handshakes, admission, and handing streams to their services.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nebula_domain::NodeId;
use nebula_wire::peer::Protocol;
use quinn::{Connection, Endpoint, RecvStream, SendStream, VarInt};
use tokio::time::{sleep, timeout};

use crate::budget::Budget;
use crate::error::{Context, code};
use crate::incoming::refuse_removed;
use crate::mesh::Inner;
use crate::slot::peer_of;
use crate::{Admission, Peer, Stream};

/// How long a connection with a certificate that has ended may last: enough to get a new one.
const RENEWAL_TIME: Duration = Duration::from_secs(10);

/// One handshake under way.
struct Handshake(Arc<AtomicUsize>);

impl Handshake {
    fn begin(count: &Arc<AtomicUsize>) -> Handshake {
        count.fetch_add(1, Ordering::AcqRel);
        Handshake(count.clone())
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

pub(crate) async fn run(inner: Arc<Inner>, endpoint: Endpoint) {
    let handshakes = Arc::new(AtomicUsize::new(0));
    while let Some(incoming) = endpoint.accept().await {
        let under_way = handshakes.load(Ordering::Acquire);
        if under_way >= inner.limits.max_handshakes {
            inner.counters.refused("handshakes");
            incoming.refuse();
        } else if under_way >= inner.limits.retry_above_handshakes
            && !incoming.remote_address_validated()
        {
            inner.counters.address_checks.inc();
            // An address that was not validated may always be asked to retry.
            let _ = incoming.retry();
        } else {
            let handshake = Handshake::begin(&handshakes);
            let task = inner.clone();
            inner.spawn(async move {
                let from = incoming.remote_address();
                let connected = async { incoming.accept()?.await };
                let result = timeout(task.limits.handshake_deadline, connected).await;
                drop(handshake);
                match result {
                    Ok(Ok(connection)) => task.admit(connection).await,
                    Ok(Err(error)) => {
                        task.counters.refused("handshake");
                        tracing::debug!(%from, %error, "handshake failed");
                    }
                    Err(_) => task.counters.refused("handshake_deadline"),
                }
            });
        }
    }
}

impl Inner {
    async fn admit(self: &Arc<Self>, connection: Connection) {
        let (node, lifetime) = match peer_of(&connection) {
            Ok(peer) => peer,
            Err(error) => {
                // The verifier has read the same certificate; kept as the second lock on the door.
                self.counters.refused("certificate");
                return connection.close(code::REFUSED, error.to_string().as_bytes());
            }
        };
        let Some(number) = self.incoming.add(node, &connection, &self.limits) else {
            self.counters.refused("connections");
            return connection.close(code::DONE, b"too many connections (max_connections)");
        };
        // Asked after the connection is in the table, so that a removal at this moment is seen here or there.
        if self.directory.borrow().admission(node) == Admission::Removed {
            self.counters.refused("removed");
            refuse_removed(node, &connection);
        } else {
            self.serve_connection(node, &connection, lifetime).await;
        }
        self.incoming.remove(number);
    }

    async fn serve_connection(
        self: &Arc<Self>,
        node: NodeId,
        connection: &Connection,
        lifetime: Duration,
    ) {
        // The verifier lets such a node in to get a new certificate.
        let expired = lifetime.is_zero();
        let end = sleep(if expired { RENEWAL_TIME } else { lifetime });
        tokio::pin!(end);
        let budget = Budget::new(
            self.limits.frame_bytes_under_way,
            self.counters.refusals("frame_bytes_under_way"),
        );
        loop {
            tokio::select! {
                stream = connection.accept_bi() => {
                    let Ok((send, recv)) = stream else { return };
                    let (inner, budget) = (self.clone(), budget.clone());
                    self.spawn(async move { inner.stream(node, expired, budget, send, recv).await });
                }
                stream = connection.accept_uni(), if !expired => {
                    let Ok(recv) = stream else { return };
                    let inner = self.clone();
                    self.spawn(async move { inner.message_stream(node, recv).await });
                }
                datagram = connection.read_datagram(), if !expired => {
                    let Ok(datagram) = datagram else { return };
                    self.datagram(node, datagram);
                }
                () = &mut end => {
                    self.counters.refused("expired");
                    connection.close(code::REFUSED, b"the certificate of this connection has expired");
                    return;
                }
            }
        }
    }

    async fn stream(
        self: &Arc<Self>,
        node: NodeId,
        expired: bool,
        budget: Budget,
        send: SendStream,
        mut recv: RecvStream,
    ) {
        let mut first = [0];
        let read = timeout(self.limits.handshake_deadline, recv.read_exact(&mut first)).await;
        let protocol = match read {
            Ok(Ok(())) => Protocol::try_from(first[0]).ok(),
            _ => None,
        };
        let Some(protocol) = protocol else {
            return self.turn_away(send, recv, code::MALFORMED, "malformed");
        };
        let admission = match self.directory.borrow().admission(node) {
            Admission::Member(_) | Admission::Newer if expired => Admission::Expired,
            admission => admission,
        };
        if !admission.permits(protocol) {
            return self.turn_away(send, recv, code::REFUSED, "not_a_member");
        }
        let Some(service) = self.services.stream(protocol) else {
            return self.turn_away(send, recv, code::NOT_SERVED, "not_served");
        };
        self.counters.streams_served.inc();
        let peer = Peer {
            node,
            role: admission.role(),
            expired,
        };
        let stream = Stream::new(send, recv, Context { node, protocol }, None, Some(budget));
        service.serve(peer, stream).await;
    }

    fn turn_away(
        &self,
        mut send: SendStream,
        mut recv: RecvStream,
        code: VarInt,
        reason: &'static str,
    ) {
        self.counters.refused(reason);
        // Either half may be gone already.
        let _ = send.reset(code);
        let _ = recv.stop(code);
    }
}
