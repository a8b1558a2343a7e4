//! What the supervisor needs of the registry; tests put a registry of one value in its place.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nebula_domain::State;
use nebula_registry::{ReadError, Registry, Status};
use tokio::sync::watch;

/// One try to catch up; a long log takes several.
const CATCH_UP: Duration = Duration::from_secs(5);

#[async_trait]
pub trait Registrar: Send + Sync + 'static {
    /// Wakes when nodes, deployments or instances changed.
    fn watch(&self) -> watch::Receiver<Arc<State>>;
    fn status(&self) -> watch::Receiver<Status>;
    /// Returns once [`Registrar::watch`] holds everything that was acknowledged anywhere before the call.
    async fn catch_up(&self) -> Result<(), ReadError>;
}

#[async_trait]
impl Registrar for Registry {
    fn watch(&self) -> watch::Receiver<Arc<State>> {
        self.watch_plan()
    }

    fn status(&self) -> watch::Receiver<Status> {
        Registry::status(self)
    }

    async fn catch_up(&self) -> Result<(), ReadError> {
        self.read(CATCH_UP).await.map(drop)
    }
}
