//! Tells the registry that this node has arrived, and later when its addresses are no longer those it
//! joined with.

use std::sync::Arc;
use std::time::Duration;

use nebula_actors::{BoxError, Reconciler};
use nebula_domain::state::Addresses;
use nebula_domain::{Command, NodeId, State};
use nebula_registry::Registry;
use tokio::sync::watch;

/// Between two tries while there is no quorum.
const RETRY: Duration = Duration::from_secs(2);

pub struct Announcer {
    pub me: NodeId,
    pub addresses: Addresses,
    pub registry: Registry,
    pub state: watch::Receiver<Arc<State>>,
}

impl Announcer {
    fn is_due(&self) -> bool {
        self.state
            .borrow()
            .nodes
            .get(&self.me)
            .is_some_and(|node| node.addresses != self.addresses || node.awaited_since.is_some())
    }
}

#[async_trait::async_trait]
impl Reconciler for Announcer {
    async fn wake(&mut self) {
        if self.is_due() {
            return tokio::time::sleep(RETRY).await;
        }
        if self.state.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    async fn pass(&mut self) -> Result<(), BoxError> {
        if self.is_due() {
            let command = Command::SetAddresses {
                node: self.me,
                addresses: self.addresses.clone(),
            };
            match self.registry.propose(command).await {
                Ok(_) => {
                    tracing::info!(quic = %self.addresses.quic, "told the cluster that this node is here")
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot tell the cluster yet that this node is here")
                }
            }
        }
        Ok(())
    }
}
