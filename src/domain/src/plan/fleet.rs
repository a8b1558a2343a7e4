//! The nodes as places for instances.

use std::collections::BTreeMap;

use crate::ids::NodeId;
use crate::names::NodeName;
use crate::observed::View;
use crate::state::{Node, State};

/// Nodes named in one reason; a sentence that lists a thousand helps nobody.
const NODES_NAMED: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Takes instances, as far as it has room.
    Open,
    /// Alive, but has not said what it can take: it is starting.
    Silent,
    Draining,
    Dead,
}

#[derive(Debug)]
pub(super) struct Slot<'a> {
    pub name: &'a NodeName,
    pub standing: Standing,
    /// Service instances the node is willing to run.
    capacity: u32,
    /// Service instances it runs, those that are being stopped included.
    used: u32,
}

impl Slot<'_> {
    pub fn is_full(&self) -> bool {
        self.used >= self.capacity
    }
}

#[derive(Debug)]
pub(super) struct Fleet<'a>(BTreeMap<NodeId, Slot<'a>>);

impl<'a> Fleet<'a> {
    pub fn new(state: &'a State, view: &View) -> Fleet<'a> {
        let slot = |node: &'a Node| {
            let facts = view.nodes.get(&node.id).map(|seen| &seen.facts);
            Slot {
                name: &node.name,
                standing: if !view.is_alive(node.id) {
                    Standing::Dead
                } else if node.draining {
                    Standing::Draining
                } else if facts.is_none_or(|facts| facts.version.is_empty()) {
                    Standing::Silent
                } else {
                    Standing::Open
                },
                capacity: facts.map_or(0, |facts| facts.capacity_instances),
                used: 0,
            }
        };
        Fleet(
            state
                .nodes
                .iter()
                .map(|(id, node)| (*id, slot(node)))
                .collect(),
        )
    }

    /// Dead for nodes that are not members.
    pub fn standing(&self, node: NodeId) -> Standing {
        self.0
            .get(&node)
            .map_or(Standing::Dead, |slot| slot.standing)
    }

    pub fn used(&self, node: NodeId) -> u32 {
        self.0.get(&node).map_or(0, |slot| slot.used)
    }

    pub fn capacity(&self, node: NodeId) -> u32 {
        self.0.get(&node).map_or(0, |slot| slot.capacity)
    }

    pub fn take(&mut self, node: NodeId) {
        if let Some(slot) = self.0.get_mut(&node) {
            slot.used += 1;
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (NodeId, &Slot<'a>)> {
        self.0.iter().map(|(id, slot)| (*id, slot))
    }

    /// The open node with room that has the fewest of one deployment's instances (`own`), then the
    /// fewest in all, then the lowest id.
    pub fn best(&self, own: &BTreeMap<NodeId, u32>) -> Option<NodeId> {
        self.iter()
            .filter(|(_, slot)| slot.standing == Standing::Open && !slot.is_full())
            .min_by_key(|(id, slot)| (own.get(id).copied().unwrap_or(0), slot.used, *id))
            .map(|(id, _)| id)
    }

    /// Why no node takes another service instance.
    pub fn why_none(&self) -> String {
        let obstacles = self.iter().filter_map(|(_, slot)| match slot.standing {
            Standing::Open if slot.is_full() => Some(format!(
                "node {} is full ({} of {} instances)",
                slot.name, slot.used, slot.capacity
            )),
            Standing::Open => None,
            Standing::Silent => Some(format!(
                "node {} has not reported its capacity yet",
                slot.name
            )),
            Standing::Draining => Some(format!("node {} is draining", slot.name)),
            Standing::Dead => Some(format!("node {} is not reachable", slot.name)),
        });
        sentence(obstacles.collect())
    }
}

/// Joins reasons, naming the first few.
pub(super) fn sentence(mut reasons: Vec<String>) -> String {
    if reasons.is_empty() {
        return "the cluster has no nodes".to_owned();
    }
    let more = reasons.len().saturating_sub(NODES_NAMED);
    reasons.truncate(NODES_NAMED);
    let named = reasons.join(", ");
    if more == 0 {
        named
    } else {
        format!("{named}, and {more} more nodes cannot either")
    }
}
