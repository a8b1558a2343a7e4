//! What happened in the cluster, in order: a bounded history beside desired state, which no decision reads.
//!
//! Most of it follows from the requests that are applied ([`changes`]). What only nodes see, of programs and of each
//! other, the leader writes down when it sees it ([`sight`]), so that it is in the same order, has the same numbers on
//! every node, and outlives the node that it was seen on.

mod changes;
mod kind;
mod sight;
#[cfg(test)]
mod tests;

use imbl::{OrdMap, Vector};
use serde::{Deserialize, Serialize};

use crate::excerpt::excerpt_to;
use crate::ids::{InstanceId, NodeId, ReleaseNumber};
use crate::limits::{AUTHOR_BYTES, EVENT_REASON_BYTES, EVENTS_KEPT, EVENTS_OF_ONE};
use crate::names::{DeploymentName, NodeName};
use crate::time::Millis;

pub(crate) use changes::{Before, note, recovered};
pub use kind::{Kind, Kinds, UnknownKind};
pub(crate) use sight::record;
pub use sight::{Sighting, Told, sightings, sightings_behind};

/// When and by whom a request was made, as whoever proposed it says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// By the clock of the node that proposed it.
    pub at: Millis,
    /// The node that it was proposed on.
    pub node: Option<NodeId>,
    /// The operator, by the name of the token; empty for what the cluster does by itself.
    pub who: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Counts the cluster's events from 1, without a gap. Those that are no longer kept leave gaps.
    pub seq: u64,
    pub at: Millis,
    pub kind: Kind,
    pub deployment: Option<DeploymentName>,
    pub release: Option<ReleaseNumber>,
    pub instance: Option<InstanceId>,
    /// The node that it is about, or where it happened.
    pub node: Option<Place>,
    /// One line; empty when there is nothing to add.
    pub reason: String,
    pub who: String,
}

/// A node, with the name that it had then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub id: NodeId,
    pub name: NodeName,
}

/// The latest events, and what the leader has told of already.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Events {
    /// Of the latest event.
    last: u64,
    kept: OrdMap<u64, Event>,
    /// The numbers of each deployment's, and of the cluster's own, oldest first. It follows from `kept`.
    of: OrdMap<Option<DeploymentName>, Vector<u64>>,
    told: OrdMap<InstanceId, Told>,
    /// Members that were told to be dead.
    dead: OrdMap<NodeId, ()>,
}

/// One that has no number yet.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    kind: Kind,
    deployment: Option<DeploymentName>,
    release: Option<ReleaseNumber>,
    instance: Option<InstanceId>,
    node: Option<Place>,
    reason: String,
    /// Instead of what the stamp says.
    who: Option<String>,
}

impl Draft {
    fn new(kind: Kind) -> Draft {
        Draft {
            kind,
            deployment: None,
            release: None,
            instance: None,
            node: None,
            reason: String::new(),
            who: None,
        }
    }

    fn why(self, reason: impl Into<String>) -> Draft {
        Draft {
            reason: reason.into(),
            ..self
        }
    }
}

impl Events {
    /// The number of the latest event; 0 before the first.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Those after this number that are still kept, oldest first.
    pub fn after(&self, seq: u64) -> impl DoubleEndedIterator<Item = &Event> + '_ {
        self.kept
            .range(seq.saturating_add(1)..)
            .map(|(_, event)| event)
    }

    /// The same of one deployment, without a look at the others.
    pub fn after_of<'a>(
        &'a self,
        name: &DeploymentName,
        seq: u64,
    ) -> impl DoubleEndedIterator<Item = &'a Event> + 'a {
        let own = self.of.get(&Some(name.clone()));
        let own = own.into_iter().flatten().filter(move |own| **own > seq);
        own.filter_map(|own| self.kept.get(own))
    }

    /// Of all of them there is something to tell of this one.
    pub fn knows(&self, name: &DeploymentName) -> bool {
        self.of.contains_key(&Some(name.clone()))
    }

    pub fn told(&self) -> &OrdMap<InstanceId, Told> {
        &self.told
    }

    pub fn dead(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.dead.keys().copied()
    }

    /// For a state that is put together from its parts.
    pub fn restore(
        &mut self,
        last: u64,
        told: impl IntoIterator<Item = (InstanceId, Told)>,
        dead: impl IntoIterator<Item = NodeId>,
    ) {
        self.last = self.last.max(last);
        self.told.extend(told);
        self.dead.extend(dead.into_iter().map(|node| (node, ())));
    }

    pub(crate) fn push(&mut self, stamp: &Stamp, draft: Draft) {
        let who = draft.who.as_deref().unwrap_or(&stamp.who);
        self.last += 1;
        self.keep(Event {
            seq: self.last,
            at: stamp.at,
            kind: draft.kind,
            deployment: draft.deployment,
            release: draft.release,
            instance: draft.instance,
            node: draft.node,
            reason: excerpt_to(
                &draft.reason.replace(char::is_control, " "),
                EVENT_REASON_BYTES,
            ),
            who: excerpt_to(
                &who.replace(char::is_control, " "),
                AUTHOR_BYTES.max as usize,
            ),
        });
    }

    fn keep(&mut self, event: Event) {
        let own = self.of.entry(event.deployment.clone()).or_default();
        own.push_back(event.seq);
        let surplus = (own.len() > EVENTS_OF_ONE)
            .then(|| own.pop_front())
            .flatten();
        if let Some(surplus) = surplus {
            self.kept.remove(&surplus);
        }
        self.last = self.last.max(event.seq);
        self.kept.insert(event.seq, event);
        while self.kept.len() > EVENTS_KEPT {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        let Some(oldest) = self.kept.get_min().map(|(seq, _)| *seq) else {
            return;
        };
        let Some(event) = self.kept.remove(&oldest) else {
            return;
        };
        // The oldest of all is the oldest of its own.
        let emptied = self.of.get_mut(&event.deployment).is_some_and(|own| {
            own.pop_front();
            own.is_empty()
        });
        if emptied {
            self.of.remove(&event.deployment);
        }
    }
}

/// Takes back what was kept, in the order of the numbers.
impl Extend<Event> for Events {
    fn extend<I: IntoIterator<Item = Event>>(&mut self, events: I) {
        for event in events {
            self.keep(event);
        }
    }
}
