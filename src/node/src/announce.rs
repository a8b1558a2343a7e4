//! Tells the registry that this node has arrived, and later when its addresses are no longer those it
//! joined with, or what its program understands is not what it said last.

use std::sync::Arc;
use std::time::Duration;

use nebula_actors::{BoxError, Reconciler};
use nebula_domain::level::LEVEL;
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
    /// What is to be said, if anything is.
    fn due(&self) -> Option<Command> {
        let state = self.state.borrow();
        let node = state.nodes.get(&self.me)?;
        if node.addresses != self.addresses || node.awaited_since.is_some() {
            return Some(Command::SetAddresses {
                node: self.me,
                addresses: self.addresses.clone(),
            });
        }
        (node.level != LEVEL).then_some(Command::SetLevel {
            node: self.me,
            level: LEVEL,
        })
    }
}

#[async_trait::async_trait]
impl Reconciler for Announcer {
    async fn wake(&mut self) {
        if self.due().is_some() {
            return tokio::time::sleep(RETRY).await;
        }
        if self.state.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    async fn pass(&mut self) -> Result<(), BoxError> {
        if let Some(command) = self.due() {
            match self.registry.propose(command).await {
                Ok(_) => {
                    tracing::info!(quic = %self.addresses.quic, level = LEVEL, "told the cluster that this node is here")
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot tell the cluster yet that this node is here")
                }
            }
        }
        Ok(())
    }
}
