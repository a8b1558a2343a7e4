//! The daemon's part of confining: what a run may use and reach, decided before its shim is started.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::PoisonError;

use nebula_domain::ids::InstanceId;
use nebula_domain::isolation::Profile;
use nebula_domain::names::DeploymentName;

use super::{Inner, record};
use crate::confine::cgroup::{Place, Usage, sweep};
use crate::confine::users::{Range, Users};
use crate::confine::{Enforce, Mode, Plan, Settings, check_image, decide};
use crate::driver::{DriverError, RunStatus, StartSpec};
use crate::firewall::Firewall;
use crate::record::StateRecord;

/// Knuth's multiplier (The Art of Computer Programming, volume 3, 6.4): numbers close to each other come to lie far apart.
const SPREAD: u32 = 2_654_435_761;

/// Where this node's instances have their control groups. The folder tells the nodes of a machine apart, also after a
/// restart, by what no other folder of the machine has.
pub(super) fn place(settings: &Settings, instances_dir: &Path) -> std::io::Result<Place> {
    let folder = std::fs::metadata(instances_dir)?;
    let node = format!("{:x}-{:x}", folder.dev(), folder.ino());
    Ok(Place::here(&settings.cgroup_parent, &node))
}

/// The users of `range` that own the work folders of this node's instances, each with the deployment that it is for.
fn owners(instances_dir: &Path, range: Range) -> std::io::Result<Vec<(DeploymentName, u32)>> {
    let mut owners = Vec::new();
    for (_, dir) in record::instance_dirs(instances_dir)? {
        let Some(state) = record::read::<StateRecord>(&dir, record::STATE)? else {
            continue;
        };
        match std::fs::symlink_metadata(&state.workdir) {
            // Its program was not given it, or it is deleted.
            Ok(folder) if !range.contains(folder.uid()) => {}
            Ok(folder) => owners.push((state.deployment, folder.uid())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(owners)
}

/// Whether a shim may have the folder: also when that cannot be found out.
fn is_locked(dir: &Path) -> bool {
    match record::try_lock(dir) {
        Ok(lock) => lock.is_none(),
        Err(error) => error.kind() != std::io::ErrorKind::NotFound,
    }
}

impl Inner {
    /// Blocking: a user that is new is written down.
    pub(super) fn plan(&self, spec: &StartSpec) -> Result<Plan, DriverError> {
        let is_root = nix::unistd::geteuid().is_root();
        let enforce =
            decide(self.settings.mode, spec.isolation, is_root).map_err(DriverError::Start)?;
        if spec.image.is_some() {
            check_image(enforce).map_err(DriverError::Start)?;
        }
        let user = match enforce {
            Enforce::All | Enforce::Possible if is_root => Some(self.user_of(&spec.deployment)?),
            _ => None,
        };
        Ok(Plan {
            enforce,
            strict: spec.isolation.profile == Profile::Strict
                || self.settings.mode == Mode::Required,
            isolation: spec.isolation,
            resources: spec.resources,
            user,
            groups: self.place.of(spec.instance),
            readable: self.settings.readable.clone(),
            firewall: None,
        })
    }

    fn range(&self) -> std::io::Result<Range> {
        let folder = std::fs::metadata(&self.dir)?;
        Ok(Range {
            first: self.settings.uid_first,
            count: self.settings.uid_count,
            // Its last bits: folders that were made one after the other have neighbouring numbers, so spread them.
            seed: (folder.ino() as u32).wrapping_mul(SPREAD),
        })
    }

    /// Before anything is started: also users of deployments that have no instance here now may have left processes.
    pub(super) fn judge_all(&self) {
        let Some(firewall) = &self.firewall else {
            return;
        };
        let users = self
            .range()
            .and_then(|range| Users::load(&self.dir, || owners(&self.dir, range)));
        match users {
            Ok(users) => firewall.judge(users.all()),
            Err(error) => tracing::warn!(%error, "the users of deployments cannot be read"),
        }
    }

    fn user_of(&self, deployment: &DeploymentName) -> Result<u32, DriverError> {
        let bad = |e| DriverError::io("cannot choose a user in the folder", &self.dir)(e);
        // Read and written as one: two starts must not choose the same.
        let _turn = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        let range = self.range().map_err(bad)?;
        let mut users = Users::load(&self.dir, || owners(&self.dir, range)).map_err(bad)?;
        if let Some(user) = users.of(deployment) {
            return Ok(user);
        }
        let in_use: BTreeSet<DeploymentName> = {
            let runs = self.runs.borrow();
            runs.values().map(|run| run.deployment.clone()).collect()
        };
        let firewall = self.firewall.as_ref();
        let beside = firewall.map(Firewall::users_beside).unwrap_or_default();
        let chosen = users.choose(deployment, range, &in_use, &beside);
        let user = chosen.ok_or_else(|| {
            let count = range.count;
            DriverError::Start(format!(
                "all {count} users for deployments are taken: raise instances.uid_count of this node"
            ))
        })?;
        users.store(&self.dir).map_err(bad)?;
        Ok(user)
    }

    /// Ends what is left in control groups of instances that do not run: their shims were killed, and the daemon too.
    pub(super) fn sweep_groups(&self, folders: &[(InstanceId, std::path::PathBuf)]) {
        let runs = self.runs.borrow().clone();
        let is_running = |instance: InstanceId, dir: &Path| {
            let listed = runs.get(&instance);
            listed.is_some_and(|run| run.status == RunStatus::Running)
                // One that was started by a daemon that did not live to see it.
                || is_locked(dir)
        };
        let running = folders
            .iter()
            .filter(|(instance, dir)| is_running(*instance, dir))
            .map(|(instance, _)| *instance)
            .collect();
        sweep(&self.place, &running);
    }

    /// What an instance uses now, as far as control groups count it.
    pub(super) fn usage(&self, instance: InstanceId) -> Option<Usage> {
        let state = record::read::<StateRecord>(&self.dir_of(instance), record::STATE);
        state.ok().flatten().map(|state| state.groups.usage())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_whose_lock_cannot_be_looked_at_is_in_use() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!is_locked(dir.path()));
        let lock = record::try_lock(dir.path()).unwrap();
        assert!(lock.is_some() && is_locked(dir.path()));
        drop(lock);
        assert!(!is_locked(dir.path()));
        assert!(!is_locked(&dir.path().join("gone")));

        std::fs::remove_file(dir.path().join("lock")).unwrap();
        std::fs::create_dir(dir.path().join("lock")).unwrap();
        assert!(is_locked(dir.path()));
    }
}
