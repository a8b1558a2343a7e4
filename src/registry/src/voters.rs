//! On the leader: keeps Raft's members in step with the nodes of the state. New nodes become learners,
//! learners that have caught up become voters as `domain::voters` says, removed nodes leave.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use nebula_domain::state::Role;
use nebula_domain::voters::{self, Candidate};
use nebula_domain::{NodeId, State, View};
use openraft::{ChangeMembers, EmptyNode, ServerState};
use tokio::sync::watch;

use crate::limits;
use crate::status::Status;
use crate::types::Raft;

/// Between two passes at least, whatever changes, and between two that have work left over.
const BREATH: Duration = Duration::from_millis(100);

pub struct Voters {
    pub raft: Raft,
    pub state: watch::Receiver<Arc<State>>,
    pub view: watch::Receiver<Arc<View>>,
    pub status: watch::Receiver<Status>,
    pub period: Duration,
}

impl Voters {
    /// Runs until the node stops. One change at a time; what fails is tried again by the next pass.
    pub async fn run(mut self) {
        loop {
            let settled = match self.pass().await {
                Ok(settled) => settled,
                Err(reason) => {
                    tracing::warn!(reason, "Raft's members could not be changed; trying again");
                    false
                }
            };
            tokio::time::sleep(BREATH).await;
            if !settled {
                continue;
            }
            let nodes: BTreeSet<NodeId> = self.state.borrow().nodes.keys().copied().collect();
            let leader = self.status.borrow_and_update().is_leader;
            self.view.mark_unchanged();
            let more = |state: &Arc<State>| !state.nodes.keys().eq(nodes.iter());
            // A watch whose sender is gone ends its wait at once; the period then sets the pace.
            let nodes_changed = async { self.state.wait_for(more).await.is_ok() };
            let led = async {
                self.status
                    .wait_for(|s| s.is_leader != leader)
                    .await
                    .is_ok()
            };
            tokio::select! {
                true = nodes_changed => {}
                Ok(()) = self.view.changed() => {}
                true = led => {}
                () = tokio::time::sleep(self.period) => {}
            }
        }
    }

    /// Makes at most one change. `true` when nothing is left to do for now.
    async fn pass(&self) -> Result<bool, String> {
        let metrics = self.raft.metrics().borrow().clone();
        let nodes = self.state.borrow().nodes.clone();
        if metrics.state != ServerState::Leader || nodes.is_empty() {
            return Ok(true);
        }
        let membership = metrics.membership_config.membership();
        let configs = membership.get_joint_config();
        let present: BTreeSet<NodeId> = membership.nodes().map(|(id, _)| NodeId(*id)).collect();
        let all_voters: BTreeSet<NodeId> = membership.voter_ids().map(NodeId).collect();
        // While a change is under way, or was left half done by a leader before, the newer set counts.
        let current: BTreeSet<NodeId> = configs
            .last()
            .map(|set| set.iter().copied().map(NodeId).collect())
            .unwrap_or_default();

        if let Some(new) = nodes.keys().find(|id| !present.contains(id)) {
            let added = self.raft.add_learner(new.0, EmptyNode {}, false);
            bounded(added).await?;
            tracing::info!(node = %new, "follows the registry as a learner");
            return Ok(false);
        }
        let gone: BTreeSet<u64> = present
            .iter()
            .filter(|id| !nodes.contains_key(*id) && !all_voters.contains(id))
            .map(|id| id.0)
            .collect();
        if !gone.is_empty() {
            let removed = ChangeMembers::RemoveNodes(gone.clone());
            bounded(self.raft.change_membership(removed, false)).await?;
            tracing::info!(nodes = ?gone, "no longer follow the registry");
            return Ok(false);
        }

        let last = metrics.last_log_index.unwrap_or(0);
        // Members become Raft's after they have become the state's, so whoever has this entry has heard of them all.
        let members_at = metrics.membership_config.log_id().map_or(0, |id| id.index);
        let has = |id: NodeId, index: u64| {
            let matched = metrics
                .replication
                .as_ref()
                .and_then(|r| r.get(&id.0).copied().flatten());
            id.0 == metrics.id || matched.is_some_and(|at| at.index >= index)
        };
        let caught_up = |id| has(id, last.saturating_sub(limits::CAUGHT_UP_ENTRIES));
        let candidates: BTreeMap<NodeId, Candidate> = {
            let view = self.view.borrow().to_patient();
            let candidate = |(id, node): (&NodeId, &nebula_domain::state::Node)| {
                let candidate = Candidate {
                    // One that never spoke for itself, or is about to go, decides nothing.
                    role: if node.leaving || node.awaited_since.is_some() {
                        Role::Worker
                    } else {
                        node.role
                    },
                    alive: view.is_alive(*id),
                    caught_up: caught_up(*id),
                    knows_members: has(*id, members_at),
                };
                (*id, candidate)
            };
            nodes.iter().map(candidate).collect()
        };
        let behind = candidates
            .values()
            .any(|c| c.alive && !(c.caught_up && c.knows_members));
        let next = match voters::plan(NodeId(metrics.id), &candidates, &current) {
            Some(next) => next,
            None if configs.len() > 1 => current,
            None => return Ok(!behind),
        };
        // Whoever is left out follows as a learner; if it was removed, the next pass lets it go.
        let ids: BTreeSet<u64> = next.iter().map(|id| id.0).collect();
        bounded(self.raft.change_membership(ids.clone(), true)).await?;
        tracing::info!(voters = ?ids, "vote from now on");
        Ok(false)
    }
}

async fn bounded<T, E: std::fmt::Display>(
    change: impl Future<Output = Result<T, E>>,
) -> Result<T, String> {
    match tokio::time::timeout(limits::MEMBERSHIP_CHANGE, change).await {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(_) => Err(format!(
            "no majority agreed within {} s",
            limits::MEMBERSHIP_CHANGE.as_secs()
        )),
    }
}
