//! The first kind of laboratory: daemons on this machine's loopback, as `nodectl dev` starts them.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio_rustls::TlsConnector;

use super::http_api::{Address, HttpApi};
use super::links::Links;
use super::{Api, Lab, Observer, Running, host};
use crate::{Cluster, http, process};

pub struct Processes {
    cluster: Cluster,
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
            cluster,
        }
    }

    pub fn cluster(&self) -> &Cluster {
        &self.cluster
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
        let address = self.cluster.members[node]
            .api
            .trim_start_matches("https://");
        Box::new(HttpApi::new(Address::Tls {
            address: address.parse().expect("the API is an address"),
            tls: self.tls.clone(),
            token: self.token.clone(),
        }))
    }

    async fn kill(&mut self, node: usize) {
        self.cluster.kill_daemon(node);
    }

    async fn restart(&mut self, node: usize) {
        self.cluster.restart(node);
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
