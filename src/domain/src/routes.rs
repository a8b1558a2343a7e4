//! Which instances answer for which host: the one thing the data plane needs to know.
//!
//! A table is immutable and replaced whole, so a request never sees half of a change.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::ids::{Digest, InstanceId, NodeId};
use crate::names::DeploymentName;
use crate::observed::{InstanceFacts, View};
use crate::spec::{HOST_BYTES_MAX, Workload};
use crate::state::{Deployment, Desired, Instance, Release, State};

/// Routes of all deployments by their host name.
#[derive(Debug, Default)]
pub struct RouteTable {
    /// `State::revision` the table was built from.
    pub revision: u64,
    /// By lower-case host, without a port or trailing dot.
    routes: HashMap<String, Arc<Route>>,
}

/// Where requests for one host go.
#[derive(Debug)]
pub struct Route {
    pub deployment: DeploymentName,
    pub kind: RouteKind,
    /// Ready instances on live nodes, in the order of their ids. None means 503.
    pub endpoints: Vec<Endpoint>,
    turn: AtomicUsize,
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
    /// The next table. An unchanged route stays the same object, and a changed one goes on with its
    /// turn: tables are rebuilt many times a second, and beginning anew each time would favour the
    /// first endpoints.
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
        let routes = state
            .deployments
            .values()
            .filter(|deployment| !deployment.removing)
            .map(|deployment| {
                let ready = ready.get(&deployment.name).map_or(&[][..], Vec::as_slice);
                let route = Route::new(deployment, ready);
                let host = deployment.host();
                let route = match self.routes.get(&host) {
                    Some(before) => route.following(before),
                    None => Arc::new(route),
                };
                (host, route)
            })
            .collect();
        RouteTable {
            revision: state.revision,
            routes,
        }
    }

    /// The route for a `Host` header's value: a port and a trailing dot are ignored, and so is case.
    pub fn route(&self, host: &str) -> Option<&Arc<Route>> {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
            _ => host,
        };
        let name = name.strip_suffix('.').unwrap_or(name);
        if name.len() > HOST_BYTES_MAX {
            return None;
        }
        if name.bytes().any(|b| b.is_ascii_uppercase()) {
            return self.routes.get(&name.to_ascii_lowercase());
        }
        self.routes.get(name)
    }

    /// All routes with their hosts, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Arc<Route>)> {
        self.routes
            .iter()
            .map(|(host, route)| (host.as_str(), route))
    }

    pub fn len(&self) -> usize {
        self.routes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }
}

fn takes_requests(instance: &Instance, view: &View) -> bool {
    instance.desired == Desired::Run
        && view.is_alive(instance.node)
        && view
            .instance(instance.node, instance.id)
            .is_some_and(InstanceFacts::is_ready)
}

impl Route {
    /// During an update both releases of a program answer, the old one until its instances are
    /// stopped. A static site answers with one release at a time, because a page of one and a script of
    /// another would not fit together: the newest that is unpacked anywhere, so that there is
    /// always one as long as the planner leaves one running.
    fn new(deployment: &Deployment, ready: &[&Instance]) -> Route {
        let newest = ready
            .iter()
            .max_by_key(|instance| (instance.epoch, instance.release))
            .and_then(|instance| deployment.release(instance.release))
            .unwrap_or_else(|| deployment.current());
        let serves = |release: &Release| match newest.spec.workload {
            Workload::Static(_) => release.number == newest.number,
            Workload::Service(_) => !release.spec.is_static(),
        };
        let endpoints = ready
            .iter()
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
        Route {
            deployment: deployment.name.clone(),
            kind,
            endpoints,
            turn: AtomicUsize::new(0),
        }
    }

    fn following(self, before: &Arc<Route>) -> Arc<Route> {
        let same = self.deployment == before.deployment
            && self.kind == before.kind
            && self.endpoints == before.endpoints;
        if same {
            return Arc::clone(before);
        }
        let turn = AtomicUsize::new(before.turn.load(Ordering::Relaxed));
        Arc::new(Route { turn, ..self })
    }

    /// The next endpoint in turn among those that `usable` accepts.
    ///
    /// The turn of one that is not usable goes to another, and to a different one each round:
    /// always taking its neighbour would give that one twice the load.
    pub fn pick(&self, usable: impl Fn(&Endpoint) -> bool) -> Option<Endpoint> {
        let count = self.endpoints.len();
        if count == 0 {
            return None;
        }
        // Relaxed: turns only have to be spread, nothing else is ordered by them.
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let (round, first) = (turn / count, turn % count);
        let in_turn = &self.endpoints[first];
        if usable(in_turn) {
            return Some(*in_turn);
        }
        let others = count - 1;
        (0..others)
            .map(|step| 1 + (round + step) % others)
            .map(|distance| &self.endpoints[(first + distance) % count])
            .find(|endpoint| usable(endpoint))
            .copied()
    }
}

#[cfg(test)]
mod tests;
