//! What several crates' tests stand on: real meshes on loopback with certificates of one CA, and waiting
//! for conditions. A dev-dependency only; nothing of the product uses it.
#![allow(clippy::unwrap_used)]

pub mod forms;
pub mod fuzz;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nebula_domain::state::Role;
use nebula_domain::{ClusterId, NodeId};
use nebula_mesh::{Config, Directory, DirectoryEntry, Mesh};
use nebula_pki::{Authority, Identity};
use nebula_telemetry::{Clock, Metrics};
use tokio::sync::watch;

pub struct Cluster {
    pub id: ClusterId,
    authority: Authority,
    members: BTreeMap<NodeId, DirectoryEntry>,
    directories: BTreeMap<NodeId, watch::Sender<Arc<Directory>>>,
}

pub struct Node {
    pub id: NodeId,
    pub mesh: Mesh,
    pub metrics: Metrics,
}

impl Cluster {
    /// Without members yet.
    pub fn empty() -> Cluster {
        nebula_pki::install_crypto_provider();
        let id = ClusterId("test".to_owned());
        let authority = Authority::create(&id, Clock::system().now()).unwrap();
        Cluster {
            id,
            authority,
            members: BTreeMap::new(),
            directories: BTreeMap::new(),
        }
    }

    /// Binds a mesh for the node, at its former address if it had one, and tells all directories.
    pub fn add(&mut self, id: u64) -> Node {
        let node = self.bind(id);
        let entry = DirectoryEntry {
            quic: node.mesh.local_addr(),
            role: Role::Voter,
        };
        self.members.insert(node.id, entry);
        self.publish();
        node
    }

    /// Binds without making the others know.
    pub fn bind(&mut self, id: u64) -> Node {
        let id = NodeId(id);
        let now = Clock::system().now();
        let key = Identity::generate_key().unwrap();
        let certificate = self
            .authority
            .sign(&key.csr().unwrap(), &self.id, id, now)
            .unwrap();
        let identity = Identity::new(key, &certificate, &self.authority.ca_pem()).unwrap();
        let listen = self
            .members
            .get(&id)
            .map_or(SocketAddr::from(([127, 0, 0, 1], 0)), |entry| entry.quic);
        let (sender, receiver) = watch::channel(Arc::new(self.directory(id)));
        self.directories.insert(id, sender);
        let metrics = Metrics::new();
        let config = Config {
            listen,
            limits: Default::default(),
        };
        Node {
            id,
            mesh: Mesh::bind(config, identity, receiver, &metrics).unwrap(),
            metrics,
        }
    }

    fn directory(&self, me: NodeId) -> Directory {
        Directory {
            me,
            nodes: self.members.clone(),
            next_node_id: 100,
        }
    }

    pub fn publish(&self) {
        for (id, sender) in &self.directories {
            sender.send_replace(Arc::new(self.directory(*id)));
        }
    }

    /// Removes the member from everybody's directory but its own.
    pub fn forget(&mut self, id: NodeId) {
        self.members.remove(&id);
        for (other, sender) in &self.directories {
            if *other != id {
                sender.send_replace(Arc::new(self.directory(*other)));
            }
        }
    }
}

/// Waits until the value of a watch passes, and says how long that took.
pub async fn until<T: Clone>(
    watch: &mut watch::Receiver<T>,
    deadline: Duration,
    what: &str,
    mut passes: impl FnMut(&T) -> bool,
) -> Duration {
    let began = Instant::now();
    let found = tokio::time::timeout(deadline, watch.wait_for(|value| passes(value))).await;
    match found {
        Ok(Ok(_)) => began.elapsed(),
        Ok(Err(_)) => panic!("{what}: the watch was closed"),
        Err(_) => panic!("{what}: not within {deadline:?}"),
    }
}

/// Waits until a metric's line of the text format shows at least this number.
pub async fn counted(metrics: &Metrics, line: &str, least: u64) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let text = metrics.encode();
        let found = text
            .lines()
            .find_map(|l| l.strip_prefix(line)?.trim().parse::<u64>().ok());
        if found.unwrap_or(0) >= least {
            return;
        }
        assert!(Instant::now() < deadline, "{line} is {found:?} in {text}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// How often memory is allocated while `work` is done, on this thread.
pub fn allocations(work: impl FnOnce()) -> u64 {
    allocation_counter::measure(work).count_total
}
