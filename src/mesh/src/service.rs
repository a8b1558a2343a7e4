//! Who answers streams and messages of a protocol.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use bytes::Bytes;
use nebula_domain::NodeId;
use nebula_domain::state::Role;
use nebula_wire::peer::Protocol;
use tokio::sync::mpsc;

use crate::Stream;

/// The other end of a stream, as its certificate and the directory say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    pub node: NodeId,
    /// `None` for a node that joined after this node's registry was current.
    pub role: Option<Role>,
    /// Its certificate has ended. It has proved which node it is, and may ask for nothing but a new one.
    pub expired: bool,
}

/// Answers the streams of one protocol. Each runs on its own task, on the runtime the mesh was bound
/// in, and is dropped when the mesh closes.
#[async_trait]
pub trait Service: Send + Sync + 'static {
    async fn serve(&self, peer: Peer, stream: Stream);
}

/// The registered services; may grow while connections go on.
#[derive(Default)]
pub(crate) struct Services {
    streams: RwLock<HashMap<Protocol, Arc<dyn Service>>>,
    messages: RwLock<HashMap<Protocol, mpsc::Sender<(NodeId, Bytes)>>>,
}

impl Services {
    pub(crate) fn serve(&self, protocol: Protocol, service: Arc<dyn Service>) {
        self.streams
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(protocol, service);
    }

    pub(crate) fn serve_messages(&self, protocol: Protocol, to: mpsc::Sender<(NodeId, Bytes)>) {
        self.messages
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(protocol, to);
    }

    pub(crate) fn stream(&self, protocol: Protocol) -> Option<Arc<dyn Service>> {
        self.streams
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&protocol)
            .cloned()
    }

    pub(crate) fn message(&self, protocol: Protocol) -> Option<mpsc::Sender<(NodeId, Bytes)>> {
        self.messages
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&protocol)
            .cloned()
    }

    /// Lets go of everything registered, so that services and the mesh do not keep each other.
    pub(crate) fn clear(&self) {
        self.streams
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        self.messages
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}
