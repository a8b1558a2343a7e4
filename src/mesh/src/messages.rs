//! Messages without an answer: a datagram where it fits, a one-way stream where it does not.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use nebula_domain::NodeId;
use nebula_domain::state::Role;
use nebula_wire::peer::Protocol;
use quinn::{Connection, RecvStream};
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::timeout;

use crate::lane::Lane;
use crate::link::Link;
use crate::mesh::Inner;
use crate::slot::Demand;

/// First byte of a datagram that only asks for an acknowledgement; no protocol has this number.
pub(crate) const PING: u8 = 0;

/// How long a message's stream may take; what is older is of no use.
const LARGE_MESSAGE_DEADLINE: Duration = Duration::from_secs(5);

impl Inner {
    pub(crate) fn send(self: &Arc<Self>, node: NodeId, protocol: Protocol, bytes: Bytes) {
        if bytes.len() > self.limits.message_bytes {
            tracing::warn!(
                node = node.0,
                ?protocol,
                bytes = bytes.len(),
                "a message over the limit (message_bytes) was dropped"
            );
            return self.counters.dropped("too_large");
        }
        let Ok(slot) = self.slot(node, Lane::of(protocol)) else {
            return self.counters.dropped("unknown_node");
        };
        match self.demand(&slot, Some((protocol, bytes.clone()))) {
            Demand::Ready(busy) => self.transmit(busy.link(), protocol, bytes),
            // It is in the queue.
            Demand::Wait(_) => {}
            Demand::Failed(_) => self.counters.dropped("unreachable"),
        }
    }

    /// Hands a message to a connection. Never blocks.
    pub(crate) fn transmit(self: &Arc<Self>, link: &Arc<Link>, protocol: Protocol, bytes: Bytes) {
        let room = link.connection.max_datagram_size().unwrap_or(0);
        if bytes.len() < room {
            let mut datagram = BytesMut::with_capacity(1 + bytes.len());
            datagram.extend_from_slice(&[protocol as u8]);
            datagram.extend_from_slice(&bytes);
            // Too large after all when the path's packet size has just shrunk: use a stream.
            if link.connection.send_datagram(datagram.freeze()).is_ok() {
                self.counters.datagrams_sent.inc();
                return link.message_sent();
            }
        }
        let (inner, link) = (self.clone(), link.clone());
        self.spawn(async move {
            let Ok(_permit) = link.large_messages.try_acquire() else {
                return inner.counters.dropped("too_many");
            };
            link.message_sent();
            let sent = timeout(
                LARGE_MESSAGE_DEADLINE,
                stream_message(&link.connection, protocol, bytes),
            );
            match sent.await {
                Ok(Some(())) => {
                    inner.counters.large_messages_sent.inc();
                }
                _ => inner.counters.dropped("lost"),
            }
        });
    }

    /// A datagram from a peer.
    pub(crate) fn datagram(&self, node: NodeId, mut datagram: Bytes) {
        if datagram.first() == Some(&PING) || datagram.is_empty() {
            return;
        }
        let first = datagram.split_to(1)[0];
        self.deliver(node, first, datagram);
    }

    /// A one-way stream from a peer: one message.
    pub(crate) async fn message_stream(&self, node: NodeId, mut recv: RecvStream) {
        let read = recv.read_to_end(1 + self.limits.message_bytes);
        match timeout(LARGE_MESSAGE_DEADLINE, read).await {
            Ok(Ok(bytes)) if !bytes.is_empty() => {
                let mut bytes = Bytes::from(bytes);
                let first = bytes.split_to(1)[0];
                self.deliver(node, first, bytes);
            }
            _ => self.counters.refused("message"),
        }
    }

    fn deliver(&self, node: NodeId, first: u8, bytes: Bytes) {
        let Ok(protocol) = Protocol::try_from(first) else {
            return self.counters.refused("malformed");
        };
        let admission = self.directory.borrow().admission(node);
        if !admission.permits(protocol) {
            return self.counters.refused("not_a_member");
        }
        // Only a voter leads, and only a leader sends these. Looked at here, so that nobody else's crowd
        // the leader's out of the queue.
        if protocol == Protocol::Raft && admission.role() != Some(Role::Voter) {
            return self.counters.refused("not_a_voter");
        }
        let Some(to) = self.services.message(protocol) else {
            return self.counters.refused("not_served");
        };
        match to.try_send((node, bytes)) {
            Ok(()) => {
                self.counters.messages_received.inc();
            }
            Err(TrySendError::Full(_)) => self.counters.dropped("receiver_full"),
            Err(TrySendError::Closed(_)) => self.counters.dropped("receiver_closed"),
        }
    }
}

async fn stream_message(connection: &Connection, protocol: Protocol, bytes: Bytes) -> Option<()> {
    let mut send = connection.open_uni().await.ok()?;
    let head = Bytes::copy_from_slice(&[protocol as u8]);
    send.write_all_chunks(&mut [head, bytes]).await.ok()?;
    send.finish().ok()?;
    // Until everything was acknowledged: the connection must not go before.
    matches!(send.stopped().await, Ok(None)).then_some(())
}
