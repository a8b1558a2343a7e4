//! What deployments wait for: it has to be there, and nothing may wait for itself.

use std::collections::BTreeSet;

use crate::command::Rejection;
use crate::names::DeploymentName;
use crate::spec::Spec;
use crate::state::{Deployment, State};

/// The specs that a deployment runs now: that of the wanted release, and while it is on its way that of the one before.
fn specs(deployment: &Deployment) -> impl Iterator<Item = &Spec> {
    let fallback = deployment.fallback().map(|release| &release.spec);
    std::iter::once(&deployment.current().spec).chain(fallback)
}

/// Whether a deployment may have this spec.
pub(super) fn check(state: &State, name: &DeploymentName, spec: &Spec) -> Result<(), Rejection> {
    for on in spec.depends_on() {
        let there = state.deployments.get(on).filter(|d| !d.removing);
        if there.is_some_and(|there| there.current().spec.is_finite()) {
            return Err(Rejection::DependencyFinite {
                name: name.clone(),
                on: on.clone(),
            });
        }
        if on != name && there.is_none() {
            return Err(Rejection::DependencyUnknown {
                name: name.clone(),
                on: on.clone(),
            });
        }
    }
    let mut way = vec![name.clone()];
    let mut seen = BTreeSet::new();
    for on in spec.depends_on() {
        if leads_back(state, on, &mut way, &mut seen) {
            way.push(name.clone());
            let names: Vec<&str> = way.iter().map(DeploymentName::as_str).collect();
            return Err(Rejection::DependencyCycle(names.join(" -> ")));
        }
    }
    Ok(())
}

/// Whether what `on` waits for leads back to where the way began; the way is then complete.
fn leads_back(
    state: &State,
    on: &DeploymentName,
    way: &mut Vec<DeploymentName>,
    seen: &mut BTreeSet<DeploymentName>,
) -> bool {
    if way.first() == Some(on) {
        return true;
    }
    if !seen.insert(on.clone()) {
        return false;
    }
    way.push(on.clone());
    let known = state.deployments.get(on);
    let next = known.into_iter().flat_map(specs).flat_map(Spec::depends_on);
    for next in next {
        if leads_back(state, next, way, seen) {
            return true;
        }
    }
    way.pop();
    false
}

/// What others depend on stays.
pub(super) fn check_removal(state: &State, name: &DeploymentName) -> Result<(), Rejection> {
    let others = state.deployments.values().filter(|other| !other.removing);
    let mut by = others.filter(|other| {
        let mut on = specs(other).flat_map(Spec::depends_on);
        other.name != *name && on.any(|on| on == name)
    });
    match by.next() {
        Some(by) => Err(Rejection::DependencyNeeded {
            name: name.clone(),
            by: by.name.clone(),
        }),
        None => Ok(()),
    }
}
