//! The second kind of laboratory: each daemon in a network namespace of its own, on a bridge, so that links can be cut
//! and made lossy one by one and in one direction. Needs root; see [`crate::namespaces::available`].
//!
//! The kernel here can drop packets at random (nft's `numgen`) and cannot delay them (no netem): where links are to be
//! slow, a [`super::relay`] carries the packets in place of the bridge.

use std::fmt::Write;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use async_trait::async_trait;
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::http_api::{Address, HttpApi};
use super::links::{Link, Links};
use super::processes::{page, programs};
use super::{Api, Lab, Observer, host};
use crate::command::{self, Output};
use crate::namespaces::Network;
use crate::wait::{eventually, holds};
use crate::{binaries, http, process};

const DEADLINE: Duration = Duration::from_secs(60);
const QUIC_PORT: u16 = 7600;
const API_PORT: u16 = 7601;
const EDGE_PORT: u16 = 80;

struct Node {
    dir: PathBuf,
    id: u64,
    daemon: Option<Child>,
}

pub struct Namespaced {
    // Ended in `drop`, before the network and the folder go.
    nodes: Vec<Node>,
    network: Network,
    folder: TempDir,
}

impl Namespaced {
    /// So many machines, bootstrapped as people do it, all of them voters.
    pub fn start(nodes: usize) -> Namespaced {
        Namespaced::on(Network::new(nodes), nodes)
    }

    /// The same on a relay, so that links can be slow.
    pub fn relayed(nodes: usize, seed: u64) -> Namespaced {
        Namespaced::on(Network::relayed(nodes, seed), nodes)
    }

    fn on(network: Network, nodes: usize) -> Namespaced {
        let folder = tempfile::Builder::new().prefix("nebula-lab-").tempdir();
        let folder = folder.expect("a temporary folder");
        let node = |i: usize| Node {
            dir: folder.path().join(format!("n{}", i + 1)),
            id: i as u64 + 1,
            daemon: None,
        };
        let mut lab = Namespaced {
            nodes: (0..nodes).map(node).collect(),
            network,
            folder,
        };
        lab.set_up(0, &["init"]);
        lab.run_daemon(0);
        for node in 1..nodes {
            let token = lab.join_token();
            let seed = format!("{}:{API_PORT}", lab.network.address(0));
            lab.set_up(node, &["join", &seed, "--token", &token]);
            lab.run_daemon(node);
        }
        lab.wait_all_vote();
        lab
    }

    /// A command for the node, through its socket.
    pub fn cli(&self, node: usize, program: &str, args: &[&str]) -> Output {
        let dir = self.nodes[node].dir.to_str().expect("UTF-8");
        self.network.run(node, dir, program, args)
    }

    fn set_up(&self, node: usize, args: &[&str]) {
        let ports = [QUIC_PORT, API_PORT, EDGE_PORT];
        let [quic, api, edge] = ports.map(|p| format!("{}:{p}", self.network.address(node)));
        let name = format!("n{}", node + 1);
        let dir = self.nodes[node].dir.to_str().expect("UTF-8");
        let flags = ["--data-dir", dir, "--name", &name, "--quic-addr", &quic];
        let more = ["--api-addr", &api, "--edge-addr", &edge, "--no-start"];
        self.cli(node, "nodectl", &[args, &flags, &more].concat())
            .ok();
    }

    fn run_daemon(&mut self, node: usize) {
        let dir = self.nodes[node].dir.to_str().expect("UTF-8").to_owned();
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log(node))
            .expect("a log file");
        let mut command = self
            .network
            .command(node, "nodectl", &["run", "--data-dir", &dir]);
        command.stdout(Stdio::null()).stderr(log).process_group(0);
        // `ip netns exec` becomes the daemon, so the pid is the daemon's.
        self.nodes[node].daemon = Some(command.spawn().expect("nodectl runs"));
    }

    fn log(&self, node: usize) -> PathBuf {
        self.folder.path().join(format!("n{}.log", node + 1))
    }

    fn join_token(&self) -> String {
        eventually(DEADLINE, "a join token", || {
            let done = self.cli(0, "nodectl", &["token", "create", "--json"]);
            let json: Value = serde_json::from_str(&done.stdout).map_err(|_| done.to_string())?;
            let token = json["token"].as_str().map(str::to_owned);
            token.ok_or_else(|| done.to_string())
        })
    }

    fn wait_all_vote(&self) {
        eventually(DEADLINE, "all machines vote", || {
            let done = self.cli(0, "nodectl", &["members", "--json"]);
            let json: Value = serde_json::from_str(&done.stdout).map_err(|_| done.to_string())?;
            let members = json["members"].as_array().into_iter().flatten();
            let voters = members.filter(|m| m["role"] == "voter" && m["status"] == "alive");
            holds(voters.count() == self.nodes.len(), json)
        });
    }

    fn signal(&self, node: usize, signal: Signal) {
        if let Some(daemon) = &self.nodes[node].daemon {
            process::signal(daemon.id(), signal);
        }
    }

    /// What a node takes in from each of the others; applied at the receiving end, so that a link has a direction.
    fn rules(&self, to: usize, links: &Links) -> String {
        let mut rules = String::from(
            "table inet lab\ndelete table inet lab\ntable inet lab {\nchain from {\ntype filter hook input priority 0\n",
        );
        for from in 0..self.nodes.len() {
            let address = self.network.address(from);
            let verdict = match links.get(from, to) {
                Link::Open => continue,
                Link::Slow(_) => {
                    assert!(self.network.relay().is_some(), "a bridge is never slow");
                    continue;
                }
                Link::Cut => "drop".to_owned(),
                Link::Lossy(percent) => format!("numgen random mod 100 < {percent} drop"),
            };
            let _ = writeln!(rules, "ip saddr {address} {verdict}");
        }
        rules + "}\n}\n"
    }

    fn print_logs(&self) {
        for node in 0..self.nodes.len() {
            let text = std::fs::read(self.log(node)).unwrap_or_default();
            let text = String::from_utf8_lossy(&text).into_owned();
            let lines: Vec<_> = text.lines().collect();
            eprintln!("--- n{}", node + 1);
            for line in &lines[lines.len().saturating_sub(60)..] {
                eprintln!("{line}");
            }
        }
    }
}

/// Replaces a machine's rules in one step.
fn load_rules(namespace: &str, path: &Path) {
    let mut nft = Command::new("ip");
    nft.args(["netns", "exec", namespace, "nft", "-f"])
        .arg(path);
    command::run(nft).ok();
}

/// A request made by a thread that has entered the machine's namespace.
fn get_inside(namespace: &str, edge: SocketAddr, host: &str) -> std::io::Result<http::Response> {
    let (path, host) = (format!("/run/netns/{namespace}"), host.to_owned());
    let thread = std::thread::spawn(move || {
        setns(std::fs::File::open(path)?, CloneFlags::CLONE_NEWNET)?;
        http::get(edge, &host, "/")
    });
    thread.join().expect("a request does not panic")
}

#[async_trait(?Send)]
impl Lab for Namespaced {
    fn kind(&self) -> &'static str {
        if self.network.relay().is_some() {
            "relayed"
        } else {
            "namespaces"
        }
    }

    fn nodes(&self) -> usize {
        self.nodes.len()
    }

    fn id(&self, node: usize) -> u64 {
        self.nodes[node].id
    }

    fn api(&self, node: usize) -> Box<dyn Api> {
        let socket = self.nodes[node].dir.join("api.sock");
        Box::new(HttpApi::new(Address::Unix(socket)))
    }

    async fn kill(&mut self, node: usize) {
        if let Some(mut daemon) = self.nodes[node].daemon.take() {
            daemon.kill().expect("a daemon of this test can be killed");
            daemon
                .wait()
                .expect("a daemon of this test can be waited for");
        }
    }

    async fn restart(&mut self, node: usize) {
        self.run_daemon(node);
    }

    async fn pause(&mut self, node: usize) {
        self.signal(node, Signal::SIGSTOP);
    }

    async fn resume(&mut self, node: usize) {
        self.signal(node, Signal::SIGCONT);
    }

    fn has_links(&self) -> bool {
        true
    }

    async fn set_links(&mut self, links: &Links) {
        if let Some(relay) = self.network.relay() {
            relay.set_links(links);
        }
        for node in 0..self.nodes.len() {
            let path = self.folder.path().join(format!("n{}.nft", node + 1));
            std::fs::write(&path, self.rules(node, links)).expect("a file in our folder");
            load_rules(self.network.machine(node), &path);
        }
    }

    async fn deploy_echo(&mut self, name: &str, instances: usize) {
        let folder = self.folder.path().join("echo");
        std::fs::create_dir_all(&folder).expect("a folder in our folder");
        let program = folder.join("echo-service");
        std::fs::copy(binaries::path("echo-service"), program).expect("copy the echo service");
        let (folder, count) = (folder.to_str().expect("UTF-8"), instances.to_string());
        let what = [
            "--path",
            folder,
            "--command",
            "./echo-service",
            "--tld",
            "example.test",
        ];
        let how = ["--instances", &count, "--wait", "--timeout", "60s"];
        let args = [&["deploy", "create", name], &what[..], &how[..]].concat();
        self.cli(0, "nebula", &args).ok();
    }

    async fn fetch(&self, node: usize, name: &str) -> Result<String, String> {
        let edge = format!("{}:{EDGE_PORT}", self.network.address(node));
        let edge = edge.parse().expect("an address");
        page(get_inside(self.network.machine(node), edge, &host(name)))
    }

    fn observer(&self) -> Observer {
        programs(self.nodes.iter().map(|n| n.dir.clone()).collect())
    }

    fn traces(&self) -> String {
        self.folder.path().display().to_string()
    }
}

impl Drop for Namespaced {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_logs();
        }
        // All at once, then each is waited for. One that was paused cannot end.
        let daemons = || self.nodes.iter().filter_map(|n| n.daemon.as_ref());
        for signal in [Signal::SIGCONT, Signal::SIGINT] {
            daemons().for_each(|daemon| process::signal(daemon.id(), signal));
        }
        for node in &mut self.nodes {
            node.daemon.iter_mut().for_each(process::end);
        }
    }
}
