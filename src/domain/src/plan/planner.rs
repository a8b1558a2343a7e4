//! A plan that costs what has changed since the one before.
//!
//! Deployments at rest stay at rest until something of their own changes: their record, one of their instances, what
//! its node says of it, or how that node stands. Everything else (room, labels, other deployments) matters only to
//! those that have something to do, and they are solved anew each time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::ordmap::DiffItem;
use imbl::{OrdMap, OrdSet};

use super::fleet::Fleet;
use super::job::{Entry, Job, Kind, Part, Place};
use super::possible::{Need, Share};
use super::service::Asked;
use super::solution::Solution;
use super::spread::Spread;
use super::{Plan, bound, service, site, waits};
use crate::ids::{InstanceId, NodeId, ReleaseNumber};
use crate::names::DeploymentName;
use crate::observed::{InstanceFacts, Phase, View};
use crate::resources::Amounts;
use crate::runs::Work;
use crate::spec::Service;
use crate::state::{Deployment, Instance, Node, State};
use crate::volume::VolumeSets;

/// Remembers what it has seen. One that is made anew plans the same, and looks at everything first.
#[derive(Debug, Clone, Default)]
pub struct Planner {
    seen: Option<Seen>,
    pub(super) fleet: Fleet,
    pub(super) entries: BTreeMap<InstanceId, Entry>,
    of: BTreeMap<DeploymentName, BTreeSet<InstanceId>>,
    pub(super) on: BTreeMap<NodeId, BTreeSet<InstanceId>>,
    pub(super) jobs: BTreeMap<DeploymentName, Job>,
    sites: BTreeSet<DeploymentName>,
    /// Whom each deployment keeps apart from; only those that do.
    apart: BTreeMap<DeploymentName, Vec<DeploymentName>>,
    /// Deployments that are not at rest.
    pub(super) open: BTreeSet<DeploymentName>,
    /// Instances whose records are of no more use.
    over: BTreeSet<InstanceId>,
    /// The deployment at which evening out goes on.
    pub(super) next: Option<DeploymentName>,
    looked: Looked,
}

/// What the latest plan took, in things that were looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Looked {
    /// Instances that were sorted in anew.
    pub instances: u64,
    /// Deployments that were solved.
    pub deployments: u64,
    /// Nodes that were weighed as a place, once for each instance.
    pub nodes: u64,
}

/// What the latest plan was made from.
#[derive(Debug, Clone)]
struct Seen {
    nodes: OrdMap<NodeId, Node>,
    deployments: OrdMap<DeploymentName, Deployment>,
    instances: OrdMap<InstanceId, Instance>,
    moving: OrdSet<InstanceId>,
    volumes: OrdMap<DeploymentName, VolumeSets>,
    work: OrdMap<DeploymentName, Work>,
    view: Arc<View>,
}

/// What has to be sorted in anew.
#[derive(Debug, Default)]
struct News {
    nodes: Vec<NodeId>,
    deployments: BTreeSet<DeploymentName>,
    instances: BTreeSet<InstanceId>,
}

impl Planner {
    /// Plans the next changes.
    pub fn plan(&mut self, state: &State, view: &Arc<View>) -> Plan {
        let news = self.news(state, view);
        self.take_in(state, view, news);
        self.seen = Some(Seen {
            nodes: state.nodes.clone(),
            deployments: state.deployments.clone(),
            instances: state.instances.clone(),
            moving: state.moving.clone(),
            volumes: state.volumes.clone(),
            work: state.work.clone(),
            view: Arc::clone(view),
        });
        self.solve(state, view)
    }

    /// One that knows this state, and has decided nothing.
    pub(super) fn of(state: &State, view: &View) -> Planner {
        let mut planner = Planner::default();
        planner.take_in(state, view, all(state));
        planner
    }

    /// What an instance of the program asks of its node.
    pub(super) fn needed(&self, service: &Service, name: &DeploymentName) -> Need {
        needed(service, name, &self.jobs, &self.apart)
    }

    /// Of a planner that has seen nothing and is of no use afterwards.
    pub(super) fn plan_afresh(mut self, state: &State, view: &View) -> Plan {
        let news = all(state);
        self.take_in(state, view, news);
        self.solve(state, view)
    }

    /// What the latest plan took.
    pub fn looked(&self) -> Looked {
        self.looked
    }

    fn news(&self, state: &State, view: &Arc<View>) -> News {
        let Some(seen) = &self.seen else {
            return all(state);
        };
        let mut news = News::default();
        for change in seen.nodes.diff(&state.nodes) {
            news.nodes.push(*key(&change));
        }
        for change in seen.deployments.diff(&state.deployments) {
            news.deployments.insert(key(&change).clone());
        }
        for change in seen.volumes.diff(&state.volumes) {
            news.deployments.insert(key(&change).clone());
        }
        for change in seen.work.diff(&state.work) {
            news.deployments.insert(key(&change).clone());
        }
        for change in seen.instances.diff(&state.instances) {
            news.instances.insert(*key(&change));
        }
        if !seen.moving.ptr_eq(&state.moving) {
            let both = seen.moving.iter().chain(state.moving.iter());
            news.instances.extend(both.copied());
        }
        if !Arc::ptr_eq(&seen.view, view) {
            told_otherwise(&seen.view, view, &mut news.instances);
        }
        news
    }

    fn take_in(&mut self, state: &State, view: &View, mut news: News) {
        self.looked = Looked::default();
        let stand_otherwise = self.fleet.update(state, view, &news.nodes);
        if !stand_otherwise.is_empty() {
            self.open.extend(self.sites.iter().cloned());
        }
        for node in &stand_otherwise {
            news.instances
                .extend(self.on.get(node).into_iter().flatten());
        }
        for name in &news.deployments {
            news.instances
                .extend(self.of.get(name).into_iter().flatten());
        }
        self.looked.instances = news.instances.len() as u64;
        for id in &news.instances {
            self.forget(*id, &mut news.deployments);
        }
        for instance in news
            .instances
            .iter()
            .filter_map(|id| state.instances.get(id))
        {
            self.remember(state, view, instance, &mut news.deployments);
        }
        for name in news.deployments {
            self.renew(state, name);
        }
    }

    fn forget(&mut self, id: InstanceId, touched: &mut BTreeSet<DeploymentName>) {
        let Some(entry) = self.entries.remove(&id) else {
            return;
        };
        if let Some(share) = &entry.takes {
            self.fleet.give_back(entry.node, share);
        }
        self.over.remove(&id);
        leave(&mut self.on, &entry.node, id);
        leave(&mut self.of, &entry.deployment, id);
        touched.insert(entry.deployment);
    }

    fn remember(
        &mut self,
        state: &State,
        view: &View,
        instance: &Instance,
        touched: &mut BTreeSet<DeploymentName>,
    ) {
        let id = instance.id;
        let entry = Entry::new(state, view, &self.fleet, instance);
        if let Some(share) = &entry.takes {
            self.fleet.take(entry.node, share);
        }
        if matches!(entry.part, Part::Over { .. }) {
            self.over.insert(id);
        }
        self.on.entry(entry.node).or_default().insert(id);
        let name = &entry.deployment;
        match self.of.get_mut(name) {
            Some(ids) => drop(ids.insert(id)),
            None => drop(self.of.insert(name.clone(), [id].into())),
        }
        if !touched.contains(name) {
            touched.insert(name.clone());
        }
        self.entries.insert(id, entry);
    }

    /// Makes a deployment's job anew.
    fn renew(&mut self, state: &State, name: DeploymentName) {
        let ids = self.of.get(&name);
        if ids.is_none() && !state.deployments.contains_key(&name) {
            self.jobs.remove(&name);
            self.sites.remove(&name);
            self.apart.remove(&name);
            self.open.remove(&name);
            return;
        }
        let entries = ids.into_iter().flatten();
        let entries = entries.filter_map(|id| self.entries.get(id));
        let job = Job::new(state, &name, entries);
        match job.kind {
            Kind::Site { .. } => self.sites.insert(name.clone()),
            _ => self.sites.remove(&name),
        };
        let deployment = state.deployments.get(&name).filter(|d| !d.removing);
        let service = deployment.and_then(|d| d.current().spec.service());
        match service.map(|service| &service.placement.apart_from) {
            Some(apart) if !apart.is_empty() => self.apart.insert(name.clone(), apart.clone()),
            _ => self.apart.remove(&name),
        };
        self.open.insert(name.clone());
        self.jobs.insert(name, job);
    }

    fn solve(&mut self, state: &State, view: &View) -> Plan {
        let open = std::mem::take(&mut self.open);
        self.fleet.looked = 0;
        let Planner {
            fleet, jobs, apart, ..
        } = self;
        let mut solution = Solution::default();
        let mut programs = Vec::new();
        for job in open.iter().filter_map(|name| jobs.get(name)) {
            self.looked.deployments += 1;
            let lost = job.copies.iter().filter(|c| c.place == Place::Lost);
            if !matches!(job.kind, Kind::Bound { .. }) {
                lost.for_each(|copy| solution.stop(&job.name, copy.id));
            }
            let held = |release| waits::held(state, view, &job.name, release);
            match job.kind {
                Kind::Bound { release } => {
                    let need = need(state, jobs, apart, &job.name, release);
                    let held = held(release);
                    bound::solve(state, job, (release, &need, held), fleet, &mut solution);
                }
                Kind::Gone => job
                    .present()
                    .for_each(|copy| solution.stop(&job.name, copy.id)),
                Kind::Site { release } => site::solve(job, release, fleet, &mut solution),
                Kind::Service {
                    release, demand, ..
                } => {
                    let need = |release| need(state, jobs, apart, &job.name, release);
                    let asked = Asked {
                        need: &need,
                        held: &held,
                    };
                    let mut works = service::works(job, release, &demand, fleet, &asked);
                    for work in &mut works {
                        work.stop_surplus(fleet, &mut solution);
                    }
                    programs.extend(works);
                }
            }
        }
        for program in &mut programs {
            program.reclaim(fleet, &mut solution);
        }
        for program in programs {
            program.finish(fleet, &mut solution);
        }
        fleet.rewind();
        self.looked.nodes = fleet.looked;
        let (plan, busy) = solution.into_plan(state.plan_revision, &self.over);
        self.open = busy;
        plan
    }

    /// What an instance of the deployment's wanted release asks of its node.
    pub(super) fn need(&self, state: &State, job: &Job, release: ReleaseNumber) -> Need {
        need(state, &self.jobs, &self.apart, &job.name, release)
    }
}

/// Why so many instances of a program could not all be placed, if there were none of it yet; `None` when they could.
pub fn unplaceable(
    state: &State,
    view: &View,
    (name, service, instances): (&DeploymentName, &Service, u32),
) -> Option<String> {
    let mut planner = Planner::of(state, view);
    let own = planner.of.get(name).into_iter().flatten();
    for entry in own.filter_map(|id| planner.entries.get(id)) {
        if let Some(share) = &entry.takes {
            planner.fleet.give_back(entry.node, share);
        }
    }
    let need = planner.needed(service, name);
    let fleet = &mut planner.fleet;
    let mut spread = Spread::of(&need, std::iter::empty(), fleet);
    for placed in 0..instances {
        let Some(node) = fleet.best(&need, &spread, None) else {
            let missing = instances - placed;
            let why = fleet.why_none(&need);
            return Some(format!(
                "{missing} of {instances} instances cannot be placed: {why}"
            ));
        };
        fleet.take(node, &need.share);
        spread.add(fleet, node);
    }
    None
}

/// What a node has for instances of programs, and what those there take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Those that are being stopped included.
    pub instances: u32,
    pub instances_most: u32,
    pub asked: Amounts,
    pub has: Amounts,
}

/// The room of every member, as plans count it.
pub fn rooms(state: &State, view: &View) -> BTreeMap<NodeId, Room> {
    let planner = Planner::of(state, view);
    let slots = planner.fleet.iter().map(|slot| {
        let room = Room {
            instances: slot.used,
            instances_most: slot.capacity,
            asked: slot.asked,
            has: slot.has,
        };
        (slot.id, room)
    });
    slots.collect()
}

fn need(
    state: &State,
    jobs: &BTreeMap<DeploymentName, Job>,
    apart: &BTreeMap<DeploymentName, Vec<DeploymentName>>,
    name: &DeploymentName,
    release: ReleaseNumber,
) -> Need {
    let deployment = state.deployments.get(name);
    let release = deployment.and_then(|deployment| deployment.release(release));
    let service = release.and_then(|release| release.spec.service());
    service.map_or_else(Need::default, |service| needed(service, name, jobs, apart))
}

fn needed(
    service: &Service,
    name: &DeploymentName,
    jobs: &BTreeMap<DeploymentName, Job>,
    apart: &BTreeMap<DeploymentName, Vec<DeploymentName>>,
) -> Need {
    let mut kept_apart = service.placement.apart_from.clone();
    let others = apart.iter().filter(|(_, from)| from.contains(name));
    kept_apart.extend(others.map(|(other, _)| other.clone()));
    let nodes_of = |names: &[DeploymentName]| {
        let jobs = names.iter().filter_map(|name| jobs.get(name));
        jobs.flat_map(|job| job.nodes.iter().copied()).collect()
    };
    Need {
        share: Share::of(service, name, true),
        shunned: nodes_of(&kept_apart),
        near: nodes_of(&service.placement.near),
        placement: service.placement.clone(),
        apart: kept_apart,
    }
}

fn all(state: &State) -> News {
    News {
        nodes: Vec::new(),
        deployments: state.deployments.keys().cloned().collect(),
        instances: state.instances.keys().copied().collect(),
    }
}

fn key<'k, K, V>(change: &DiffItem<'k, 'k, K, V>) -> &'k K {
    match change {
        DiffItem::Add(key, _) | DiffItem::Remove(key, _) => key,
        DiffItem::Update { new: (key, _), .. } => key,
    }
}

fn leave<K: Ord>(index: &mut BTreeMap<K, BTreeSet<InstanceId>>, key: &K, id: InstanceId) {
    if let Some(ids) = index.get_mut(key) {
        ids.remove(&id);
        if ids.is_empty() {
            index.remove(key);
        }
    }
}

/// What of an instance's facts matters here.
fn matters(facts: &InstanceFacts) -> (bool, bool) {
    (facts.is_ready(), facts.phase == Phase::Stopped)
}

/// Instances of which the nodes say other things than before, as far as it matters here.
fn told_otherwise(before: &View, now: &View, found: &mut BTreeSet<InstanceId>) {
    let none = BTreeMap::new();
    for (node, said) in &now.nodes {
        let known = before.nodes.get(node).map_or(&none, |node| &node.instances);
        differences(known, &said.instances, found);
    }
    for (node, known) in &before.nodes {
        if !now.nodes.contains_key(node) {
            differences(&known.instances, &none, found);
        }
    }
}

fn differences(
    before: &BTreeMap<InstanceId, InstanceFacts>,
    now: &BTreeMap<InstanceId, InstanceFacts>,
    found: &mut BTreeSet<InstanceId>,
) {
    let (mut before, mut now) = (before.iter().peekable(), now.iter().peekable());
    loop {
        let id = match (before.peek(), now.peek()) {
            (None, None) => return,
            (Some((id, _)), None) | (None, Some((id, _))) => **id,
            (Some((a, _)), Some((b, _))) => **a.min(b),
        };
        let old = before.next_if(|(known, _)| **known == id);
        let new = now.next_if(|(known, _)| **known == id);
        if old.map(|(_, facts)| matters(facts)) != new.map(|(_, facts)| matters(facts)) {
            found.insert(id);
        }
    }
}
