//! Nodes with a real mesh and a real edge in one process, and what they route to.

pub mod apps;
pub mod client;
pub mod counting;
pub mod grpc;
pub mod h2c;
pub mod http2;
pub mod http3;
pub mod relay;
pub mod tls;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nebula_domain::http::{HttpPolicy, Upstream};
use nebula_domain::observed::{
    Health, InstanceFacts, LocalInstance, LocalInstances, NodeView, Phase,
};
use nebula_domain::routes::{RouteTable, build};
use nebula_domain::spec::{Service, Spec, StaticSite, Workload};
use nebula_domain::state::{Deployment, Desired, Instance, Release, Role};
use nebula_domain::time::Millis;
use nebula_domain::{ClusterId, Digest, InstanceId, NodeId, ReleaseNumber, State, View};
use nebula_mesh::{Directory, DirectoryEntry, Mesh};
use nebula_pki::{Authority, Identity, NodeKey};
use nebula_proxy::{Config, Limits, Proxy, ProxyHandle, Trials};
use nebula_telemetry::Metrics;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// Longer than anything here takes on a busy machine; a test that gets there has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// An address that refuses connections: it was free a moment ago.
pub fn refusing() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

pub struct Cluster {
    authority: Authority,
    directory: watch::Sender<Arc<Directory>>,
}

pub struct Node {
    pub mesh: Mesh,
    pub metrics: Metrics,
    pub edge: SocketAddr,
    pub tls: Option<SocketAddr>,
    pub table: watch::Sender<Arc<RouteTable>>,
    pub locals: watch::Sender<Arc<LocalInstances>>,
    pub trees: TempDir,
    pub trials: Arc<Trials>,
    pub proxy: ProxyHandle,
}

impl Cluster {
    pub fn new() -> Cluster {
        let directory = Directory {
            me: NodeId(0),
            nodes: BTreeMap::new(),
            next_node_id: 1,
        };
        Cluster {
            authority: Authority::create(&ClusterId("test".to_owned()), now()).unwrap(),
            directory: watch::Sender::new(Arc::new(directory)),
        }
    }

    pub fn node(&self, id: u64) -> Node {
        self.node_with(id, |_| {})
    }

    pub fn node_with(&self, id: u64, adjust: impl FnOnce(&mut Config)) -> Node {
        let metrics = Metrics::new();
        let mesh = Mesh::bind(
            nebula_mesh::Config {
                listen: "127.0.0.1:0".parse().unwrap(),
                limits: nebula_mesh::Limits::default(),
            },
            self.identity(id),
            self.directory.subscribe(),
            &metrics,
        )
        .unwrap();
        self.enter(id, mesh.local_addr());
        let trees = tempfile::tempdir().unwrap();
        let listen = "127.0.0.1:0".parse().unwrap();
        let mut config = Config::new(
            NodeId(id),
            listen,
            2,
            trees.path().to_owned(),
            trees.path().join("access.log"),
        );
        adjust(&mut config);
        let table = watch::Sender::new(Arc::new(RouteTable::default()));
        let locals = watch::Sender::new(Arc::new(LocalInstances::new()));
        let bound = Proxy::bind(
            config,
            table.subscribe(),
            locals.subscribe(),
            mesh.clone(),
            &metrics,
        )
        .unwrap();
        Node {
            edge: bound.local_addr(),
            tls: bound.tls_addr(),
            trials: bound.trials(),
            proxy: bound.spawn(),
            mesh,
            metrics,
            table,
            locals,
            trees,
        }
    }

    /// Where others reach a node.
    pub fn enter(&self, id: u64, quic: SocketAddr) {
        self.directory.send_modify(|directory| {
            let mut next = (**directory).clone();
            let role = Role::Voter;
            next.nodes.insert(NodeId(id), DirectoryEntry { quic, role });
            next.next_node_id = next.next_node_id.max(id + 1);
            *directory = Arc::new(next);
        });
    }

    fn identity(&self, node: u64) -> Identity {
        let key = NodeKey::generate().unwrap();
        let csr = key.csr().unwrap();
        let cluster = self.authority.cluster();
        let signed = self.authority.sign(&csr, cluster, NodeId(node), now());
        Identity::new(key, &signed.unwrap(), &self.authority.ca_pem()).unwrap()
    }
}

/// One node on its own.
pub fn single() -> Node {
    Cluster::new().node(1)
}

pub fn single_with(adjust: impl FnOnce(&mut Limits)) -> Node {
    Cluster::new().node_with(1, |config| adjust(&mut config.limits))
}

impl Node {
    /// Routes `api.example.test` to instances numbered from 1, all on this node, at these addresses.
    pub fn route_api(&self, addresses: &[SocketAddr]) {
        self.route_api_by(addresses, |_| {});
    }

    pub fn route_api_by(&self, addresses: &[SocketAddr], policy: impl FnOnce(&mut HttpPolicy)) {
        let instances: Vec<_> = (1..).zip(addresses.iter().copied()).collect();
        self.run(&instances);
        let me = self.mesh.me().0;
        let endpoints: Vec<_> = instances.iter().map(|(id, _)| (*id, me)).collect();
        let routes = Routes::new().policy(policy).service("api", &endpoints);
        self.table.send_replace(Arc::new(routes.table()));
    }

    /// Routes `api.example.test` to instances of HTTP/2 in the clear.
    pub fn route_h2c(&self, addresses: &[SocketAddr]) {
        self.route_api_by(addresses, |policy| policy.upstream = Upstream::H2c);
    }

    /// The programs that run on this node.
    pub fn run(&self, instances: &[(u64, SocketAddr)]) {
        let local = |address| LocalInstance {
            deployment: "api".parse().unwrap(),
            address,
            probes: Arc::default(),
            surroundings: Arc::default(),
            started_at: Millis(0),
            run: 1,
        };
        let locals = instances
            .iter()
            .map(|(id, address)| (InstanceId(*id), local(*address)))
            .collect();
        self.locals.send_replace(Arc::new(locals));
    }

    pub fn metric(&self, line: &str) -> u64 {
        let text = self.metrics.encode();
        text.lines()
            .find_map(|text| text.strip_prefix(line)?.trim().parse().ok())
            .unwrap_or(0)
    }

    /// Puts files down as the artifact store does.
    pub fn unpack(&self, artifact: Digest, files: &[(&str, &[u8])]) {
        let root = self.trees.path().join(artifact.to_string());
        let mut listed = Vec::new();
        for (path, content) in files {
            let full = root.join(path);
            std::fs::create_dir_all(full.parent().unwrap()).unwrap();
            std::fs::write(full, content).unwrap();
            let (size, hash) = (content.len(), blake3::hash(content).to_hex());
            listed.push(format!(
                "\"{path}\": {{\"size\": {size}, \"blake3\": \"{hash}\"}}"
            ));
        }
        let manifest = format!("{{\"files\": {{{}}}}}", listed.join(", "));
        std::fs::write(
            self.trees.path().join(format!("{artifact}.manifest")),
            manifest,
        )
        .unwrap();
    }
}

/// A route table in the making: what a state and a view say.
#[derive(Default)]
pub struct Routes {
    state: State,
    view: View,
    policy: Arc<HttpPolicy>,
    /// The number of the only release of those that follow, less one.
    earlier_releases: u32,
}

impl Routes {
    pub fn new() -> Routes {
        Routes::default()
    }

    /// Of the deployments that follow.
    pub fn policy(mut self, set: impl FnOnce(&mut HttpPolicy)) -> Routes {
        let mut policy = HttpPolicy::default();
        set(&mut policy);
        policy.check().unwrap();
        self.policy = Arc::new(policy);
        self
    }

    /// Deployments that follow have this release.
    pub fn release(mut self, number: u32) -> Routes {
        self.earlier_releases = number - 1;
        self
    }

    /// A deployment's response cache was purged then.
    pub fn purged(mut self, name: &str, revision: u64) -> Routes {
        if revision > 0 {
            let name = name.parse().unwrap();
            self.state.cache_purges.insert(name, revision);
        }
        self
    }

    /// A program at `<name>.example.test` with ready instances `(instance, node)`.
    pub fn service(self, name: &str, endpoints: &[(u64, u64)]) -> Routes {
        let workload = Workload::Service(Service {
            stop_grace: Duration::from_secs(1),
            ..Service::new("serve")
        });
        self.deployment(name, workload, Digest([0; 32]), endpoints)
    }

    pub fn site(self, name: &str, artifact: Digest, spa: bool, endpoints: &[(u64, u64)]) -> Routes {
        let workload = Workload::Static(StaticSite { spa });
        self.deployment(name, workload, artifact, endpoints)
    }

    fn deployment(
        mut self,
        name: &str,
        workload: Workload,
        artifact: Digest,
        endpoints: &[(u64, u64)],
    ) -> Routes {
        let spec = Spec {
            http: Arc::clone(&self.policy),
            ..Spec::new(workload, "example.test".parse().unwrap())
        };
        let release = Release::new(
            ReleaseNumber(self.earlier_releases + 1),
            spec,
            (artifact, 1),
            Millis(0),
        );
        let name: nebula_domain::DeploymentName = name.parse().unwrap();
        for (id, node) in endpoints {
            let (id, node) = (InstanceId(*id), NodeId(*node));
            let instance = Instance {
                id,
                deployment: name.clone(),
                release: release.number,
                epoch: 1,
                node,
                desired: Desired::Run,
                since_revision: 1,
                secrets: Default::default(),
                run: None,
            };
            self.state.instances.insert(id, instance);
            let view = self
                .view
                .nodes
                .entry(node)
                .or_insert_with(NodeView::unheard);
            let facts = InstanceFacts {
                phase: Phase::Running,
                health: Health::Healthy,
                restarts: 0,
                reason: String::new(),
                exit: None,
                last_end: None,
            };
            view.instances.insert(id, facts);
        }
        let deployment = Deployment::new(name.clone(), 1, release);
        self.state.deployments.insert(name, deployment);
        self
    }

    pub fn table(mut self) -> RouteTable {
        let token = ([7; 32], "init".to_owned());
        self.state.api_tokens.extend([token]);
        build(&self.state, &self.view)
    }
}

fn now() -> Millis {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Millis(now.as_millis() as u64)
}
