//! How evenly the instances of one release lie over nodes, and over the values of a label.

use std::collections::BTreeMap;

use super::fleet::{Fleet, Slot};
use super::possible::Need;
use crate::ids::NodeId;
use crate::names::LabelKey;

/// The less the better: against preferences, then with more of its like in the same place, then on the same node.
pub(super) type Rank = (i32, u32, u32);

#[derive(Debug, Default)]
pub(super) struct Spread {
    label: Option<LabelKey>,
    own: BTreeMap<NodeId, u32>,
    /// By the label's value; nodes without the label are one place together.
    places: BTreeMap<String, u32>,
}

impl Spread {
    pub fn new(label: Option<&LabelKey>) -> Spread {
        Spread {
            label: label.cloned(),
            ..Spread::default()
        }
    }

    /// Of instances on these nodes.
    pub fn of(need: &Need, nodes: impl Iterator<Item = NodeId>, fleet: &Fleet) -> Spread {
        let mut spread = Spread::new(need.placement.spread.as_ref());
        for node in nodes {
            spread.add(fleet, node);
        }
        spread
    }

    fn place<'s>(&self, slot: &'s Slot) -> Option<&'s str> {
        let value = slot.labels.get(self.label.as_ref()?);
        Some(value.map_or("", |value| value.as_str()))
    }

    pub fn add(&mut self, fleet: &Fleet, node: NodeId) {
        *self.own.entry(node).or_default() += 1;
        if let Some(place) = fleet.get(node).and_then(|slot| self.place(slot)) {
            *self.places.entry(place.to_owned()).or_default() += 1;
        }
    }

    pub fn remove(&mut self, fleet: &Fleet, node: NodeId) {
        self.own.entry(node).and_modify(|count| *count -= 1);
        if let Some(place) = fleet.get(node).and_then(|slot| self.place(slot)) {
            let known = self.places.get_mut(place);
            known.into_iter().for_each(|count| *count -= 1);
        }
    }

    /// Of one more instance on this node.
    pub fn rank(&self, need: &Need, slot: &Slot) -> Rank {
        let place = self.place(slot).and_then(|place| self.places.get(place));
        let own = self.own.get(&slot.id);
        let count = |count: Option<&u32>| count.copied().unwrap_or_default();
        (-need.score(slot), count(place), count(own))
    }

    /// Most of its instances on one node.
    pub fn most(&self) -> u32 {
        self.own.values().max().copied().unwrap_or_default()
    }
}
