//! The scheduler's plan.

use std::collections::BTreeSet;

use super::deployments::drop_removed;
use super::secrets;
use super::volumes;
use crate::command::{Change, Outcome, Rejection};
use crate::ids::{InstanceId, NodeId, ReleaseNumber};
use crate::limits::CHANGES_PER_PLAN;
use crate::names::DeploymentName;
use crate::state::{Desired, Instance, State};

/// Applies a plan as one. The revision check means that the state is the one planned for, so a step
/// that does not fit it is a planner's mistake: it is passed over, because refusing the whole plan
/// would have the scheduler propose the same one for ever.
pub(super) fn assign(
    state: &mut State,
    plan_revision: u64,
    changes: &[Change],
) -> Result<Outcome, Rejection> {
    if plan_revision != state.plan_revision {
        return Err(Rejection::StalePlan {
            planned: plan_revision,
            current: state.plan_revision,
        });
    }
    CHANGES_PER_PLAN.check("the number of changes in a plan", changes.len())?;

    let (mut started, mut stopped, mut forgotten) = (0, 0, 0);
    let mut emptied = BTreeSet::new();
    for change in changes {
        match change {
            Change::Start {
                deployment,
                release,
                node,
            } => started += u32::from(start(state, deployment, *release, *node)),
            Change::Stop { instance } => stopped += u32::from(stop(state, *instance)),
            Change::Forget { instance } => {
                if let Some(deployment) = forget(state, *instance) {
                    forgotten += 1;
                    emptied.insert(deployment);
                }
            }
            Change::Move { instance } => give_way(state, *instance),
            Change::Stay { instance } => state.stays(*instance),
        }
    }
    drop_removed(state, emptied);
    Ok(Outcome::Assigned {
        started,
        stopped,
        forgotten,
    })
}

/// The revision this request will have once it is accepted.
fn next_revision(state: &State) -> u64 {
    state.revision + 1
}

fn start(state: &mut State, name: &DeploymentName, release: ReleaseNumber, node: NodeId) -> bool {
    let Some(deployment) = state.deployments.get(name).filter(|d| !d.removing) else {
        return false;
    };
    let Some(wanted) = deployment.release(release) else {
        return false;
    };
    let secrets = secrets::of(deployment, wanted);
    if state.nodes.get(&node).is_none_or(|node| node.draining) {
        return false;
    }
    let epoch = deployment.epoch;
    let id = InstanceId(state.next_instance_id);
    if !volumes::take(state, name, release, (node, id)) {
        return false;
    }
    let instance = Instance {
        id,
        deployment: name.clone(),
        release,
        epoch,
        node,
        desired: Desired::Run,
        since_revision: next_revision(state),
        secrets,
        run: None,
    };
    state.next_instance_id += 1;
    state.instances.insert(id, instance);
    true
}

pub(super) fn stop(state: &mut State, id: InstanceId) -> bool {
    let since_revision = next_revision(state);
    match state.instances.get(&id) {
        Some(instance) if instance.desired == Desired::Run => {
            let stopping = Instance {
                desired: Desired::Stop,
                since_revision,
                ..instance.clone()
            };
            state.instances.insert(id, stopping);
            state.stays(id);
            true
        }
        _ => false,
    }
}

fn forget(state: &mut State, id: InstanceId) -> Option<DeploymentName> {
    state
        .instances
        .get(&id)
        .filter(|instance| instance.desired == Desired::Stop)?;
    let gone = state.instances.remove(&id)?;
    volumes::let_go(state, &gone);
    Some(gone.deployment)
}

fn give_way(state: &mut State, id: InstanceId) {
    let running = state.instances.get(&id);
    if running.is_some_and(|instance| instance.desired == Desired::Run) {
        state.moving.insert(id);
    }
}
