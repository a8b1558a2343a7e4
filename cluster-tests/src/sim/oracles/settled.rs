//! What a cluster that is left alone comes to: one state, one routing table, and exactly the programs
//! that are wanted.

use std::collections::{BTreeMap, BTreeSet};

use nebula_domain::routes::{Endpoint, RouteTable};
use nebula_domain::spec::Workload;
use nebula_domain::state::Desired;
use nebula_domain::{InstanceId, NodeId, State};

use crate::sim::cluster::Cluster;

/// Why the cluster has not settled yet.
pub fn unsettled(cluster: &Cluster) -> Option<String> {
    let mut first: Option<(NodeId, std::sync::Arc<State>)> = None;
    for (id, node) in &cluster.nodes {
        let Some(life) = &node.life else {
            return Some(format!("{id} is down"));
        };
        let status = life.registry.status().borrow().clone();
        if !status.quorum {
            return Some(format!("{id} has no quorum: {status:?}"));
        }
        let state = life.registry.state();
        match &first {
            None => first = Some((*id, state)),
            Some((by, known)) if **known != *state => {
                return Some(format!(
                    "{id} is at revision {}, {by} at {}",
                    state.revision, known.revision
                ));
            }
            Some(_) => {}
        }
    }
    let (_, state) = first?;
    let members: BTreeSet<NodeId> = state.nodes.keys().copied().collect();
    let machines: BTreeSet<NodeId> = cluster.nodes.keys().copied().collect();
    let missing: Vec<_> = machines.difference(&members).collect();
    if !missing.is_empty() {
        return Some(format!("{missing:?} are no members and run"));
    }
    placed(&state, &members.intersection(&machines).copied().collect())
        .or_else(|| running(cluster, &state))
        .or_else(|| routed(cluster))
}

/// Every deployment has its instances, on machines that are there, and nothing is left to be done.
fn placed(state: &State, present: &BTreeSet<NodeId>) -> Option<String> {
    for deployment in state.deployments.values() {
        let name = &deployment.name;
        let instances: Vec<_> = state.instances_of(name).collect();
        if deployment.removing {
            return Some(format!("{name} is still being removed"));
        }
        let wanted = match deployment.current().spec.workload {
            Workload::Service(_) => deployment.scale as usize,
            Workload::Static(_) => present.len(),
        };
        let good = |i: &&&nebula_domain::state::Instance| {
            i.desired == Desired::Run && i.epoch == deployment.epoch && present.contains(&i.node)
        };
        let there = instances.iter().filter(good).count();
        if there != wanted || instances.len() != wanted {
            return Some(format!(
                "{name} has {there} good instances of {}, wanted {wanted}",
                instances.len()
            ));
        }
    }
    None
}

/// On every machine runs what is assigned to it, and nothing else.
fn running(cluster: &Cluster, state: &State) -> Option<String> {
    for (id, node) in &cluster.nodes {
        let wanted: BTreeSet<InstanceId> = state
            .instances_on(*id)
            .filter(|i| {
                let release = state.release_of(i);
                release.is_some_and(|r| !r.spec.is_static())
            })
            .map(|i| i.id)
            .collect();
        let running: BTreeSet<InstanceId> = node.running().into_iter().collect();
        if running != wanted {
            return Some(format!("{id} runs {running:?}, wanted {wanted:?}"));
        }
    }
    None
}

fn routed(cluster: &Cluster) -> Option<String> {
    let mut first: Option<(NodeId, BTreeMap<String, Vec<Endpoint>>)> = None;
    for (id, node) in &cluster.nodes {
        let life = node.life.as_ref()?;
        let routes = endpoints(&life.table.borrow());
        match &first {
            None => {
                let state = life.registry.state();
                for deployment in state.deployments.values() {
                    let endpoints = routes.get(&deployment.host()).map_or(0, Vec::len);
                    let wanted = state.instances_of(&deployment.name).count();
                    if endpoints != wanted {
                        let name = &deployment.name;
                        return Some(format!("{name} has {endpoints} endpoints of {wanted}"));
                    }
                }
                first = Some((*id, routes));
            }
            Some((by, known)) if *known != routes => {
                return Some(format!("{id} routes by {routes:?}, {by} by {known:?}"));
            }
            Some(_) => {}
        }
    }
    None
}

fn endpoints(table: &RouteTable) -> BTreeMap<String, Vec<Endpoint>> {
    let routes = table.iter();
    routes
        .map(|(host, route)| (host.to_owned(), route.endpoints.clone()))
        .collect()
}
