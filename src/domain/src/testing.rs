//! A cluster on paper for tests: desired state changed through `apply`, and a view to match it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::apply;
use crate::command::{Change, Command, Outcome, Rejection, Request};
use crate::events::{Stamp, sightings};
use crate::ids::{ClusterId, Digest, InstanceId, NodeId, RequestId, TokenId};
use crate::names::{DeploymentName, NodeName};
use crate::observed::{Health, InstanceFacts, NodeFacts, NodeView, Phase, View};
use crate::plan::{Plan, Planner, plan};
use crate::rollout::{self, look};
use crate::spec::{Amount, Service, Spec, StaticSite, Strategy, Takeover, VolumeSpec, Workload};
use crate::state::{Addresses, Cluster, Desired, Instance, JoinToken, Origin, Role, State};
use crate::time::Millis;

pub const NOW: Millis = Millis(1_000_000);

#[derive(Clone)]
pub struct Sim {
    pub state: State,
    pub view: View,
    next_request: u128,
    /// One that remembers, to be compared with plans from nothing.
    pub planner: Planner,
}

pub fn name(text: &str) -> DeploymentName {
    text.parse().unwrap()
}

pub fn node_name(number: u64) -> NodeName {
    format!("n{number}").parse().unwrap()
}

pub fn addresses(number: u64) -> Addresses {
    let port = |base: u64| format!("127.0.0.1:{}", base + number).parse().unwrap();
    Addresses {
        quic: port(10_000),
        api: port(20_000),
        edge: port(30_000),
    }
}

/// A program whose releases take over at once and are good as soon as they are out.
/// A program with one volume, `data`.
pub fn keeping_spec() -> Spec {
    let mut spec = service_spec();
    spec.strategy.takeover = Takeover::Recreate;
    let volumes = vec![VolumeSpec {
        name: "data".parse().unwrap(),
        path: "/data".to_owned(),
    }];
    spec.workload = Workload::Service(Service {
        volumes,
        ..Service::new("serve")
    });
    spec
}

pub fn service_spec() -> Spec {
    let service = Service {
        stop_grace: Duration::from_secs(1),
        ..Service::new("serve")
    };
    Spec {
        strategy: Strategy {
            takeover: Takeover::Rolling {
                surge: Amount::Percent(100),
                unavailable: Amount::Count(0),
            },
            watch: Duration::ZERO,
            ..Strategy::default()
        },
        ..Spec::new(Workload::Service(service), "example.test".parse().unwrap())
    }
}

pub fn static_spec() -> Spec {
    let site = StaticSite { spa: false };
    Spec::new(Workload::Static(site), "example.test".parse().unwrap())
}

pub fn init_command() -> Command {
    Command::Init {
        cluster: Cluster {
            id: ClusterId("test".into()),
            ca_pem: String::new(),
        },
        name: node_name(1),
        addresses: addresses(1),
        api_token_sha256: [1; 32],
    }
}

pub fn join_token(id: &str, role: Role, reusable: bool) -> JoinToken {
    JoinToken {
        id: TokenId(id.into()),
        secret_sha256: [2; 32],
        role,
        created_at: NOW,
        expires_at: Millis(NOW.0 + 1_000),
        reusable,
        used: 0,
    }
}

pub fn join_command(token: &str, number: u64) -> Command {
    Command::Join {
        token: TokenId(token.into()),
        secret_sha256: [2; 32],
        now: NOW,
        name: node_name(number),
        addresses: addresses(number),
        level: 1,
    }
}

pub fn facts(phase: Phase, health: Health) -> InstanceFacts {
    InstanceFacts {
        phase,
        health,
        restarts: 0,
        reason: String::new(),
        exit: None,
        last_end: None,
    }
}

impl Sim {
    /// Nodes 1 to `nodes`, all alive, each willing to run `capacity` program instances.
    pub fn new(nodes: u64, capacity: u32) -> Sim {
        let mut sim = Sim {
            state: State::default(),
            view: View::default(),
            next_request: 1,
            planner: Planner::default(),
        };
        sim.ok(init_command());
        sim.ok(Command::CreateJoinToken {
            token: join_token("all", Role::Voter, true),
            now: NOW,
        });
        sim.see_node(1, capacity);
        for number in 2..=nodes {
            sim.ok(join_command("all", number));
            sim.arrive(number);
            sim.see_node(number, capacity);
        }
        sim
    }

    /// The node's first word to the cluster.
    pub fn arrive(&mut self, number: u64) {
        self.ok(Command::SetAddresses {
            node: NodeId(number),
            addresses: addresses(number),
        });
    }

    pub fn see_node(&mut self, number: u64, capacity: u32) {
        let facts = NodeFacts {
            version: "0.1.0".into(),
            capacity_instances: capacity,
            ..NodeFacts::default()
        };
        let seen = NodeView {
            alive: true,
            returning: false,
            deaths: 0,
            facts,
            instances: BTreeMap::new(),
        };
        self.view.nodes.insert(NodeId(number), seen);
    }

    /// The same for a node with so much memory, in MiB, and so many cores.
    pub fn see_room(&mut self, number: u64, capacity: u32, memory_mib: u64, cpus: u32) {
        self.see_node(number, capacity);
        let seen = self.view.nodes.get_mut(&NodeId(number)).unwrap();
        seen.facts.memory_bytes = memory_mib << 20;
        seen.facts.cpus = cpus;
    }

    /// Sets a node's labels: `zone=eu disk=ssd`.
    pub fn label(&mut self, number: u64, labels: &str) {
        let label = |text: &str| {
            let (key, value) = text.split_once('=').unwrap();
            (key.parse().unwrap(), value.parse().unwrap())
        };
        self.ok(Command::SetLabels {
            node: NodeId(number),
            set: labels.split_whitespace().map(label).collect(),
            remove: vec![],
        });
    }

    pub fn run(&mut self, command: Command) -> Result<Outcome, Rejection> {
        let id = RequestId(self.next_request);
        self.next_request += 1;
        let stamp = Stamp {
            at: NOW,
            ..Stamp::default()
        };
        apply(&mut self.state, &Request { id, command, stamp })
    }

    #[track_caller]
    pub fn ok(&mut self, command: Command) -> Outcome {
        self.run(command).unwrap()
    }

    pub fn create(&mut self, text: &str, spec: Spec, scale: u32) -> Outcome {
        self.ok(Command::CreateDeployment {
            name: name(text),
            spec,
            scale,
            artifact: Digest([1; 32]),
            artifact_bytes: 1,
            origin: Origin::default(),
            now: NOW,
        })
    }

    pub fn update(&mut self, text: &str, artifact: u8) -> Outcome {
        self.ok(Command::UpdateDeployment {
            name: name(text),
            based_on: None,
            spec: None,
            artifact: Digest([artifact; 32]),
            artifact_bytes: 1,
            origin: Origin::default(),
            now: NOW,
        })
    }

    pub fn scale(&mut self, text: &str, scale: u32) -> Outcome {
        self.ok(Command::ScaleDeployment {
            name: name(text),
            scale,
            based_on: None,
        })
    }

    pub fn restart(&mut self, text: &str) -> Outcome {
        self.ok(restart(text))
    }

    pub fn drain(&mut self, number: u64, draining: bool) {
        self.ok(Command::SetDraining {
            node: NodeId(number),
            draining,
        });
    }

    pub fn set_alive(&mut self, number: u64, alive: bool) {
        let node = self.view.nodes.get_mut(&NodeId(number)).unwrap();
        node.deaths += u64::from(node.alive && !alive);
        node.alive = alive;
    }

    /// Plans, by what was seen before and from nothing.
    pub fn plan(&mut self) -> Plan {
        let view = Arc::new(self.view.clone());
        let made = self.planner.plan(&self.state, &view);
        assert_eq!(made, plan(&self.state, &self.view), "planned from nothing");
        made
    }

    /// Evens out once, if there is nothing else to do. Returns the instances that give way.
    pub fn even_out(&mut self) -> Vec<InstanceId> {
        if !self.plan().changes.is_empty() {
            return Vec::new();
        }
        let changes = self.planner.rebalance(&self.state);
        let moves = changes.iter().filter_map(|change| match change {
            Change::Move { instance } => Some(*instance),
            _ => None,
        });
        let moves = moves.collect();
        if !changes.is_empty() {
            let plan_revision = self.state.plan_revision;
            self.ok(Command::Assign {
                plan_revision,
                changes,
            });
        }
        moves
    }

    /// Plans and applies the plan. Returns it.
    pub fn step(&mut self) -> Plan {
        let made = self.plan();
        if !made.changes.is_empty() {
            self.ok(Command::Assign {
                plan_revision: made.plan_revision,
                changes: made.changes.clone(),
            });
        }
        made
    }

    /// What the leader does about every rollout at this time. Returns how many steps it made.
    pub fn roll(&mut self, now: Millis) -> usize {
        let deployments: Vec<_> = self.state.deployments.values().cloned().collect();
        let mut made = 0;
        for deployment in deployments {
            let seen = look(&self.state, &self.view, &deployment);
            let Some(step) = rollout::step(&deployment, &seen, None, now) else {
                continue;
            };
            let seq = deployment.rollout.as_ref().unwrap().seq;
            self.ok(Command::StepRollout {
                name: deployment.name.clone(),
                release: deployment.target,
                seq,
                step,
                now,
            });
            made += 1;
        }
        made
    }

    pub fn start(&mut self, deployment: &str, number: u64) -> InstanceId {
        let id = InstanceId(self.state.next_instance_id);
        let release = self.state.deployments[&name(deployment)].target;
        self.assign(Change::Start {
            deployment: name(deployment),
            release,
            node: NodeId(number),
        });
        id
    }

    pub fn assign(&mut self, change: Change) -> Outcome {
        let plan_revision = self.state.plan_revision;
        self.ok(Command::Assign {
            plan_revision,
            changes: vec![change],
        })
    }

    pub fn tell(&mut self, id: InstanceId, facts: InstanceFacts) {
        let node = self.state.instances[&id].node;
        let seen = self.view.nodes.get_mut(&node).unwrap();
        seen.instances.insert(id, facts);
    }

    pub fn tell_ready(&mut self, id: InstanceId) {
        self.tell(id, facts(Phase::Running, Health::Healthy));
    }

    /// Live nodes do at once what the registry asks of them.
    pub fn obey(&mut self) {
        let instances: Vec<Instance> = self.state.instances.values().cloned().collect();
        for instance in instances {
            if !self.view.is_alive(instance.node) {
                continue;
            }
            match instance.desired {
                Desired::Run => self.tell_ready(instance.id),
                Desired::Stop => self.tell(instance.id, facts(Phase::Stopped, Health::Unknown)),
            }
        }
    }

    /// What the leader writes into the history now. Returns how much that was.
    pub fn look(&mut self) -> usize {
        let sightings = sightings(&self.state, &self.view);
        let seen = sightings.len();
        if seen > 0 {
            self.ok(Command::Record { sightings });
        }
        seen
    }

    /// Plans and obeys until nothing is left to do. `check` looks at every plan applied.
    pub fn settle_with(&mut self, mut check: impl FnMut(&Sim)) -> Plan {
        for _ in 0..2_000 {
            let before = self.view.clone();
            let made = self.step();
            check(self);
            self.obey();
            let rolled = self.roll(NOW);
            if made.changes.is_empty() && rolled == 0 && self.view == before {
                return made;
            }
        }
        panic!("does not settle: {:?}", plan(&self.state, &self.view));
    }

    pub fn settle(&mut self) -> Plan {
        self.settle_with(|_| {})
    }

    /// Ids of the deployment's instances that are meant to run, on live nodes.
    pub fn running(&self, deployment: &str) -> Vec<InstanceId> {
        let deployment = name(deployment);
        self.state
            .instances_of(&deployment)
            .filter(|i| i.desired == Desired::Run && self.view.is_alive(i.node))
            .map(|i| i.id)
            .collect()
    }

    /// Live members that are not draining.
    pub fn open(&self) -> Vec<u64> {
        let nodes = self.state.nodes.values();
        nodes
            .filter(|node| !node.draining && self.view.is_alive(node.id))
            .map(|node| node.id.0)
            .collect()
    }

    /// How many of them each open node has, and each other that has any.
    pub fn spread(&self, deployment: &str) -> BTreeMap<u64, usize> {
        let mut spread: BTreeMap<u64, usize> = self.open().into_iter().map(|id| (id, 0)).collect();
        for id in self.running(deployment) {
            *spread.entry(self.state.instances[&id].node.0).or_default() += 1;
        }
        spread
    }
}

pub fn restart(text: &str) -> Command {
    Command::RestartDeployment {
        name: name(text),
        now: NOW,
    }
}
