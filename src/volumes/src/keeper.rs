//! Deletes what the registry says is to be deleted here, and tells it so.
//!
//! What this node knows may be old: its last word may have been heard without its knowing, and the name been given to
//! other data since. So each deletion is preceded by a linearizable read, and the last look is taken while nobody can
//! begin to use the folder.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nebula_actors::{BoxError, Reconciler};
use nebula_domain::{Command, DeploymentName, NodeId, State};
use nebula_drivers::volume::{self, Deleted};
use nebula_registry::{ProposeError, ReadError, Registry};
use tokio::sync::watch;

/// Between two tries: a program on its way out still has the volume, or there is no quorum.
const RETRY: Duration = Duration::from_secs(2);
/// A read that takes longer is tried again.
const READ_WITHIN: Duration = Duration::from_secs(5);

/// What the keeper needs of the registry.
#[async_trait]
pub trait Records: Send + Sync + 'static {
    /// Wakes when volumes changed. Its value is the latest that this node knows.
    fn watch(&self) -> watch::Receiver<Arc<State>>;
    /// A state that holds everything acknowledged anywhere before the call.
    async fn latest(&self) -> Result<Arc<State>, ReadError>;
    async fn tell(&self, command: Command) -> Result<(), ProposeError>;
}

#[async_trait]
impl Records for Registry {
    fn watch(&self) -> watch::Receiver<Arc<State>> {
        self.watch_plan()
    }

    async fn latest(&self) -> Result<Arc<State>, ReadError> {
        self.read(READ_WITHIN).await
    }

    async fn tell(&self, command: Command) -> Result<(), ProposeError> {
        self.propose(command).await.map(drop)
    }
}

pub struct Keeper {
    me: NodeId,
    volumes_dir: PathBuf,
    records: Arc<dyn Records>,
    state: watch::Receiver<Arc<State>>,
    remains: Remains,
}

/// What was begun and not ended before this start of the daemon.
#[derive(PartialEq, Eq)]
enum Remains {
    Unseen,
    /// It could not be deleted.
    Stuck,
    Gone,
}

impl Keeper {
    pub fn new(me: NodeId, volumes_dir: PathBuf, records: Arc<dyn Records>) -> Keeper {
        let mut state = records.watch();
        // The first pass is for what was already there.
        state.mark_changed();
        Keeper {
            me,
            volumes_dir,
            records,
            state,
            remains: Remains::Unseen,
        }
    }

    /// What is to be deleted here and has no instance any more.
    fn due(&self) -> Vec<(DeploymentName, u32)> {
        let (me, state) = (self.me, self.state.borrow());
        let sets = state.volumes.iter().flat_map(|(name, sets)| {
            let ordinals = sets.keys();
            let due = ordinals.filter(|ordinal| is_due(&state, me, (name, **ordinal)));
            due.map(|ordinal| (name.clone(), *ordinal))
        });
        sets.collect()
    }

    async fn delete(&self, name: DeploymentName, ordinal: u32) {
        let me = self.me;
        match self.records.latest().await {
            Ok(state) if is_due(&state, me, (&name, ordinal)) => {}
            Ok(_) => return,
            Err(error) => {
                tracing::debug!(deployment = %name, ordinal, %error, "volumes are not deleted yet: what is to be cannot be read");
                return;
            }
        }
        // Instances are started by what this says.
        let (state, of) = (self.state.clone(), name.clone());
        let deleted = blocking(&self.volumes_dir, move |dir| {
            let still_due = || is_due(&state.borrow(), me, (&of, ordinal));
            volume::delete(dir, (&of, ordinal), still_due)
        });
        match deleted.await {
            Ok(Deleted::All) => {}
            Ok(Deleted::InUse | Deleted::Unwanted) => return,
            Err(error) => {
                tracing::warn!(deployment = %name, ordinal, %error, "cannot delete volumes, trying again");
                return;
            }
        }
        let command = Command::VolumesGone {
            node: me,
            name: name.clone(),
            ordinal,
        };
        match self.records.tell(command).await {
            Ok(()) => tracing::info!(deployment = %name, ordinal, "deleted volumes"),
            Err(error) => {
                tracing::warn!(deployment = %name, ordinal, %error, "cannot tell the cluster yet that volumes are deleted");
            }
        }
    }

    async fn finish(&mut self) {
        match blocking(&self.volumes_dir, volume::finish).await {
            Ok(()) => self.remains = Remains::Gone,
            Err(error) => {
                self.remains = Remains::Stuck;
                tracing::warn!(%error, "cannot delete what is left of deleted volumes, trying again");
            }
        }
    }
}

fn is_due(state: &State, me: NodeId, (name, ordinal): (&DeploymentName, u32)) -> bool {
    let set = state.volumes.get(name).and_then(|sets| sets.get(&ordinal));
    set.is_some_and(|set| set.node == me && set.deleting && set.holder.is_none())
}

async fn blocking<T: Send + 'static>(
    dir: &Path,
    work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let dir = dir.to_owned();
    let done = tokio::task::spawn_blocking(move || work(&dir)).await;
    done.unwrap_or_else(|error| Err(io::Error::other(error)))
}

#[async_trait]
impl Reconciler for Keeper {
    async fn wake(&mut self) {
        if self.remains == Remains::Stuck || !self.due().is_empty() {
            return tokio::time::sleep(RETRY).await;
        }
        if self.state.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    async fn pass(&mut self) -> Result<(), BoxError> {
        self.state.mark_unchanged();
        if self.remains != Remains::Gone {
            self.finish().await;
        }
        for (name, ordinal) in self.due() {
            self.delete(name, ordinal).await;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
