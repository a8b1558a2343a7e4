//! What outlives a supervisor that is made anew.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nebula_domain::NodeId;
use nebula_domain::observed::{GivenUp, LocalInstances};
use nebula_domain::port::PROGRAM_PORTS;
use nebula_drivers::{Driver, Run};
use tokio::sync::watch;

use crate::supplies::{self, Supplies};

#[derive(Debug, Clone)]
pub struct SupervisorConfig {
    pub me: NodeId,
    /// For the programs' `NEBULA_NODE`.
    pub node_name: String,
    pub port_range: RangeInclusive<u16>,
    /// Holds one folder for each instance that runs; must exist.
    pub work_dir: PathBuf,
    /// Holds the folders that deployments keep; made when one is needed.
    pub volumes_dir: PathBuf,
    /// Between two looks whether a static site's files are still there.
    pub files_check: Duration,
}

/// A site that somebody deletes from the disk is missed for this long at most; a look costs one system
/// call for each file.
const FILES_CHECK: Duration = Duration::from_secs(10);

/// Beside the work folder.
pub const VOLUMES_DIR: &str = "volumes";

impl SupervisorConfig {
    /// The folder with volumes lies beside the work folder.
    pub fn new(me: NodeId, node_name: String, work_dir: PathBuf) -> SupervisorConfig {
        SupervisorConfig {
            volumes_dir: work_dir.with_file_name(VOLUMES_DIR),
            me,
            node_name,
            port_range: PROGRAM_PORTS,
            work_dir,
            files_check: FILES_CHECK,
        }
    }
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Handle(Arc<Shared>);

pub(crate) struct Shared {
    pub config: SupervisorConfig,
    pub driver: Arc<dyn Driver>,
    pub locals: watch::Sender<Arc<LocalInstances>>,
    /// What the probes of this node have given up.
    pub given_up: watch::Receiver<Arc<GivenUp>>,
    pub supplies: Arc<dyn Supplies>,
}

impl Handle {
    pub fn new(
        config: SupervisorConfig,
        driver: Arc<dyn Driver>,
        locals: watch::Sender<Arc<LocalInstances>>,
        given_up: watch::Receiver<Arc<GivenUp>>,
    ) -> Handle {
        Handle(Arc::new(Shared {
            config,
            driver,
            locals,
            given_up,
            supplies: Arc::new(supplies::Nothing),
        }))
    }

    /// The same with what other parts of the node have for programs; before a supervisor is made.
    #[must_use]
    pub fn supplied(self, supplies: Arc<dyn Supplies>) -> Handle {
        let shared = &self.0;
        Handle(Arc::new(Shared {
            config: shared.config.clone(),
            driver: shared.driver.clone(),
            locals: shared.locals.clone(),
            given_up: shared.given_up.clone(),
            supplies,
        }))
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        self.0.clone()
    }

    /// Ends every program on this node. No supervisor may be running then, or it starts them again.
    /// Returns when all are gone, or some time after `grace` with those that are not.
    pub async fn stop_all(&self, grace: Duration) -> usize {
        // What was being started when the supervisor ended is started all the same.
        self.0.driver.starts_done().await;
        let mut runs = self.0.driver.runs();
        let running: Vec<_> = runs
            .borrow()
            .iter()
            .filter(|(_, run)| run.is_running())
            .map(|(id, _)| *id)
            .collect();
        for instance in running {
            if let Err(error) = self.0.driver.stop(instance, grace).await {
                tracing::warn!(%instance, %error, "cannot stop an instance");
            }
        }
        // The kill at the end of the grace takes a moment to show.
        let deadline = grace + Duration::from_secs(2);
        let gone = runs.wait_for(|runs| !runs.values().any(Run::is_running));
        let _ = tokio::time::timeout(deadline, gone).await;
        runs.borrow()
            .values()
            .filter(|run| run.is_running())
            .count()
    }
}
