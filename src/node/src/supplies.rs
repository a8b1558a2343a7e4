//! What programs are given by other parts of the node than the supervisor.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use nebula_actors::{BoxError, Reconciler};
use nebula_domain::{DeploymentName, InstanceId, NodeId, State};
use nebula_drivers::Runs;
use nebula_proxy::Bridges;
use nebula_secrets::Vault;
use nebula_supervisor::Supplies;
use tokio::sync::watch;

pub(crate) struct Given {
    pub bridges: Bridges,
    pub handed: Handed,
    pub vault: Vault,
}

/// To whom ports were handed out since what is needed was last looked at: those that were looked for before may not have
/// been needed then, and must not be closed by what was found out before. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Handed(Arc<Mutex<BTreeSet<DeploymentName>>>);

impl Handed {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<DeploymentName>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands out what `open` gives.
    fn out<T>(&self, to: &DeploymentName, open: impl FnOnce() -> T) -> T {
        let mut since = self.lock();
        since.insert(to.clone());
        open()
    }

    /// Has all kept that is wanted, and what was handed out while that was found out.
    fn keep(
        &self,
        wanted: impl FnOnce() -> Option<BTreeSet<DeploymentName>>,
        keep: impl FnOnce(&BTreeSet<DeploymentName>),
    ) {
        // Whoever was given one of these acted on a state that is known here as well.
        self.lock().clear();
        let Some(mut wanted) = wanted() else {
            return;
        };
        let since = self.lock();
        wanted.extend(since.iter().cloned());
        keep(&wanted);
    }
}

#[async_trait]
impl Supplies for Given {
    async fn secrets(&self, instance: InstanceId) -> Result<BTreeMap<String, String>, String> {
        let values = self.vault.of(instance).await;
        values.map_err(|error| error.to_string())
    }

    async fn port(&self, to: &DeploymentName) -> Result<u16, String> {
        let port = self.handed.out(to, || self.bridges.port(to));
        port.map_err(|error| format!("no address for '{to}', which it depends on: {error}"))
    }
}

/// Ports that nobody needs any more are not urgent.
const PERIOD: Duration = Duration::from_secs(60);

/// Lets go of ports that no program of this node knows any more.
pub(crate) struct BridgesKeeper {
    pub me: NodeId,
    pub bridges: Bridges,
    pub handed: Handed,
    pub state: watch::Receiver<Arc<State>>,
    pub runs: watch::Receiver<Arc<Runs>>,
}

impl BridgesKeeper {
    /// What programs here depend on; `None` while one runs of which the registry does not know yet what it needs.
    fn wanted(&self) -> Option<BTreeSet<DeploymentName>> {
        let (state, runs) = (self.state.borrow(), self.runs.borrow());
        let running = runs.iter().filter(|(_, run)| run.is_running());
        let known = running
            .clone()
            .all(|(id, _)| state.instances.contains_key(id));
        let mut wanted = BTreeSet::new();
        for instance in state.instances_on(self.me) {
            let release = state.release_of(instance)?;
            wanted.extend(release.spec.depends_on().cloned());
        }
        known.then_some(wanted)
    }
}

#[async_trait]
impl Reconciler for BridgesKeeper {
    async fn wake(&mut self) {
        tokio::time::sleep(PERIOD).await;
    }

    async fn pass(&mut self) -> Result<(), BoxError> {
        self.handed
            .keep(|| self.wanted(), |wanted| self.bridges.keep(wanted));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_handed_out_meanwhile_is_kept() {
        let handed = Handed::default();
        let [db, cache, old] = ["db", "cache", "old"].map(|name| name.parse().unwrap());
        let mut kept = BTreeSet::new();
        handed.out(&old, || {});
        let wanted = || {
            let wanted = Some(BTreeSet::from([DeploymentName::clone(&db)]));
            // A program is started after the look and before what comes of it.
            handed.out(&cache, || {});
            wanted
        };
        handed.keep(wanted, |wanted| kept = wanted.clone());
        assert_eq!(kept, BTreeSet::from([db.clone(), cache.clone()]));

        handed.keep(|| Some([db.clone()].into()), |wanted| kept = wanted.clone());
        assert_eq!(kept, BTreeSet::from([db]), "known by then, or gone");
    }
}
