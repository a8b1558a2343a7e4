//! The folder of a `dev` cluster: given, or temporary and gone at the end.

use std::path::{Path, PathBuf};

use nebula_node::private_dir;

use super::MAX_NODES;
use super::state::{CLUSTER_FILE, DevState, STATE_FILE};
use crate::error::{CliError, Outcome};

/// unix(7): a socket's path has at most 107 bytes; a node's is `<dir>/node-16/api.sock`.
const MAX_DIR_BYTES: usize = 107 - "/node-16/api.sock".len();

pub struct Home {
    dir: PathBuf,
    /// Deletes the folder when dropped.
    temporary: Option<tempfile::TempDir>,
}

impl Home {
    /// A folder to begin or to go on in. `lasting` keeps one that was made here.
    pub fn open(given: Option<&Path>, lasting: bool) -> Outcome<Home> {
        match given {
            Some(dir) => Home::given(dir),
            None => {
                let made = tempfile::Builder::new()
                    .prefix("nebula-dev-")
                    .tempdir()
                    .map_err(|e| CliError::io("cannot make a temporary folder", &e))?;
                if lasting {
                    return Ok(Home {
                        dir: made.keep(),
                        temporary: None,
                    });
                }
                Ok(Home {
                    dir: made.path().to_owned(),
                    temporary: Some(made),
                })
            }
        }
    }

    fn given(dir: &Path) -> Outcome<Home> {
        let io = |e: &std::io::Error| {
            CliError::io(format!("cannot use --data-dir {}", dir.display()), e)
        };
        private_dir(dir).map_err(|e| io(&e))?;
        let dir = dir.canonicalize().map_err(|e| io(&e))?;
        let length = dir.as_os_str().len();
        if length > MAX_DIR_BYTES {
            return Err(CliError::usage(
                format!(
                    "the path {} has {length} bytes, over the limit of {MAX_DIR_BYTES} for the nodes' sockets",
                    dir.display()
                ),
                "choose a --data-dir with a shorter path",
            ));
        }
        Ok(Home {
            dir,
            temporary: None,
        })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn is_temporary(&self) -> bool {
        self.temporary.is_some()
    }

    /// Refuses a folder that holds a node that no `dev.json` tells of.
    pub fn check_unused(&self) -> Outcome {
        let node = node_dir(&self.dir, 1);
        if nebula_node::is_prepared(&node) {
            return Err(CliError::failed(
                format!(
                    "{} holds a node, and {STATE_FILE} that should tell of it is missing",
                    node.display()
                ),
                "choose another --data-dir, or delete this one",
            ));
        }
        Ok(())
    }
}

pub fn node_dir(dir: &Path, number: u16) -> PathBuf {
    dir.join(format!("node-{number}"))
}

/// Deletes what a `dev` cluster keeps in the folder and nothing else; the folder itself when nothing is left.
pub fn purge(dir: &Path, state: &DevState) -> Outcome {
    let io = |path: &Path, e: &std::io::Error| {
        CliError::io(format!("cannot delete {}", path.display()), e)
    };
    for node in &state.nodes {
        // Written by us, but read from a file: never follow it out of the folder.
        if node.data_dir.parent() != Some(dir) {
            continue;
        }
        match std::fs::remove_dir_all(&node.data_dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(io(&node.data_dir, &e));
            }
            _ => {}
        }
    }
    for name in [CLUSTER_FILE, STATE_FILE] {
        let path = dir.join(name);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(io(&path, &e)),
            _ => {}
        }
    }
    // Fails when something else lies there, which stays.
    let _ = std::fs::remove_dir(dir);
    Ok(())
}

/// Node numbers, for loops.
pub fn numbers(nodes: u16) -> impl Iterator<Item = u16> {
    1..=nodes.min(MAX_NODES)
}

#[cfg(test)]
mod tests {
    use super::super::state::DevNode;
    use super::*;

    fn node(data_dir: PathBuf) -> DevNode {
        DevNode {
            name: "node-1".into(),
            id: 1,
            daemon: None,
            api: String::new(),
            edge: String::new(),
            edge_tls: None,
            quic: String::new(),
            data_dir,
        }
    }

    #[test]
    fn purging_takes_what_is_ours_only() {
        let base = tempfile::tempdir().unwrap();
        let dir = base.path().join("lab");
        let outside = base.path().join("outside");
        for path in [&node_dir(&dir, 1), &outside] {
            std::fs::create_dir_all(path).unwrap();
        }
        std::fs::write(dir.join("mine.txt"), "x").unwrap();
        let state = DevState {
            complete: true,
            https: false,
            nodes: vec![node(node_dir(&dir, 1)), node(outside.clone())],
        };
        state.store(&dir).unwrap();
        purge(&dir, &state).unwrap();
        assert!(outside.exists() && dir.join("mine.txt").exists());
        assert!(!node_dir(&dir, 1).exists() && !dir.join(STATE_FILE).exists());
        std::fs::remove_file(dir.join("mine.txt")).unwrap();
        purge(&dir, &state).unwrap();
        assert!(!dir.exists());
    }

    #[test]
    fn a_path_that_no_socket_fits_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let long = base.path().join("x".repeat(100));
        assert_eq!(
            Home::open(Some(&long), false).err().map(|e| e.exit as u8),
            Some(2)
        );
        let temporary = Home::open(None, false).unwrap();
        let dir = temporary.dir().to_owned();
        assert!(dir.is_dir() && temporary.is_temporary());
        drop(temporary);
        assert!(!dir.exists());
    }
}
