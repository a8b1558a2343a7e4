//! Observed state: what nodes say of themselves by gossip. Never part of the registry.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ids::{InstanceId, NodeId};
use crate::names::DeploymentName;
use crate::resources::Amounts;
use crate::runs::Exit;
use crate::spec::Probes;
use crate::time::Millis;

/// Who is alive and what each node says, as one node sees it now.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct View {
    pub nodes: BTreeMap<NodeId, NodeView>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct NodeView {
    /// The failure detector's word; always true for the viewing node itself.
    pub alive: bool,
    /// It said that it restarts, and has not been silent for longer than that takes: its programs go on meanwhile.
    pub returning: bool,
    /// How often it was seen to die. Who finds it dead at two looks learns from this whether it lived in between.
    pub deaths: u64,
    pub facts: NodeFacts,
    pub instances: BTreeMap<InstanceId, InstanceFacts>,
}

impl NodeView {
    /// Of a node that may be there and has said nothing yet: it keeps what it has and is given nothing.
    pub fn unheard() -> NodeView {
        NodeView {
            alive: true,
            returning: false,
            deaths: 0,
            facts: NodeFacts::default(),
            instances: BTreeMap::new(),
        }
    }

    /// May be sent requests. One that restarts finishes what it has, and takes no more.
    pub fn serves(&self) -> bool {
        self.alive && !self.facts.restarting
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
    /// Kept back from instances by the node's settings.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub reserved_memory_bytes: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub reserved_cpu_millis: u64,
    /// The daemon's own resident memory.
    pub rss_bytes: u64,
    /// Raft log index applied here.
    pub applied_index: u64,
    /// `State::revision` that every proxy thread of this node routes by.
    pub routed_revision: u64,
    /// Instances that are to stop and have work under way for this node's clients; at most [`BUSY_TOLD`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub busy: BTreeMap<InstanceId, Busy>,
    /// Its daemon ends in order and takes no requests any more. It is to be back in a moment; its programs run on.
    #[serde(default, skip_serializing_if = "is_false")]
    pub restarting: bool,
    /// But nobody need wait for it: its machine goes down.
    #[serde(default, skip_serializing_if = "is_false")]
    pub for_good: bool,
}

fn is_false(value: &bool) -> bool {
    !*value
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

impl NodeFacts {
    /// What its instances may ask for together.
    pub fn has(&self) -> Amounts {
        let whole = Amounts {
            memory_bytes: self.memory_bytes,
            cpu_millis: u64::from(self.cpus) * 1000,
        };
        whole.minus(Amounts {
            memory_bytes: self.reserved_memory_bytes,
            cpu_millis: self.reserved_cpu_millis,
        })
    }
}

/// Stopping instances that a node tells of. Each takes some 20 bytes of one value of gossip; more of them at once are
/// stopped without being waited for.
pub const BUSY_TOLD: usize = 64;

/// What an instance that takes no new requests still does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Busy {
    /// Nothing but connections of another protocol (WebSocket), which may last for hours.
    Sockets,
    /// Requests that wait for their answer or its end.
    Requests,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceFacts {
    pub phase: Phase,
    pub health: Health,
    /// Times the program was started again after it ended by itself.
    pub restarts: u32,
    /// What went wrong last, one line; empty when nothing did.
    pub reason: String,
    /// How an attempt of a run has ended; its phase is `stopped` then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
    /// How its program ended last, when it did so without being asked to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_end: Option<LastEnd>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LastEnd {
    pub how: Ended,
    /// By the clock of its node.
    pub at: Millis,
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    Code(i32),
    Signal(i32),
    /// The kernel killed it for memory.
    OutOfMemory,
    /// It was killed because it had more in its folder than it may.
    OutOfDisk,
    /// It was ended because its probes gave it up.
    GivenUp,
    /// Nobody saw it.
    Unseen,
    /// With its machine.
    Reboot,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ended::Code(code) => write!(f, "exited with code {code}"),
            Ended::Signal(number) => match signal_name(*number) {
                Some(name) => write!(f, "killed by {name}"),
                None => write!(f, "killed by signal {number}"),
            },
            Ended::OutOfMemory => f.write_str("killed: out of memory"),
            Ended::OutOfDisk => f.write_str("killed: out of disk"),
            Ended::GivenUp => f.write_str("its probes gave it up"),
            Ended::Unseen => f.write_str("ended with its parent process, which was killed"),
            Ended::Reboot => f.write_str("ended when the machine went down"),
        }
    }
}

/// Of the signals that end programs, by Linux's numbers (signal(7)), which are the same on all machines that Nebula runs on.
pub fn signal_name(number: i32) -> Option<&'static str> {
    Some(match number {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        5 => "SIGTRAP",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        10 => "SIGUSR1",
        11 => "SIGSEGV",
        12 => "SIGUSR2",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        25 => "SIGXFSZ",
        31 => "SIGSYS",
        _ => return None,
    })
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
    /// It ended by itself, or is being ended because its probes gave it up, and waits to be started again.
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

    /// Its instances may be sent requests.
    pub fn serves(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(NodeView::serves)
    }

    /// As one who decides where things run sees it: who said that it restarts is there and says nothing. What it has
    /// stays its own, nothing is added, and nothing is judged by what it said before.
    pub fn patient(&self) -> Cow<'_, View> {
        if !self.nodes.values().any(|node| node.returning) {
            return Cow::Borrowed(self);
        }
        let mut view = View::clone(self);
        for node in view.nodes.values_mut().filter(|node| node.returning) {
            *node = NodeView::unheard();
        }
        Cow::Owned(view)
    }

    /// [`View::patient`] of one that is shared.
    pub fn to_patient(self: &Arc<View>) -> Arc<View> {
        match self.patient() {
            Cow::Borrowed(_) => Arc::clone(self),
            Cow::Owned(view) => Arc::new(view),
        }
    }

    /// What live nodes' clients still have under way at an instance.
    pub fn busy(&self, instance: InstanceId) -> Option<Busy> {
        let alive = self.nodes.values().filter(|node| node.alive);
        alive
            .filter_map(|node| node.facts.busy.get(&instance).copied())
            .max()
    }

    pub fn instance(&self, node: NodeId, instance: InstanceId) -> Option<&InstanceFacts> {
        self.nodes.get(&node)?.instances.get(&instance)
    }
}

/// Instances whose program runs on this node now and goes on: what health probes and the proxy dials.
/// Stays within the node; peers only ever name the instance.
pub type LocalInstances = BTreeMap<InstanceId, LocalInstance>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalInstance {
    pub deployment: DeploymentName,
    /// Port 0: it listens nowhere.
    pub address: std::net::SocketAddr,
    pub probes: Arc<Probes>,
    /// Counts the program's starts, so that a probe's verdict on an earlier run is not taken for this one's.
    pub run: u64,
    /// When this run began: probes are delayed from then on, also those of a daemon that took it over.
    pub started_at: Millis,
    /// For its exec probes; empty when it has none.
    pub surroundings: Arc<Surroundings>,
}

/// What a command beside an instance's program has to know besides what its driver does.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    pub env: BTreeMap<String, String>,
    /// This node's name, for `NEBULA_NODE`.
    pub node: String,
}

/// Names of variables only: values may be secrets.
impl fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Surroundings")
            .field("env", &self.env.keys().collect::<Vec<_>>())
            .field("node", &self.node)
            .finish()
    }
}

/// Runs on this node that their probes have given up: the supervisor ends and replaces them.
/// Stays within the node.
pub type GivenUp = BTreeMap<InstanceId, GivenUpRun>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenUpRun {
    pub run: u64,
    /// Which probe, and what it met last, in one line.
    pub reason: String,
}
