//! Setting and deleting secrets, and which version of them whom is given.

use std::collections::BTreeSet;

use crate::command::{Outcome, Rejection};
use crate::limits::{AUTHOR_BYTES, SECRET_BYTES, SECRETS};
use crate::names::SecretName;
use crate::secret::{Sealed, Secret, SecretVersions, Version};
use crate::spec::Spec;
use crate::state::{Deployment, Release, State};
use crate::time::Millis;

/// What sealing adds to a value: a nonce and a tag.
const SEALED_MORE: u64 = 64;

pub(super) fn set(
    state: &mut State,
    name: &SecretName,
    sealed: &Sealed,
    author: &str,
    now: Millis,
) -> Result<Outcome, Rejection> {
    let length = sealed.0.len() as u64;
    SECRET_BYTES.check(
        "the secret's length in bytes",
        length.saturating_sub(SEALED_MORE) as usize,
    )?;
    AUTHOR_BYTES.check("the author's length in bytes", author.len())?;
    let known = state.secrets.get(name);
    if known.is_none() {
        SECRETS.check("the number of secrets", state.secrets.len() + 1)?;
    }
    let mut versions = known
        .map(|known| known.versions.clone())
        .unwrap_or_default();
    let used = used(state, name);
    let version = versions.last_key_value().map_or(0, |(last, _)| *last) + 1;
    versions.retain(|version, _| used.contains(version));
    versions.insert(
        version,
        Version {
            sealed: sealed.clone(),
            set_at: now,
            author: author.to_owned(),
        },
    );
    state.secrets.insert(name.clone(), Secret { versions });
    Ok(Outcome::SecretSet { version })
}

/// The versions that somebody is given, or will be.
fn used(state: &State, name: &SecretName) -> BTreeSet<u64> {
    let given = state.instances.values().map(|instance| &instance.secrets);
    let pinned = state
        .deployments
        .values()
        .map(|deployment| &deployment.secrets);
    let all = given.chain(pinned);
    all.filter_map(|versions| versions.get(name).copied())
        .collect()
}

pub(super) fn delete(state: &mut State, name: &SecretName) -> Result<Outcome, Rejection> {
    if !state.secrets.contains_key(name) {
        return Err(Rejection::SecretUnknown(name.clone()));
    }
    let needs = |deployment: &&Deployment| {
        let mut specs = specs(deployment);
        specs.any(|spec| names(spec).any(|known| known == name))
    };
    let by = state.deployments.values().find(needs);
    let given = |state: &State| {
        let mut instances = state.instances.values();
        let instance = instances.find(|instance| instance.secrets.contains_key(name));
        instance.map(|instance| instance.deployment.clone())
    };
    let by = by.map(|deployment| deployment.name.clone());
    match by.or_else(|| given(state)) {
        Some(by) => Err(Rejection::SecretNeeded {
            name: name.clone(),
            by,
        }),
        None => {
            state.secrets.remove(name);
            Ok(Outcome::Done)
        }
    }
}

/// Of the wanted release, and of the one to go back to.
fn specs(deployment: &Deployment) -> impl Iterator<Item = &Spec> {
    let fallback = deployment.fallback().map(|release| &release.spec);
    std::iter::once(&deployment.current().spec).chain(fallback)
}

fn names(spec: &Spec) -> impl Iterator<Item = &SecretName> {
    spec.secrets()
        .into_iter()
        .flat_map(|secrets| secrets.values())
}

/// Whether all that a spec names is there.
pub(super) fn check(state: &State, spec: &Spec) -> Result<(), Rejection> {
    match names(spec).find(|name| !state.secrets.contains_key(*name)) {
        Some(name) => Err(Rejection::SecretUnknown(name.clone())),
        None => Ok(()),
    }
}

/// Gives the deployment the latest versions. True when one of them is another than before.
pub(super) fn pin(state: &State, deployment: &mut Deployment) -> bool {
    let wanted: BTreeSet<&SecretName> = specs(deployment).flat_map(names).collect();
    let latest = |name: &SecretName| state.secrets.get(name)?.latest().map(|(number, _)| number);
    let versions: SecretVersions = wanted
        .into_iter()
        .filter_map(|name| Some((name.clone(), latest(name)?)))
        .collect();
    let changed = deployment
        .secrets
        .iter()
        .any(|(name, version)| versions.get(name).is_some_and(|now| now != version));
    deployment.secrets = versions;
    changed
}

/// What a new instance of a release is given.
pub(super) fn of(deployment: &Deployment, release: &Release) -> SecretVersions {
    let names = names(&release.spec);
    let version = |name: &SecretName| Some((name.clone(), *deployment.secrets.get(name)?));
    names.filter_map(version).collect()
}
