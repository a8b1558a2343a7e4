//! Two nodes in one process, over a real mesh: merging, following, and a node that goes away.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
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

const DEADLINE: Duration = Duration::from_secs(20);

struct TestNode {
    dir: TempDir,
    mesh: Mesh,
    logs: Logs,
}

struct Cluster {
    nodes: Vec<TestNode>,
    state: watch::Sender<Arc<State>>,
    view: watch::Sender<Arc<View>>,
    identities: Vec<Identity>,
    directories: Vec<watch::Sender<Arc<Directory>>>,
}

fn identity(authority: &Authority, cluster: &ClusterId, node: NodeId) -> Identity {
    let key = Identity::generate_key().unwrap();
    let certificate = authority
        .sign(&key.csr().unwrap(), cluster, node, Clock::system().now())
        .unwrap();
    Identity::new(key, &certificate, &authority.ca_pem()).unwrap()
}

fn bind(
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

async fn cluster(count: u64) -> Cluster {
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
    fn assign(&self, instance: u64, node: u64) {
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
            };
            next.instances.insert(instance.id, instance);
            next.revision += 1;
            *state = Arc::new(next);
        });
    }

    /// The daemon of a node ends, and begins anew on the same address with the same files.
    async fn restart(&mut self, node: usize, between: impl FnOnce()) {
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
        let mesh = mesh.await.unwrap();
        let config = Config {
            instances_dir: dir.path().to_owned(),
            me: mesh.me(),
        };
        let (state, view) = (self.state.subscribe(), self.view.subscribe());
        let logs = Logs::start(config, mesh.clone(), state, view);
        self.nodes.insert(node - 1, TestNode { dir, mesh, logs });
    }

    /// Appends lines, each at its second.
    fn write(&self, instance: u64, node: usize, lines: &[(u64, &str)]) {
        write(self.nodes[node - 1].dir.path(), instance, lines);
    }

    fn ask(&self, node: usize, follow: bool, tail: usize) -> LogStream {
        self.nodes[node - 1].logs.stream(Query {
            deployment: name(),
            follow,
            tail,
            instance: None,
        })
    }
}

fn write(dir: &Path, instance: u64, lines: &[(u64, &str)]) {
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

fn name() -> DeploymentName {
    "api".parse().unwrap()
}

async fn all(stream: LogStream) -> Vec<LogLine> {
    timeout(DEADLINE, stream.collect()).await.unwrap()
}

async fn next(stream: &mut LogStream) -> LogLine {
    timeout(DEADLINE, stream.next()).await.unwrap().unwrap()
}

fn texts(lines: &[LogLine]) -> Vec<&str> {
    lines.iter().map(|line| line.line.as_str()).collect()
}

#[tokio::test]
async fn the_tail_of_both_nodes_is_merged_whichever_is_asked() {
    let cluster = cluster(2).await;
    cluster.assign(1, 1);
    cluster.assign(2, 2);
    cluster.write(1, 1, &[(1, "a"), (3, "c"), (5, "e")]);
    cluster.write(2, 2, &[(2, "b"), (4, "d"), (6, "f")]);
    for node in [1, 2] {
        let lines = all(cluster.ask(node, false, 200)).await;
        assert_eq!(texts(&lines), ["a", "b", "c", "d", "e", "f"]);
        assert_eq!(
            lines[1],
            LogLine {
                time: "2026-01-31T12:00:02.000Z".into(),
                instance: "i-2".into(),
                node: "n2".into(),
                release: 2,
                stream: "stdout".into(),
                line: "b".into(),
            }
        );
        let lines = all(cluster.ask(node, false, 3)).await;
        assert_eq!(texts(&lines), ["d", "e", "f"]);
        let one = cluster.nodes[node - 1].logs.stream(Query {
            deployment: name(),
            follow: false,
            tail: 2,
            instance: Some(InstanceId(2)),
        });
        assert_eq!(texts(&all(one).await), ["d", "f"]);
    }
}

#[tokio::test]
async fn thousands_of_lines_arrive_whole_and_in_order() {
    let cluster = cluster(2).await;
    cluster.assign(1, 1);
    cluster.assign(2, 2);
    let long = "x".repeat(1000);
    for (instance, node) in [(1u64, 1usize), (2, 2)] {
        let lines: Vec<(u64, String)> = (0..3000)
            .map(|n| (n * 2 + instance, format!("{} {long}", n * 2 + instance)))
            .collect();
        let lines: Vec<(u64, &str)> = lines.iter().map(|(n, text)| (*n, &**text)).collect();
        cluster.write(instance, node, &lines);
    }
    let lines = all(cluster.ask(1, false, 5000)).await;
    assert_eq!(lines.len(), 5000);
    for (line, n) in lines.iter().zip(1001..) {
        assert!(line.line.starts_with(&format!("{n} ")), "{}", line.line);
    }
}

#[tokio::test]
async fn following_takes_up_new_lines_and_new_instances_on_both_nodes() {
    let cluster = cluster(2).await;
    cluster.assign(1, 1);
    cluster.write(1, 1, &[(1, "a")]);
    let mut stream = cluster.ask(1, true, 10);
    assert_eq!(next(&mut stream).await.line, "a");

    cluster.write(1, 1, &[(2, "b")]);
    assert_eq!(next(&mut stream).await.line, "b");

    cluster.assign(2, 2);
    cluster.assign(3, 1);
    cluster.write(2, 2, &[(3, "c")]);
    assert_eq!(next(&mut stream).await.line, "c");
    cluster.write(3, 1, &[(4, "d")]);
    assert_eq!(next(&mut stream).await.line, "d");

    // Across a rotation on the other node.
    let dir = cluster.nodes[1].dir.path().join("i-2");
    cluster.write(2, 2, &[(5, "e")]);
    fs::rename(logfile::current(&dir), logfile::previous(&dir)).unwrap();
    cluster.write(2, 2, &[(6, "f")]);
    assert_eq!(next(&mut stream).await.line, "e");
    assert_eq!(next(&mut stream).await.line, "f");
}

#[tokio::test]
async fn a_node_that_does_not_answer_is_named_and_the_rest_is_shown() {
    let cluster = cluster(2).await;
    cluster.assign(1, 1);
    cluster.write(1, 1, &[(1, "a")]);
    cluster.nodes[1].mesh.close().await;
    let lines = all(cluster.ask(1, false, 10)).await;
    assert_eq!(lines.len(), 2, "{lines:?}");
    let missing = lines.iter().find(|line| line.stream == "nebula").unwrap();
    assert!(
        missing.line.contains("node n2 did not answer"),
        "{missing:?}"
    );
    assert!(lines.iter().any(|line| line.line == "a"));
}

#[tokio::test]
async fn following_survives_the_loss_of_a_node() {
    let cluster = cluster(2).await;
    cluster.assign(1, 1);
    cluster.assign(2, 2);
    cluster.write(2, 2, &[(1, "a")]);
    let mut stream = cluster.ask(1, true, 10);
    assert_eq!(next(&mut stream).await.line, "a");
    cluster.nodes[1].mesh.close().await;
    let missing = next(&mut stream).await;
    assert_eq!(missing.stream, "nebula");
    assert!(missing.line.contains("n2"), "{missing:?}");
    cluster.write(1, 1, &[(2, "b")]);
    assert_eq!(next(&mut stream).await.line, "b");
}

#[tokio::test]
async fn a_node_that_returns_sends_what_was_missed_and_nothing_twice() {
    let mut cluster = cluster(2).await;
    cluster.assign(1, 2);
    cluster.write(1, 2, &[(1, "a"), (2, "b")]);
    let mut stream = cluster.ask(1, true, 10);
    assert_eq!(next(&mut stream).await.line, "a");
    assert_eq!(next(&mut stream).await.line, "b");
    let dir = cluster.nodes[1].dir.path().to_owned();
    cluster
        .restart(2, || write(&dir, 1, &[(3, "c"), (4, "d")]))
        .await;
    let missing = next(&mut stream).await;
    assert_eq!(missing.stream, "nebula");
    assert_eq!(next(&mut stream).await.line, "c");
    assert_eq!(next(&mut stream).await.line, "d");
    cluster.write(1, 2, &[(5, "e")]);
    assert_eq!(next(&mut stream).await.line, "e");
}

#[tokio::test]
async fn dropping_the_stream_ends_the_work_on_both_nodes() {
    let cluster = cluster(2).await;
    cluster.assign(1, 1);
    cluster.assign(2, 2);
    cluster.write(1, 1, &[(1, "a")]);
    cluster.write(2, 2, &[(2, "b")]);
    // The readers of files hold receivers of the state; nothing else here makes or drops any.
    let idle = cluster.state.receiver_count();
    let mut streams = Vec::new();
    for node in [1, 2] {
        let mut stream = cluster.ask(node, true, 10);
        assert_eq!(next(&mut stream).await.line, "a");
        assert_eq!(next(&mut stream).await.line, "b");
        streams.push(stream);
    }
    assert!(cluster.state.receiver_count() > idle);
    drop(streams);
    timeout(DEADLINE, async {
        while cluster.state.receiver_count() > idle {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("a reader outlived its stream");
}

#[tokio::test]
async fn a_slow_reader_holds_up_only_itself() {
    let cluster = cluster(2).await;
    cluster.assign(1, 1);
    cluster.assign(2, 2);
    cluster.write(1, 1, &[(0, "begin")]);
    let mut slow = cluster.ask(1, true, 10);
    let mut quick = cluster.ask(1, true, 10);
    for stream in [&mut slow, &mut quick] {
        assert_eq!(next(stream).await.line, "begin");
    }
    for block in 0..20u64 {
        let lines: Vec<(u64, String)> = (0..500)
            .map(|n| (block * 500 + n, format!("{}", block * 500 + n)))
            .collect();
        let lines: Vec<(u64, &str)> = lines.iter().map(|(n, text)| (*n, &**text)).collect();
        cluster.write(2, 2, &lines);
    }
    for n in 0..10_000 {
        assert_eq!(next(&mut quick).await.line, n.to_string());
    }
    for n in 0..10_000 {
        assert_eq!(next(&mut slow).await.line, n.to_string());
    }
}
