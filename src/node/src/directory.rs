//! Who may speak on the mesh: the registry's members, and until the registry has been received, the
//! members at the time of joining.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use nebula_actors::{BoxError, Reconciler};
use nebula_domain::{NodeId, State};
use nebula_mesh::{Directory, DirectoryEntry};
use nebula_wire::api::Peer;
use nebula_wire::convert;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::files::{PEERS_FILE, write_private};

/// What a joiner was told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Peers {
    pub next_node_id: u64,
    pub peers: Vec<Peer>,
}

impl Peers {
    pub(crate) fn load(data_dir: &Path) -> std::io::Result<Peers> {
        let bytes = std::fs::read(data_dir.join(PEERS_FILE))?;
        serde_json::from_slice(&bytes).map_err(std::io::Error::other)
    }

    pub(crate) fn store(&self, data_dir: &Path) -> std::io::Result<()> {
        write_private(
            &data_dir.join(PEERS_FILE),
            &serde_json::to_vec_pretty(self)?,
        )
    }

    fn directory(&self, me: NodeId) -> Directory {
        let entry = |peer: &Peer| {
            let role = convert::role(&peer.role).ok()?;
            Some((
                NodeId(peer.id),
                DirectoryEntry {
                    quic: peer.quic.parse().ok()?,
                    role,
                },
            ))
        };
        let nodes: BTreeMap<_, _> = self.peers.iter().filter_map(entry).collect();
        Directory {
            me,
            nodes,
            next_node_id: self.next_node_id,
        }
    }
}

/// The registry once it is at least as new as what the joiner was told.
pub fn directory(me: NodeId, state: &State, told: &Peers) -> Directory {
    if state.next_node_id < told.next_node_id || state.nodes.is_empty() {
        return told.directory(me);
    }
    let nodes = state.nodes.values().map(|n| {
        (
            n.id,
            DirectoryEntry {
                quic: n.addresses.quic,
                role: n.role,
            },
        )
    });
    Directory {
        me,
        nodes: nodes.collect(),
        next_node_id: state.next_node_id,
    }
}

/// Keeps the mesh's directory in step with the registry.
pub struct DirectoryKeeper {
    pub me: NodeId,
    pub told: Peers,
    pub state: watch::Receiver<Arc<State>>,
    pub directory: Arc<watch::Sender<Arc<Directory>>>,
}

#[async_trait::async_trait]
impl Reconciler for DirectoryKeeper {
    async fn wake(&mut self) {
        if self.state.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    async fn pass(&mut self) -> Result<(), BoxError> {
        let next = directory(self.me, &self.state.borrow_and_update().clone(), &self.told);
        self.directory.send_if_modified(|current| {
            let changed = **current != next;
            if changed {
                *current = Arc::new(next);
            }
            changed
        });
        Ok(())
    }
}
