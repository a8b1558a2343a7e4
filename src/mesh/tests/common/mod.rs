//! Several nodes' meshes in one process, on loopback.

#![allow(dead_code, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use nebula_domain::state::Role;
use nebula_domain::time::Millis;
use nebula_domain::{ClusterId, NodeId};
use nebula_mesh::{Config, Directory, DirectoryEntry, Limits, Mesh, Peer, Service, Stream};
use nebula_pki::{Authority, Identity, NodeKey};
use nebula_telemetry::Metrics;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// Longer than anything here takes on a busy machine; a test that gets there has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn now() -> Millis {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Millis(now.as_millis() as u64)
}

pub struct Cluster {
    pub authority: Authority,
    pub directory: watch::Sender<Arc<Directory>>,
}

pub struct Node {
    pub mesh: Mesh,
    pub metrics: Metrics,
}

impl Node {
    pub fn id(&self) -> NodeId {
        self.mesh.me()
    }

    pub fn metric(&self, line: &str) -> u64 {
        self.metrics
            .encode()
            .lines()
            .find_map(|text| text.strip_prefix(line)?.trim().parse().ok())
            .unwrap_or(0)
    }
}

impl Cluster {
    pub fn new() -> Cluster {
        Cluster::named("test")
    }

    pub fn named(name: &str) -> Cluster {
        let directory = Directory {
            me: NodeId(0),
            nodes: BTreeMap::new(),
            next_node_id: 1,
        };
        Cluster {
            authority: Authority::create(&ClusterId(name.to_owned()), now()).unwrap(),
            directory: watch::Sender::new(Arc::new(directory)),
        }
    }

    pub fn identity(&self, node: u64) -> Identity {
        self.identity_at(node, now())
    }

    pub fn identity_at(&self, node: u64, at: Millis) -> Identity {
        let key = NodeKey::generate().unwrap();
        let csr = key.csr().unwrap();
        let cluster = self.authority.cluster();
        let certificate = self
            .authority
            .sign(&csr, cluster, NodeId(node), at)
            .unwrap();
        Identity::new(key, &certificate, &self.authority.ca_pem()).unwrap()
    }

    /// A node of this cluster, in its directory.
    pub fn node(&self, id: u64) -> Node {
        self.node_with(id, Limits::default())
    }

    pub fn node_with(&self, id: u64, limits: Limits) -> Node {
        let node = self.outsider(id, limits, self.directory.subscribe());
        self.enter(id, node.mesh.local_addr());
        node
    }

    /// A node with a certificate of this cluster, which the directory does not know.
    pub fn outsider(
        &self,
        id: u64,
        limits: Limits,
        directory: watch::Receiver<Arc<Directory>>,
    ) -> Node {
        let config = Config {
            listen: "127.0.0.1:0".parse().unwrap(),
            limits,
        };
        let metrics = Metrics::new();
        let mesh = Mesh::bind(config, self.identity(id), directory, &metrics).unwrap();
        Node { mesh, metrics }
    }

    pub fn enter(&self, id: u64, quic: SocketAddr) {
        self.enter_as(id, quic, Role::Voter);
    }

    pub fn enter_as(&self, id: u64, quic: SocketAddr, role: Role) {
        self.change(|directory| {
            directory
                .nodes
                .insert(NodeId(id), DirectoryEntry { quic, role });
            directory.next_node_id = directory.next_node_id.max(id + 1);
        });
    }

    pub fn remove(&self, id: u64) {
        self.change(|directory| {
            directory.nodes.remove(&NodeId(id));
        });
    }

    fn change(&self, change: impl FnOnce(&mut Directory)) {
        self.directory.send_modify(|directory| {
            let mut next = (**directory).clone();
            change(&mut next);
            *directory = Arc::new(next);
        });
    }
}

/// Answers every frame with itself, until the other end finishes.
pub struct Echo;

#[async_trait]
impl Service for Echo {
    async fn serve(&self, _: Peer, mut stream: Stream) {
        while let Ok(Some(frame)) = stream.next_frame(8 << 20).await {
            if stream.write_frame(frame).await.is_err() {
                return;
            }
        }
        let _ = stream.finish().await;
    }
}

/// Takes streams and says nothing.
pub struct Silent;

#[async_trait]
impl Service for Silent {
    async fn serve(&self, _: Peer, stream: Stream) {
        std::future::pending::<()>().await;
        drop(stream);
    }
}

pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

pub fn suspects(node: &Node) -> Vec<u64> {
    let suspects = node.mesh.suspects().borrow().clone();
    suspects.iter().map(|id| id.0).collect()
}
