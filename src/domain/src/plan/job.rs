//! What there is to decide of one deployment, freed of everything that does not matter for it.

use std::collections::BTreeSet;

use super::bound;
use super::fleet::{Fleet, Standing};
use super::possible::Share;
use crate::ids::{InstanceId, NodeId, ReleaseNumber};
use crate::names::DeploymentName;
use crate::observed::{InstanceFacts, Phase, View};
use crate::resources::Amounts;
use crate::rollout::Demand;
use crate::state::{Deployment, Desired, Instance, State};

/// One deployment: what is wanted and what was assigned before.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub name: DeploymentName,
    pub kind: Kind,
    /// Instances that are meant to run, in the order of their ids.
    pub copies: Vec<Copy>,
    /// Instances that are being stopped on live nodes and still take room.
    pub stopping: usize,
    /// Instances that have stopped since the last plan and no longer take room.
    pub freed: usize,
    /// Nodes with an instance that is not gone.
    pub nodes: BTreeSet<NodeId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Being removed: nothing is wanted.
    Gone,
    /// A static site: one instance on every open node.
    Site { release: ReleaseNumber },
    Service {
        release: ReleaseNumber,
        demand: Demand,
        /// A release is on its way.
        rolling: bool,
    },
    /// A program with volumes: each instance only where its own are.
    Bound { release: ReleaseNumber },
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Copy {
    pub id: InstanceId,
    pub node: NodeId,
    pub epoch: u64,
    pub class: Class,
    pub place: Place,
    pub ready: bool,
    pub amounts: Amounts,
    pub port: Option<u16>,
}

impl Copy {
    /// What it takes of its node, as one of this deployment's instances.
    pub fn share(&self, name: &DeploymentName) -> Share {
        Share {
            amounts: self.amounts,
            port: self.port.map(|port| (port, name.clone())),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    /// Of a release that failed: of use only while there is nothing better.
    Bad,
    /// Of some other release, or of an earlier epoch of the one to go back to.
    Other,
    /// Of the release to go back to.
    From,
    /// Of the wanted release, of an earlier epoch.
    Again,
    /// Of the wanted release and epoch.
    New,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// Its node is dead or no member.
    Lost,
    /// Its node is draining.
    Leaving,
    /// It is of the wanted release, and gives way to another on a node that is less full.
    Moving,
    Staying,
}

/// What one instance is to the planner.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub deployment: DeploymentName,
    pub node: NodeId,
    /// What it takes of its node; instances of sites take nothing, and neither do those that are gone.
    pub takes: Option<Share>,
    pub part: Part,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Part {
    Running(Copy),
    /// `heard`: its node lives, so that its end is near. One with volumes on a dead node ends when that is back.
    Stopping {
        heard: bool,
    },
    /// It runs to its end, and is none of the instances that are wanted.
    Run,
    /// It has stopped, or its node is dead: its record is of no more use.
    Over {
        freed: bool,
    },
}

impl Entry {
    pub fn new(state: &State, view: &View, fleet: &Fleet, instance: &Instance) -> Entry {
        let standing = fleet.standing(instance.node);
        let facts = view.instance(instance.node, instance.id);
        let spec = state.release_of(instance).map(|release| &release.spec);
        let serves = instance.run.is_none();
        let share = match spec {
            Some(spec) => {
                let service = spec.service();
                service.map(|service| Share::of(service, &instance.deployment, serves))
            }
            None => Some(Share::default()),
        };
        let stopped = facts.is_some_and(|facts| facts.phase == Phase::Stopped);
        let lost = standing == Standing::Dead && !bound::holds(state, instance);
        let part = match instance.desired {
            // Whether it has ended decides what becomes of its run.
            Desired::Stop if !stopped && state.run_of(instance).is_some_and(|r| !r.is_over()) => {
                Part::Run
            }
            // A dead node that returns stops whatever it no longer finds in the registry.
            Desired::Stop if stopped || lost => Part::Over {
                freed: standing == Standing::Open && instance.run.is_none(),
            },
            _ if instance.run.is_some() => Part::Run,
            Desired::Stop => Part::Stopping {
                heard: standing != Standing::Dead,
            },
            Desired::Run => Part::Running(copy(state, instance, standing, facts, share.as_ref())),
        };
        Entry {
            deployment: instance.deployment.clone(),
            node: instance.node,
            takes: share.filter(|_| !matches!(part, Part::Over { .. })),
            part,
        }
    }
}

fn copy(
    state: &State,
    instance: &Instance,
    standing: Standing,
    facts: Option<&InstanceFacts>,
    share: Option<&Share>,
) -> Copy {
    let deployment = state.deployments.get(&instance.deployment);
    let class = deployment.map_or(Class::Other, |deployment| class(deployment, instance));
    let place = match standing {
        Standing::Dead => Place::Lost,
        Standing::Draining => Place::Leaving,
        _ if class == Class::New && state.moving.contains(&instance.id) => Place::Moving,
        Standing::Open | Standing::Silent => Place::Staying,
    };
    Copy {
        id: instance.id,
        node: instance.node,
        epoch: instance.epoch,
        class,
        place,
        ready: place != Place::Lost && facts.is_some_and(InstanceFacts::is_ready),
        amounts: share.map_or(Amounts::NONE, |share| share.amounts),
        port: share.and_then(Share::port),
    }
}

fn class(deployment: &Deployment, instance: &Instance) -> Class {
    let fallback = deployment.fallback();
    if deployment.is_current(instance) {
        Class::New
    } else if deployment.runs(instance, deployment.target) {
        Class::Again
    } else if fallback.is_some_and(|from| deployment.runs(instance, from.number)) {
        Class::From
    } else if deployment
        .release(instance.release)
        .is_some_and(|release| release.has_failed())
    {
        Class::Bad
    } else {
        Class::Other
    }
}

impl Job {
    /// Of the deployment's instances.
    pub fn new<'e>(
        state: &State,
        name: &DeploymentName,
        entries: impl Iterator<Item = &'e Entry>,
    ) -> Job {
        let deployment = state.deployments.get(name).filter(|d| !d.removing);
        let mut job = Job {
            name: name.clone(),
            kind: deployment.map_or(Kind::Gone, kind),
            copies: Vec::new(),
            stopping: 0,
            freed: 0,
            nodes: BTreeSet::new(),
        };
        for entry in entries {
            match entry.part {
                Part::Running(copy) => job.copies.push(copy),
                Part::Stopping { heard } => job.stopping += usize::from(heard),
                Part::Run => {}
                Part::Over { freed } => {
                    job.freed += usize::from(freed);
                    continue;
                }
            }
            job.nodes.insert(entry.node);
        }
        job
    }

    /// Instances on nodes that live.
    pub fn present(&self) -> impl Iterator<Item = &Copy> {
        self.copies.iter().filter(|copy| copy.place != Place::Lost)
    }
}

fn kind(deployment: &Deployment) -> Kind {
    let release = deployment.target;
    let spec = &deployment.current().spec;
    if spec.is_static() {
        return Kind::Site { release };
    }
    if !spec.volumes().is_empty() && !spec.is_finite() {
        return Kind::Bound { release };
    }
    Kind::Service {
        release,
        demand: deployment.demand(),
        rolling: deployment.rollout.is_some(),
    }
}
