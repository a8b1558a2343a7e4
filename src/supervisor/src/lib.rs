//! Makes this node run what the registry assigned to it, and says how that goes.
//!
//! The [`Supervisor`] is a reconciler: each pass compares the registry's assignments with what the
//! driver runs and moves every instance's state machine (`machine`) on. No pass waits for an
//! instance: fetching, starting and stopping are tasks, whose results wake the next pass. Nothing
//! that matters is held in memory only, so one that is made anew continues with what the driver
//! lists, and restarts no program.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod assigned;
mod kept;
mod machine;
#[cfg(test)]
mod machine_tests;
mod ports;
mod reconcile;
mod seams;

use std::ops::RangeInclusive;
use std::time::Duration;

use nebula_domain::NodeId;
use nebula_drivers::{Driver, Run};
use nebula_telemetry::Clock;

pub use kept::{KEPT_IN_ALL, KEPT_PER_DEPLOYMENT};
pub use machine::{ACK_TIMEOUT, STOP_RETRY};
pub use reconcile::Supervisor;
pub use seams::{Observed, Trees};

#[derive(Debug, Clone)]
pub struct SupervisorConfig {
    pub me: NodeId,
    /// Programs get their `PORT` from here, on 127.0.0.1.
    pub port_range: RangeInclusive<u16>,
    pub clock: Clock,
}

/// Not an error of a pass but of the machine underneath: the guardian makes a new supervisor.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    #[error("a task of the supervisor failed")]
    Task(#[source] tokio::task::JoinError),
}

/// Stops everything that the driver runs, for an orderly end of the node: SIGTERM now, SIGKILL
/// after `grace`. The supervisor must have ended before, or it would start the programs again.
/// Returns how many still ran after `deadline`.
pub async fn stop_all(driver: &dyn Driver, grace: Duration, deadline: Duration) -> usize {
    let mut runs = driver.runs();
    let running =
        |runs: &nebula_drivers::Runs| runs.values().filter(|r| Run::is_running(r)).count();
    let stopping = async {
        let now: Vec<_> = runs.borrow_and_update().keys().copied().collect();
        for instance in now {
            if let Err(error) = driver.stop(instance, grace).await {
                tracing::warn!(%instance, %error, "an instance could not be stopped");
            }
        }
        // An error means that the driver is gone, and with it what could be waited for.
        let _ = runs.wait_for(|runs| running(runs) == 0).await;
    };
    let _ = tokio::time::timeout(deadline, stopping).await;
    let left = running(&driver.runs().borrow());
    if left > 0 {
        tracing::warn!(left, "instances did not stop in time");
    }
    left
}
