//! The connections others have dialled to us.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use nebula_domain::NodeId;
use quinn::Connection;
use tokio::time::Instant;

use crate::error::code;
use crate::{Admission, Directory, Limits};

/// All accepted connections, in order of arrival.
#[derive(Default)]
pub(crate) struct Incoming(Mutex<Table>);

#[derive(Default)]
struct Table {
    next: u64,
    open: BTreeMap<u64, Accepted>,
}

struct Accepted {
    node: NodeId,
    connection: Connection,
    at: Instant,
}

impl Incoming {
    /// Takes a connection in, or says that there are too many. The peer's oldest one gives way when
    /// it has more than its share.
    pub(crate) fn add(
        &self,
        node: NodeId,
        connection: &Connection,
        limits: &Limits,
    ) -> Option<u64> {
        let mut table = self.lock();
        let of_peer: Vec<u64> = table
            .open
            .iter()
            .filter(|(_, accepted)| accepted.node == node)
            .map(|(&number, _)| number)
            .collect();
        if of_peer.len() >= limits.max_connections_per_peer {
            if let Some(old) = of_peer.first().and_then(|n| table.open.remove(n)) {
                old.connection
                    .close(code::DONE, b"replaced by a newer connection");
            }
        } else if table.open.len() >= limits.max_connections {
            return None;
        }
        let number = table.next;
        table.next += 1;
        let accepted = Accepted {
            node,
            connection: connection.clone(),
            at: Instant::now(),
        };
        table.open.insert(number, accepted);
        Some(number)
    }

    pub(crate) fn remove(&self, number: u64) {
        self.lock().open.remove(&number);
    }

    /// When the peer made the newest of its connections.
    pub(crate) fn newest(&self, node: NodeId) -> Option<Instant> {
        let table = self.lock();
        let newest = table.open.values().rev().find(|a| a.node == node);
        newest.map(|accepted| accepted.at)
    }

    /// Closes what the directory no longer admits; how many there were.
    pub(crate) fn sweep(&self, directory: &Directory) -> usize {
        let mut closed = 0;
        self.lock().open.retain(|_, accepted| {
            let stays = directory.admission(accepted.node) != Admission::Removed;
            if !stays {
                refuse_removed(accepted.node, &accepted.connection);
                closed += 1;
            }
            stays
        });
        closed
    }

    pub(crate) fn clear(&self) {
        self.lock().open.clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn refuse_removed(node: NodeId, connection: &Connection) {
    let reason = format!("node {node} was removed from the cluster; join again to get a new id");
    connection.close(code::REMOVED, reason.as_bytes());
}
