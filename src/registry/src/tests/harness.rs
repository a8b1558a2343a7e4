//! Nodes with real certificates, meshes and stores in one process.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nebula_domain::observed::NodeView;
use nebula_domain::state::{Addresses, Cluster, JoinToken, Role};
use nebula_domain::time::Millis;
use nebula_domain::{ClusterId, Command, NodeId, Request, RequestId, State, TokenId, View};
use nebula_mesh::{Directory, DirectoryEntry, Mesh};
use nebula_pki::{Authority, Identity};
use nebula_telemetry::{Metrics, Random};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::sync::watch;

use crate::{Applied, Config, ProposeError, RecoverError, Registry, Status, Survivor};

/// No step of a test takes this long unless it hangs, however busy the machine is.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// The token that the cluster is initialised with.
pub const OPERATOR: &str = "nba1.operator";

pub struct Node {
    pub id: NodeId,
    pub mesh: Mesh,
    pub registry: Registry,
    pub metrics: Metrics,
    view: watch::Sender<Arc<View>>,
    directory: watch::Sender<Arc<Directory>>,
    identity: Identity,
    config: Config,
}

/// Nodes that know each other's addresses from the start; which of them take part is the test's business.
pub struct Nodes {
    pub all: Vec<Node>,
    _dir: TempDir,
}

pub fn request(id: u128, command: Command) -> Request {
    Request {
        id: RequestId(id),
        command,
        stamp: Default::default(),
    }
}

pub fn setting(key: &str, value: &str) -> Command {
    Command::SetSetting {
        key: format!("user.{key}"),
        value: value.to_owned(),
    }
}

pub fn value<'a>(state: &'a State, key: &str) -> Option<&'a str> {
    state
        .settings
        .get(&format!("user.{key}"))
        .map(String::as_str)
}

pub fn now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Millis(u64::try_from(since.as_millis()).unwrap())
}

pub fn addresses(id: u64) -> Addresses {
    let port = |base: u64| SocketAddr::from(([127, 0, 0, 1], u16::try_from(base + id).unwrap()));
    Addresses {
        quic: port(20_000),
        api: port(21_000),
        edge: port(22_000),
    }
}

fn bind(
    listen: SocketAddr,
    identity: &Identity,
    directory: &watch::Sender<Arc<Directory>>,
) -> Mesh {
    let config = nebula_mesh::Config {
        listen,
        limits: nebula_mesh::Limits::default(),
    };
    Mesh::bind(
        config,
        identity.clone(),
        directory.subscribe(),
        &Metrics::new(),
    )
    .unwrap()
}

impl Nodes {
    pub async fn start(count: u64) -> Nodes {
        Nodes::start_with(count, |_| {}).await
    }

    pub async fn start_with(count: u64, adjust: impl Fn(&mut Config)) -> Nodes {
        nebula_pki::install_crypto_provider();
        let dir = TempDir::new().unwrap();
        let cluster = ClusterId("test".to_owned());
        let authority = Authority::create(&cluster, now()).unwrap();
        let mut bound = Vec::new();
        for id in (1..=count).map(NodeId) {
            let key = Identity::generate_key().unwrap();
            let csr = key.csr().unwrap();
            let certificate = authority.sign(&csr, &cluster, id, now()).unwrap();
            let identity = Identity::new(key, &certificate, &authority.ca_pem()).unwrap();
            let directory = watch::Sender::new(Arc::new(Directory {
                me: id,
                nodes: BTreeMap::new(),
                next_node_id: count + 1,
            }));
            let mesh = bind(([127, 0, 0, 1], 0).into(), &identity, &directory);
            bound.push((id, identity, directory, mesh));
        }
        let entries: BTreeMap<NodeId, DirectoryEntry> = bound
            .iter()
            .map(|(id, _, _, mesh)| {
                let entry = DirectoryEntry {
                    quic: mesh.local_addr(),
                    role: Role::Voter,
                };
                (*id, entry)
            })
            .collect();
        let mut all = Vec::new();
        for (id, identity, directory, mesh) in bound {
            directory.send_replace(Arc::new(Directory {
                me: id,
                nodes: entries.clone(),
                next_node_id: count + 1,
            }));
            let mut config = Config::new(dir.path().join(id.to_string()));
            adjust(&mut config);
            let metrics = Metrics::new();
            let registry =
                Registry::start(config.clone(), mesh.clone(), Random::system(), &metrics)
                    .await
                    .unwrap();
            let view = watch::Sender::new(Arc::new(view_of((1..=count).map(NodeId))));
            registry.manage_voters(view.subscribe());
            all.push(Node {
                id,
                mesh,
                registry,
                metrics,
                view,
                directory,
                identity,
                config,
            });
        }
        Nodes { all, _dir: dir }
    }

    /// Started, the first initialised, the others joined, and all of them voters.
    pub async fn cluster(count: u64) -> Nodes {
        let nodes = Nodes::start(count).await;
        nodes.initialise().await;
        nodes.join(2..=count).await;
        nodes.voters(1..=count).await;
        nodes
    }

    pub async fn initialise(&self) -> Applied {
        let init = Command::Init {
            cluster: Cluster {
                id: ClusterId("test".to_owned()),
                ca_pem: "PEM".to_owned(),
            },
            name: "n1".parse().unwrap(),
            addresses: addresses(1),
            api_token_sha256: Sha256::digest(OPERATOR).into(),
        };
        let first = &self.all[0].registry;
        first.initialise(request(1, init)).await.unwrap()
    }

    pub async fn join(&self, ids: impl Iterator<Item = u64>) {
        self.join_through(NodeId(1), ids).await;
    }

    pub async fn join_through(&self, through: NodeId, ids: impl Iterator<Item = u64>) {
        self.join_as(Role::Voter, through, ids).await;
    }

    /// All directories say what the registry will: who is a worker.
    pub async fn join_worker(&self, id: u64) {
        for node in &self.all {
            node.change_directory(|directory| {
                directory.nodes.get_mut(&NodeId(id)).unwrap().role = Role::Worker;
            });
        }
        self.join_as(Role::Worker, NodeId(1), id..=id).await;
    }

    async fn join_as(&self, role: Role, through: NodeId, ids: impl Iterator<Item = u64>) {
        let first = &self.node(through).registry;
        let token = JoinToken {
            id: TokenId("t".to_owned()),
            secret_sha256: [2; 32],
            role,
            created_at: now(),
            expires_at: now().plus(Duration::from_secs(3600)),
            reusable: true,
            used: 0,
        };
        let create = Command::CreateJoinToken { token, now: now() };
        first.propose(create).await.unwrap();
        for id in ids {
            let join = Command::Join {
                token: TokenId("t".to_owned()),
                secret_sha256: [2; 32],
                now: now(),
                name: format!("n{id}").parse().unwrap(),
                addresses: addresses(id),
                level: nebula_domain::level::LEVEL,
            };
            first.propose(join).await.unwrap();
            // Through the leader, as if the node itself had said so.
            let arrived = Command::SetAddresses {
                node: NodeId(id),
                addresses: addresses(id),
            };
            self.leading()
                .await
                .registry
                .propose(arrived)
                .await
                .unwrap();
        }
    }

    /// Takes a voter's vote and removes it. `through` may be the one that goes.
    pub async fn remove(&self, through: NodeId, node: NodeId) {
        let registry = &self.node(through).registry;
        let leaving = Command::SetLeaving {
            node,
            leaving: true,
        };
        registry.propose(leaving).await.unwrap();
        let handed_over = |s: &Status| !s.voters.contains(&node) && s.quorum;
        self.node(through).status(handed_over).await;
        registry
            .propose(Command::RemoveNode { node })
            .await
            .unwrap();
    }

    /// Waits until the nodes that vote are these, and each of them knows it.
    pub async fn voters(&self, ids: impl Iterator<Item = u64> + Clone) {
        let expected: BTreeSet<NodeId> = ids.map(NodeId).collect();
        for node in self.all.iter().filter(|n| expected.contains(&n.id)) {
            node.status(|s| s.voters == expected && s.quorum).await;
        }
    }

    pub fn node(&self, id: NodeId) -> &Node {
        self.all.iter().find(|n| n.id == id).unwrap()
    }

    /// The node that leads according to `observer`.
    pub async fn leader(&self, observer: NodeId) -> NodeId {
        let status = self.node(observer).status(|s| s.leader.is_some()).await;
        status.leader.unwrap()
    }

    /// A node that leads in its own eyes.
    async fn leading(&self) -> &Node {
        let each = self.all.iter().map(|node| {
            Box::pin(async move {
                node.status(|s| s.is_leader).await;
                node
            })
        });
        futures::future::select_all(each).await.0
    }

    /// Everyone sees only these alive.
    pub fn alive(&self, ids: impl Iterator<Item = NodeId> + Clone) {
        for node in &self.all {
            node.view.send_replace(Arc::new(view_of(ids.clone())));
        }
    }

    pub async fn stop(self) {
        for node in &self.all {
            node.stop().await;
        }
    }
}

fn view_of(ids: impl Iterator<Item = NodeId>) -> View {
    View {
        nodes: ids.map(|id| (id, NodeView::unheard())).collect(),
    }
}

impl Node {
    pub fn change_directory(&self, change: impl FnOnce(&mut Directory)) {
        self.directory.send_modify(|directory| {
            let mut next = (**directory).clone();
            change(&mut next);
            *directory = Arc::new(next);
        });
    }

    /// The number on a line of this node's metrics.
    pub fn metric(&self, line: &str) -> u64 {
        let text = self.metrics.encode();
        let mut lines = text.lines();
        lines
            .find_map(|l| l.strip_prefix(line)?.trim().parse().ok())
            .unwrap_or(0)
    }

    pub async fn status(&self, wanted: impl Fn(&Status) -> bool) -> Status {
        let mut status = self.registry.status();
        let found = tokio::time::timeout(PATIENCE, status.wait_for(|s| wanted(s))).await;
        match found {
            Ok(status) => status.unwrap().clone(),
            Err(_) => panic!("node {}: {:?}", self.id, self.registry.status().borrow()),
        }
    }

    /// Waits until this node's own state is as wanted.
    pub async fn sees(&self, wanted: impl Fn(&State) -> bool) -> Arc<State> {
        let mut state = self.registry.watch();
        let found = tokio::time::timeout(PATIENCE, state.wait_for(|s| wanted(s))).await;
        match found {
            Ok(state) => state.unwrap().clone(),
            Err(_) => panic!(
                "node {}: {:?} {:?}",
                self.id,
                self.registry.status().borrow(),
                self.registry.state().settings
            ),
        }
    }

    pub async fn set(&self, key: &str, value: &str) -> Result<Applied, ProposeError> {
        let id = Random::system().request_id();
        let set = Request {
            id,
            command: setting(key, value),
            stamp: Default::default(),
        };
        self.registry.propose_request(set, PATIENCE).await
    }

    pub async fn stop(&self) {
        self.registry.shutdown().await;
        self.mesh.close().await;
    }

    /// The stores of this node, which was stopped.
    pub async fn survivor(&self) -> Result<Survivor, RecoverError> {
        Survivor::open(&self.config, self.id).await
    }

    /// A mesh like the stopped node's, for questions.
    pub fn questions(&self) -> Mesh {
        bind(([127, 0, 0, 1], 0).into(), &self.identity, &self.directory)
    }

    /// Starts again on the same port and folder.
    pub async fn restart(&mut self) {
        self.mesh = bind(self.mesh.local_addr(), &self.identity, &self.directory);
        self.registry = Registry::start(
            self.config.clone(),
            self.mesh.clone(),
            Random::system(),
            &Metrics::new(),
        )
        .await
        .unwrap();
        self.registry.manage_voters(self.view.subscribe());
    }
}
