//! The fault laboratory: breaks a cluster while clients write and read, and checks from outside what it promised.
//!
//! A [`Lab`] is a cluster that can be broken; there is one for each kind of cluster, and [`scenarios`] are written once
//! for all of them. [`load`] puts clients to work and records a [`history`], which [`oracles`] judge. [`run`] holds
//! what makes a run repeatable. Nothing but a `Lab` may know what kind of cluster it is; time is tokio's, so that a
//! simulated cluster may pause it.

pub mod api;
pub mod checker;
pub mod clocks;
pub mod history;
pub mod http_api;
pub mod links;
pub mod load;
pub mod namespaced;
pub mod oracles;
pub mod processes;
pub mod relay;
pub mod rogue;
pub mod run;
pub mod scenarios;
pub mod stalls;
pub mod wait;

use std::sync::Arc;

use async_trait::async_trait;

pub use api::{Api, Consistency, Fault};
pub use clocks::Time;
pub use history::{Clock, History};
pub use links::{Link, Links, Shape, Slow};
pub use namespaced::Namespaced;
pub use processes::Processes;
pub use run::Run;

/// A program of an instance, as seen from outside of the node that runs it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Running {
    pub instance: String,
    /// The node's index in the laboratory.
    pub node: usize,
    /// What tells one run of an instance from the next: the pid of its first process, for real ones.
    pub run: u64,
}

/// Looks at what runs now. To be called from any thread.
pub type Observer = Arc<dyn Fn() -> Vec<Running> + Send + Sync>;

/// A cluster that can be broken. Nodes are indexes from 0; ids in the cluster are [`Lab::id`].
#[async_trait(?Send)]
pub trait Lab {
    /// For the figures of a run: `processes`, `namespaces`, `relayed`.
    fn kind(&self) -> &'static str;
    fn nodes(&self) -> usize;
    /// The node's id as the cluster's members list has it.
    fn id(&self, node: usize) -> u64;

    /// A client of this node alone, on a connection of its own.
    fn api(&self, node: usize) -> Box<dyn Api>;

    /// Ends the daemon at once; its instances go on. It is gone when this returns.
    async fn kill(&mut self, node: usize);
    /// Starts a killed daemon again; it need not be ready when this returns.
    async fn restart(&mut self, node: usize);
    /// The daemon stops where it is and notices nothing, its instances go on.
    async fn pause(&mut self, node: usize);
    async fn resume(&mut self, node: usize);

    /// Whether [`Lab::set_links`] works here.
    fn has_links(&self) -> bool;
    /// The network between the nodes, from now on. [`Links::open`] heals everything.
    async fn set_links(&mut self, links: &Links);

    /// A node's clock. Where clocks can be wrong at all; the others' stay as they are.
    async fn set_clock(&mut self, _node: usize, _time: Time) {
        panic!("the clocks of {} are this machine's", self.kind());
    }

    /// One node more, which may vote. It is a member when this returns, and the last one by index.
    async fn join(&mut self) {
        panic!("{} do not grow", self.kind());
    }
    /// Takes a node out for good; those behind it move up by one index. It is no member when this returns.
    async fn remove(&mut self, _node: usize) {
        panic!("{} do not shrink", self.kind());
    }

    /// Deploys the echo service under [`Lab::host`] and waits until it is ready.
    async fn deploy_echo(&mut self, name: &str, instances: usize);
    /// `GET /` for a deployment's host at a node's edge: the body of an answer with status 200.
    async fn fetch(&self, node: usize, name: &str) -> Result<String, String>;
    /// Sees what runs.
    fn observer(&self) -> Observer;

    /// Where a node logs and keeps its data, for whoever looks into a failure.
    fn traces(&self) -> String;
}

/// The name that deployments of the laboratory are reached by.
pub fn host(name: &str) -> String {
    format!("{name}.example.test")
}
