//! Deleting what instances that are gone have left.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use nebula_domain::{DeploymentName, InstanceId, State};
use nebula_drivers::Runs;

use super::{Done, Supervisor};
use crate::slot::Stage;

/// Ended instances of one deployment that the driver remembers. The output of others goes to where output is kept.
const KEPT_PER_DEPLOYMENT: usize = 20;
/// And of all deployments together: the driver lists each whenever one of them changes.
const KEPT_IN_ALL: usize = 100;

impl Supervisor {
    /// Deletes an ended instance's copy of its artifact.
    pub(super) fn clear_folder(&mut self, id: InstanceId) {
        self.delete(vec![self.files.place(id)]);
    }

    /// Deletes, once, what instances that are gone have left while no daemon looked. A registry that lags
    /// does not know of all that are not gone, and what lies here is what programs wrote.
    pub(super) fn sweep(&mut self, ids: &BTreeSet<InstanceId>) {
        if !self.unswept || !self.contact.is_sure() {
            return;
        }
        self.unswept = false;
        self.delete_folders(|id| id.is_some_and(|id| !ids.contains(&id)));
        for id in self.shared.driver.leftovers() {
            if !ids.contains(&id) {
                self.remove_output(id);
            }
        }
    }

    pub(super) fn delete_folders(&mut self, stale: impl Fn(Option<InstanceId>) -> bool) {
        let folders = match self.files.copies() {
            Ok(folders) => folders.into_iter().filter(|(id, _)| stale(*id)),
            Err(error) => {
                tracing::warn!(%error, "cannot look for folders of ended instances");
                return;
            }
        };
        self.delete(folders.map(|(_, folder)| folder).collect());
    }

    fn delete(&mut self, folders: Vec<PathBuf>) {
        let files = self.files.clone();
        self.tasks.spawn(async move {
            files.delete(folders).await;
            Done::Cleaned
        });
    }

    /// Drops slots of instances that nobody speaks of any more, and the oldest of those that ended.
    pub(super) fn forget(&mut self, state: &State, runs: &Runs) {
        let me = self.shared.config.me;
        let assigned = |id: &InstanceId| state.instances.get(id).is_some_and(|i| i.node == me);
        let gone: Vec<InstanceId> = self
            .slots
            .iter()
            .filter(|(id, slot)| slot.stage == Stage::Gone && !assigned(id))
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            self.slots.remove(&id);
            self.folders.remove(&id);
            self.clear_folder(id);
        }
        // A registry that lags does not know which of these are to run again.
        if !self.contact.is_sure() {
            return;
        }
        let unused = |id: &InstanceId| !self.slots.contains_key(id) && !self.removing.contains(id);
        for id in surplus(runs, unused) {
            self.remove_output(id);
        }
    }

    fn remove_output(&mut self, id: InstanceId) {
        self.removing.insert(id);
        let driver = self.shared.driver.clone();
        self.tasks.spawn(async move {
            let Err(error) = driver.remove(id).await else {
                return Done::Removed(id);
            };
            tracing::warn!(instance = %id, %error, "cannot delete an ended instance's output");
            Done::Cleaned
        });
    }
}

/// The ended instances that are forgotten: all but the latest of each deployment, and of all
/// together.
fn surplus(runs: &Runs, unused: impl Fn(&InstanceId) -> bool) -> Vec<InstanceId> {
    let mut kept_of: BTreeMap<&DeploymentName, usize> = BTreeMap::new();
    let mut kept = 0;
    let mut surplus = Vec::new();
    let ended = runs
        .iter()
        .filter(|(id, run)| !run.is_running() && unused(id));
    for (id, run) in ended.rev() {
        let of = kept_of.entry(&run.deployment).or_default();
        if *of < KEPT_PER_DEPLOYMENT && kept < KEPT_IN_ALL {
            *of += 1;
            kept += 1;
        } else {
            surplus.push(*id);
        }
    }
    surplus
}

#[cfg(test)]
mod tests {
    use nebula_domain::ids::ReleaseNumber;
    use nebula_domain::time::Millis;
    use nebula_drivers::confine::Controls;
    use nebula_drivers::{Exit, Run, RunStatus};

    use super::*;

    fn ended(deployment: &str) -> Run {
        Run {
            run: 1,
            deployment: deployment.parse().unwrap(),
            release: ReleaseNumber(1),
            port: Some(20_000),
            started_at: Millis(0),
            status: RunStatus::Ended {
                exit: Exit::Code(0),
                at: Millis(1),
            },
            isolation: Controls::default(),
        }
    }

    #[test]
    fn the_latest_output_is_kept_and_never_too_much() {
        let mut runs: Runs = (0..30).map(|n| (InstanceId(n), ended("api"))).collect();
        let oldest: Vec<_> = surplus(&runs, |_| true);
        assert_eq!(oldest.len(), 30 - KEPT_PER_DEPLOYMENT);
        assert!(oldest.contains(&InstanceId(0)) && !oldest.contains(&InstanceId(29)));
        assert!(surplus(&runs, |id| id.0 >= 20).is_empty());
        runs.extend((100..300).map(|n| (InstanceId(n), ended(&format!("d{n}")))));
        assert_eq!(runs.len() - surplus(&runs, |_| true).len(), KEPT_IN_ALL);
    }
}
