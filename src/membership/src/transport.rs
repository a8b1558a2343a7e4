//! chitchat's transport over the mesh. Messages arrive with an authenticated sender; those that do not
//! fit it are dropped and counted before chitchat sees them.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use chitchat::ChitchatEnvelope;
use chitchat::transport::{RecvOutcome, SendOutcome, Socket, Transport};
use nebula_domain::NodeId;
use nebula_mesh::{Directory, Net};
use nebula_telemetry::metrics::{Counter, Family, Label, Metrics};
use nebula_wire::peer::Protocol;
use tokio::sync::{mpsc, watch};

use crate::address;
use crate::envelope::{self, Reader, Refusal};
use crate::limits::{INBOX, MAX_MESSAGE_BYTES};
use crate::loopback::{Codec, Coder};

/// Shared between the task that receives and the chitchat of the moment.
#[derive(Clone)]
pub(crate) struct Wire {
    mesh: Arc<dyn Net>,
    codec: Codec,
    directory: watch::Receiver<Arc<Directory>>,
    cluster: Arc<str>,
    /// Of the chitchat that runs now.
    generation: Arc<AtomicU64>,
    inbox: Arc<Mutex<Option<mpsc::Sender<RecvOutcome>>>>,
    dropped: Family<Label, Counter>,
    lost: Counter,
}

impl Wire {
    pub fn new(mesh: Arc<dyn Net>, codec: Codec, cluster: Arc<str>, metrics: &Metrics) -> Wire {
        Wire {
            directory: mesh.directory(),
            mesh,
            codec,
            cluster,
            generation: Arc::default(),
            inbox: Arc::default(),
            dropped: metrics.counters("gossip_dropped", "Gossip messages refused, by reason"),
            lost: metrics.counter(
                "gossip_lost",
                "Gossip messages lost between chitchat and the mesh",
            ),
        }
    }

    /// For the chitchat of this generation.
    pub fn transport(&self, generation: u64) -> MeshTransport {
        self.generation.store(generation, Ordering::SeqCst);
        MeshTransport(self.clone())
    }

    fn refuse(&self, sender: NodeId, refusal: Refusal) {
        tracing::debug!(%sender, reason = refusal.label(), "gossip message dropped");
        self.dropped
            .get_or_create(&[("reason", refusal.label().to_owned())])
            .inc();
    }

    /// Checks, decodes and hands on what the mesh receives, until the mesh closes.
    pub async fn receive(self, mut messages: mpsc::Receiver<(NodeId, Bytes)>) {
        let mut coder = Coder::new(&self.codec);
        while let Some((sender, bytes)) = messages.recv().await {
            if let Err(refusal) = self.admit(sender, &bytes) {
                self.refuse(sender, refusal);
                continue;
            }
            match coder.decode(&bytes).await {
                Ok(envelope) => self.deliver(sender, envelope, bytes.len()),
                Err(error) => {
                    tracing::debug!(%sender, error = format!("{error:#}"), "gossip not decoded");
                    self.refuse(sender, Refusal::Undecodable);
                }
            }
        }
    }

    fn admit(&self, sender: NodeId, bytes: &[u8]) -> Result<(), Refusal> {
        if !self.directory.borrow().nodes.contains_key(&sender) {
            return Err(Refusal::UnknownSender);
        }
        let reader = Reader {
            me: self.mesh.me(),
            generation: self.generation.load(Ordering::SeqCst),
            cluster: &self.cluster,
        };
        envelope::check(bytes, sender, &reader)
    }

    fn deliver(&self, sender: NodeId, envelope: ChitchatEnvelope, num_bytes_received: usize) {
        let inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        // Between two lives of chitchat nobody listens; the sender will say it again.
        if let Some(inbox) = inbox.as_ref() {
            let outcome = RecvOutcome {
                from_addr: address::of(sender),
                envelope,
                num_bytes_received,
            };
            if inbox.try_send(outcome).is_err() {
                self.refuse(sender, Refusal::Busy);
            }
        }
    }
}

pub(crate) struct MeshTransport(Wire);

#[async_trait]
impl Transport for MeshTransport {
    async fn open(&self, listen_addr: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        let (sender, receiver) = mpsc::channel(INBOX);
        *self.0.inbox.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        Ok(Box::new(MeshSocket {
            wire: self.0.clone(),
            address: listen_addr,
            inbox: receiver,
            coder: Coder::new(&self.0.codec),
        }))
    }
}

struct MeshSocket {
    wire: Wire,
    address: SocketAddr,
    inbox: mpsc::Receiver<RecvOutcome>,
    coder: Coder,
}

#[async_trait]
impl Socket for MeshSocket {
    fn local_addr(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.address)
    }

    async fn send(
        &mut self,
        to: SocketAddr,
        envelope: ChitchatEnvelope,
    ) -> anyhow::Result<SendOutcome> {
        let nothing = SendOutcome { num_bytes_sent: 0 };
        // chitchat goes on greeting members that were removed, and ones we have not learned of yet.
        let Some(node) = address::node(to) else {
            return Ok(nothing);
        };
        if !self.wire.directory.borrow().nodes.contains_key(&node) {
            return Ok(nothing);
        }
        match self.coder.encode(envelope).await {
            Ok(bytes) if bytes.len() <= MAX_MESSAGE_BYTES => {
                let num_bytes_sent = bytes.len();
                self.wire.mesh.send(node, Protocol::Gossip, bytes.into());
                Ok(SendOutcome { num_bytes_sent })
            }
            // Not an error of the transport as a whole: the next round says it again.
            Ok(_) | Err(_) => {
                self.wire.lost.inc();
                Ok(nothing)
            }
        }
    }

    async fn recv(&mut self) -> anyhow::Result<RecvOutcome> {
        self.inbox
            .recv()
            .await
            .ok_or_else(|| anyhow::anyhow!("the gossip inbox was closed"))
    }
}
