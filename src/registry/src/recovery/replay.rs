//! Carries out what a stopped node's log says beyond its snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use nebula_domain::state::Node;
use nebula_domain::{NodeId, State};
use openraft::RaftLogReader;
use openraft::storage::{RaftLogStorage, RaftStateMachine};
use tokio::sync::watch;

use super::failed;
use crate::error::RecoverError;
use crate::log::LogStore;
use crate::machine::Machine;
use crate::types::LogId;

/// What a node knows.
pub struct Replayed {
    pub state: Arc<State>,
    /// In force at the end of the log.
    pub configs: Vec<BTreeSet<u64>>,
    /// The highest term that the node has heard of.
    pub term: u64,
    pub last: LogId,
    /// Whom the log removes.
    pub removed: BTreeMap<NodeId, Removed>,
}

/// A member before it was removed.
pub struct Removed {
    pub node: Node,
    /// The node has heard that a majority holds the entry.
    confirmed: bool,
}

pub async fn replay(
    log: &mut LogStore,
    machine: &mut Machine,
    state: &watch::Receiver<Arc<State>>,
    me: NodeId,
) -> Result<Replayed, RecoverError> {
    let (applied, _) = machine.applied_state().await.map_err(failed)?;
    let confirmed = log.read_committed().await.map_err(failed)?;
    let in_log = log.get_log_state().await.map_err(failed)?.last_log_id;
    let mut removed = BTreeMap::new();
    // A log that ends before the snapshot counts for nothing, wherever its indexes reach.
    if let Some(end) = in_log.filter(|last| Some(*last) > applied) {
        let mut next = applied.map_or(0, |id| id.index + 1);
        while next <= end.index {
            let some = log.limited_get_log_entries(next, end.index + 1).await;
            let some = some.map_err(failed)?;
            let Some(last) = some.last() else {
                let what = format!("entry {next} of the log is missing");
                return Err(RecoverError::Store(io::Error::other(what)));
            };
            next = last.log_id.index + 1;
            for entry in some {
                let confirmed = Some(entry.log_id) <= confirmed;
                let before = state.borrow().clone();
                machine.apply([entry]).await.map_err(failed)?;
                let after = state.borrow();
                let gone = |(id, _): &(&NodeId, &Node)| !after.nodes.contains_key(*id);
                removed.extend(before.nodes.iter().filter(gone).map(|(id, node)| {
                    let node = node.clone();
                    (*id, Removed { node, confirmed })
                }));
            }
        }
    }
    let (applied, membership) = machine.applied_state().await.map_err(failed)?;
    let last = applied.ok_or(RecoverError::Empty)?;
    let configs = membership.membership().get_joint_config().clone();
    if configs.is_empty() {
        return Err(RecoverError::Empty);
    }
    let vote = log.read_vote().await.map_err(failed)?;
    let voted = vote.map_or(0, |vote| vote.leader_id().get_term());
    Ok(Replayed {
        state: with_itself(state.borrow().clone(), me, &removed),
        configs,
        term: voted.max(last.leader_id.term),
        last,
        removed,
    })
}

/// A removal of the node itself that nobody has confirmed does not keep it from going on: those who could confirm
/// it are gone, and those who are there are asked.
fn with_itself(
    mut state: Arc<State>,
    me: NodeId,
    removed: &BTreeMap<NodeId, Removed>,
) -> Arc<State> {
    let itself = removed.get(&me).filter(|removed| !removed.confirmed);
    if let Some(Removed { node, .. }) = itself {
        let taken = |other: &Node| {
            other.id == me || other.name == node.name || other.addresses == node.addresses
        };
        if !state.nodes.values().any(taken) {
            Arc::make_mut(&mut state).nodes.insert(me, node.clone());
        }
    }
    state
}
