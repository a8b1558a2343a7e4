//! Observed state: what nodes say of themselves by gossip. Never part of the registry.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::{InstanceId, NodeId};

/// Who is alive and what each node says, as one node sees it now.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct View {
    pub nodes: BTreeMap<NodeId, NodeView>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct NodeView {
    /// The failure detector's word; always true for the viewing node itself.
    pub alive: bool,
    pub facts: NodeFacts,
    pub instances: BTreeMap<InstanceId, InstanceFacts>,
}

impl NodeView {
    /// Of a node that may be there and has said nothing yet: it keeps what it has and is given nothing.
    pub fn unheard() -> NodeView {
        NodeView {
            alive: true,
            facts: NodeFacts::default(),
            instances: BTreeMap::new(),
        }
    }
}

/// What a node says of itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeFacts {
    pub version: String,
    /// Service instances this node is willing to run.
    pub capacity_instances: u32,
    pub cpus: u32,
    pub memory_bytes: u64,
    /// The daemon's own resident memory.
    pub rss_bytes: u64,
    /// Raft log index applied here.
    pub applied_index: u64,
    /// `State::revision` that every proxy thread of this node routes by.
    pub routed_revision: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceFacts {
    pub phase: Phase,
    pub health: Health,
    /// Times the program was started again after it ended by itself.
    pub restarts: u32,
    /// What went wrong last, one line; empty when nothing did.
    pub reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Assigned; the node has not begun.
    Pending,
    /// The artifact is on its way.
    Fetching,
    /// The program was started, or is about to be.
    Starting,
    Running,
    /// It ended by itself and waits to be started again.
    Backoff,
    /// Waiting for proxies to let go, or for the program to end.
    Stopping,
    /// Gone for good; nothing of it runs.
    Stopped,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// No probe has settled yet.
    Unknown,
    Healthy,
    Unhealthy,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Pending => "pending",
            Phase::Fetching => "fetching",
            Phase::Starting => "starting",
            Phase::Running => "running",
            Phase::Backoff => "backoff",
            Phase::Stopping => "stopping",
            Phase::Stopped => "stopped",
        })
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Health::Unknown => "unknown",
            Health::Healthy => "healthy",
            Health::Unhealthy => "unhealthy",
        })
    }
}

impl InstanceFacts {
    /// May take requests.
    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Running && self.health == Health::Healthy
    }
}

impl View {
    pub fn is_alive(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|n| n.alive)
    }

    pub fn instance(&self, node: NodeId, instance: InstanceId) -> Option<&InstanceFacts> {
        self.nodes.get(&node)?.instances.get(&instance)
    }
}

/// Service instances whose program runs on this node now: what health probes and the proxy dials.
/// Stays within the node; peers only ever name the instance.
pub type LocalInstances = BTreeMap<InstanceId, LocalInstance>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalInstance {
    pub address: std::net::SocketAddr,
    pub probe: crate::spec::ProbeSpec,
    /// Counts the program's starts, so that a probe's verdict on an earlier run is not taken for this one's.
    pub run: u64,
}
