//! Who holds which volumes.

use std::collections::BTreeSet;

use crate::command::{Outcome, Rejection};
use crate::ids::{InstanceId, NodeId, ReleaseNumber};
use crate::names::{DeploymentName, VolumeName};
use crate::state::{Instance, State};
use crate::volume::{VolumeSet, VolumeSets};

/// Gives a new instance its volumes: the lowest free ones on its node, or else ones that are nowhere yet. False when
/// there are none for it, and then it must not be started.
pub(super) fn take(
    state: &mut State,
    name: &DeploymentName,
    release: ReleaseNumber,
    (node, instance): (NodeId, InstanceId),
) -> bool {
    let Some(deployment) = state.deployments.get(name) else {
        return false;
    };
    let Some(release) = deployment.release(release) else {
        return false;
    };
    let wanted = release.spec.volumes().iter();
    let wanted: BTreeSet<VolumeName> = wanted.map(|volume| volume.name.clone()).collect();
    if wanted.is_empty() {
        return true;
    }
    let mut sets: VolumeSets = state.volumes.get(name).cloned().unwrap_or_default();
    // Runs have one set, and have it one after the other.
    let count = match release.spec.is_finite() {
        true => 1,
        false => deployment.scale,
    };
    let is_here = |ordinal: &u32| {
        let set = sets.get(ordinal);
        set.is_some_and(|set| set.node == node && set.is_free())
    };
    let here = (0..count).find(is_here);
    let nowhere = || (0..count).find(|ordinal| !sets.contains_key(ordinal));
    let Some(ordinal) = here.or_else(nowhere) else {
        return false;
    };
    let set = sets.entry(ordinal).or_insert(VolumeSet {
        node,
        names: BTreeSet::new(),
        holder: None,
        deleting: false,
    });
    set.names.extend(wanted);
    set.holder = Some(instance);
    state.volumes.insert(name.clone(), sets);
    true
}

/// The instance has ended.
pub(super) fn let_go(state: &mut State, instance: &Instance) {
    let Some(sets) = state.volumes.get(&instance.deployment) else {
        return;
    };
    let held = sets.iter().find(|(_, set)| set.holder == Some(instance.id));
    if let Some((&ordinal, _)) = held {
        let mut sets = sets.clone();
        if let Some(set) = sets.get_mut(&ordinal) {
            set.holder = None;
        }
        state.volumes.insert(instance.deployment.clone(), sets);
    }
}

/// What lay on a node that is no member any more cannot be deleted there. What is to be kept is remembered: its machine
/// may still have it, and nothing is to be started elsewhere as if there had never been any.
pub(super) fn node_dropped(state: &mut State, node: NodeId) {
    forget(state, |set| set.node == node && set.deleting);
}

fn forget(state: &mut State, gone: impl Fn(&VolumeSet) -> bool) {
    let touched: Vec<DeploymentName> = state
        .volumes
        .iter()
        .filter(|(_, sets)| sets.values().any(&gone))
        .map(|(name, _)| name.clone())
        .collect();
    for name in touched {
        let mut sets = state.volumes.get(&name).cloned().unwrap_or_default();
        sets.retain(|_, set| !gone(set));
        put(state, name, sets);
    }
}

fn put(state: &mut State, name: DeploymentName, sets: VolumeSets) {
    if sets.is_empty() {
        state.volumes.remove(&name);
    } else {
        state.volumes.insert(name, sets);
    }
}

/// Has the nodes delete what the deployment kept, each once no instance of it is left there.
pub(super) fn delete(state: &mut State, name: &DeploymentName) -> Result<Outcome, Rejection> {
    let deployment = state.deployments.get(name);
    if deployment.is_some_and(|deployment| !deployment.removing) {
        return Err(Rejection::VolumesNeeded(name.clone()));
    }
    let sets = state.volumes.get(name);
    let mut sets = sets
        .cloned()
        .ok_or_else(|| Rejection::VolumesUnknown(name.clone()))?;
    sets.retain(|_, set| state.nodes.contains_key(&set.node));
    for set in sets.values_mut() {
        set.deleting = true;
    }
    put(state, name.clone(), sets);
    Ok(Outcome::Done)
}

/// Once more is no error: its node may not have heard the first answer.
pub(super) fn gone(
    state: &mut State,
    node: NodeId,
    name: &DeploymentName,
    ordinal: u32,
) -> Result<Outcome, Rejection> {
    let mut sets = state.volumes.get(name).cloned().unwrap_or_default();
    let deleted = |set: &VolumeSet| set.node == node && set.deleting && set.holder.is_none();
    if sets.get(&ordinal).is_some_and(deleted) {
        sets.remove(&ordinal);
        put(state, name.clone(), sets);
    }
    Ok(Outcome::Done)
}
