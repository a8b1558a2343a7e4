//! A cluster of real daemons on this machine, started by `nodectl dev`, ended on drop.

mod members;

use std::io::Write;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::command::{self, Output};
use crate::wait::{eventually, holds};
use crate::{binaries, http, process};

/// A debug build on two busy cores is slow; what takes longer than this is broken.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Ports for a node's mesh, API and edge that are free at this moment.
pub fn free_ports() -> [u16; 3] {
    let udp = UdpSocket::bind("127.0.0.1:0").and_then(|s| s.local_addr());
    let bind = || TcpListener::bind("127.0.0.1:0").expect("a free port");
    let (api, edge) = (bind(), bind());
    let tcp = [&api, &edge].map(|s| s.local_addr().expect("a bound socket's address").port());
    [udp.expect("a free port").port(), tcp[0], tcp[1]]
}

/// One node as `nodectl dev --json` describes it.
#[derive(Debug, Clone)]
pub struct Member {
    pub name: String,
    pub id: u64,
    pub pid: u32,
    pub api: String,
    pub edge: SocketAddr,
    /// Where it serves TLS, in a cluster with certificates.
    pub edge_tls: Option<SocketAddr>,
    pub data_dir: PathBuf,
}

impl Member {
    /// The processes of a deployment's instances on this node. Another cluster may run one of the same name.
    pub fn programs(&self, deployment: &str) -> Vec<u32> {
        let mut pids = process::mentioning(&format!("NEBULA_DEPLOYMENT={deployment}\0"));
        pids.retain(|pid| {
            let cwd = std::fs::read_link(format!("/proc/{pid}/cwd"));
            cwd.is_ok_and(|cwd| cwd.starts_with(&self.data_dir))
        });
        pids
    }
}

pub struct Cluster {
    pub members: Vec<Member>,
    pub cluster_file: PathBuf,
    folder: TempDir,
    /// Daemons that a test started again.
    restarted: Vec<Child>,
}

fn member(node: &Value) -> Member {
    let text = |key: &str| {
        node[key]
            .as_str()
            .unwrap_or_else(|| panic!("no '{key}' in {node}"))
            .to_owned()
    };
    let address = |url: &str| {
        let (_, address) = url.split_once("://").expect("a URL");
        address.parse().expect("an address")
    };
    Member {
        name: text("name"),
        id: node["id"].as_u64().expect("a node id"),
        pid: u32::try_from(node["pid"].as_u64().expect("a pid")).expect("a pid fits"),
        api: text("api"),
        edge: address(&text("edge")),
        edge_tls: node["edge_tls"].as_str().map(address),
        data_dir: text("data_dir").into(),
    }
}

impl Cluster {
    /// The processes of a deployment's instances on all nodes.
    pub fn programs(&self, deployment: &str) -> Vec<u32> {
        let of = |member: &Member| member.programs(deployment);
        self.members.iter().flat_map(of).collect()
    }

    /// `nodes` daemons, ready, without deployments.
    pub fn start(nodes: usize) -> Cluster {
        Cluster::start_with(nodes, &[])
    }

    /// The same with more flags for `nodectl dev`.
    pub fn start_with(nodes: usize, flags: &[&str]) -> Cluster {
        Cluster::start_of(&binaries::path("nodectl"), nodes, flags)
    }

    /// The same with another program than the `nodectl` under test.
    pub fn start_of(program: &Path, nodes: usize, flags: &[&str]) -> Cluster {
        let folder = tempfile::Builder::new()
            .prefix("nebula-test-")
            .tempdir()
            .expect("a temporary folder");
        let dir = folder.path().to_str().expect("a UTF-8 path").to_owned();
        let count = nodes.to_string();
        let up = ["dev", "--nodes", &count, "--data-dir", &dir, "--detach"];
        let args = [&up[..], &["--json", "--no-example"], flags].concat();
        let done = command::run(command::prepare(program, args));
        let mut cluster = Cluster {
            members: Vec::new(),
            cluster_file: PathBuf::new(),
            folder,
            restarted: Vec::new(),
        };
        let ready = done.ok().json();
        cluster.members = ready["nodes"]
            .as_array()
            .expect("a list of nodes")
            .iter()
            .map(member)
            .collect();
        cluster.cluster_file = ready["cluster_file"]
            .as_str()
            .expect("a cluster file")
            .into();
        cluster
    }

    pub fn edges(&self) -> Vec<SocketAddr> {
        self.members.iter().map(|m| m.edge).collect()
    }

    /// A folder for a test's own files, gone with the cluster.
    pub fn scratch(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join("scratch").join(name);
        std::fs::create_dir_all(&path).expect("a folder in the temporary folder");
        path
    }

    /// `nebula --cluster FILE ARGS…`
    pub fn nebula(&self, args: &[&str]) -> Output {
        self.run("nebula", args)
    }

    /// `nodectl --cluster FILE ARGS…`
    pub fn nodectl(&self, args: &[&str]) -> Output {
        self.run("nodectl", args)
    }

    fn run(&self, program: &str, args: &[&str]) -> Output {
        let mut command = command::prepare(&binaries::path(program), args);
        command.env("NEBULA_CLUSTER", &self.cluster_file);
        command::run(command)
    }

    /// A command against one node only.
    pub fn nebula_at(&self, member: &Member, args: &[&str]) -> Output {
        let text = std::fs::read(&self.cluster_file).expect("the cluster file");
        let mut file: Value = serde_json::from_slice(&text).expect("the cluster file is JSON");
        let api = member.api.trim_start_matches("https://").to_owned();
        file["apis"] = Value::from(vec![api]);
        let path = self
            .scratch("clusters")
            .join(format!("{}.json", member.name));
        std::fs::write(&path, file.to_string()).expect("a cluster file for one node");
        let mut command = command::prepare(&binaries::path("nebula"), args);
        command.env("NEBULA_CLUSTER", path);
        command::run(command)
    }

    pub fn member_list(&self) -> Value {
        self.nodectl(&["members", "--json"]).ok().json()
    }

    /// Waits until the nodes that answer know a leader, and returns its index here.
    pub fn leader(&self) -> usize {
        eventually(DEADLINE, "a leader that is one of us", || {
            let done = self.nodectl(&["members", "--json"]);
            let list: Value = serde_json::from_str(&done.stdout).map_err(|_| done.to_string())?;
            let id = list["leader"].as_u64().ok_or_else(|| list.to_string())?;
            let index = self
                .members
                .iter()
                .position(|m| m.id == id)
                .ok_or_else(|| list.to_string())?;
            holds(process::is_running(self.members[index].pid), &list).map(|()| index)
        })
    }

    pub fn status(&self, deployment: &str) -> Value {
        self.nebula(&["deploy", "status", deployment, "--json"])
            .ok()
            .json()
    }

    /// A folder with the echo service in it, ready to deploy with `./echo-service`.
    pub fn echo_folder(&self) -> PathBuf {
        let folder = self.scratch("echo");
        let program = folder.join("echo-service");
        if !program.exists() {
            std::fs::copy(binaries::path("echo-service"), &program).expect("copy the echo service");
        }
        folder
    }

    /// A folder with the service that keeps a count, ready to deploy with `./keep-service`.
    pub fn keep_folder(&self) -> PathBuf {
        let folder = self.scratch("keep");
        let program = folder.join("keep-service");
        if !program.exists() {
            std::fs::copy(binaries::path("keep-service"), &program).expect("copy the service");
        }
        folder
    }

    /// A folder with a page in it.
    pub fn site_folder(&self, name: &str, page: &str) -> PathBuf {
        let folder = self.scratch(name);
        std::fs::write(folder.join("index.html"), page).expect("write a page");
        folder
    }

    /// Deploys the echo service and waits until it is ready.
    pub fn deploy_echo(&self, name: &str, instances: usize) {
        let folder = self.echo_folder();
        let (folder, count) = (folder.to_str().expect("UTF-8"), instances.to_string());
        let args = [
            "deploy",
            "create",
            name,
            "--path",
            folder,
            "--command",
            "./echo-service",
        ];
        let rest = [
            "--instances",
            &count,
            "--tld",
            "example.test",
            "--wait",
            "--timeout",
            "60s",
        ];
        self.nebula(&[&args[..], &rest[..]].concat()).ok();
    }

    /// Waits until the edge answers `GET /` for the host with 200.
    pub fn serves(&self, edge: SocketAddr, host: &str) -> http::Response {
        eventually(
            DEADLINE,
            &format!("200 for {host} at {edge}"),
            || match http::get(edge, host, "/") {
                Ok(response) if response.status == 200 => Ok(response),
                Ok(response) => Err(format!("{} {}", response.status, response.text())),
                Err(error) => Err(error.to_string()),
            },
        )
    }

    /// The daemon and everything that runs on its behalf, gone at once: the machine lost its power.
    pub fn kill_machine(&self, index: usize) {
        let member = &self.members[index];
        process::signal(member.pid, Signal::SIGKILL);
        for pid in workload_of(&member.data_dir) {
            process::signal(pid, Signal::SIGKILL);
        }
        self.wait_gone(index);
    }

    /// Only the daemon, at once: its instances go on.
    pub fn kill_daemon(&self, index: usize) {
        process::signal(self.members[index].pid, Signal::SIGKILL);
        self.wait_gone(index);
    }

    pub fn wait_gone(&self, index: usize) {
        let pid = self.members[index].pid;
        eventually(DEADLINE, "the daemon is gone", || {
            holds(!process::is_running(pid), pid)
        });
    }

    /// Starts a node's daemon again on its data folder.
    pub fn restart(&mut self, index: usize) {
        self.restart_with(index, &[]);
    }

    /// The same with variables of its own.
    pub fn restart_with(&mut self, index: usize, env: &[(&str, &str)]) {
        self.restart_as(index, &binaries::path("nodectl"), env);
    }

    /// The same with another program than `nodectl`.
    pub fn restart_as(&mut self, index: usize, program: &Path, env: &[(&str, &str)]) {
        // A test may do this hundreds of times.
        self.restarted
            .retain_mut(|c| matches!(c.try_wait(), Ok(None)));
        let member = &mut self.members[index];
        let path = member.data_dir.join("again.log");
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .expect("a log file");
        let mut command = command::prepare(program, ["run", "--data-dir"]);
        command.arg(&member.data_dir).envs(env.iter().copied());
        command.stdout(Stdio::null()).stderr(log).process_group(0);
        let child = command.spawn().expect("nodectl runs");
        member.pid = child.id();
        self.restarted.push(child);
    }

    /// Ends a node's daemon and starts it again with its data in another folder, which is below `dir`.
    pub fn move_to(&mut self, index: usize, dir: &Path) {
        self.kill_daemon(index);
        let member = &mut self.members[index];
        let target = dir.join(&member.name);
        let from = std::mem::replace(&mut member.data_dir, target);
        let copied = Command::new("cp")
            .arg("-a")
            .args([&from, &member.data_dir])
            .status();
        assert!(copied.is_ok_and(|s| s.success()), "cp failed");
        // As durable as what the daemon wrote itself.
        let synced = Command::new("sync").arg("-f").arg(dir).status();
        assert!(synced.is_ok_and(|s| s.success()), "sync failed");
        self.restart(index);
    }

    /// Waits until all members are alive in the eyes of the cluster.
    pub fn wait_all_alive(&self) {
        let count = self.members.len();
        eventually(DEADLINE, "all members alive", || {
            let done = self.nodectl(&["members", "--json"]);
            let list: Value = serde_json::from_str(&done.stdout).map_err(|_| done.to_string())?;
            let alive = list["members"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|m| m["status"] == "alive")
                .count();
            holds(alive == count && list["leader"].is_u64(), &list)
        });
    }

    /// The last lines that each daemon logged.
    pub fn print_logs(&self) {
        let mut out = std::io::stderr().lock();
        for member in &self.members {
            for entry in std::fs::read_dir(&member.data_dir)
                .into_iter()
                .flatten()
                .flatten()
            {
                if entry.path().extension().is_none_or(|e| e != "log") {
                    continue;
                }
                let text = std::fs::read(entry.path()).unwrap_or_default();
                let text = String::from_utf8_lossy(&text).into_owned();
                let lines: Vec<_> = text.lines().collect();
                let _ = writeln!(out, "--- {} {}", member.name, entry.path().display());
                for line in &lines[lines.len().saturating_sub(60)..] {
                    let _ = writeln!(out, "{line}");
                }
            }
        }
    }
}

/// Processes that run in a node's data folder or were started with its path.
fn workload_of(data_dir: &Path) -> Vec<u32> {
    let needle = data_dir.to_str().expect("UTF-8");
    let inside = |pid: &u32| {
        std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(data_dir))
    };
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids: Vec<u32> = entries
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .filter(inside)
        .collect();
    pids.extend(process::mentioning(needle));
    let own = std::process::id();
    pids.retain(|pid| *pid != own && process::is_running(*pid));
    pids
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_logs();
        }
        let dir = self.folder.path().to_owned();
        let mut down = Command::new(binaries::path("nodectl"));
        down.args(["dev", "down", "--data-dir"])
            .arg(&dir)
            .stdin(Stdio::null());
        let down = command::run(down);
        for child in &mut self.restarted {
            // `dev down` has ended those it knows; they are this process's children all the same.
            process::end(child);
        }
        let left = workload_of(&dir);
        for pid in &left {
            process::signal(*pid, Signal::SIGKILL);
        }
        if !std::thread::panicking() {
            assert!(down.code == 0, "{down}");
            assert!(left.is_empty(), "processes were left behind: {left:?}");
        }
    }
}
