//! `dev.json`: what runs in the folder, so that `dev down` and the next `dev` find it.

use std::path::{Path, PathBuf};

use nebula_node::write_private;
use serde::{Deserialize, Serialize};

use crate::error::{CliError, Outcome};
use crate::process::Process;

pub const STATE_FILE: &str = "dev.json";
pub const CLUSTER_FILE: &str = "cluster.json";

/// One node as planned, and its daemon as last started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevNode {
    pub name: String,
    pub id: u64,
    /// `None` before the first start.
    pub daemon: Option<Process>,
    pub api: String,
    pub edge: String,
    /// Where TLS is served in a cluster that has certificates; `None` in one that is older than that.
    #[serde(default)]
    pub edge_tls: Option<String>,
    pub quic: String,
    pub data_dir: PathBuf,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevState {
    /// Whether every node was once ready: then the folder is worth keeping when a later start fails.
    pub complete: bool,
    /// Certificates were given, now or before.
    #[serde(default)]
    pub https: bool,
    pub nodes: Vec<DevNode>,
}

impl DevState {
    /// What was written, or `None` where no cluster was.
    pub fn load(dir: &Path) -> Outcome<Option<DevState>> {
        let path = dir.join(STATE_FILE);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(CliError::io(format!("cannot read {}", path.display()), &e)),
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|e| {
            CliError::failed(
                format!("{} cannot be read: {e}", path.display()),
                "delete the folder and start again",
            )
        })
    }

    pub fn store(&self, dir: &Path) -> Outcome {
        let path = dir.join(STATE_FILE);
        serde_json::to_vec_pretty(self)
            .map_err(std::io::Error::from)
            .and_then(|bytes| write_private(&path, &bytes))
            .map_err(|e| CliError::io(format!("cannot write {}", path.display()), &e))
    }

    /// Nodes whose daemon runs now: the one that was started here, or one that a person started again
    /// on the same data folder since.
    pub fn running(&self) -> impl Iterator<Item = (&DevNode, Process)> {
        self.nodes.iter().filter_map(|node| {
            let ours = node.daemon.filter(|daemon| daemon.is_running());
            let again = || nebula_node::daemon_pid(&node.data_dir).and_then(Process::running);
            Some((node, ours.or_else(again)?))
        })
    }
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
pub struct Report {
    pub cluster_file: PathBuf,
    pub nodes: Vec<ReportNode>,
}

#[derive(Debug, Serialize)]
pub struct ReportNode {
    pub name: String,
    pub id: u64,
    pub pid: u32,
    /// An https URL.
    pub api: String,
    /// An http URL.
    pub edge: String,
    /// An https URL, where there are certificates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub edge_tls: Option<String>,
    /// `host:port`
    pub quic: String,
    pub data_dir: PathBuf,
}

impl Report {
    pub fn new(dir: &Path, state: &DevState) -> Report {
        let nodes = state.nodes.iter().map(|node| ReportNode {
            name: node.name.clone(),
            id: node.id,
            pid: node.daemon.map_or(0, |d| d.pid),
            api: format!("https://{}", node.api),
            edge: format!("http://{}", node.edge),
            edge_tls: node
                .edge_tls
                .as_ref()
                .filter(|_| state.https)
                .map(|address| format!("https://{address}")),
            quic: node.quic.clone(),
            data_dir: node.data_dir.clone(),
        });
        Report {
            cluster_file: dir.join(CLUSTER_FILE),
            nodes: nodes.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_get_the_promised_shape() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(DevState::load(dir.path()), Ok(None));
        let mut state = DevState {
            complete: true,
            https: false,
            nodes: vec![DevNode {
                name: "node-1".into(),
                id: 1,
                daemon: Some(Process {
                    pid: 7,
                    start_ticks: 8,
                }),
                api: "127.0.0.1:2".into(),
                edge: "127.0.0.1:3".into(),
                edge_tls: Some("127.0.0.1:4".into()),
                quic: "127.0.0.1:1".into(),
                data_dir: "/d/node-1".into(),
            }],
        };
        state.store(dir.path()).unwrap();
        assert_eq!(DevState::load(dir.path()), Ok(Some(state.clone())));
        let json = serde_json::to_value(Report::new(Path::new("/d"), &state)).unwrap();
        let wanted = serde_json::json!({
            "cluster_file": "/d/cluster.json",
            "nodes": [{
                "name": "node-1", "id": 1, "pid": 7, "api": "https://127.0.0.1:2", "edge": "http://127.0.0.1:3",
                "quic": "127.0.0.1:1", "data_dir": "/d/node-1"
            }]
        });
        assert_eq!(json, wanted);
        state.https = true;
        let json = serde_json::to_value(Report::new(Path::new("/d"), &state)).unwrap();
        assert_eq!(json["nodes"][0]["edge_tls"], "https://127.0.0.1:4");
        assert_eq!(state.running().count(), 0, "no such process");
    }
}
