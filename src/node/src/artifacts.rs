//! Drops artifacts that no kept release needs.

use std::time::{Duration, SystemTime};

use nebula_actors::{BoxError, Reconciler};
use nebula_artifacts::Artifacts;
use nebula_registry::Registry;

/// Disk space is not urgent; listing the store is not free.
const PERIOD: Duration = Duration::from_secs(300);
/// A registry that takes longer is left to the next time.
const CATCH_UP: Duration = Duration::from_secs(5);

pub(crate) struct Collector {
    pub artifacts: Artifacts,
    pub registry: Registry,
}

#[async_trait::async_trait]
impl Reconciler for Collector {
    async fn wake(&mut self) {
        tokio::time::sleep(PERIOD).await;
    }

    async fn pass(&mut self) -> Result<(), BoxError> {
        // A registry that has not caught up does not know all that is needed.
        let Ok(state) = self.registry.read(CATCH_UP).await else {
            return Ok(());
        };
        let collected = self
            .artifacts
            .collect(&state.needed_artifacts(), SystemTime::now())
            .await?;
        if collected.bytes > 0 {
            tracing::info!(
                bytes = collected.bytes,
                "dropped artifacts that no release needs"
            );
        }
        Ok(())
    }
}
