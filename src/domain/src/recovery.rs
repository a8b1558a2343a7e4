//! What a lone survivor's state becomes when a majority of the voters is gone for good.
//!
//! The lost may have decided things that the survivor never heard of: let machines in, started instances.
//! Numbers that they may have given out are skipped, so that none ever means two things.

use std::collections::BTreeSet;

use crate::apply::drop_node;
use crate::events::{self, Before};
use crate::ids::NodeId;
use crate::limits::RECOVERIES_KEPT;
use crate::state::{Node, Recovery, RemovedNode, Role, State};
use crate::time::Millis;

/// Machines that the lost may have let in. A cluster has 1,000 members at most.
pub const NODE_IDS_SKIPPED: u64 = 1_000;
/// Instances that the lost may have started. A worker may still run one of them.
pub const INSTANCE_IDS_SKIPPED: u64 = 1_000_000;
/// Changes that the lost may have made: whoever has seen one waits for a higher revision than it has seen.
pub const REVISIONS_SKIPPED: u64 = 1_000_000;

/// Events that the lost may have told of: whoever follows asks for higher numbers than it has seen.
pub const EVENTS_SKIPPED: u64 = 1_000_000;

/// Why a node is no survivor to recover from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecoveryError {
    #[error("node {0} is not a member of the cluster that its registry knows")]
    NotAMember(NodeId),
    #[error(
        "node {0} is a worker: the cluster is brought back on a member that may vote, which has the CA's key"
    )]
    Worker(NodeId),
}

/// How far a log reaches. The one that reaches farther holds everything that was acknowledged in the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Known {
    pub term: u64,
    pub index: u64,
}

/// Whether the cluster may be brought back on this node.
pub fn check(state: &State, survivor: NodeId) -> Result<&Node, RecoveryError> {
    let node = state.nodes.get(&survivor);
    let node = node.ok_or(RecoveryError::NotAMember(survivor))?;
    match node.role {
        Role::Voter => Ok(node),
        Role::Worker => Err(RecoveryError::Worker(survivor)),
    }
}

/// Takes the lost out of the cluster for good and notes it. The survivor votes, whatever it was about to do.
pub fn recover(
    state: &mut State,
    survivor: NodeId,
    lost: &BTreeSet<NodeId>,
    known: Known,
    now: Millis,
) -> Result<Recovery, RecoveryError> {
    let survivor = Node {
        leaving: false,
        awaited_since: None,
        ..check(state, survivor)?.clone()
    };
    let before = Before::of(state);
    let gone = lost.iter().filter(|id| **id != survivor.id);
    let gone: Vec<RemovedNode> = gone
        .filter_map(|id| state.nodes.get(id))
        .map(|node| RemovedNode {
            id: node.id,
            name: node.name.clone(),
        })
        .collect();
    for node in &gone {
        drop_node(state, node.id);
    }
    let recovery = Recovery {
        at: now,
        by: survivor.id,
        term: known.term,
        index: known.index,
        removed: gone,
    };
    state.nodes.insert(survivor.id, survivor);
    state.raise_level();
    // Those that were used on the lost side alone would let somebody in once more.
    state.join_tokens.clear();
    state.next_node_id += NODE_IDS_SKIPPED;
    state.next_instance_id += INSTANCE_IDS_SKIPPED;
    state.revision += REVISIONS_SKIPPED;
    state.plan_revision += REVISIONS_SKIPPED;
    state.recoveries.push_back(recovery.clone());
    events::recovered(state, &before, &recovery);
    while state.recoveries.len() > RECOVERIES_KEPT {
        state.recoveries.pop_front();
    }
    Ok(recovery)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Command, Outcome};
    use crate::ids::InstanceId;
    use crate::testing::{NOW, Sim, join_command, join_token, name, node_name};

    const KNOWN: Known = Known { term: 3, index: 70 };

    fn lost(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    #[test]
    fn the_lost_are_removed_with_what_they_ran_and_the_survivor_goes_on() {
        let mut sim = Sim::new(3, 8);
        sim.create("api", crate::testing::service_spec(), 3);
        sim.settle();
        let before = sim.state.clone();
        let done = recover(&mut sim.state, NodeId(3), &lost(&[1, 2]), KNOWN, NOW).unwrap();

        let state = &sim.state;
        assert!(state.was_removed(NodeId(1)) && state.was_removed(NodeId(2)));
        assert_eq!(state.nodes.keys().collect::<Vec<_>>(), [&NodeId(3)]);
        let own: Vec<InstanceId> = before.instances_on(NodeId(3)).map(|i| i.id).collect();
        let left: Vec<InstanceId> = state.instances.keys().copied().collect();
        assert_eq!(left, own, "its own instances run on");
        assert!(!own.is_empty());
        assert_eq!(state.deployments, before.deployments);
        assert!(state.revision > before.revision && state.plan_revision > before.plan_revision);
        assert_eq!((done.term, done.index, done.by), (3, 70, NodeId(3)));
        let names: Vec<_> = done.removed.iter().map(|node| node.name.clone()).collect();
        assert_eq!(names, [node_name(1), node_name(2)]);
        assert_eq!(state.recoveries.last(), Some(&done));

        // Whatever is lost is placed anew.
        sim.view.nodes.retain(|id, _| *id == NodeId(3));
        sim.settle();
        assert_eq!(sim.state.instances_of(&name("api")).count(), 3);
    }

    #[test]
    fn numbers_that_the_lost_may_have_given_out_are_not_used() {
        let mut sim = Sim::new(3, 8);
        sim.ok(Command::CreateJoinToken {
            token: join_token("old", Role::Voter, false),
            now: NOW,
        });
        // Node 4 and its instances are known to the lost alone.
        let unknown = NodeId(sim.state.next_node_id);
        let instance = sim.state.next_instance_id;
        recover(&mut sim.state, NodeId(1), &lost(&[2, 3]), KNOWN, NOW).unwrap();
        assert!(sim.state.was_removed(unknown));
        assert!(sim.state.join_tokens.is_empty(), "one may have been used");
        assert_eq!(sim.state.next_instance_id, instance + INSTANCE_IDS_SKIPPED);
        sim.ok(Command::CreateJoinToken {
            token: join_token("new", Role::Voter, true),
            now: NOW,
        });
        let Ok(Outcome::Joined { node, .. }) = sim.run(join_command("new", 7)) else {
            panic!("the new machine was not let in")
        };
        assert_eq!(node, NodeId(unknown.0 + NODE_IDS_SKIPPED));
    }

    #[test]
    fn only_a_member_that_may_vote_is_a_survivor() {
        let mut sim = Sim::new(2, 8);
        sim.ok(Command::CreateJoinToken {
            token: join_token("w", Role::Worker, true),
            now: NOW,
        });
        sim.ok(join_command("w", 3));
        let before = sim.state.clone();
        let mut refused = |id| recover(&mut sim.state, NodeId(id), &lost(&[1]), KNOWN, NOW);
        assert_eq!(refused(3), Err(RecoveryError::Worker(NodeId(3))));
        assert_eq!(refused(9), Err(RecoveryError::NotAMember(NodeId(9))));
        assert_eq!(sim.state, before);
    }

    #[test]
    fn a_survivor_that_was_about_to_leave_stays_and_old_recoveries_are_forgotten() {
        let mut sim = Sim::new(3, 8);
        sim.ok(Command::SetLeaving {
            node: NodeId(1),
            leaving: true,
        });
        for _ in 0..RECOVERIES_KEPT + 2 {
            recover(&mut sim.state, NodeId(1), &lost(&[1, 2]), KNOWN, NOW).unwrap();
        }
        assert!(!sim.state.nodes[&NodeId(1)].leaving);
        assert!(sim.state.nodes.contains_key(&NodeId(3)), "it was not lost");
        assert_eq!(sim.state.recoveries.len(), RECOVERIES_KEPT);
    }
}
