//! What the registry and gossip say about this node's instances, as the state machines need it.

use std::collections::BTreeMap;
use std::sync::Arc;

use nebula_domain::observed::View;
use nebula_domain::state::{Desired, Release, State};
use nebula_domain::{InstanceId, NodeId};
use nebula_drivers::Runs;

/// What is wanted of one instance.
#[derive(Debug, Clone)]
pub(crate) struct Assigned {
    pub desired: Desired,
    pub since_revision: u64,
    /// `None` for what only the driver knows of.
    pub release: Option<Arc<Release>>,
}

/// Every instance that concerns this node; `None` while the registry knows of no cluster, and so
/// cannot say anything about what runs here.
///
/// An instance that runs but is no longer assigned is to stop. One with an id that the registry
/// has not given out yet was assigned in a change that has not reached this node again after a
/// restart: it is left alone.
pub(crate) fn assigned(
    state: &State,
    me: NodeId,
    runs: &Runs,
    held: impl Iterator<Item = InstanceId>,
) -> Option<BTreeMap<InstanceId, Assigned>> {
    state.cluster.as_ref()?;
    let mut all: BTreeMap<InstanceId, Assigned> = state
        .instances_on(me)
        .map(|instance| {
            let assigned = Assigned {
                desired: instance.desired,
                since_revision: instance.since_revision,
                release: state.release_of(instance).cloned(),
            };
            (instance.id, assigned)
        })
        .collect();
    let running = runs
        .iter()
        .filter(|(_, run)| run.is_running())
        .map(|(instance, _)| *instance);
    for instance in running.chain(held) {
        if instance.0 < state.next_instance_id {
            all.entry(instance).or_insert(Assigned {
                desired: Desired::Stop,
                since_revision: state.revision,
                release: None,
            });
        }
    }
    Some(all)
}

/// Every live node routes by a revision that no longer has the instance.
pub(crate) fn acked(view: &View, since_revision: u64) -> bool {
    view.nodes
        .values()
        .filter(|node| node.alive)
        .all(|node| node.facts.routed_revision >= since_revision)
}

/// Where an artifact may be had: living nodes first, as those answer at once.
pub(crate) fn sources(state: &State, view: &View, me: NodeId) -> Vec<NodeId> {
    let (mut alive, dead): (Vec<NodeId>, Vec<NodeId>) = state
        .nodes
        .keys()
        .copied()
        .filter(|node| *node != me)
        .partition(|node| view.is_alive(*node));
    alive.extend(dead);
    alive
}
