//! Which instances belong to the deployment that has a name now, and which to an earlier one of that name.
//!
//! Instances' ids only grow, so a deployment's are all at or above its *first*. The registry keeps no such
//! number; each node derives it from what it sees, and keeps it over restarts.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use nebula_domain::limits::RELEASES_KEPT;
use nebula_domain::state::Deployment;
use nebula_domain::time::Millis;
use nebula_domain::{DeploymentName, InstanceId, ReleaseNumber, State};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origins {
    /// Of the state that was seen last; none was seen before the first.
    revision: u64,
    next_instance: u64,
    /// Of deployments that are there.
    of: BTreeMap<DeploymentName, Origin>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Origin {
    first: InstanceId,
    /// One of its releases, by which it is known again.
    release: ReleaseNumber,
    created_at: Millis,
}

impl Origins {
    /// The lowest id of an instance of the deployment; none when there is no such deployment now.
    pub(crate) fn first(&self, name: &DeploymentName) -> Option<InstanceId> {
        self.of.get(name).map(|origin| origin.first)
    }

    /// Takes in what the registry says now; whether something worth keeping is new.
    pub(crate) fn follow(&mut self, state: &State) -> bool {
        // A registry that is not yet as far as it was before the daemon's restart.
        if state.revision < self.revision.max(1) {
            return false;
        }
        let began = self.revision == 0;
        self.revision = state.revision;
        let before = self.of.len();
        self.of
            .retain(|name, _| state.deployments.contains_key(name));
        let mut changed = self.of.len() != before;
        for (name, deployment) in &state.deployments {
            let known = self.of.get_mut(name);
            let again = known
                .as_ref()
                .is_some_and(|origin| !origin.is_of(deployment));
            match known {
                Some(origin) if !again => changed |= origin.renew(deployment),
                _ => {
                    let first = match again {
                        // Seen for the first time by a node that keeps no output of it yet.
                        false if began => InstanceId(0),
                        // It was not there when the last state was.
                        false => InstanceId(self.next_instance),
                        // Removed and made again between two looks.
                        true => lowest(state, name),
                    };
                    let origin = Origin::new(first, deployment);
                    self.of.insert(name.clone(), origin);
                    changed = true;
                }
            }
        }
        changed |= began;
        self.next_instance = state.next_instance_id;
        changed
    }

    /// What was kept; what cannot be read is found out anew.
    pub(crate) fn load(path: &Path) -> Origins {
        let read = std::fs::read(path).ok();
        read.and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default()
    }

    pub(crate) fn store(&self, path: &Path) -> io::Result<()> {
        let aside = path.with_extension("new");
        std::fs::write(&aside, serde_json::to_vec(self)?)?;
        std::fs::rename(&aside, path)
    }
}

fn lowest(state: &State, name: &DeploymentName) -> InstanceId {
    let ids = state.instances_of(name).map(|instance| instance.id);
    ids.min().unwrap_or(InstanceId(state.next_instance_id))
}

impl Origin {
    fn new(first: InstanceId, deployment: &Deployment) -> Origin {
        let current = deployment.current();
        Origin {
            first,
            release: current.number,
            created_at: current.created_at,
        }
    }

    /// Releases are numbered from 1 in each deployment, and each is made once.
    fn is_of(&self, deployment: &Deployment) -> bool {
        match deployment.release(self.release) {
            Some(release) => release.created_at == self.created_at,
            // So many followed that it is kept no more; or this one is not so far yet.
            None => self.release < deployment.current().number,
        }
    }

    /// Takes a later release before the known one is kept no more.
    fn renew(&mut self, deployment: &Deployment) -> bool {
        let full = deployment.releases.len() >= RELEASES_KEPT;
        let oldest = deployment.releases.front();
        let last = full && oldest.is_some_and(|oldest| oldest.number >= self.release);
        if last {
            *self = Origin::new(self.first, deployment);
        }
        last
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use nebula_domain::Digest;
    use nebula_domain::spec::{Spec, StaticSite, Workload};
    use nebula_domain::state::Release;

    use super::*;

    fn state(next: u64, releases: &[(u32, u64)]) -> State {
        let mut state = State {
            revision: next,
            next_instance_id: next,
            ..State::default()
        };
        let name: DeploymentName = "api".parse().unwrap();
        let release = |&(number, at): &(u32, u64)| {
            let site = Workload::Static(StaticSite { spa: false });
            let spec = Spec::new(site, "example.test".parse().unwrap());
            let artifact = (Digest([0; 32]), 0);
            Release::new(ReleaseNumber(number), spec, artifact, Millis(at))
        };
        if !releases.is_empty() {
            let mut deployment = Deployment::new(name.clone(), 1, release(&releases[0]));
            deployment.releases = releases.iter().map(|r| Arc::new(release(r))).collect();
            state.deployments.insert(name, deployment);
        }
        state
    }

    fn first(origins: &Origins) -> Option<u64> {
        origins.first(&"api".parse().unwrap()).map(|id| id.0)
    }

    #[test]
    fn a_name_that_is_used_again_begins_anew() {
        let mut origins = Origins::default();
        assert!(origins.follow(&state(5, &[(1, 100)])));
        assert_eq!(first(&origins), Some(0), "nothing is known of before");
        assert!(!origins.follow(&state(9, &[(1, 100), (2, 200)])));
        assert!(origins.follow(&state(9, &[])));
        assert_eq!(first(&origins), None);
        assert!(origins.follow(&state(12, &[(1, 300)])));
        assert_eq!(first(&origins), Some(9));
    }

    #[test]
    fn a_removal_that_was_not_seen_is_found_out() {
        let mut origins = Origins::default();
        origins.follow(&state(5, &[]));
        origins.follow(&state(6, &[(1, 100), (2, 200)]));
        assert_eq!(first(&origins), Some(5));
        // Not as far yet, or the same number made at another time.
        for releases in [&[(1, 900)][..], &[(1, 900), (2, 950), (3, 990)]] {
            let mut origins = origins.clone();
            assert!(origins.follow(&state(20, releases)));
            assert_eq!(first(&origins), Some(20));
        }
    }

    #[test]
    fn many_releases_are_the_same_deployment() {
        let mut origins = Origins::default();
        origins.follow(&state(5, &[]));
        for newest in 1..40u32 {
            let kept: Vec<_> = (newest.saturating_sub(9).max(1)..=newest)
                .map(|number| (number, u64::from(number) * 100))
                .collect();
            origins.follow(&state(6 + u64::from(newest), &kept));
            assert_eq!(first(&origins), Some(5));
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("origins.json");
        assert_eq!(Origins::load(&path), Origins::default());
        origins.store(&path).unwrap();
        assert_eq!(Origins::load(&path), origins);
        assert!(!origins.follow(&State::default()), "not read yet");
        assert!(!origins.follow(&state(3, &[])), "behind");
        assert_eq!(first(&origins), Some(5));
    }
}
