//! What a person is told of a deployment: desired and observed state in one picture.

mod drain;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use crate::command::Change;
use crate::ids::{Digest, InstanceId, NodeId, ReleaseNumber};
use crate::names::DeploymentName;
use crate::observed::{Health, InstanceFacts, LastEnd, Phase as Told, View};
use crate::plan::{Plan, plan};
use crate::state::{Deployment, Desired, Instance, State};

pub use drain::{Left, left_on};

/// Problems listed at most; the first few tell what to look at.
const PROBLEMS_SHOWN: usize = 16;

/// Restarts after which ending by itself is no accident any more.
const CRASHING_RESTARTS: u32 = 3;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    pub name: DeploymentName,
    pub is_static: bool,
    pub generation: u64,
    /// The current one.
    pub release: ReleaseNumber,
    pub artifact: Digest,
    pub phase: Phase,
    /// Instances wanted; for a static site, the live nodes that are not draining.
    pub desired: u32,
    /// Instances of the current epoch that take requests.
    pub ready: u32,
    pub urls: Vec<String>,
    /// In the order of their ids, those that are being stopped included.
    pub instances: Vec<InstanceSummary>,
    /// Why instances are missing or fail, one sentence each.
    pub problems: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Instances are being started, replaced or stopped.
    Progressing,
    /// All wanted instances of the current epoch are ready and no other is left.
    Ready,
    /// Instances are missing, and nothing is under way that would add them soon.
    Degraded,
    /// None is ready and the program keeps ending.
    Failed,
    Removing,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceSummary {
    pub id: InstanceId,
    pub node: NodeId,
    pub node_name: String,
    pub release: ReleaseNumber,
    pub phase: InstancePhase,
    pub health: Health,
    pub restarts: u32,
    pub reason: String,
    pub last_end: Option<LastEnd>,
}

/// An instance's phase as its node tells it, or `Lost` when the node is dead or no member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstancePhase {
    Told(Told),
    Lost,
}

impl fmt::Display for InstancePhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InstancePhase::Lost => f.write_str("lost"),
            InstancePhase::Told(phase) => phase.fmt(f),
        }
    }
}

/// One deployment, or `None` when there is none of this name.
pub fn summarise(state: &State, view: &View, name: &DeploymentName) -> Option<Summary> {
    let deployment = state.deployments.get(name)?;
    let instances: Vec<&Instance> = state.serving_of(name).collect();
    let awaited = Awaited::new(state, view);
    Some(Picture::new(state, view, deployment, &instances, &awaited).summary())
}

/// All deployments; for lists, because it plans once for all of them.
pub fn summarise_all(state: &State, view: &View) -> BTreeMap<DeploymentName, Summary> {
    let awaited = Awaited::new(state, view);
    let mut instances: BTreeMap<&DeploymentName, Vec<&Instance>> = BTreeMap::new();
    for instance in state.instances.values().filter(|i| i.run.is_none()) {
        instances
            .entry(&instance.deployment)
            .or_default()
            .push(instance);
    }
    state
        .deployments
        .iter()
        .map(|(name, deployment)| {
            let own = instances.get(name).map_or(&[][..], Vec::as_slice);
            let picture = Picture::new(state, view, deployment, own, &awaited);
            (name.clone(), picture.summary())
        })
        .collect()
}

/// One instance of the deployment beside what its node says of it.
struct Seen<'a> {
    instance: &'a Instance,
    node: Standing,
    facts: Option<&'a InstanceFacts>,
}

/// Of the node that an instance is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Serves,
    /// It restarts: what runs there goes on, and is as it was told last.
    Restarts,
    /// Dead, or no member.
    Gone,
}

impl Standing {
    fn new(state: &State, view: &View, node: NodeId) -> Standing {
        match view.nodes.get(&node) {
            _ if !state.nodes.contains_key(&node) => Standing::Gone,
            Some(seen) if seen.returning => Standing::Restarts,
            Some(seen) if seen.alive => Standing::Serves,
            _ => Standing::Gone,
        }
    }
}

/// What is done with nodes that restart being waited for, as the leader does it.
struct Awaited<'a> {
    view: Cow<'a, View>,
    plan: Plan,
}

impl<'a> Awaited<'a> {
    fn new(state: &State, view: &'a View) -> Awaited<'a> {
        let view = view.patient();
        let plan = plan(state, &view);
        Awaited { view, plan }
    }
}

impl Seen<'_> {
    fn serves(&self) -> bool {
        self.node == Standing::Serves
    }

    fn is_gone(&self) -> bool {
        self.node == Standing::Gone
    }

    fn is_ready(&self) -> bool {
        self.serves() && self.facts.is_some_and(InstanceFacts::is_ready)
    }

    fn is_crashing(&self) -> bool {
        self.serves()
            && self.facts.is_some_and(|facts| {
                facts.phase == Told::Backoff && facts.restarts >= CRASHING_RESTARTS
            })
    }

    /// On its way to being ready, as far as anyone can tell.
    fn is_coming(&self) -> bool {
        let restarts = self.node == Standing::Restarts;
        let comes = self.serves()
            && self.facts.is_none_or(|facts| match facts.phase {
                Told::Pending | Told::Fetching | Told::Starting => !self.is_crashing(),
                Told::Running => facts.health == Health::Unknown,
                Told::Backoff => !self.is_crashing(),
                Told::Stopping | Told::Stopped => false,
            });
        restarts || comes
    }

    fn phase(&self) -> InstancePhase {
        if self.is_gone() {
            return InstancePhase::Lost;
        }
        let told = self.facts.map_or(Told::Pending, |facts| facts.phase);
        InstancePhase::Told(match (self.instance.desired, told) {
            (Desired::Stop, Told::Stopped) => Told::Stopped,
            (Desired::Stop, _) => Told::Stopping,
            (Desired::Run, told) => told,
        })
    }
}

/// Everything that a summary is made from.
struct Picture<'a> {
    state: &'a State,
    deployment: &'a Deployment,
    seen: Vec<Seen<'a>>,
    awaited: &'a Awaited<'a>,
}

impl<'a> Picture<'a> {
    fn new(
        state: &'a State,
        view: &'a View,
        deployment: &'a Deployment,
        instances: &[&'a Instance],
        awaited: &'a Awaited<'a>,
    ) -> Picture<'a> {
        let seen = instances
            .iter()
            .map(|instance| Seen {
                instance,
                node: Standing::new(state, view, instance.node),
                facts: view.instance(instance.node, instance.id),
            })
            .collect();
        Picture {
            state,
            deployment,
            seen,
            awaited,
        }
    }

    /// Instances of the wanted release and epoch that are meant to run.
    fn current(&self) -> impl Iterator<Item = &Seen<'a>> {
        self.seen.iter().filter(|seen| {
            self.deployment.is_current(seen.instance) && seen.instance.desired == Desired::Run
        })
    }

    fn desired(&self) -> u32 {
        if self.deployment.removing {
            return 0;
        }
        if self.deployment.current().spec.is_finite() {
            return 0;
        }
        if !self.deployment.current().spec.is_static() {
            return self.deployment.scale;
        }
        let open = self.state.nodes.values();
        open.filter(|node| !node.draining && self.awaited.view.is_alive(node.id))
            .count() as u32
    }

    fn ready(&self) -> u32 {
        self.current().filter(|seen| seen.is_ready()).count() as u32
    }

    fn phase(&self) -> Phase {
        let (desired, ready) = (self.desired(), self.ready());
        if self.deployment.removing {
            return Phase::Removing;
        }
        if self.deployment.current().spec.is_finite() {
            return match (
                &self.deployment.rollout,
                self.deployment.current().has_failed(),
            ) {
                (Some(_), _) => Phase::Progressing,
                (None, true) => Phase::Failed,
                (None, false) => Phase::Ready,
            };
        }
        let given_up = self.deployment.rollout.is_none() && self.deployment.current().has_failed();
        if ready == 0 && desired > 0 && (given_up || self.current().any(Seen::is_crashing)) {
            return Phase::Failed;
        }
        if ready >= desired {
            let present = self.seen.iter().filter(|seen| !seen.is_gone()).count() as u32;
            return if present > desired {
                Phase::Progressing
            } else {
                Phase::Ready
            };
        }
        let starting = self.awaited.plan.changes.iter().any(|change| {
            matches!(change, Change::Start { deployment, .. } if *deployment == self.deployment.name)
        });
        let stopping = self
            .seen
            .iter()
            .any(|seen| !seen.is_gone() && seen.instance.desired == Desired::Stop);
        let coming = starting || stopping || self.current().any(Seen::is_coming);
        let untold = !self
            .awaited
            .plan
            .unplaced
            .contains_key(&self.deployment.name)
            && (self.current().count() as u32) < desired;
        if coming || untold {
            Phase::Progressing
        } else {
            Phase::Degraded
        }
    }

    fn node_name(&self, id: NodeId) -> String {
        match self.state.nodes.get(&id) {
            Some(node) => node.name.to_string(),
            None => id.to_string(),
        }
    }

    fn problems(&self) -> Vec<String> {
        let unplaced = self.awaited.plan.unplaced.get(&self.deployment.name);
        let failing = self.current().filter_map(|seen| {
            let (id, node) = (seen.instance.id, self.node_name(seen.instance.node));
            if seen.node == Standing::Restarts {
                return Some(format!(
                    "instance {id} on node {node}: left to its node, which restarts"
                ));
            }
            let facts = seen.facts.filter(|_| seen.serves())?;
            let what = match facts.phase {
                Told::Backoff if facts.reason.is_empty() => "ended by itself",
                Told::Backoff => facts.reason.as_str(),
                Told::Running if facts.health == Health::Unhealthy && facts.reason.is_empty() => {
                    "runs but does not answer its probe"
                }
                Told::Pending | Told::Fetching | Told::Starting | Told::Running
                    if facts.health != Health::Healthy && !facts.reason.is_empty() =>
                {
                    facts.reason.as_str()
                }
                _ => return None,
            };
            let restarts = match facts.restarts {
                0 => String::new(),
                1 => " (restarted once)".to_owned(),
                n => format!(" (restarted {n} times)"),
            };
            Some(format!("instance {id} on node {node}: {what}{restarts}"))
        });
        unplaced
            .into_iter()
            .flatten()
            .cloned()
            .chain(failing)
            .take(PROBLEMS_SHOWN)
            .collect()
    }

    fn summary(&self) -> Summary {
        let release = self.deployment.current();
        let instances = self.seen.iter().map(|seen| InstanceSummary {
            id: seen.instance.id,
            node: seen.instance.node,
            node_name: self.node_name(seen.instance.node),
            release: seen.instance.release,
            phase: seen.phase(),
            health: seen.facts.map_or(Health::Unknown, |facts| facts.health),
            restarts: seen.facts.map_or(0, |facts| facts.restarts),
            reason: seen
                .facts
                .map_or(String::new(), |facts| facts.reason.clone()),
            last_end: seen.facts.and_then(|facts| facts.last_end),
        });
        Summary {
            name: self.deployment.name.clone(),
            is_static: release.spec.is_static(),
            generation: self.deployment.generation,
            release: release.number,
            artifact: release.artifact,
            phase: self.phase(),
            desired: self.desired(),
            ready: self.ready(),
            urls: self.deployment.current().spec.urls(&self.deployment.name),
            instances: instances.collect(),
            problems: self.problems(),
        }
    }
}

#[cfg(test)]
mod tests;
