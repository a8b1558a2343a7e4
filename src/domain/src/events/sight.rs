//! What nodes see of programs and of each other, as the leader tells it. Gossip keeps only the present, so two changes
//! between two looks are one; what was told is in the state, so a new leader tells nothing twice and goes on from there.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Draft, Events, Kind, Place, Stamp};
use crate::command::{Outcome, Rejection};
use crate::ids::{InstanceId, NodeId};
use crate::limits::SIGHTINGS_PER_RECORD;
use crate::names::DeploymentName;
use crate::observed::{InstanceFacts, LastEnd, Phase, View};
use crate::state::{Instance, State};

/// Something that is otherwise than it was told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sighting {
    Instance {
        instance: InstanceId,
        told: Told,
        /// What its node says is the matter.
        reason: String,
    },
    Node {
        node: NodeId,
        alive: bool,
    },
}

/// What of an instance is worth telling when it changes. Words are not: two probes that fail in turn would fill the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// [`Phase::Starting`] for everything before the program runs.
    pub phase: Phase,
    pub ready: bool,
    pub restarts: u32,
    pub last_end: Option<LastEnd>,
    /// It cannot be started.
    pub trouble: bool,
}

impl Default for Told {
    fn default() -> Told {
        Told {
            phase: Phase::Starting,
            ready: false,
            restarts: 0,
            last_end: None,
            trouble: false,
        }
    }
}

impl Told {
    pub fn of(facts: &InstanceFacts) -> Told {
        let phase = match facts.phase {
            Phase::Pending | Phase::Fetching | Phase::Starting => Phase::Starting,
            phase => phase,
        };
        // Fetching and starting again are tries: what was the matter is until one of them is over.
        let tries = matches!(phase, Phase::Starting | Phase::Backoff);
        Told {
            phase,
            ready: facts.is_ready(),
            restarts: facts.restarts,
            last_end: facts.last_end,
            trouble: tries && !facts.reason.is_empty(),
        }
    }
}

/// What the leader sees that was not told yet, at most as many as one request may have. Of a node that is not alive only
/// that is known.
pub fn sightings(state: &State, view: &View) -> Vec<Sighting> {
    let instances = state.instances.values();
    let instances = instances.filter_map(|instance| of_instance(state, view, instance));
    let most = SIGHTINGS_PER_RECORD.max as usize;
    let nodes = node_sightings(state, view).into_iter();
    nodes.chain(instances).take(most).collect()
}

/// The same of nodes, and of what these deployments depend on: that it is there is why instances of them are begun.
pub fn sightings_behind<'n>(
    state: &State,
    view: &View,
    begun: impl Iterator<Item = &'n DeploymentName>,
) -> Vec<Sighting> {
    let begun: BTreeSet<&DeploymentName> = begun.collect();
    let begun = begun
        .into_iter()
        .filter_map(|name| state.deployments.get(name));
    let awaited: BTreeSet<&DeploymentName> = begun
        .flat_map(|deployment| deployment.current().spec.depends_on())
        .collect();
    let instances = awaited
        .into_iter()
        .flat_map(|name| state.instances_of(name));
    let instances = instances.filter_map(|instance| of_instance(state, view, instance));
    let most = SIGHTINGS_PER_RECORD.max as usize;
    let nodes = node_sightings(state, view).into_iter();
    nodes.chain(instances).take(most).collect()
}

fn of_instance(state: &State, view: &View, instance: &Instance) -> Option<Sighting> {
    if !view.is_alive(instance.node) {
        return None;
    }
    let facts = view.instance(instance.node, instance.id)?;
    let told = Told::of(facts);
    let is_known = match state.events.told.get(&instance.id) {
        Some(known) => *known == told,
        None => told == Told::default(),
    };
    (!is_known).then(|| Sighting::Instance {
        instance: instance.id,
        told,
        reason: facts.reason.clone(),
    })
}

/// The same of nodes alone.
fn node_sightings(state: &State, view: &View) -> Vec<Sighting> {
    let seen = state.nodes.keys().filter_map(|id| {
        let alive = view.nodes.get(id)?.alive;
        let told = !state.events.dead.contains_key(id);
        (alive != told).then_some(Sighting::Node { node: *id, alive })
    });
    seen.take(SIGHTINGS_PER_RECORD.max as usize).collect()
}

/// Tells what of it is still news.
pub(crate) fn record(
    state: &mut State,
    sightings: &[Sighting],
    stamp: &Stamp,
) -> Result<Outcome, Rejection> {
    SIGHTINGS_PER_RECORD.check("the number of sightings", sightings.len())?;
    for sighting in sightings {
        match sighting {
            Sighting::Node { node, alive } => see_node(state, *node, *alive, stamp),
            Sighting::Instance {
                instance,
                told,
                reason,
            } => see_instance(state, *instance, told, reason, stamp),
        }
    }
    Ok(Outcome::Done)
}

fn see_node(state: &mut State, id: NodeId, alive: bool, stamp: &Stamp) {
    let Some(node) = state.nodes.get(&id) else {
        return;
    };
    let place = Place {
        id,
        name: node.name.clone(),
    };
    let news = match alive {
        true => state.events.dead.remove(&id).map(|()| Kind::NodeAlive),
        false => {
            let known = state.events.dead.insert(id, ()).is_some();
            (!known).then_some(Kind::NodeDead)
        }
    };
    if let Some(kind) = news {
        let draft = Draft {
            node: Some(place),
            ..Draft::new(kind)
        };
        state.events.push(stamp, draft);
    }
}

fn see_instance(state: &mut State, id: InstanceId, told: &Told, reason: &str, stamp: &Stamp) {
    let Some(instance) = state.instances.get(&id).cloned() else {
        return;
    };
    let place = state.nodes.get(&instance.node).map(|node| Place {
        id: node.id,
        name: node.name.clone(),
    });
    let before = state.events.told.get(&id).cloned().unwrap_or_default();
    for (kind, why) in news(&before, told, reason) {
        tell(
            &mut state.events,
            &instance,
            place.clone(),
            (kind, why),
            stamp,
        );
    }
    state.events.told.insert(id, told.clone());
}

fn tell(
    events: &mut Events,
    instance: &Instance,
    node: Option<Place>,
    (kind, why): (Kind, String),
    stamp: &Stamp,
) {
    let draft = Draft {
        deployment: Some(instance.deployment.clone()),
        release: Some(instance.release),
        instance: Some(instance.id),
        node,
        ..Draft::new(kind)
    };
    events.push(stamp, draft.why(why));
}

/// In the order in which it must have happened.
fn news(before: &Told, now: &Told, reason: &str) -> Vec<(Kind, String)> {
    let mut news = Vec::new();
    let ended = now.last_end.filter(|_| now.last_end != before.last_end);
    let begun_anew = now.restarts > before.restarts;
    if let Some(end) = ended {
        // While it waits, what is the matter is that end; later it may be another thing.
        let why = match now.phase {
            Phase::Backoff if !reason.is_empty() => reason.to_owned(),
            _ => end.how.to_string(),
        };
        news.push((Kind::InstanceEnded, why));
    }
    if now.trouble && !before.trouble && ended.is_none() {
        news.push((Kind::InstanceBackoff, reason.to_owned()));
    }
    let runs = now.phase == Phase::Running;
    if runs && (before.phase != Phase::Running || begun_anew) {
        news.push(match now.restarts {
            0 => (Kind::InstanceStarted, String::new()),
            1 => (Kind::InstanceRestarted, "once".to_owned()),
            times => (Kind::InstanceRestarted, format!("{times} times")),
        });
    }
    if now.ready && (!before.ready || begun_anew) {
        news.push((Kind::InstanceReady, String::new()));
    }
    if runs && before.ready && !now.ready && ended.is_none() && !begun_anew {
        news.push((Kind::InstanceNotReady, reason.to_owned()));
    }
    if now.phase == Phase::Stopped && before.phase != Phase::Stopped {
        news.push((Kind::InstanceStopped, String::new()));
    }
    news
}
