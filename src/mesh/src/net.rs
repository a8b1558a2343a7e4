//! The part of the mesh that consensus and gossip stand on, as a trait: a simulated cluster puts a
//! network of its own in its place, with delays, losses and cuts that a seed decides.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use nebula_domain::NodeId;
use nebula_wire::peer::Protocol;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::{CallError, Directory, Mesh, Peer, Service, Stream};

/// One node's view of the network; each method is the one of [`Mesh`].
#[async_trait]
pub trait Net: Send + Sync + 'static {
    fn me(&self) -> NodeId;
    fn directory(&self) -> watch::Receiver<Arc<Directory>>;
    fn suspects(&self) -> watch::Receiver<Arc<BTreeSet<NodeId>>>;
    async fn call(
        &self,
        node: NodeId,
        protocol: Protocol,
        request: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, CallError>;
    fn send(&self, node: NodeId, protocol: Protocol, message: Bytes);
    /// Answers calls of `protocol` from now on.
    fn answer(&self, protocol: Protocol, service: Arc<dyn Answer>);
    fn serve_messages(&self, protocol: Protocol, to: mpsc::Sender<(NodeId, Bytes)>);
}

/// Gives one answer to one request, the other end of [`Net::call`].
#[async_trait]
pub trait Answer: Send + Sync + 'static {
    /// A larger request of this peer is not read.
    fn max_request_bytes(&self, peer: Peer) -> usize;
    /// The request is an error when it did not come whole. Without an answer the caller's call fails.
    async fn answer(&self, peer: Peer, request: Result<Bytes, CallError>) -> Option<Bytes>;
}

#[async_trait]
impl Net for Mesh {
    fn me(&self) -> NodeId {
        Mesh::me(self)
    }

    fn directory(&self) -> watch::Receiver<Arc<Directory>> {
        Mesh::directory(self)
    }

    fn suspects(&self) -> watch::Receiver<Arc<BTreeSet<NodeId>>> {
        Mesh::suspects(self)
    }

    async fn call(
        &self,
        node: NodeId,
        protocol: Protocol,
        request: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, CallError> {
        Mesh::call(self, node, protocol, request, deadline).await
    }

    fn send(&self, node: NodeId, protocol: Protocol, message: Bytes) {
        Mesh::send(self, node, protocol, message);
    }

    fn answer(&self, protocol: Protocol, service: Arc<dyn Answer>) {
        let deadline = self.limits().exchange_deadline;
        self.serve(protocol, Arc::new(Calls { service, deadline }));
    }

    fn serve_messages(&self, protocol: Protocol, to: mpsc::Sender<(NodeId, Bytes)>) {
        Mesh::serve_messages(self, protocol, to);
    }
}

/// One frame in, one frame out.
struct Calls {
    service: Arc<dyn Answer>,
    deadline: Duration,
}

#[async_trait]
impl Service for Calls {
    async fn serve(&self, peer: Peer, mut stream: Stream) {
        let (protocol, deadline) = (stream.protocol(), self.deadline);
        let late = || CallError::Deadline {
            node: peer.node,
            protocol,
            deadline,
        };
        let reading = stream.read_frame(self.service.max_request_bytes(peer));
        let request = timeout(deadline, reading).await;
        let request = request.unwrap_or_else(|_| Err(late()));
        stream.stop_reading();
        // Without an answer the stream ends, which the other node sees.
        let Some(answer) = self.service.answer(peer, request).await else {
            return;
        };
        // The reader still holds what the request was paid with, for the answer's time as well.
        let (_paid, mut writer) = stream.into_split();
        let written = timeout(deadline, writer.write_owned(answer, None)).await;
        if let Err(error) = written.unwrap_or_else(|_| Err(late())) {
            tracing::debug!(peer = %peer.node, ?protocol, %error, "an answer was not sent");
        }
    }
}
