//! Preparing and starting the nodes of a `dev` cluster.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use nebula_client::Client;
use nebula_node::{API_SOCKET, Config, EdgeTls, IsolationMode, Overrides, write_private};
use nebula_telemetry::{Clock, Random};
use nebula_wire::api::{CreateJoinToken, Member, MemberStatus, Members};
use nebula_wire::token::JoinTokenText;

use super::home::{node_dir, numbers};
use super::ports::{Ports, local};
use super::state::{CLUSTER_FILE, DevNode, DevState};
use crate::contexts::read_cluster_file;
use crate::error::{CliError, Outcome};
use crate::last_lines::last_lines;
use crate::nodectl::daemon;
use crate::nodectl::flags::bad_config;
use crate::nodectl::setup::refused;

/// From the last start to a cluster in which everyone sees everyone.
const WHOLE_DEADLINE: Duration = Duration::from_secs(60);
/// The token lives for the minutes that a start may take, and is revoked at its end.
const TOKEN_TTL: Duration = Duration::from_secs(600);
const PAUSE: Duration = Duration::from_millis(25);

/// The cluster while it is being started. What runs is written down before anything is awaited, so that whoever
/// interrupts the start knows what to stop.
pub struct Cluster {
    pub dir: PathBuf,
    pub program: PathBuf,
    /// What every node is to have from now on; `None` leaves it as it is.
    pub edge_threads: Option<usize>,
    pub isolation: Option<IsolationMode>,
    /// The same of the folder of certificates, an absolute path.
    pub certificates: Option<PathBuf>,
    pub state: RefCell<DevState>,
}

impl Cluster {
    /// The plan of a new cluster.
    pub fn plan(dir: &Path, ports: &[Ports]) -> DevState {
        let nodes = u16::try_from(ports.len()).unwrap_or(u16::MAX);
        let nodes = numbers(nodes).zip(ports).map(|(number, ports)| DevNode {
            name: format!("node-{number}"),
            // What the cluster says once the node has joined.
            id: u64::from(number),
            daemon: None,
            api: local(ports.api).to_string(),
            edge: local(ports.edge).to_string(),
            edge_tls: Some(local(ports.edge_tls).to_string()),
            quic: local(ports.quic).to_string(),
            data_dir: node_dir(dir, number),
        });
        DevState {
            complete: false,
            https: false,
            nodes: nodes.collect(),
        }
    }

    fn node(&self, index: usize) -> DevNode {
        self.state.borrow().nodes[index].clone()
    }

    pub fn size(&self) -> usize {
        self.state.borrow().nodes.len()
    }

    fn change(&self, index: usize, change: impl FnOnce(&mut DevNode)) -> Outcome {
        let mut state = self.state.borrow_mut();
        change(&mut state.nodes[index]);
        state.store(&self.dir)
    }

    /// A client of the first node, over its socket.
    pub fn client(&self) -> Client {
        Client::unix(self.node(0).data_dir.join(API_SOCKET))
    }

    /// Starts everything: prepares nodes that are not, starts all, waits until they are one cluster.
    pub async fn start(&self, progress: impl Fn(&str)) -> Outcome<Members> {
        progress("starting node-1");
        if !nebula_node::is_prepared(&self.node(0).data_dir) {
            self.init()?;
        }
        let others: Vec<usize> = (1..self.size()).collect();
        let (known, new): (Vec<usize>, Vec<usize>) = others
            .into_iter()
            .partition(|i| nebula_node::is_prepared(&self.node(*i).data_dir));
        // A cluster that goes on needs its majority before any node of it is ready.
        let mut old = vec![0];
        old.extend(known);
        try_join_all(old.iter().map(|i| self.run(*i))).await?;
        if !new.is_empty() {
            progress("joining the other nodes");
            self.join_all(&new).await?;
        }
        progress("waiting until all nodes see each other");
        let members = self.whole().await?;
        self.state.borrow_mut().complete = true;
        self.state.borrow().store(&self.dir)?;
        Ok(members)
    }

    fn config(&self, node: &DevNode) -> Outcome<Config> {
        let address = |text: &str| {
            text.parse().map(Some).map_err(|_| {
                CliError::failed(
                    format!("'{text}' is not an address"),
                    "delete the folder and start again",
                )
            })
        };
        let name = node
            .name
            .parse()
            .map_err(|e: nebula_domain::names::NameError| {
                CliError::failed(e.to_string(), "delete the folder and start again")
            })?;
        let edge_tls = match (&self.certificates, &node.edge_tls) {
            (Some(_), Some(text)) => address(text)?.map(EdgeTls::At),
            _ => None,
        };
        let overrides = Overrides {
            data_dir: Some(node.data_dir.clone()),
            name: Some(name),
            quic: address(&node.quic)?,
            api: address(&node.api)?,
            edge: address(&node.edge)?,
            edge_threads: self.edge_threads,
            isolation: self.isolation,
            edge_tls,
            edge_certificates_dir: self.certificates.clone(),
            ..Overrides::default()
        };
        Config::load(None, &overrides).map_err(bad_config)
    }

    fn init(&self) -> Outcome {
        let node = self.node(0);
        let done = nebula_node::init(
            &self.config(&node)?,
            Some("dev"),
            &Clock::system(),
            &Random::system(),
        )
        .map_err(refused)?;
        let mut file = read_cluster_file(&done.cluster_file)?;
        file.apis = self
            .state
            .borrow()
            .nodes
            .iter()
            .map(|n| n.api.clone())
            .collect();
        let path = self.dir.join(CLUSTER_FILE);
        serde_json::to_vec_pretty(&file)
            .map_err(std::io::Error::from)
            .and_then(|bytes| write_private(&path, &bytes))
            .map_err(|e| CliError::io(format!("cannot write {}", path.display()), &e))?;
        self.change(0, |n| n.id = done.node.0)
    }

    async fn join_all(&self, indexes: &[usize]) -> Outcome {
        let client = self.client();
        let request = CreateJoinToken {
            role: "voter".to_owned(),
            ttl_seconds: TOKEN_TTL.as_secs(),
            reusable: true,
        };
        let created = client.create_join_token(&request).await?;
        let token: JoinTokenText =
            created
                .token
                .parse()
                .map_err(|e: nebula_wire::token::BadToken| {
                    CliError::failed(e.to_string(), "see node-1's log")
                })?;
        let address = self.node(0).api;
        let joined = self.join_in_turn(indexes, &address, &token).await;
        // It would expire by itself; a cluster that has just failed has worse to tell.
        let _ = client.revoke_join_token(&created.id).await;
        joined?;
        try_join_all(indexes.iter().map(|i| self.run(*i))).await?;
        Ok(())
    }

    /// In turn, so that node-2 is node 2.
    async fn join_in_turn(
        &self,
        indexes: &[usize],
        address: &str,
        token: &JoinTokenText,
    ) -> Outcome {
        for index in indexes {
            self.join(*index, address, token).await?;
        }
        Ok(())
    }

    async fn join(&self, index: usize, address: &str, token: &JoinTokenText) -> Outcome {
        let config = self.config(&self.node(index))?;
        let joined = nebula_node::join(&config, address, token, &Random::system())
            .await
            .map_err(refused)?;
        self.change(index, |n| n.id = joined.node.0)
    }

    /// Starts one daemon and waits until it answers.
    async fn run(&self, index: usize) -> Outcome {
        let node = self.node(index);
        let isolation = self.isolation.is_some();
        if self.edge_threads.is_some() || self.certificates.is_some() || isolation {
            // One that goes on has its settings in its file.
            self.config(&node)?.store().map_err(bad_config)?;
        }
        let process = daemon::spawn(&self.program, &node.data_dir)?;
        self.change(index, |n| n.daemon = Some(process))?;
        daemon::wait_ready(process, &node.data_dir)
            .await
            .map(|_| ())
            .map_err(|mut error| {
                error.error.message = format!("{}: {}", node.name, error.error.message);
                error.error.hint = "correct the cause and run 'nodectl dev' again".to_owned();
                error
            })
    }

    /// Waits until all are members, all are alive, and there are as many voters as this size has.
    async fn whole(&self) -> Outcome<Members> {
        let client = self.client();
        let wanted = self.size();
        let until = Instant::now() + WHOLE_DEADLINE;
        loop {
            let seen = client.members().await;
            if let Ok(members) = &seen
                && is_whole(members, wanted)
            {
                return Ok(members.clone());
            }
            if Instant::now() >= until {
                let how_far = match seen {
                    Ok(members) => summary(&members),
                    Err(error) => error.to_string(),
                };
                return Err(CliError::timed_out(
                    format!(
                        "the cluster of {wanted} is not whole after {} s: {how_far}",
                        WHOLE_DEADLINE.as_secs()
                    ),
                    "see the logs in the nodes' folders",
                ));
            }
            if let Some(gone) = self.first_dead() {
                return Err(gone);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// A daemon that ended although nobody asked it to.
    pub fn first_dead(&self) -> Option<CliError> {
        let state = self.state.borrow();
        let dead = state
            .nodes
            .iter()
            .find(|n| !n.daemon.is_some_and(|d| d.is_running()))?;
        let log = dead.data_dir.join(daemon::LOG_FILE);
        let lines = last_lines(&log, 12);
        Some(
            CliError::failed(
                format!("the daemon of {} has ended", dead.name),
                "see its last words",
            )
            .with_details(lines),
        )
    }
}

/// Voters grow 1 to 3 by themselves; more come later and are not worth waiting for.
fn voters_wanted(nodes: usize) -> usize {
    if nodes >= 3 { 3 } else { 1 }
}

/// Members that are alive, and voters.
fn counts(members: &Members) -> (usize, usize) {
    let alive = |m: &&Member| m.status == MemberStatus::Alive;
    let votes = |m: &&Member| m.role == "voter";
    let all = || members.members.iter();
    (all().filter(alive).count(), all().filter(votes).count())
}

fn is_whole(members: &Members, wanted: usize) -> bool {
    let (alive, voters) = counts(members);
    members.leader.is_some() && alive == wanted && voters >= voters_wanted(wanted)
}

fn summary(members: &Members) -> String {
    let (alive, voters) = counts(members);
    format!(
        "{} members, {alive} alive, {voters} voters",
        members.members.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, role: &str, status: MemberStatus) -> Member {
        Member {
            id,
            name: format!("node-{id}"),
            address: String::new(),
            api: String::new(),
            edge: String::new(),
            role: role.into(),
            status,
            leader: id == 1,
            version: String::new(),
            level: 1,
            labels: Default::default(),
            room: Default::default(),
        }
    }

    #[test]
    fn whole_means_all_alive_and_three_voters() {
        use MemberStatus::{Alive, Dead};
        let cluster = |members| Members {
            cluster_id: "c".into(),
            leader: Some(1),
            term: 1,
            members,
        };
        let voters = |n| {
            (1..=n)
                .map(|id| member(id, "voter", Alive))
                .collect::<Vec<_>>()
        };
        assert!(is_whole(&cluster(voters(3)), 3));
        assert!(!is_whole(&cluster(voters(2)), 3));
        let mut one_dead = voters(3);
        one_dead[2].status = Dead;
        assert!(!is_whole(&cluster(one_dead), 3));
        let mut learner = voters(3);
        learner[2].role = "learner".into();
        assert!(!is_whole(&cluster(learner), 3));
        assert!(is_whole(&cluster(voters(1)), 1));
        let leaderless = Members {
            leader: None,
            ..cluster(voters(3))
        };
        assert!(!is_whole(&leaderless, 3));
    }

    #[test]
    fn a_plan_names_each_node_and_its_places() {
        let ports = [
            Ports {
                quic: 1,
                api: 2,
                edge: 3,
                edge_tls: 7,
            },
            Ports {
                quic: 4,
                api: 5,
                edge: 6,
                edge_tls: 8,
            },
        ];
        let plan = Cluster::plan(Path::new("/d"), &ports);
        assert_eq!(plan.nodes[1].name, "node-2");
        assert_eq!(plan.nodes[1].edge, "127.0.0.1:6");
        assert_eq!(plan.nodes[1].data_dir, Path::new("/d/node-2"));
        assert!(!plan.complete);
    }
    /// A cluster of one, and that one with its folder.
    fn one_node(dir: &Path) -> (Cluster, DevNode) {
        let ports = Ports {
            quic: 1,
            api: 2,
            edge: 3,
            edge_tls: 4,
        };
        let cluster = Cluster {
            dir: dir.to_owned(),
            program: PathBuf::new(),
            edge_threads: None,
            isolation: None,
            certificates: None,
            state: RefCell::new(Cluster::plan(dir, &[ports])),
        };
        let node = cluster.node(0);
        std::fs::create_dir(&node.data_dir).unwrap();
        (cluster, node)
    }

    #[test]
    fn edge_threads_are_set_for_good_and_left_alone_where_not_given() {
        let dir = tempfile::tempdir().unwrap();
        let (mut cluster, node) = one_node(dir.path());
        cluster.edge_threads = Some(1);
        let config = cluster.config(&node).unwrap();
        assert_eq!(config.edge_threads, 1);
        config.store().unwrap();
        cluster.edge_threads = None;
        assert_eq!(cluster.config(&node).unwrap().edge_threads, 1);
        cluster.edge_threads = Some(0);
        assert_eq!(cluster.config(&node).unwrap().edge_threads, 0);
    }

    #[test]
    fn isolation_once_given_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (mut cluster, node) = one_node(dir.path());
        let isolation = |cluster: &Cluster| cluster.config(&node).unwrap().instances.isolation;
        assert_eq!(isolation(&cluster), IsolationMode::Auto);
        cluster.isolation = Some(IsolationMode::Off);
        cluster.config(&node).unwrap().store().unwrap();
        cluster.isolation = None;
        assert_eq!(isolation(&cluster), IsolationMode::Off);
    }

    #[test]
    fn certificates_once_given_stay() {
        let dir = tempfile::tempdir().unwrap();
        let (mut cluster, node) = one_node(dir.path());
        assert_eq!(cluster.config(&node).unwrap().edge_tls(), None);
        cluster.certificates = Some("/certificates".into());
        let config = cluster.config(&node).unwrap();
        assert_eq!(config.edge_tls(), Some("127.0.0.1:4".parse().unwrap()));
        assert_eq!(config.edge_certificates_dir(), Path::new("/certificates"));
        config.store().unwrap();
        cluster.certificates = None;
        assert_eq!(cluster.config(&node).unwrap().edge_tls(), config.edge_tls());
    }
}
