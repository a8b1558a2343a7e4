//! What there is to decide, freed of everything that does not matter for it.

use std::collections::BTreeMap;

use super::bound;
use super::fleet::{Fleet, Standing};
use crate::ids::{InstanceId, NodeId, ReleaseNumber};
use crate::names::DeploymentName;
use crate::observed::{InstanceFacts, Phase, View};
use crate::rollout::Demand;
use crate::state::{Deployment, Desired, Instance, State};

#[derive(Debug)]
pub(super) struct Problem<'a> {
    pub fleet: Fleet<'a>,
    /// In the order of their names.
    pub jobs: Vec<Job<'a>>,
    /// Stopped instances whose records are of no more use.
    pub forget: Vec<InstanceId>,
}

/// One deployment: what is wanted and what was assigned before.
#[derive(Debug)]
pub(super) struct Job<'a> {
    pub name: &'a DeploymentName,
    pub kind: Kind,
    /// Instances that are meant to run.
    pub copies: Vec<Copy>,
    /// Instances that are being stopped on live nodes and still take room.
    pub stopping: usize,
    /// Instances that have stopped since the last plan and no longer take room.
    pub freed: usize,
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
    Staying,
}

impl<'a> Problem<'a> {
    pub fn new(state: &'a State, view: &View) -> Problem<'a> {
        let mut fleet = Fleet::new(state, view);
        let mut jobs: BTreeMap<&DeploymentName, Job> = state
            .deployments
            .values()
            .map(|deployment| {
                let kind = if deployment.removing {
                    Kind::Gone
                } else if deployment.current().spec.is_static() {
                    Kind::Site {
                        release: deployment.target,
                    }
                } else if !deployment.current().spec.volumes().is_empty() {
                    Kind::Bound {
                        release: deployment.target,
                    }
                } else {
                    Kind::Service {
                        release: deployment.target,
                        demand: deployment.demand(),
                    }
                };
                (&deployment.name, Job::new(&deployment.name, kind))
            })
            .collect();
        let mut forget = Vec::new();
        for instance in state.instances.values() {
            let standing = fleet.standing(instance.node);
            let facts = view.instance(instance.node, instance.id);
            let stopped = facts.is_some_and(|facts| facts.phase == Phase::Stopped);
            let job = jobs
                .entry(&instance.deployment)
                .or_insert_with(|| Job::new(&instance.deployment, Kind::Gone));
            match instance.desired {
                // Whether it has ended decides what becomes of its run.
                Desired::Stop
                    if !stopped && state.run_of(instance).is_some_and(|run| !run.is_over()) => {}
                // A dead node that returns stops whatever it no longer finds in the registry.
                Desired::Stop
                    if stopped
                        || (standing == Standing::Dead && !bound::holds(state, instance)) =>
                {
                    forget.push(instance.id);
                    let was_wanted = standing == Standing::Open && instance.run.is_none();
                    job.freed += usize::from(was_wanted);
                    continue;
                }
                // What runs to its end is none of the instances that are wanted.
                _ if instance.run.is_some() => {}
                Desired::Stop => job.stopping += 1,
                Desired::Run => job.copies.push(copy(state, instance, standing, facts)),
            }
            let takes_room = state
                .release_of(instance)
                .is_none_or(|release| !release.spec.is_static());
            if takes_room {
                fleet.take(instance.node);
            }
        }
        Problem {
            fleet,
            jobs: jobs.into_values().collect(),
            forget,
        }
    }
}

impl<'a> Job<'a> {
    fn new(name: &'a DeploymentName, kind: Kind) -> Job<'a> {
        Job {
            name,
            kind,
            copies: Vec::new(),
            stopping: 0,
            freed: 0,
        }
    }
}

fn copy(
    state: &State,
    instance: &Instance,
    standing: Standing,
    facts: Option<&InstanceFacts>,
) -> Copy {
    let place = match standing {
        Standing::Dead => Place::Lost,
        Standing::Draining => Place::Leaving,
        Standing::Open | Standing::Silent => Place::Staying,
    };
    Copy {
        id: instance.id,
        node: instance.node,
        epoch: instance.epoch,
        class: state
            .deployments
            .get(&instance.deployment)
            .map_or(Class::Other, |deployment| class(deployment, instance)),
        place,
        ready: place != Place::Lost && facts.is_some_and(InstanceFacts::is_ready),
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
