//! The nodes as places for instances.

use std::collections::BTreeMap;

use super::possible::{Need, Share, Told, obstacle};
use super::spread::Spread;
use crate::ids::NodeId;
use crate::names::{DeploymentName, LabelValue, NodeName};
use crate::observed::{NodeFacts, View};
use crate::placement::{Labels, NODE_LABEL};
use crate::resources::Amounts;
use crate::state::{Node, State};

/// Nodes named in one reason; a sentence that lists a thousand helps nobody.
const NODES_NAMED: usize = 8;
/// Loads are in parts of a million.
const WHOLE: u64 = 1_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Takes instances, as far as it has room.
    Open,
    /// Alive, but has not said what it can take: it is starting.
    Silent,
    Draining,
    Dead,
}

#[derive(Debug, Clone)]
pub(super) struct Slot {
    pub id: NodeId,
    pub name: NodeName,
    pub standing: Standing,
    /// The node's name among them.
    pub labels: Labels,
    /// Service instances the node is willing to run.
    pub capacity: u32,
    /// What they may ask for together.
    pub has: Amounts,
    /// Service instances it runs, those that are being stopped included,
    pub used: u32,
    /// and what they ask for.
    pub asked: Amounts,
    /// Ports on which the node itself listens,
    own_ports: Vec<u16>,
    /// and those that instances asked for, with how many of whom.
    ports: BTreeMap<u16, BTreeMap<DeploymentName, u32>>,
}

impl Slot {
    fn new(node: &Node, view: &View) -> Slot {
        let mut labels = node.labels.clone();
        // Names of nodes are words that labels allow.
        if let (Ok(key), Ok(value)) = (
            NODE_LABEL.parse(),
            LabelValue::try_from(node.name.to_string()),
        ) {
            labels.insert(key, value);
        }
        let facts = facts(node, view);
        Slot {
            id: node.id,
            name: node.name.clone(),
            standing: standing(node, view),
            labels,
            capacity: facts.map_or(0, |facts| facts.capacity_instances),
            has: facts.map_or(Amounts::NONE, NodeFacts::has),
            used: 0,
            asked: Amounts::NONE,
            own_ports: node.addresses.ports().to_vec(),
            ports: BTreeMap::new(),
        }
    }

    /// Has one instance more on it.
    pub fn add(&mut self, share: &Share) {
        self.used += 1;
        self.asked = self.asked.plus(share.amounts);
        if let Some((port, name)) = &share.port {
            let holders = self.ports.entry(*port).or_default();
            *holders.entry(name.clone()).or_default() += 1;
        }
    }

    pub fn remove(&mut self, share: &Share) {
        self.used = self.used.saturating_sub(1);
        self.asked = self.asked.minus(share.amounts);
        let Some((port, name)) = &share.port else {
            return;
        };
        let Some(holders) = self.ports.get_mut(port) else {
            return;
        };
        if let Some(count) = holders.get_mut(name) {
            *count -= 1;
            if *count == 0 {
                holders.remove(name);
            }
        }
        if holders.is_empty() {
            self.ports.remove(port);
        }
    }

    /// Whose instance has the port.
    pub fn holder(&self, port: u16) -> Option<&DeploymentName> {
        self.ports.get(&port)?.keys().next()
    }

    pub fn listens_itself(&self, port: u16) -> bool {
        self.own_ports.contains(&port)
    }

    /// What is left of what it has.
    pub fn free(&self) -> Amounts {
        self.has.minus(self.asked)
    }

    /// The largest part that is used of anything it has, with so much on it.
    pub fn load(&self, used: u32, asked: Amounts) -> u64 {
        let part = |of: u64, all: u64| match (of, all) {
            (0, _) => 0,
            (_, 0) => WHOLE,
            (of, all) => {
                let part = u128::from(of) * u128::from(WHOLE) / u128::from(all);
                u64::try_from(part).unwrap_or(u64::MAX)
            }
        };
        part(used.into(), self.capacity.into())
            .max(part(asked.memory_bytes, self.has.memory_bytes))
            .max(part(asked.cpu_millis, self.has.cpu_millis))
    }
}

fn facts<'v>(node: &Node, view: &'v View) -> Option<&'v NodeFacts> {
    view.nodes.get(&node.id).map(|seen| &seen.facts)
}

fn standing(node: &Node, view: &View) -> Standing {
    if !view.is_alive(node.id) {
        Standing::Dead
    } else if node.draining {
        Standing::Draining
    } else if facts(node, view).is_none_or(|facts| facts.version.is_empty()) {
        Standing::Silent
    } else {
        Standing::Open
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct Fleet {
    slots: BTreeMap<NodeId, Slot>,
    /// What a plan that is being made would add.
    tried: Vec<(NodeId, Share)>,
    /// Nodes that were weighed for an instance since this was last set.
    pub looked: u64,
}

impl Fleet {
    /// Takes in what nodes are and say now. Returns those that came, went, or stand otherwise than before.
    pub fn update(&mut self, state: &State, view: &View, changed: &[NodeId]) -> Vec<NodeId> {
        let gone = self
            .slots
            .keys()
            .filter(|id| !state.nodes.contains_key(*id));
        let mut news: Vec<NodeId> = gone.copied().collect();
        for id in &news {
            self.slots.remove(id);
        }
        for node in state.nodes.values() {
            let Some(slot) = self.slots.get_mut(&node.id) else {
                self.slots.insert(node.id, Slot::new(node, view));
                news.push(node.id);
                continue;
            };
            if changed.contains(&node.id) {
                let ports = std::mem::take(&mut slot.ports);
                *slot = Slot {
                    used: slot.used,
                    asked: slot.asked,
                    ports,
                    standing: slot.standing,
                    ..Slot::new(node, view)
                };
            }
            let facts = facts(node, view);
            slot.capacity = facts.map_or(0, |facts| facts.capacity_instances);
            slot.has = facts.map_or(Amounts::NONE, NodeFacts::has);
            let now = standing(node, view);
            if slot.standing != now {
                slot.standing = now;
                news.push(node.id);
            }
        }
        news
    }

    pub fn get(&self, node: NodeId) -> Option<&Slot> {
        self.slots.get(&node)
    }

    /// Dead for nodes that are not members.
    pub fn standing(&self, node: NodeId) -> Standing {
        self.slots
            .get(&node)
            .map_or(Standing::Dead, |slot| slot.standing)
    }

    pub fn take(&mut self, node: NodeId, share: &Share) {
        if let Some(slot) = self.slots.get_mut(&node) {
            slot.add(share);
        }
    }

    pub fn give_back(&mut self, node: NodeId, share: &Share) {
        if let Some(slot) = self.slots.get_mut(&node) {
            slot.remove(share);
        }
    }

    /// Takes room for an instance that the plan is to start.
    pub fn try_on(&mut self, node: NodeId, share: &Share) {
        self.take(node, share);
        self.tried.push((node, share.clone()));
    }

    /// Gives back what was only tried.
    pub fn rewind(&mut self) {
        for (node, share) in std::mem::take(&mut self.tried) {
            self.give_back(node, &share);
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.slots.values()
    }

    /// The possible node that suits best: by the deployment's preferences, then the one with the fewest of the
    /// instances like it, then the one that it leaves the least loaded, then the lowest id. `but` is left out.
    pub fn best(&mut self, need: &Need, spread: &Spread, but: Option<NodeId>) -> Option<NodeId> {
        self.looked += self.slots.len() as u64;
        self.slots
            .values()
            .filter(|slot| but != Some(slot.id) && obstacle(need, slot).is_none())
            .min_by_key(|slot| {
                let load = slot.load(slot.used + 1, slot.asked.plus(need.share.amounts));
                (spread.rank(need, slot), load, slot.used, slot.id)
            })
            .map(|slot| slot.id)
    }

    /// Why no node takes such an instance.
    pub fn why_none(&self, need: &Need) -> String {
        let obstacles = self.slots.values();
        let obstacles: Vec<Told> = obstacles
            .filter_map(|slot| Some(Told(slot, obstacle(need, slot)?)))
            .collect();
        let first = obstacles.iter().take(NODES_NAMED).map(Told::to_string);
        let text = sentence(first.collect(), obstacles.len());
        let scarce = obstacles.iter().any(|told| told.1.is_scarcity());
        let no_other = |told: &Told| told.1.is_scarcity() || told.1.is_standing();
        match need.asks() {
            Some(asks) if scarce && obstacles.iter().all(no_other) => {
                format!("no node has {asks} free: {text}")
            }
            _ => text,
        }
    }
}

/// Joins the first few reasons of so many.
pub(super) fn sentence(mut reasons: Vec<String>, all: usize) -> String {
    if reasons.is_empty() {
        return "the cluster has no nodes".to_owned();
    }
    reasons.truncate(NODES_NAMED);
    let more = all - reasons.len();
    let named = reasons.join(", ");
    if more == 0 {
        named
    } else {
        format!("{named}, and {more} more nodes cannot either")
    }
}
