//! Placing the instances of a program with volumes: each where its volumes are, and one at a time on each of them.
//!
//! An instance whose node is lost is not replaced: the others have not its data. It stays assigned, so that it goes on
//! by itself when the node is back, and until then the plan says what is waited for. What a release replaces ends
//! before its successor begins; of several instances one after the other, so that the others go on meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use super::fleet::{Fleet, Standing};
use super::job::{Class, Copy, Job, Place};
use super::possible::{self, Need, obstacle};
use super::solution::Solution;
use super::spread::Spread;
use crate::ids::{InstanceId, NodeId, ReleaseNumber};
use crate::state::{Desired, Instance, State};
use crate::volume::VolumeSet;

/// Whether an instance on a node that is not heard must be taken to run on: it has volumes, and nobody else may.
pub(super) fn holds(state: &State, instance: &Instance) -> bool {
    let deployment = state.deployments.get(&instance.deployment);
    deployment.is_some_and(|deployment| !deployment.removing)
        && state
            .volumes_held(&instance.deployment, instance.id)
            .is_some()
}

/// The nodes that an instance with this number may run on: the one with its volumes, or any while there are none.
/// An error says why there is none now.
pub(super) fn its_node(
    state: &State,
    set: Option<&VolumeSet>,
    need: &Need,
    fleet: &mut Fleet,
    spread: &Spread,
) -> Result<NodeId, String> {
    let Some(set) = set else {
        let best = fleet.best(need, spread, None);
        return best.ok_or_else(|| fleet.why_none(need));
    };
    let (node, its) = (set.node, set.told());
    let Some(member) = state.nodes.get(&node) else {
        return Err(format!(
            "{its} was on node {node}, which is no member any more: removing the deployment with its volumes gives it up"
        ));
    };
    let name = &member.name;
    if set.deleting {
        return Err(format!(
            "{its} of before is still being deleted on node {name}"
        ));
    }
    let Some(slot) = fleet.get(node) else {
        return Err(format!("{its} is on node {name}, which is not reachable"));
    };
    match obstacle(need, slot) {
        None => Ok(node),
        Some(why) => Err(format!(
            "{its} is on node {name}, which {}",
            possible::State(slot, why)
        )),
    }
}

pub(super) fn solve(
    state: &State,
    job: &Job,
    (release, need, held): (ReleaseNumber, &Need, Option<String>),
    fleet: &mut Fleet,
    solution: &mut Solution,
) {
    let scale = state.deployments.get(&job.name).map_or(0, |d| d.scale);
    let holders: BTreeMap<InstanceId, (u32, &VolumeSet)> = state
        .volumes_of(&job.name)
        .filter_map(|(ordinal, set)| Some((set.holder?, (ordinal, set))))
        .collect();
    let fresh = job.copies.iter().filter(|copy| copy.class == Class::New);
    if fresh.count() < scale as usize {
        // What it waits for may be another deployment: nothing that its own record would show.
        solution.is_busy(&job.name);
        if let Some(reason) = held {
            solution.explain(&job.name, reason);
            return stop_surplus(job, scale, &holders, solution);
        }
    }
    // Of a release without volumes: it ends before those with volumes begin.
    let free = |id: &InstanceId| !holders.contains_key(id);
    for copy in job.copies.iter().filter(|copy| free(&copy.id)) {
        solution.stop(&job.name, copy.id);
    }
    let predecessor = state.serving_of(&job.name).find(|i| free(&i.id));
    replace(state, job, scale, &holders, solution);
    match predecessor {
        None => start(state, job, (release, need, scale), fleet, solution),
        Some(instance) if instance.desired == Desired::Stop => {
            let end = awaited_end(state, instance, fleet);
            solution.explain(&job.name, format!("instances with volumes wait for {end}"));
        }
        Some(_) => {}
    }
}

/// `instance i-4 on node n2 to end`, and what keeps it from that.
fn awaited_end(state: &State, instance: &Instance, fleet: &Fleet) -> String {
    let (id, node) = (instance.id, node_name(state, instance.node));
    match fleet.standing(instance.node) {
        Standing::Dead => {
            format!("instance {id} on node {node}, which is not reachable, to end")
        }
        _ => format!("instance {id} on node {node} to end"),
    }
}

fn node_name(state: &State, id: NodeId) -> String {
    match state.nodes.get(&id) {
        Some(node) => node.name.to_string(),
        None => id.to_string(),
    }
}

/// Stops what is too much, and nothing that would be replaced.
fn stop_surplus(
    job: &Job,
    scale: u32,
    holders: &BTreeMap<InstanceId, (u32, &VolumeSet)>,
    solution: &mut Solution,
) {
    for copy in &job.copies {
        if holders
            .get(&copy.id)
            .is_some_and(|(ordinal, _)| *ordinal >= scale)
        {
            solution.stop(&job.name, copy.id);
        }
    }
}

/// Stops what is too much, and of what is to be replaced what may end now.
fn replace(
    state: &State,
    job: &Job,
    scale: u32,
    holders: &BTreeMap<InstanceId, (u32, &VolumeSet)>,
    solution: &mut Solution,
) {
    let fresh = |copy: &Copy| copy.class == Class::New;
    let coming = job.copies.iter().filter(|copy| fresh(copy));
    let mut moving = job.stopping > 0
        || coming
            .clone()
            .any(|copy| !copy.ready && copy.place != Place::Lost);
    for copy in &job.copies {
        let Some((ordinal, set)) = holders.get(&copy.id) else {
            continue;
        };
        let node = node_name(state, copy.node);
        let (id, its) = (copy.id, set.told());
        match copy.place {
            // One that is lost ends when its node is back.
            _ if *ordinal >= scale => solution.stop(&job.name, id),
            Place::Lost => solution.explain(
                &job.name,
                format!(
                    "instance {id} waits for node {node}, which is not reachable: {its} is there"
                ),
            ),
            Place::Staying if fresh(copy) => {}
            Place::Staying if !copy.ready => solution.stop(&job.name, id),
            Place::Staying if !moving => {
                moving = true;
                solution.stop(&job.name, id);
            }
            Place::Staying | Place::Moving => {}
            Place::Leaving => solution.explain(
                &job.name,
                format!(
                    "instance {id} cannot leave node {node}, which is draining: {its} is there"
                ),
            ),
        }
    }
}

/// Starts what is missing.
fn start(
    state: &State,
    job: &Job,
    (release, need, scale): (ReleaseNumber, &Need, u32),
    fleet: &mut Fleet,
    solution: &mut Solution,
) {
    let sets: BTreeMap<u32, &VolumeSet> = state.volumes_of(&job.name).collect();
    let mut spread = Spread::of(need, sets.values().map(|set| set.node), fleet);
    let mut reasons = BTreeSet::new();
    for ordinal in 0..scale {
        let set = sets.get(&ordinal).copied();
        if let Some((set, holder)) = set.and_then(|set| Some((set, set.holder?))) {
            let holder = state.instances.get(&holder);
            if let Some(holder) = holder.filter(|holder| holder.desired == Desired::Stop) {
                let (its, end) = (set.told(), awaited_end(state, holder, fleet));
                reasons.insert(format!(
                    "instance number {ordinal} waits for {end}: it has {its}"
                ));
            }
            continue;
        }
        if !solution.has_room() {
            continue;
        }
        match its_node(state, set, need, fleet, &spread) {
            Ok(node) => {
                solution.start(&job.name, release, node);
                fleet.try_on(node, &need.share);
                if set.is_none() {
                    spread.add(fleet, node);
                }
            }
            Err(reason) => {
                reasons.insert(format!(
                    "instance number {ordinal} cannot be placed: {reason}"
                ));
            }
        }
    }
    for reason in reasons {
        solution.explain(&job.name, reason);
    }
}
