//! Which cluster a command speaks to.
//!
//! In order: `--cluster FILE`, `--context NAME`, `--data-dir DIR` (that node's socket), `NEBULA_CLUSTER`, the current
//! context, and the socket of a node in this machine's default data folder.

use std::path::{Path, PathBuf};

use clap::Args;
use nebula_client::{Client, Consistency};
use nebula_wire::api::ErrorCode;

use crate::contexts::{self, Contexts, read_cluster_file};
use crate::error::{CliError, Exit, Outcome};

/// Flags of every command that speaks to a cluster.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Which cluster")]
pub struct ConnectFlags {
    /// File that points at a cluster, as 'nodectl init' and 'nodectl dev' write it [env: NEBULA_CLUSTER]
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "context")]
    pub cluster: Option<PathBuf>,
    /// Name of a cluster kept with 'nebula context add'
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// Read nothing older than what was acknowledged before; needs a majority of the voters
    #[arg(long, global = true)]
    pub linearizable: bool,
}

/// What decides where to connect besides flags; read from the process once, so that tests can write it.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// `NEBULA_CLUSTER`
    pub cluster: Option<PathBuf>,
    pub contexts: PathBuf,
    /// `NEBULA_DATA_DIR`, or where a node keeps its data unless told otherwise.
    pub data_dir: PathBuf,
}

impl Surroundings {
    pub fn of_process() -> Surroundings {
        Surroundings {
            cluster: std::env::var_os("NEBULA_CLUSTER")
                .filter(|v| !v.is_empty())
                .map(PathBuf::from),
            contexts: contexts::default_dir(),
            data_dir: std::env::var_os("NEBULA_DATA_DIR")
                .filter(|v| !v.is_empty())
                .map_or_else(nebula_node::default_data_dir, PathBuf::from),
        }
    }
}

/// What to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    ClusterFile(PathBuf),
    Socket(PathBuf),
}

impl ConnectFlags {
    fn place(&self, data_dir: Option<&Path>, around: &Surroundings) -> Outcome<Place> {
        let contexts = Contexts::in_dir(around.contexts.clone());
        if let Some(file) = &self.cluster {
            return Ok(Place::ClusterFile(file.clone()));
        }
        if let Some(name) = &self.context {
            return contexts.path(name).map(Place::ClusterFile);
        }
        if let Some(dir) = data_dir {
            return Ok(Place::Socket(dir.join(nebula_node::API_SOCKET)));
        }
        if let Some(file) = &around.cluster {
            return Ok(Place::ClusterFile(file.clone()));
        }
        if let Some(name) = contexts.current() {
            return contexts.path(&name).map(Place::ClusterFile);
        }
        let socket = around.data_dir.join(nebula_node::API_SOCKET);
        if socket.exists() {
            return Ok(Place::Socket(socket));
        }
        Err(CliError::new(
            Exit::Unreachable,
            ErrorCode::Unavailable,
            "no cluster is known here, and no node of this machine's answers",
            "start one with 'nodectl dev' or 'nodectl init', or point at one with --cluster FILE or NEBULA_CLUSTER",
        ))
    }

    /// A client for the cluster that flags and surroundings name.
    pub fn client(&self) -> Outcome<Client> {
        self.client_at(None)
    }

    /// The same, for a command that also takes a data folder.
    pub fn client_at(&self, data_dir: Option<&Path>) -> Outcome<Client> {
        let client = match self.place(data_dir, &Surroundings::of_process())? {
            Place::ClusterFile(path) => Client::from_cluster_file(&read_cluster_file(&path)?)?,
            Place::Socket(path) => Client::unix(path),
        };
        Ok(if self.linearizable {
            client.with_consistency(Consistency::Linearizable)
        } else {
            client
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_counts() {
        let dir = tempfile::tempdir().unwrap();
        let mut around = Surroundings {
            cluster: None,
            contexts: dir.path().join("config"),
            data_dir: dir.path().join("data"),
        };
        let nothing = ConnectFlags::default();
        let error = nothing.place(None, &around).unwrap_err();
        assert_eq!(error.exit, Exit::Unreachable);

        std::fs::create_dir_all(&around.data_dir).unwrap();
        let socket = around.data_dir.join("api.sock");
        std::fs::write(&socket, "").unwrap();
        assert_eq!(nothing.place(None, &around), Ok(Place::Socket(socket)));

        let contexts = Contexts::in_dir(around.contexts.clone());
        let file = nebula_wire::api::ClusterFile {
            cluster_id: "c".into(),
            apis: vec![],
            ca: String::new(),
            token: String::new(),
        };
        contexts.add("one", &file, false).unwrap();
        contexts.add("two", &file, false).unwrap();
        let kept = |name| Ok(Place::ClusterFile(contexts.path(name).unwrap()));
        assert_eq!(nothing.place(None, &around), kept("one"));

        around.cluster = Some("env.json".into());
        assert_eq!(
            nothing.place(None, &around),
            Ok(Place::ClusterFile("env.json".into()))
        );
        let here = Path::new("/x");
        assert_eq!(
            nothing.place(Some(here), &around),
            Ok(Place::Socket("/x/api.sock".into()))
        );
        let named = ConnectFlags {
            context: Some("two".into()),
            ..ConnectFlags::default()
        };
        assert_eq!(named.place(None, &around), kept("two"));
        let flag = ConnectFlags {
            cluster: Some("flag.json".into()),
            ..ConnectFlags::default()
        };
        assert_eq!(
            flag.place(None, &around),
            Ok(Place::ClusterFile("flag.json".into()))
        );
    }
}
