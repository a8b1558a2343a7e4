//! The first kind of laboratory: daemons on this machine's loopback, as `nodectl dev` starts them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio_rustls::TlsConnector;

use super::http_api::{Address, HttpApi};
use super::links::Links;
use super::{Api, Lab, Observer, Running, Time, host};
use crate::{Cluster, http, process};

pub struct Processes {
    cluster: Cluster,
    clocks: Option<Clocks>,
    /// Names of machines are used once.
    joined: usize,
    tls: TlsConnector,
    token: String,
}

impl Processes {
    pub fn start(nodes: usize) -> Processes {
        let cluster = Cluster::start(nodes);
        let text = std::fs::read(&cluster.cluster_file).expect("the cluster file");
        let file: Value = serde_json::from_slice(&text).expect("the cluster file is JSON");
        let text = |key: &str| file[key].as_str().expect("a text").to_owned();
        let tls = nebula_pki::client_config(&text("ca"), nebula_pki::Expect::AnyNode);
        Processes {
            tls: tls.expect("the cluster file's CA is one").into(),
            token: text("token"),
            clocks: None,
            joined: nodes,
            cluster,
        }
    }

    /// The same with clocks that can be wrong, by this libfaketime.
    pub fn with_clocks(nodes: usize, library: &Path) -> Processes {
        let mut lab = Processes::start(nodes);
        let clocks = Clocks {
            library: library.to_owned(),
            folder: lab.cluster.scratch("clocks"),
            paces: BTreeMap::new(),
        };
        let ids = lab.cluster.members.iter().map(|m| m.id);
        ids.for_each(|id| clocks.write(id, Time::Right));
        lab.clocks = Some(clocks);
        for node in 0..nodes {
            lab.cluster.kill_daemon(node);
            lab.start_daemon(node);
        }
        lab
    }

    fn start_daemon(&mut self, node: usize) {
        let id = self.cluster.members[node].id;
        let clocks = self.clocks.as_ref();
        let env = clocks.map(|clocks| clocks.env(id)).unwrap_or_default();
        let env: Vec<_> = env.iter().map(|(k, v)| (*k, v.as_str())).collect();
        self.cluster.restart_with(node, &env);
    }

    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// A client of this node alone, on a connection of its own.
    pub fn http_api(&self, node: usize) -> HttpApi {
        let address = self.cluster.members[node]
            .api
            .trim_start_matches("https://");
        HttpApi::new(Address::Tls {
            address: address.parse().expect("the API is an address"),
            tls: self.tls.clone(),
            token: self.token.clone(),
        })
    }

    pub fn cluster_mut(&mut self) -> &mut Cluster {
        &mut self.cluster
    }
}

#[async_trait(?Send)]
impl Lab for Processes {
    fn kind(&self) -> &'static str {
        "processes"
    }

    fn nodes(&self) -> usize {
        self.cluster.members.len()
    }

    fn id(&self, node: usize) -> u64 {
        self.cluster.members[node].id
    }

    fn api(&self, node: usize) -> Box<dyn Api> {
        Box::new(self.http_api(node))
    }

    async fn kill(&mut self, node: usize) {
        self.cluster.kill_daemon(node);
    }

    async fn restart(&mut self, node: usize) {
        self.start_daemon(node);
    }

    async fn pause(&mut self, node: usize) {
        process::signal(self.cluster.members[node].pid, Signal::SIGSTOP);
    }

    async fn resume(&mut self, node: usize) {
        process::signal(self.cluster.members[node].pid, Signal::SIGCONT);
    }

    fn has_links(&self) -> bool {
        false
    }

    async fn set_links(&mut self, _: &Links) {
        panic!("processes on loopback have no links to cut");
    }

    async fn set_clock(&mut self, node: usize, time: Time) {
        let id = self.cluster.members[node].id;
        let clocks = self.clocks.as_mut();
        clocks.expect("started with clocks").set(id, time);
    }

    async fn join(&mut self) {
        self.joined += 1;
        self.cluster.join(&format!("n{}", self.joined), "voter");
    }

    async fn remove(&mut self, node: usize) {
        self.cluster.remove(node);
    }

    async fn deploy_echo(&mut self, name: &str, instances: usize) {
        self.cluster.deploy_echo(name, instances);
    }

    async fn fetch(&self, node: usize, name: &str) -> Result<String, String> {
        page(http::get(self.cluster.members[node].edge, &host(name), "/"))
    }

    fn observer(&self) -> Observer {
        let dirs = self.cluster.members.iter().map(|m| m.data_dir.clone());
        programs(dirs.collect())
    }

    fn traces(&self) -> String {
        let dirs = self
            .cluster
            .members
            .iter()
            .map(|m| m.data_dir.display().to_string());
        dirs.collect::<Vec<_>>().join(" ")
    }
}

/// The daemons' clocks: a file for each, which libfaketime reads every second.
struct Clocks {
    library: PathBuf,
    folder: PathBuf,
    /// Nodes whose daemons run at a pace of their own when they are started next.
    paces: BTreeMap<u64, Time>,
}

impl Clocks {
    fn file(&self, id: u64) -> PathBuf {
        self.folder.join(format!("{id}.time"))
    }

    fn set(&mut self, id: u64, time: Time) {
        if let Time::Pace(_) = time {
            self.paces.insert(id, time);
        } else {
            self.paces.remove(&id);
            self.write(id, time);
        }
    }

    /// In one step: half a time is no time.
    fn write(&self, id: u64, time: Time) {
        let (path, next) = (self.file(id), self.folder.join("next"));
        std::fs::write(&next, time.to_faketime() + "\n").expect("a file in our folder");
        std::fs::rename(&next, &path).expect("a file in our folder is replaced");
    }

    fn env(&self, id: u64) -> Vec<(&'static str, String)> {
        let library = self.library.display().to_string();
        let time = match self.paces.get(&id) {
            Some(pace) => vec![("FAKETIME", pace.to_faketime())],
            None => vec![
                (
                    "FAKETIME_TIMESTAMP_FILE",
                    self.file(id).display().to_string(),
                ),
                ("FAKETIME_CACHE_DURATION", "1".to_owned()),
                ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ],
        };
        [vec![("LD_PRELOAD", library)], time].concat()
    }
}

/// The body of an answer of success.
pub(super) fn page(answer: std::io::Result<http::Response>) -> Result<String, String> {
    match answer {
        Ok(response) if response.status == 200 => Ok(response.text()),
        Ok(response) => Err(format!("{} {}", response.status, response.text())),
        Err(error) => Err(error.to_string()),
    }
}

/// Looks for the programs of instances that run in these data folders; `/proc` shows those of all namespaces.
pub(super) fn programs(dirs: Vec<PathBuf>) -> Observer {
    Arc::new(move || {
        let found: Vec<Program> = process::all()
            .into_iter()
            .filter_map(|pid| Program::look(pid, &dirs))
            .collect();
        // Of a family of processes the first stands for all.
        let first = |p: &&Program| {
            !found
                .iter()
                .any(|q| q.pid == p.parent && q.instance == p.instance)
        };
        let running = found.iter().filter(first).map(|p| Running {
            instance: p.instance.clone(),
            node: p.node,
            run: u64::from(p.pid),
        });
        running.collect()
    })
}

struct Program {
    pid: u32,
    parent: u32,
    instance: String,
    node: usize,
}

impl Program {
    fn look(pid: u32, dirs: &[PathBuf]) -> Option<Program> {
        let cwd = std::fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
        let node = dirs.iter().position(|dir| cwd.starts_with(dir))?;
        let environ = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
        let environ = String::from_utf8_lossy(&environ).into_owned();
        let mut variables = environ.split('\0');
        let instance = variables.find_map(|v| v.strip_prefix("NEBULA_INSTANCE="))?;
        Some(Program {
            pid,
            parent: process::parent(pid)?,
            instance: instance.to_owned(),
            node,
        })
    }
}
