//! What a drain has left on its node, and why it cannot go.

use super::{Awaited, InstancePhase, Picture};
use crate::ids::{InstanceId, NodeId};
use crate::names::DeploymentName;
use crate::observed::View;
use crate::state::{Desired, Instance, State};

/// An instance that is on the node still.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    pub id: InstanceId,
    pub deployment: DeploymentName,
    pub phase: InstancePhase,
    /// What keeps it there, one sentence; `None` while it is on its way.
    pub reason: Option<String>,
    /// It cannot run anywhere else: its volumes are there.
    pub bound: bool,
}

/// The instances on a node, in the order of their ids.
pub fn left_on(state: &State, view: &View, node: NodeId) -> Vec<Left> {
    let on_node: Vec<&Instance> = state.instances_on(node).collect();
    if on_node.is_empty() {
        return Vec::new();
    }
    let awaited = Awaited::new(state, view);
    let left = on_node.into_iter().filter_map(|instance| {
        let name = &instance.deployment;
        let deployment = state.deployments.get(name)?;
        let all: Vec<&Instance> = state.instances_of(name).collect();
        let picture = Picture::new(state, view, deployment, &all, &awaited);
        let seen = picture.seen.iter().find(|s| s.instance.id == instance.id)?;
        let stays = instance.desired == Desired::Run;
        let held = state.volumes_held(name, instance.id).filter(|_| stays);
        let reason = match (instance.run, held) {
            (Some(run), _) => stays.then(|| format!("{run} goes on to its end")),
            (_, Some((_, set))) => Some(format!("{} is there", set.told())),
            _ => picture.problems().into_iter().next().filter(|_| stays),
        };
        Some(Left {
            id: instance.id,
            deployment: name.clone(),
            phase: seen.phase(),
            reason,
            bound: held.is_some(),
        })
    });
    left.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observed::{Health, Phase};
    use crate::testing::*;

    #[test]
    fn what_keeps_volumes_there_is_told_apart() {
        let mut sim = Sim::new(2, 8);
        sim.create("db", keeping_spec(), 1);
        sim.settle();
        let node = sim.state.instances.values().next().unwrap().node;
        sim.drain(node.0, true);
        sim.settle();
        let left = left_on(&sim.state, &sim.view, node);
        assert_eq!(left.len(), 1);
        assert!(left[0].bound);
        assert_eq!(
            left[0].reason.as_deref(),
            Some("its volume 'data' is there")
        );
    }

    #[test]
    fn what_stays_says_why() {
        let mut sim = Sim::new(2, 1);
        sim.create("app", service_spec(), 1);
        sim.create("lib", service_spec(), 1);
        sim.settle();
        sim.drain(1, true);
        sim.settle();
        let left = left_on(&sim.state, &sim.view, NodeId(1));
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].deployment, name("app"));
        let reason = left[0].reason.as_deref().unwrap();
        assert!(
            reason.contains("node n2 is full (1 of 1 instances)"),
            "{reason}"
        );

        sim.see_node(2, 4);
        sim.obey();
        sim.step();
        sim.tell(InstanceId(3), facts(Phase::Backoff, Health::Unknown));
        let left = left_on(&sim.state, &sim.view, NodeId(1));
        assert!(
            left[0].reason.as_deref().unwrap().contains("i-3"),
            "{left:?}"
        );
        sim.tell_ready(InstanceId(3));
        sim.step();
        let left = left_on(&sim.state, &sim.view, NodeId(1));
        assert_eq!((left.len(), &left[0].reason), (1, &None), "it stops");
        sim.settle();
        assert!(left_on(&sim.state, &sim.view, NodeId(1)).is_empty());
    }
}
