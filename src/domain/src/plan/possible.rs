//! Which nodes are possible for an instance. [`obstacle`] alone decides it, for first placements, replacements and moves
//! alike: whatever else is to keep an instance from a node belongs here.

use std::collections::BTreeSet;
use std::fmt;

use super::fleet::{Slot, Standing};
use crate::ids::NodeId;
use crate::names::DeploymentName;
use crate::placement::{Placement, Rule};
use crate::resources::{Amounts, show_cpu, show_memory};
use crate::spec::Service;

/// What one instance takes of its node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Share {
    pub amounts: Amounts,
    /// The port that it has to have, and whose instance it is.
    pub port: Option<(u16, DeploymentName)>,
}

impl Share {
    pub fn port(&self) -> Option<u16> {
        self.port.as_ref().map(|(port, _)| *port)
    }

    /// Of a server's instance; what runs beside it or to its end listens nowhere.
    pub fn of(service: &Service, name: &DeploymentName, serves: bool) -> Share {
        let port = service.port.filter(|_| serves);
        Share {
            amounts: Amounts::asked(&service.resources),
            port: port.map(|port| (port.get(), name.clone())),
        }
    }
}

/// What one instance asks of its node.
#[derive(Debug, Clone, Default)]
pub(super) struct Need {
    pub share: Share,
    pub placement: Placement,
    /// Deployments that it is kept apart from, by its own wish or by theirs,
    pub apart: Vec<DeploymentName>,
    /// and the nodes that have one of their instances.
    pub shunned: BTreeSet<NodeId>,
    /// Nodes with an instance of a deployment that it had better be near.
    pub near: BTreeSet<NodeId>,
}

impl Need {
    /// How good a node is for it, whatever runs there of its own.
    pub fn score(&self, slot: &Slot) -> i32 {
        let near = i32::from(self.near.contains(&slot.id));
        self.placement.score(&slot.labels) + near
    }

    /// What it asks for in words; `None` when it asks for nothing.
    pub fn asks(&self) -> Option<String> {
        let Amounts {
            memory_bytes,
            cpu_millis,
        } = self.share.amounts;
        let memory = (memory_bytes > 0).then(|| format!("{} of memory", show_memory(memory_bytes)));
        let cpu = (cpu_millis > 0).then(|| format!("{} of processor time", show_cpu(cpu_millis)));
        match (memory, cpu) {
            (Some(memory), Some(cpu)) => Some(format!("{memory} and {cpu}")),
            (one, other) => one.or(other),
        }
    }
}

/// Why a node does not take an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Obstacle<'a> {
    Dead,
    Draining,
    Silent,
    /// A rule that does not apply to it.
    Rule(&'a Rule),
    /// It has an instance of a deployment that this one is kept apart from.
    Neighbour,
    /// An instance there, of this deployment or another, has the port that it has to have.
    Port(u16, &'a DeploymentName),
    /// The node itself has it.
    OwnPort(u16),
    /// It runs as many as it is willing to.
    Count,
    Memory,
    Cpu,
}

impl Obstacle<'_> {
    /// The node has too little of what the instance asks for.
    pub fn is_scarcity(self) -> bool {
        matches!(self, Obstacle::Memory | Obstacle::Cpu)
    }

    /// It may go by itself or by the operator's hand on the node, and says nothing of what the instance asks for.
    pub fn is_standing(self) -> bool {
        matches!(self, Obstacle::Dead | Obstacle::Draining | Obstacle::Silent)
    }
}

/// What keeps an instance from a node; `None`: the node is possible.
pub(super) fn obstacle<'a>(need: &'a Need, slot: &'a Slot) -> Option<Obstacle<'a>> {
    match slot.standing {
        Standing::Open => {}
        Standing::Silent => return Some(Obstacle::Silent),
        Standing::Draining => return Some(Obstacle::Draining),
        Standing::Dead => return Some(Obstacle::Dead),
    }
    let mut rules = need.placement.require.iter();
    if let Some(rule) = rules.find(|rule| !rule.applies(&slot.labels)) {
        return Some(Obstacle::Rule(rule));
    }
    if need.shunned.contains(&slot.id) {
        return Some(Obstacle::Neighbour);
    }
    if let Some(port) = need.share.port() {
        if let Some(holder) = slot.holder(port) {
            return Some(Obstacle::Port(port, holder));
        }
        if slot.listens_itself(port) {
            return Some(Obstacle::OwnPort(port));
        }
    }
    if slot.used >= slot.capacity {
        return Some(Obstacle::Count);
    }
    let free = slot.free();
    if need.share.amounts.memory_bytes > free.memory_bytes {
        return Some(Obstacle::Memory);
    }
    (need.share.amounts.cpu_millis > free.cpu_millis).then_some(Obstacle::Cpu)
}

/// The obstacle as a part of a sentence about the node.
pub(super) struct Told<'a>(pub &'a Slot, pub Obstacle<'a>);

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {} {}", self.0.name, State(self.0, self.1))
    }
}

/// The same of a node that the sentence has named.
pub(super) struct State<'a>(pub &'a Slot, pub Obstacle<'a>);

impl fmt::Display for State<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let State(slot, obstacle) = self;
        let free = slot.free();
        match obstacle {
            Obstacle::Dead => f.write_str("is not reachable"),
            Obstacle::Draining => f.write_str("is draining"),
            Obstacle::Silent => f.write_str("has not reported its capacity yet"),
            Obstacle::Rule(rule) => write!(f, "is not {rule}"),
            Obstacle::Neighbour => {
                f.write_str("has an instance of a deployment that it is kept apart from")
            }
            Obstacle::Port(port, holder) => {
                write!(f, "has port {port} in use by an instance of {holder}")
            }
            Obstacle::OwnPort(port) => write!(f, "listens on port {port} itself"),
            Obstacle::Count => write!(f, "is full ({} of {} instances)", slot.used, slot.capacity),
            Obstacle::Memory => write!(
                f,
                "has {} of {} memory",
                show_memory(free.memory_bytes),
                show_memory(slot.has.memory_bytes)
            ),
            Obstacle::Cpu => write!(
                f,
                "has {} of {} cores",
                show_cpu(free.cpu_millis),
                show_cpu(slot.has.cpu_millis)
            ),
        }
    }
}
