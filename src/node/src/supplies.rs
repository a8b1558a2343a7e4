//! What programs are given by other parts of the node than the supervisor.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
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
    pub vault: Vault,
}

#[async_trait]
impl Supplies for Given {
    async fn secrets(&self, instance: InstanceId) -> Result<BTreeMap<String, String>, String> {
        let values = self.vault.of(instance).await;
        values.map_err(|error| error.to_string())
    }

    async fn port(&self, to: &DeploymentName) -> Result<u16, String> {
        let port = self.bridges.port(to);
        port.map_err(|error| format!("no address for '{to}', which it depends on: {error}"))
    }
}

/// Ports that nobody needs any more are not urgent.
const PERIOD: Duration = Duration::from_secs(60);

/// Lets go of ports that no program of this node knows any more.
pub(crate) struct BridgesKeeper {
    pub me: NodeId,
    pub bridges: Bridges,
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
        if let Some(wanted) = self.wanted() {
            self.bridges.keep(&wanted);
        }
        Ok(())
    }
}
