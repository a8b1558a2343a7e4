//! Deletes what the registry says is to be deleted here, and tells it so.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nebula_actors::{BoxError, Reconciler};
use nebula_domain::{Command, DeploymentName, NodeId, State};
use nebula_drivers::volume;
use nebula_registry::Registry;
use tokio::sync::watch;

/// Between two tries: a program on its way out still has the volume, or there is no quorum.
const RETRY: Duration = Duration::from_secs(2);

pub struct Keeper {
    me: NodeId,
    volumes_dir: PathBuf,
    registry: Registry,
    state: watch::Receiver<Arc<State>>,
}

impl Keeper {
    pub fn new(me: NodeId, volumes_dir: PathBuf, registry: &Registry) -> Keeper {
        let mut state = registry.watch_plan();
        // The first pass is for what was already there.
        state.mark_changed();
        Keeper {
            me,
            volumes_dir,
            registry: registry.clone(),
            state,
        }
    }

    /// What is to be deleted here and has no instance any more.
    fn due(&self) -> Vec<(DeploymentName, u32)> {
        let (me, state) = (self.me, self.state.borrow());
        let sets = state.volumes.iter().flat_map(|(name, sets)| {
            let due = sets
                .iter()
                .filter(move |(_, set)| set.node == me && set.deleting && set.holder.is_none());
            due.map(move |(ordinal, _)| (name.clone(), *ordinal))
        });
        sets.collect()
    }

    async fn delete(&self, name: DeploymentName, ordinal: u32) {
        let place = volume::place(&self.volumes_dir, &name, ordinal);
        let deleted = tokio::task::spawn_blocking(move || volume::delete(&place)).await;
        match deleted.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                tracing::warn!(deployment = %name, ordinal, %error, "cannot delete volumes, trying again");
                return;
            }
        }
        let command = Command::VolumesGone {
            node: self.me,
            name: name.clone(),
            ordinal,
        };
        match self.registry.propose(command).await {
            Ok(_) => tracing::info!(deployment = %name, ordinal, "deleted volumes"),
            Err(error) => {
                tracing::warn!(deployment = %name, ordinal, %error, "cannot tell the cluster yet that volumes are deleted");
            }
        }
    }
}

#[async_trait::async_trait]
impl Reconciler for Keeper {
    async fn wake(&mut self) {
        if !self.due().is_empty() {
            return tokio::time::sleep(RETRY).await;
        }
        if self.state.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    async fn pass(&mut self) -> Result<(), BoxError> {
        self.state.mark_unchanged();
        for (name, ordinal) in self.due() {
            self.delete(name, ordinal).await;
        }
        Ok(())
    }
}
