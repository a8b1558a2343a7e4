//! A node's programs, as its daemon reaches them: they outlive it, and what is left of a daemon that
//! was killed reaches them no more.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nebula_domain::rollout::Figures;
use nebula_domain::{DeploymentName, Digest, InstanceId, NodeId, ReleaseNumber};
use nebula_drivers::fake::FakeDriver;
use nebula_drivers::{Driver, DriverError, Runs, StartSpec};
use nebula_scheduler::Evidence;
use nebula_supervisor::Files;
use nebula_telemetry::Random;
use tokio::sync::watch;
use tokio::time::sleep;

/// The driver of one life of a daemon.
pub struct Lease {
    pub programs: FakeDriver,
    pub random: Random,
    pub dead: watch::Receiver<bool>,
}

impl Lease {
    /// For ever, once the daemon is dead.
    async fn alive(&self) {
        if *self.dead.borrow() {
            std::future::pending::<()>().await;
        }
    }

    async fn take_time(&self, most_ms: u64) {
        self.alive().await;
        sleep(Duration::from_millis(1 + self.random.below(most_ms))).await;
        self.alive().await;
    }
}

#[async_trait]
impl Driver for Lease {
    async fn start(&self, spec: StartSpec) -> Result<(), DriverError> {
        self.take_time(80).await;
        self.programs.start(spec).await
    }

    async fn stop(&self, instance: InstanceId, grace: Duration) -> Result<(), DriverError> {
        self.take_time(40).await;
        self.programs.stop(instance, grace).await
    }

    fn runs(&self) -> watch::Receiver<Arc<Runs>> {
        self.programs.runs()
    }

    fn leftovers(&self) -> Vec<InstanceId> {
        self.programs.leftovers()
    }

    async fn remove(&self, instance: InstanceId) -> Result<(), DriverError> {
        self.take_time(20).await;
        self.programs.remove(instance).await
    }

    fn note(&self, instance: InstanceId, text: &str) {
        self.programs.note(instance, text);
    }
}

/// There are no proxies: releases go by their instances.
pub struct NoRequests;

impl Evidence for NoRequests {
    fn figures(&self, _: &DeploymentName) -> BTreeMap<ReleaseNumber, Figures> {
        BTreeMap::new()
    }
}

/// Files that are there at once or a little later, and hold nothing.
pub struct NoFiles {
    pub random: Random,
}

#[async_trait]
impl Files for NoFiles {
    async fn ensure(&self, digest: Digest, _: &[NodeId]) -> Result<PathBuf, String> {
        sleep(Duration::from_millis(self.random.below(300))).await;
        // Now and then no node that has it can be reached.
        if self.random.below(20) == 0 {
            return Err("no node has the artifact".to_owned());
        }
        Ok(PathBuf::from(digest.to_string()))
    }

    async fn is_whole(&self, _: Digest) -> Result<bool, String> {
        Ok(self.random.below(50) != 0)
    }

    async fn copy(&self, instance: InstanceId, _: PathBuf) -> Result<PathBuf, String> {
        Ok(self.place(instance))
    }

    fn copies(&self) -> std::io::Result<Vec<(Option<InstanceId>, PathBuf)>> {
        Ok(Vec::new())
    }

    fn place(&self, instance: InstanceId) -> PathBuf {
        PathBuf::from(instance.to_string())
    }

    async fn delete(&self, _: Vec<PathBuf>) {}
}
