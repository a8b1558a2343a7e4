//! What people change about deployments.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::rollouts::{self, Way};
use super::{dependencies, names, ports, runs, secrets};
use crate::command::{Outcome, Rejection};
use crate::ids::{Digest, ReleaseNumber};
use crate::limits::{
    AUTHOR_BYTES, DEPLOYMENTS, INSTANCES_PER_DEPLOYMENT, MESSAGE_BYTES, RELEASES_KEPT,
};
use crate::names::DeploymentName;
use crate::spec::Spec;
use crate::state::{Deployment, Fate, Origin, Release, State};
use crate::time::Millis;

/// What a new release is made of.
pub(super) struct New<'a> {
    /// None: that of the release before.
    pub spec: Option<&'a Spec>,
    pub artifact: (Digest, u64),
    pub origin: &'a Origin,
    pub now: Millis,
}

impl New<'_> {
    fn check(&self) -> Result<(), Rejection> {
        let message = self.origin.message.len();
        MESSAGE_BYTES.check("the message's length in bytes", message)?;
        AUTHOR_BYTES.check("the author's length in bytes", self.origin.author.len())?;
        Ok(())
    }

    fn release(&self, number: u32, spec: &Spec) -> Release {
        let number = ReleaseNumber(number);
        Release {
            origin: self.origin.clone(),
            ..Release::new(number, spec.clone(), self.artifact, self.now)
        }
    }
}

pub(super) fn create(
    state: &mut State,
    name: &DeploymentName,
    scale: u32,
    new: New<'_>,
) -> Result<Outcome, Rejection> {
    if let Some(present) = state.deployments.get(name) {
        return Err(if present.removing {
            Rejection::DeploymentRemoving(name.clone())
        } else {
            Rejection::DeploymentExists(name.clone())
        });
    }
    let Some(spec) = new.spec else {
        return Err(Rejection::DeploymentUnknown(name.clone()));
    };
    names::check(state, name, spec)?;
    dependencies::check(state, name, spec)?;
    secrets::check(state, spec)?;
    ports::check(state, spec)?;
    new.check()?;
    check_scale(scale)?;
    DEPLOYMENTS.check("the number of deployments", state.deployments.len() + 1)?;
    let mut deployment = Deployment::new(name.clone(), scale, new.release(1, spec));
    let at = (rollouts::revision_after(state), new.now);
    rollouts::begin(&mut deployment, None, Way::AsItsStrategySays, at);
    secrets::pin(state, &mut deployment);
    runs::follow(state, &mut deployment, new.now);
    Ok(put(state, deployment))
}

pub(super) fn update(
    state: &mut State,
    (name, based_on): (&DeploymentName, Option<u64>),
    new: New<'_>,
) -> Result<Outcome, Rejection> {
    let mut deployment = based(changeable(state, name)?, based_on)?.clone();
    let current = Arc::clone(deployment.current());
    let spec = new.spec.unwrap_or(&current.spec);
    names::check(state, name, spec)?;
    dependencies::check(state, name, spec)?;
    secrets::check(state, spec)?;
    ports::check(state, spec)?;
    new.check()?;
    check_type(&deployment, spec)?;
    let release = new.release(deployment.newest().number.0 + 1, spec);
    let number = release.number;
    let (same_program, same_spec) = (current.runs_as(&release), current.spec == release.spec);
    deployment.releases.push_back(Arc::new(release));
    let at = (rollouts::revision_after(state), new.now);
    rollouts::turn_to(&mut deployment, number, Way::AsItsStrategySays, at);
    let from = deployment.rollout.as_ref().and_then(|rollout| rollout.from);
    let same_secrets = !secrets::pin(state, &mut deployment);
    if same_program && (same_spec || !same_secrets) {
        // The same again is asked for so that instances begin anew, and so are secrets that were changed.
        deployment.epoch += 1;
    } else if same_program && from == Some(current.number) && !current.has_failed() {
        // The proxies treat what runs by the new policy at once; for that no instance has to be replaced.
        deployment.rollout = None;
        deployment.set_fate(number, Fate::Good { at: new.now });
    } else {
        rollouts::spare_hook(&mut deployment);
    }
    runs::follow(state, &mut deployment, new.now);
    drop_old_releases(state, &mut deployment);
    deployment.generation += 1;
    Ok(put(state, deployment))
}

/// What runs to its end has no instances to hand over, and what serves has no runs.
fn check_type(deployment: &Deployment, spec: &Spec) -> Result<(), Rejection> {
    let now = &deployment.current().spec;
    let differ = now.type_name() != spec.type_name();
    if differ && (now.is_finite() || spec.is_finite()) {
        return Err(Rejection::OtherType {
            name: deployment.name.clone(),
            now: now.type_name().to_owned(),
            wanted: spec.type_name().to_owned(),
        });
    }
    Ok(())
}

fn check_serves(deployment: &Deployment) -> Result<(), Rejection> {
    match deployment.current().spec.is_finite() {
        true => Err(Rejection::Finite(deployment.name.clone())),
        false => Ok(()),
    }
}

/// Keeps the newest, the one that is wanted, the one to go back to, and any that an instance still runs: its node may
/// have to fetch or start it again.
fn drop_old_releases(state: &State, deployment: &mut Deployment) {
    let Some(surplus) = deployment.releases.len().checked_sub(RELEASES_KEPT) else {
        return;
    };
    if surplus == 0 {
        return;
    }
    let mut used: BTreeSet<ReleaseNumber> = state
        .instances_of(&deployment.name)
        .map(|instance| instance.release)
        .collect();
    used.insert(deployment.target);
    used.extend(deployment.rollout.as_ref().and_then(|rollout| rollout.from));
    used.extend(runs::releases(state, &deployment.name));
    used.extend(rollouts::latest_good(deployment));
    let mut position = 0;
    deployment.releases.retain(|release| {
        position += 1;
        position > surplus || used.contains(&release.number)
    });
}

/// Refuses a change that was worked out from an older generation.
fn based(deployment: &Deployment, on: Option<u64>) -> Result<&Deployment, Rejection> {
    match on {
        Some(based_on) if based_on != deployment.generation => Err(Rejection::DeploymentChanged {
            name: deployment.name.clone(),
            based_on,
            current: deployment.generation,
        }),
        _ => Ok(deployment),
    }
}

pub(super) fn scale(
    state: &mut State,
    (name, based_on): (&DeploymentName, Option<u64>),
    scale: u32,
) -> Result<Outcome, Rejection> {
    let deployment = based(changeable(state, name)?, based_on)?;
    if deployment.current().spec.is_static() {
        return Err(Rejection::StaticScale(name.clone()));
    }
    check_serves(deployment)?;
    check_scale(scale)?;
    let deployment = Deployment {
        scale,
        generation: deployment.generation + 1,
        ..deployment.clone()
    };
    Ok(put(state, deployment))
}

pub(super) fn restart(
    state: &mut State,
    name: &DeploymentName,
    now: Millis,
) -> Result<Outcome, Rejection> {
    let mut deployment = changeable(state, name)?.clone();
    check_serves(&deployment)?;
    deployment.epoch += 1;
    deployment.generation += 1;
    let epoch = deployment.epoch;
    if let Some(rollout) = &mut deployment.rollout {
        rollout.from_epoch = epoch;
    } else if deployment.current().has_failed() {
        // It may do better now.
        let at = (rollouts::revision_after(state), now);
        rollouts::begin(&mut deployment, None, Way::Straight, at);
    }
    secrets::pin(state, &mut deployment);
    runs::follow(state, &mut deployment, now);
    Ok(put(state, deployment))
}

pub(super) fn purge_cache(state: &mut State, name: &DeploymentName) -> Result<Outcome, Rejection> {
    if changeable(state, name)?.current().spec.is_static() {
        return Err(Rejection::StaticCache(name.clone()));
    }
    // That of the state which this leads to: another one each time, also for a name that was removed and is there again.
    let revision = state.revision + 1;
    state.cache_purges.insert(name.clone(), revision);
    Ok(Outcome::CachePurged { revision })
}

/// Marks the deployment; its record goes with its last instance.
pub(super) fn remove(state: &mut State, name: &DeploymentName) -> Result<Outcome, Rejection> {
    let deployment = changeable(state, name)?;
    dependencies::check_removal(state, name)?;
    let deployment = Deployment {
        removing: true,
        generation: deployment.generation + 1,
        ..deployment.clone()
    };
    let outcome = put(state, deployment);
    runs::remove(state, name);
    drop_removed(state, [name.clone()]);
    Ok(outcome)
}

/// Drops those of the given deployments that are being removed and have no instance left.
pub(super) fn drop_removed(state: &mut State, names: impl IntoIterator<Item = DeploymentName>) {
    for name in names.into_iter().collect::<BTreeSet<_>>() {
        let removing = state.deployments.get(&name).is_some_and(|d| d.removing);
        if removing && state.instances_of(&name).next().is_none() {
            state.deployments.remove(&name);
            state.cache_purges.remove(&name);
            state.work.remove(&name);
        }
    }
}

pub(super) fn changeable<'a>(
    state: &'a State,
    name: &DeploymentName,
) -> Result<&'a Deployment, Rejection> {
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

pub(super) fn put(state: &mut State, deployment: Deployment) -> Outcome {
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
