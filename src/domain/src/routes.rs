//! Which instances answer for which host: the one thing the data plane needs to know.
//!
//! A table is immutable and replaced whole, so a request never sees half of a change.

mod find;
#[cfg(test)]
mod find_tests;
mod hosts;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod trial_tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

pub use find::{Found, FoundAction, RequestView};
use hosts::Hosts;

use crate::http::{Action, HostPattern, HttpPolicy, PathPrefix, Shares, Weights};
use crate::ids::{Digest, InstanceId, NodeId, ReleaseNumber};
use crate::names::DeploymentName;
use crate::observed::{InstanceFacts, View};
use crate::rollout::{Side, Stage, Trial};
use crate::spec::Workload;
use crate::state::{Deployment, Desired, EdgeSecret, Instance, Release, State};
use crate::time::Millis;

/// Routes of all deployments by their host names.
#[derive(Debug, Default)]
pub struct RouteTable {
    /// `State::revision` the table was built from.
    pub revision: u64,
    /// [`State::edge_secret`].
    pub secret: Option<EdgeSecret>,
    /// By lower-case host, without a port or trailing dot.
    exact: Hosts,
    /// By what is behind the star.
    wildcards: Hosts,
    /// Where rules of other deployments lead, and what others depend on.
    targets: HashMap<DeploymentName, Arc<Route>>,
    /// Numbers of the routes' trials.
    trials: BTreeSet<u64>,
}

/// Where requests for one deployment go.
#[derive(Debug)]
pub struct Route {
    pub deployment: DeploymentName,
    pub kind: RouteKind,
    /// Ready instances on live nodes, in the order of their ids. None means 503.
    pub endpoints: Vec<Endpoint>,
    /// Of the newest release that runs what the newest of them runs. The names in it may be older than those that the
    /// route is found by.
    pub policy: Arc<HttpPolicy>,
    /// The policy's rules by their number, in the order in which they are looked at.
    order: Vec<usize>,
    /// Where a rollout or the policy gives releases weights: each that has one with its endpoints.
    shares: Shares,
    releases: Vec<(ReleaseNumber, Vec<Endpoint>)>,
    /// The release that the policy is of: answers of another version are not this one's.
    pub version: Version,
    /// Endpoints of older releases that differ from it in more than their policy, while it takes over.
    older: Vec<InstanceId>,
    /// Between the releases of a rollout.
    pub trial: Option<Trial>,
    /// Of each endpoint whose release it is of; empty without a trial.
    sides: Vec<Option<Side>>,
    /// A visitor stays with one release of the trial.
    by_visitor: bool,
}

/// One release among all there have ever been under its deployment's name, from one purge of the cache to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    pub release: ReleaseNumber,
    /// Numbers begin anew with a deployment that takes the name of one that is gone.
    pub created_at: Millis,
    /// [`State::cache_purges`]; 0: never.
    pub purged_at: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteKind {
    /// Files of this artifact, which every endpoint of the route has unpacked.
    Static {
        artifact: Digest,
        spa: bool,
    },
    Service,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    pub instance: InstanceId,
    pub node: NodeId,
}

/// The first table of a node; later ones come from [`RouteTable::rebuild`].
pub fn build(state: &State, view: &View) -> RouteTable {
    RouteTable::default().rebuild(state, view)
}

impl RouteTable {
    /// The next table. An unchanged route stays the same object: tables are rebuilt many times a second, and what is
    /// prepared for a route goes on with it.
    pub fn rebuild(&self, state: &State, view: &View) -> RouteTable {
        let mut ready: BTreeMap<&DeploymentName, Vec<&Instance>> = BTreeMap::new();
        for instance in state.instances.values() {
            if takes_requests(instance, view) {
                ready
                    .entry(&instance.deployment)
                    .or_default()
                    .push(instance);
            }
        }
        let mut table = RouteTable {
            revision: state.revision,
            secret: state.edge_secret(),
            ..RouteTable::default()
        };
        let mut targets = BTreeSet::new();
        let serving = |d: &&Deployment| !d.removing && d.current().spec.takes_requests();
        let present = state.deployments.values().filter(serving);
        for deployment in present {
            let ready = ready.get(&deployment.name).map_or(&[][..], Vec::as_slice);
            let purged_at = state.cache_purges.get(&deployment.name);
            let route = Route::new(deployment, ready, purged_at.copied().unwrap_or(0));
            let host = deployment.host();
            let route = match self.exact.route_of(&host, &deployment.name) {
                Some(before) => route.following(before),
                None => Arc::new(route),
            };
            targets.extend(route.targets().cloned());
            // Also of older releases: their instances go on meanwhile.
            let specs = deployment.releases.iter().map(|release| &release.spec);
            targets.extend(specs.flat_map(|spec| spec.depends_on()).cloned());
            table.trials.extend(route.trial.map(|trial| trial.number));
            for name in deployment.claimed_names() {
                let (hosts, host) = match &name.host {
                    HostPattern::Exact(host) => (&mut table.exact, host),
                    HostPattern::Wildcard(domain) => (&mut table.wildcards, domain),
                };
                hosts.add(host.as_str().to_owned(), name.path.clone(), &route);
            }
            table.exact.add(host, PathPrefix::root(), &route);
        }
        for name in targets {
            let there = state.deployments.get(&name).filter(|d| !d.removing);
            let route = there.and_then(|d| table.exact.route_of(&d.host(), &name).cloned());
            table.targets.extend(route.map(|route| (name, route)));
        }
        table
    }

    /// Where a deployment is found that others depend on.
    pub fn dependency(&self, name: &DeploymentName) -> Option<&Arc<Route>> {
        self.targets.get(name)
    }

    /// Whether a trial still goes on.
    pub fn has_trial(&self, number: u64) -> bool {
        self.trials.contains(&number)
    }
}

fn takes_requests(instance: &Instance, view: &View) -> bool {
    instance.desired == Desired::Run
        && instance.run.is_none()
        && view.serves(instance.node)
        && view
            .instance(instance.node, instance.id)
            .is_some_and(InstanceFacts::is_ready)
}

impl Route {
    /// During an update both releases of a program answer, as the rollout shares the requests, the old one until its
    /// instances are stopped; one that has failed answers only while nothing else does. A static site
    /// answers with one release at a time, because a page of one and a script of another would not fit together:
    /// the wanted one as soon as it is unpacked anywhere, so that there is always one as long as the planner
    /// leaves one running.
    fn new(deployment: &Deployment, ready: &[&Instance], purged_at: u64) -> Route {
        let leading = deployment.leading();
        let lead = |instance: &&&Instance| deployment.runs(instance, leading);
        let newest = ready
            .iter()
            .find(lead)
            .and_then(|_| deployment.release(leading))
            .or_else(|| {
                let newest = ready.iter().max_by_key(|i| (i.epoch, i.release))?;
                deployment.release(newest.release)
            })
            .unwrap_or_else(|| deployment.current());
        let has_failed = |instance: &Instance| {
            let release = deployment.release(instance.release);
            release.is_some_and(|release| release.has_failed())
                && !deployment.runs(instance, deployment.target)
        };
        let only_failed = ready.iter().all(|instance| has_failed(instance));
        let serves = |release: &Release| match newest.spec.workload {
            Workload::Static(_) => release.runs_as(newest),
            Workload::Service(_) => !release.spec.is_static(),
        };
        let endpoints = ready
            .iter()
            .filter(|instance| only_failed || !has_failed(instance))
            .filter(|instance| {
                deployment
                    .release(instance.release)
                    .is_some_and(|release| serves(release))
            })
            .map(|instance| Endpoint {
                instance: instance.id,
                node: instance.node,
            })
            .collect();
        let kind = match &newest.spec.workload {
            Workload::Static(site) => RouteKind::Static {
                artifact: newest.artifact,
                spa: site.spa,
            },
            Workload::Service(_) => RouteKind::Service,
        };
        // A newer release that differs in its policy alone needs no instance of its own.
        let led = deployment.release(leading);
        let latest = led
            .filter(|release| release.runs_as(newest))
            .unwrap_or(newest);
        let policy = Arc::clone(&latest.spec.http);
        let mut order: Vec<usize> = (0..policy.rules.len()).collect();
        // Stable: among equally long ones the first that was written goes first.
        order.sort_by_key(|rule| std::cmp::Reverse(policy.rules[*rule].path.bytes()));
        let is_older = |instance: &&&Instance| {
            let release = deployment.release(instance.release);
            release.is_none_or(|release| !release.runs_as(newest))
        };
        let older = ready.iter().filter(is_older);
        let mut route = Route {
            deployment: deployment.name.clone(),
            version: Version {
                release: latest.number,
                created_at: latest.created_at,
                purged_at,
            },
            older: older.map(|instance| instance.id).collect(),
            kind,
            endpoints,
            policy,
            order,
            shares: Shares::default(),
            releases: Vec::new(),
            trial: Trial::of(deployment),
            sides: Vec::new(),
            by_visitor: false,
        };
        if let Some(weights) = deployment.shares() {
            route.divide(
                &weights,
                |instance| {
                    let of = weights.0.keys().rev();
                    let mut of = of.filter(|release| deployment.runs(instance, **release));
                    of.next().copied().unwrap_or(instance.release)
                },
                ready,
            );
        } else if !route.policy.weights.is_empty() {
            let policy = Arc::clone(&route.policy);
            route.divide(&policy.weights, |instance| instance.release, ready);
        }
        if let Some(trial) = route.trial {
            let side = |endpoint: &Endpoint| {
                let instance = ready.iter().find(|i| i.id == endpoint.instance)?;
                trial.side(|release| deployment.runs(instance, release))
            };
            route.sides = route.endpoints.iter().map(side).collect();
            let stage = deployment.rollout.as_ref().map(|rollout| rollout.stage);
            let is_canary = matches!(stage, Some(Stage::Canary { .. }));
            route.by_visitor = is_canary && route.shares.is_divided();
        }
        route
    }

    /// Sorts the endpoints by the releases that have a share.
    fn divide(
        &mut self,
        weights: &Weights,
        release_of: impl Fn(&Instance) -> ReleaseNumber,
        ready: &[&Instance],
    ) {
        let mut releases: BTreeMap<ReleaseNumber, Vec<Endpoint>> = BTreeMap::new();
        for endpoint in &self.endpoints {
            let found = ready.iter().find(|i| i.id == endpoint.instance);
            if let Some(instance) = found {
                releases
                    .entry(release_of(instance))
                    .or_default()
                    .push(*endpoint);
            }
        }
        self.shares = weights.among(releases.keys().copied());
        self.releases = releases.into_iter().collect();
    }

    /// The endpoints among which a request may be balanced: all, or where releases have weights those of one
    /// release. `draw` is a random number, or the hash of what is to stay with one release.
    pub fn endpoints_for(&self, draw: u64) -> &[Endpoint] {
        let Some(release) = self.shares.pick(draw) else {
            return &self.endpoints;
        };
        let of = self.releases.iter().find(|(number, _)| *number == release);
        of.map_or(&self.endpoints, |(_, endpoints)| endpoints)
    }

    /// Whether an endpoint's release has a share of the requests.
    pub fn has_share(&self, endpoint: &Endpoint) -> bool {
        let mut with_share = self.releases.iter().filter(|(r, _)| self.shares.has(*r));
        self.shares.is_none() || with_share.any(|(_, endpoints)| endpoints.contains(endpoint))
    }

    /// Whose an endpoint's requests are in the route's trial, by its index.
    pub fn side(&self, endpoint: usize) -> Option<Side> {
        self.sides.get(endpoint).copied().flatten()
    }

    /// The trial in which a visitor stays with the release they first got.
    pub fn canary(&self) -> Option<&Trial> {
        self.trial.as_ref().filter(|_| self.by_visitor)
    }

    /// Whether all that answer do so by one release in the end: none has a share of its own for good.
    pub fn is_undivided(&self) -> bool {
        self.shares.is_none()
    }

    /// Whether what an instance answers is of an older release than [`Route::version`].
    pub fn is_older(&self, instance: InstanceId) -> bool {
        self.older.contains(&instance)
    }

    /// Deployments that its rules lead to.
    fn targets(&self) -> impl Iterator<Item = &DeploymentName> {
        self.policy
            .rules
            .iter()
            .filter_map(|rule| match &rule.action {
                Action::Forward { to, .. } => to.as_ref(),
                _ => None,
            })
    }

    fn following(self, before: &Arc<Route>) -> Arc<Route> {
        let same = self.deployment == before.deployment
            && self.kind == before.kind
            && self.endpoints == before.endpoints
            && self.version == before.version
            && self.older == before.older
            && self.shares == before.shares
            && self.releases == before.releases
            && self.trial == before.trial
            && self.sides == before.sides
            && self.by_visitor == before.by_visitor
            && (Arc::ptr_eq(&self.policy, &before.policy) || self.policy == before.policy);
        if same {
            return Arc::clone(before);
        }
        Arc::new(self)
    }
}
