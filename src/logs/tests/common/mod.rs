//! Nodes in one process, over a real mesh.
#![allow(dead_code)] // Each test binary uses its own part.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use nebula_actors::Reconciler as _;
use nebula_domain::observed::View;
use nebula_domain::state::{Addresses, Desired, Instance, Node, Role};
use nebula_domain::time::Millis;
use nebula_domain::{ClusterId, DeploymentName, InstanceId, NodeId, ReleaseNumber, State};
use nebula_drivers::logfile;
use nebula_logs::{Config, LogStream, Logs, Query};
use nebula_mesh::{Directory, DirectoryEntry, Limits, Mesh, MeshError};
use nebula_pki::{Authority, Identity};
use nebula_telemetry::{Clock, Metrics};
use nebula_wire::api::LogLine;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::timeout;

pub const DEADLINE: Duration = Duration::from_secs(20);

pub struct TestNode {
    pub dir: TempDir,
    pub mesh: Mesh,
    pub logs: Logs,
}

pub struct Cluster {
    pub nodes: Vec<TestNode>,
    pub state: watch::Sender<Arc<State>>,
    pub view: watch::Sender<Arc<View>>,
    identities: Vec<Identity>,
    directories: Vec<watch::Sender<Arc<Directory>>>,
}

pub fn identity(authority: &Authority, cluster: &ClusterId, node: NodeId) -> Identity {
    let key = Identity::generate_key().unwrap();
    let certificate = authority
        .sign(&key.csr().unwrap(), cluster, node, Clock::system().now())
        .unwrap();
    Identity::new(key, &certificate, &authority.ca_pem()).unwrap()
}

pub fn bind(
    listen: SocketAddr,
    identity: Identity,
    directory: watch::Receiver<Arc<Directory>>,
) -> Result<Mesh, MeshError> {
    let config = nebula_mesh::Config {
        listen,
        limits: Limits::default(),
    };
    Mesh::bind(config, identity, directory, &Metrics::new())
}

pub async fn cluster(count: u64) -> Cluster {
    let id = ClusterId("test".into());
    let authority = Authority::create(&id, Clock::system().now()).unwrap();
    let mut state = State::default();
    let mut directory = BTreeMap::new();
    let mut bound = Vec::new();
    let mut directories = Vec::new();
    let mut identities = Vec::new();
    for n in 1..=count {
        let me = NodeId(n);
        let (sender, seen) = watch::channel(Arc::new(Directory {
            me,
            nodes: BTreeMap::new(),
            next_node_id: count + 1,
        }));
        let identity = identity(&authority, &id, me);
        let mesh = bind(([127, 0, 0, 1], 0).into(), identity.clone(), seen).unwrap();
        identities.push(identity);
        let quic = mesh.local_addr();
        directory.insert(
            me,
            DirectoryEntry {
                quic,
                role: Role::Voter,
            },
        );
        let node = Node {
            id: me,
            name: format!("n{n}").parse().unwrap(),
            role: Role::Voter,
            addresses: Addresses {
                quic,
                api: quic,
                edge: quic,
            },
            draining: false,
            leaving: false,
            awaited_since: None,
            labels: Default::default(),
            level: 1,
        };
        state.nodes.insert(me, node);
        bound.push(mesh);
        directories.push(sender);
    }
    for (sender, me) in directories.iter().zip(1..) {
        sender.send_replace(Arc::new(Directory {
            me: NodeId(me),
            nodes: directory.clone(),
            next_node_id: count + 1,
        }));
    }
    let (state, state_seen) = watch::channel(Arc::new(state));
    let (view, view_seen) = watch::channel(Arc::new(View::default()));
    let nodes = bound.into_iter().map(|mesh| {
        let dir = tempfile::tempdir().unwrap();
        let config = Config {
            instances_dir: dir.path().to_owned(),
            logs_dir: dir.path().join("logs"),
            me: mesh.me(),
        };
        let logs = Logs::start(config, mesh.clone(), state_seen.clone(), view_seen.clone());
        TestNode { dir, mesh, logs }
    });
    Cluster {
        nodes: nodes.collect(),
        state,
        view,
        identities,
        directories,
    }
}

impl Cluster {
    pub fn assign(&self, instance: u64, node: u64) {
        self.state.send_modify(|state| {
            let mut next = State::clone(state);
            let instance = Instance {
                id: InstanceId(instance),
                deployment: name(),
                release: ReleaseNumber(2),
                epoch: 1,
                node: NodeId(node),
                desired: Desired::Run,
                since_revision: 1,
                secrets: Default::default(),
                run: None,
            };
            next.instances.insert(instance.id, instance);
            next.revision += 1;
            *state = Arc::new(next);
        });
    }

    /// The daemon of a node ends, and begins anew on the same address with the same files.
    pub async fn restart(&mut self, node: usize, between: impl FnOnce()) {
        let (dir, mesh) = self.mesh_again(node, between).await;
        let config = Config {
            instances_dir: dir.path().to_owned(),
            logs_dir: dir.path().join("logs"),
            me: mesh.me(),
        };
        let (state, view) = (self.state.subscribe(), self.view.subscribe());
        let logs = Logs::start(config, mesh.clone(), state, view);
        self.nodes.insert(node - 1, TestNode { dir, mesh, logs });
    }

    /// The same, but the new daemon serves nothing yet.
    pub async fn mesh_again(&mut self, node: usize, between: impl FnOnce()) -> (TempDir, Mesh) {
        let TestNode { dir, mesh, logs } = self.nodes.remove(node - 1);
        let listen = mesh.local_addr();
        mesh.close().await;
        drop((mesh, logs));
        between();
        let mesh = timeout(DEADLINE, async {
            loop {
                let identity = self.identities[node - 1].clone();
                match bind(listen, identity, self.directories[node - 1].subscribe()) {
                    Ok(mesh) => return mesh,
                    // The old socket is closed a moment after its last connection.
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        });
        (dir, mesh.await.unwrap())
    }

    /// Appends lines, each at its second.
    pub fn write(&self, instance: u64, node: usize, lines: &[(u64, &str)]) {
        write(self.nodes[node - 1].dir.path(), instance, lines);
    }

    pub fn ask(&self, node: usize, follow: bool, tail: usize) -> LogStream {
        let query = Query {
            follow,
            tail,
            ..Query::new(name())
        };
        self.nodes[node - 1].logs.stream(query).unwrap()
    }
}

pub fn write(dir: &Path, instance: u64, lines: &[(u64, &str)]) {
    let dir = dir.join(InstanceId(instance).to_string());
    fs::create_dir_all(&dir).unwrap();
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .open(logfile::current(&dir))
        .unwrap();
    for (second, text) in lines {
        let time = logfile::time_text(Millis(1_769_860_800_000 + second * 1000));
        writeln!(file, "{time} stdout {text}").unwrap();
    }
}

pub fn name() -> DeploymentName {
    "api".parse().unwrap()
}

pub async fn all(stream: LogStream) -> Vec<LogLine> {
    timeout(DEADLINE, stream.collect()).await.unwrap()
}

pub async fn next(stream: &mut LogStream) -> LogLine {
    timeout(DEADLINE, stream.next()).await.unwrap().unwrap()
}

pub fn texts(lines: &[LogLine]) -> Vec<&str> {
    lines.iter().map(|line| line.line.as_str()).collect()
}

impl Cluster {
    /// What every node's failure detector says.
    pub fn say_alive(&self, alive: &[u64]) {
        let nodes = self
            .state
            .borrow()
            .nodes
            .keys()
            .copied()
            .collect::<Vec<_>>();
        let view = nodes.into_iter().map(|id| {
            let mut node = nebula_domain::observed::NodeView::unheard();
            node.alive = alive.contains(&id.0);
            (id, node)
        });
        self.view.send_replace(Arc::new(View {
            nodes: view.collect(),
        }));
    }

    /// What a shim leaves in the folder of an instance that was started.
    pub fn started(&self, instance: u64, node: usize) {
        let id = InstanceId(instance);
        let dir = self.nodes[node - 1].dir.path().join(id.to_string());
        fs::create_dir_all(&dir).unwrap();
        let record = serde_json::json!({
            "instance": id, "deployment": name(), "release": 2, "port": 1,
        });
        fs::write(dir.join("state.json"), record.to_string()).unwrap();
    }

    /// A node's copier, until the task is aborted.
    pub fn copier(&self, node: usize) -> tokio::task::JoinHandle<()> {
        let mut copier = nebula_logs::Copier::new(&self.nodes[node - 1].logs, &Metrics::new());
        tokio::spawn(async move {
            loop {
                copier.pass().await.unwrap();
                copier.wake().await;
            }
        })
    }
}

pub async fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let held = timeout(DEADLINE, async {
        loop {
            if let Some(value) = check() {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    held.await
        .unwrap_or_else(|_| panic!("{what}: not within {DEADLINE:?}"))
}
