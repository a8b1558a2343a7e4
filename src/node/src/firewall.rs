//! What this node's network rules know of the cluster, and looking after them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use nebula_actors::{BoxError, Reconciler};
use nebula_domain::state::{Deployment, Node};
use nebula_domain::{DeploymentName, NodeId, State};
use nebula_drivers::Runs;
use nebula_drivers::firewall::{Cluster, LOOK_EVERY};
use nebula_drivers::process::ProcessDriver;
use tokio::sync::watch;

/// What programs must not reach by themselves: `own` is where this node listens for other nodes and for operators.
pub(crate) fn cluster(state: &State, own: &[SocketAddr]) -> Cluster {
    let nodes = || state.nodes.values();
    let told = nodes().flat_map(|node| [node.addresses.quic, node.addresses.api]);
    Cluster {
        nodes: nodes().flat_map(ips).collect(),
        listeners: own.iter().copied().chain(told).collect(),
        fixed: fixed(state),
    }
}

fn ips(node: &Node) -> BTreeSet<std::net::IpAddr> {
    let addresses = &node.addresses;
    let all = [addresses.quic, addresses.api, addresses.edge];
    all.iter().map(SocketAddr::ip).collect()
}

/// Where instances listen that do so on a port of their deployment's own.
fn fixed(state: &State) -> BTreeMap<DeploymentName, BTreeSet<SocketAddr>> {
    let listening = state.deployments.values();
    listening
        .filter(|deployment| has_port(deployment))
        .map(|deployment| {
            let name = deployment.name.clone();
            let instances = state.instances_of(&name);
            let places = instances.filter_map(|instance| {
                let release = state.release_of(instance)?;
                let port = release.spec.service()?.port?.get();
                let node: NodeId = instance.node;
                let ips = ips(state.nodes.get(&node)?).into_iter();
                Some(ips.map(move |ip| SocketAddr::new(ip, port)))
            });
            let places = places.flatten().collect();
            (name, places)
        })
        .collect()
}

fn has_port(deployment: &Deployment) -> bool {
    let services = deployment.releases.iter();
    let mut services = services.filter_map(|release| release.spec.service());
    services.any(|service| service.port.is_some())
}

/// Brings the rules up to date when the cluster or what runs here has changed, and makes them again when somebody has
/// flushed them.
pub(crate) struct FirewallKeeper {
    pub driver: Arc<ProcessDriver>,
    /// Where this node listens for other nodes and for operators.
    pub own: [SocketAddr; 2],
    pub state: watch::Receiver<Arc<State>>,
    pub runs: watch::Receiver<Arc<Runs>>,
}

#[async_trait::async_trait]
impl Reconciler for FirewallKeeper {
    async fn wake(&mut self) {
        tokio::select! {
            () = changed(&mut self.state) => {}
            () = changed(&mut self.runs) => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }

    async fn pass(&mut self) -> Result<(), BoxError> {
        self.runs.borrow_and_update();
        let cluster = {
            let state = self.state.borrow_and_update();
            cluster(&state, &self.own)
        };
        self.driver.keep_firewall(cluster).await;
        Ok(())
    }
}

/// A watch whose sender is gone is a node that is stopping.
async fn changed<T>(watch: &mut watch::Receiver<T>) {
    if watch.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use nebula_domain::port::FixedPort;
    use nebula_domain::spec::{Service, Spec, Workload};
    use nebula_domain::state::{Addresses, Desired, Instance, Release, Role};
    use nebula_domain::time::Millis;
    use nebula_domain::{Digest, InstanceId, ReleaseNumber};

    use super::*;

    fn at(address: &str) -> SocketAddr {
        address.parse().unwrap()
    }

    fn node(id: u64) -> Node {
        let address = |port| at(&format!("10.0.0.{id}:{port}"));
        Node {
            id: NodeId(id),
            name: format!("n{id}").parse().unwrap(),
            role: Role::Voter,
            addresses: Addresses {
                quic: address(7600),
                api: address(7601),
                edge: address(80),
            },
            draining: false,
            leaving: false,
            awaited_since: None,
            labels: Default::default(),
            level: 1,
        }
    }

    fn deployment(name: &str, port: Option<u32>) -> Deployment {
        let service = Service {
            port: port.map(|port| FixedPort::try_from(port).unwrap()),
            ..Service::new("serve")
        };
        let spec = Spec::new(Workload::Service(service), "example.test".parse().unwrap());
        let release = Release::new(ReleaseNumber(1), spec, (Digest([1; 32]), 1), Millis(0));
        Deployment::new(name.parse().unwrap(), 1, release)
    }

    #[test]
    fn nodes_their_listeners_and_ports_of_deployments_own_are_known() {
        let mut state = State::default();
        for id in [1, 2] {
            state.nodes.insert(NodeId(id), node(id));
        }
        for (id, name, port) in [(1, "db", Some(5432)), (2, "web", None)] {
            let deployment = deployment(name, port);
            state
                .deployments
                .insert(deployment.name.clone(), deployment);
            let instance = Instance {
                id: InstanceId(id),
                deployment: name.parse().unwrap(),
                release: ReleaseNumber(1),
                epoch: 1,
                node: NodeId(2),
                desired: Desired::Run,
                since_revision: 1,
                secrets: Default::default(),
                run: None,
            };
            state.instances.insert(instance.id, instance);
        }
        let cluster = cluster(&state, &[at("0.0.0.0:7600"), at("0.0.0.0:7601")]);
        let nodes: Vec<String> = cluster.nodes.iter().map(ToString::to_string).collect();
        assert_eq!(nodes, ["10.0.0.1", "10.0.0.2"]);
        let listeners: Vec<String> = cluster.listeners.iter().map(ToString::to_string).collect();
        assert_eq!(
            listeners,
            [
                "0.0.0.0:7600",
                "0.0.0.0:7601",
                "10.0.0.1:7600",
                "10.0.0.1:7601",
                "10.0.0.2:7600",
                "10.0.0.2:7601"
            ],
            "edges are public"
        );
        let db = BTreeSet::from([at("10.0.0.2:5432")]);
        assert_eq!(cluster.fixed, [("db".parse().unwrap(), db)].into());
    }
}
