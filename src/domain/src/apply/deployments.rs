//! What people change about deployments.

use std::collections::BTreeSet;
use std::sync::Arc;

use imbl::Vector;

use super::names;
use crate::command::{Outcome, Rejection};
use crate::ids::{Digest, ReleaseNumber};
use crate::limits::{DEPLOYMENTS, INSTANCES_PER_DEPLOYMENT, RELEASES_KEPT};
use crate::names::DeploymentName;
use crate::spec::Spec;
use crate::state::{Deployment, Release, State};
use crate::time::Millis;

pub(super) fn create(
    state: &mut State,
    name: &DeploymentName,
    spec: &Spec,
    scale: u32,
    (artifact, artifact_bytes): (Digest, u64),
    now: Millis,
) -> Result<Outcome, Rejection> {
    if let Some(present) = state.deployments.get(name) {
        return Err(if present.removing {
            Rejection::DeploymentRemoving(name.clone())
        } else {
            Rejection::DeploymentExists(name.clone())
        });
    }
    names::check(state, name, spec)?;
    check_scale(scale)?;
    DEPLOYMENTS.check("the number of deployments", state.deployments.len() + 1)?;
    let deployment = Deployment {
        name: name.clone(),
        generation: 1,
        epoch: 1,
        scale,
        releases: Vector::unit(Arc::new(Release {
            number: ReleaseNumber(1),
            spec: spec.clone(),
            artifact,
            artifact_bytes,
            created_at: now,
        })),
        removing: false,
    };
    Ok(put(state, deployment))
}

pub(super) fn update(
    state: &mut State,
    (name, based_on): (&DeploymentName, Option<u64>),
    spec: Option<&Spec>,
    (artifact, artifact_bytes): (Digest, u64),
    now: Millis,
) -> Result<Outcome, Rejection> {
    let mut deployment = changeable(state, name)?.clone();
    if let Some(based_on) = based_on.filter(|based_on| *based_on != deployment.generation) {
        return Err(Rejection::DeploymentChanged {
            name: name.clone(),
            based_on,
            current: deployment.generation,
        });
    }
    let current = deployment.current();
    let spec = spec.unwrap_or(&current.spec);
    names::check(state, name, spec)?;
    let release = Release {
        number: ReleaseNumber(current.number.0 + 1),
        spec: spec.clone(),
        artifact,
        artifact_bytes,
        created_at: now,
    };
    // The proxies treat what runs by the new policy at once; for that no instance has to be replaced.
    let only_policy = current.runs_as(&release) && current.spec.http != release.spec.http;
    deployment.releases.push_back(Arc::new(release));
    drop_old_releases(state, &mut deployment);
    if !only_policy {
        deployment.epoch += 1;
    }
    deployment.generation += 1;
    Ok(put(state, deployment))
}

/// Keeps the newest, and any that an instance still runs: its node may have to fetch or start it again.
fn drop_old_releases(state: &State, deployment: &mut Deployment) {
    let Some(surplus) = deployment.releases.len().checked_sub(RELEASES_KEPT) else {
        return;
    };
    if surplus == 0 {
        return;
    }
    let used: BTreeSet<ReleaseNumber> = state
        .instances_of(&deployment.name)
        .map(|instance| instance.release)
        .collect();
    let mut position = 0;
    deployment.releases.retain(|release| {
        position += 1;
        position > surplus || used.contains(&release.number)
    });
}

pub(super) fn scale(
    state: &mut State,
    name: &DeploymentName,
    scale: u32,
) -> Result<Outcome, Rejection> {
    let deployment = changeable(state, name)?;
    if deployment.current().spec.is_static() {
        return Err(Rejection::StaticScale(name.clone()));
    }
    check_scale(scale)?;
    let deployment = Deployment {
        scale,
        generation: deployment.generation + 1,
        ..deployment.clone()
    };
    Ok(put(state, deployment))
}

pub(super) fn restart(state: &mut State, name: &DeploymentName) -> Result<Outcome, Rejection> {
    let deployment = changeable(state, name)?;
    let deployment = Deployment {
        epoch: deployment.epoch + 1,
        generation: deployment.generation + 1,
        ..deployment.clone()
    };
    Ok(put(state, deployment))
}

/// Marks the deployment; its record goes with its last instance.
pub(super) fn remove(state: &mut State, name: &DeploymentName) -> Result<Outcome, Rejection> {
    let deployment = changeable(state, name)?;
    let deployment = Deployment {
        removing: true,
        generation: deployment.generation + 1,
        ..deployment.clone()
    };
    let outcome = put(state, deployment);
    drop_removed(state, [name.clone()]);
    Ok(outcome)
}

/// Drops those of the given deployments that are being removed and have no instance left.
pub(super) fn drop_removed(state: &mut State, names: impl IntoIterator<Item = DeploymentName>) {
    for name in names.into_iter().collect::<BTreeSet<_>>() {
        let removing = state.deployments.get(&name).is_some_and(|d| d.removing);
        if removing && state.instances_of(&name).next().is_none() {
            state.deployments.remove(&name);
        }
    }
}

fn changeable<'a>(state: &'a State, name: &DeploymentName) -> Result<&'a Deployment, Rejection> {
    match state.deployments.get(name) {
        None => Err(Rejection::DeploymentUnknown(name.clone())),
        Some(deployment) if deployment.removing => Err(Rejection::DeploymentRemoving(name.clone())),
        Some(deployment) => Ok(deployment),
    }
}

fn check_scale(scale: u32) -> Result<(), Rejection> {
    INSTANCES_PER_DEPLOYMENT.check("the number of instances", scale as usize)?;
    Ok(())
}

fn put(state: &mut State, deployment: Deployment) -> Outcome {
    let outcome = Outcome::Deployed {
        generation: deployment.generation,
        release: deployment.current().number,
    };
    names::hand_over(state, &deployment);
    state
        .deployments
        .insert(deployment.name.clone(), deployment);
    outcome
}
