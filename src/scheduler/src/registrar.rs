//! What the scheduler needs of the registry; tests put a registry of one value in its place.

use std::sync::Arc;

use async_trait::async_trait;
use nebula_domain::{Command, State};
use nebula_registry::{Applied, ProposeError, Registry, Status};
use tokio::sync::watch;

#[async_trait]
pub trait Registrar: Send + Sync + 'static {
    /// Wakes when nodes, deployments or instances changed.
    fn watch(&self) -> watch::Receiver<Arc<State>>;
    fn status(&self) -> watch::Receiver<Status>;
    /// Returns once the command is applied on the leader.
    async fn propose(&self, command: Command) -> Result<Applied, ProposeError>;
}

#[async_trait]
impl Registrar for Registry {
    fn watch(&self) -> watch::Receiver<Arc<State>> {
        self.watch_plan()
    }

    fn status(&self) -> watch::Receiver<Status> {
        Registry::status(self)
    }

    async fn propose(&self, command: Command) -> Result<Applied, ProposeError> {
        Registry::propose(self, command).await
    }
}
