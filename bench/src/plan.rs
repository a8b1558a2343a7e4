//! Plans for a large cluster: from nothing, and of a planner that remembers what it has seen.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use nebula_domain::events::Stamp;
use nebula_domain::observed::{Health, InstanceFacts, NodeFacts, NodeView, Phase};
use nebula_domain::placement::Placement;
use nebula_domain::plan::{self, Planner};
use nebula_domain::resources::{Cpu, Memory};
use nebula_domain::spec::{Service, Spec, Workload};
use nebula_domain::state::{Addresses, Cluster, Desired, JoinToken, Role};
use nebula_domain::time::Millis;
use nebula_domain::{
    ClusterId, Command, Digest, NodeId, Request, RequestId, State, TokenId, View, apply,
};
use serde_json::{Value, json};

use crate::report;

const NODES: u64 = 1_000;
const DEPLOYMENTS: usize = 2_000;
/// Of each deployment: 10,000 in all.
const INSTANCES: u32 = 5;
const ZONES: u64 = 5;
const ROUNDS: usize = 21;
const FULL_AIM: &str = "100 ms";
const CHANGE_AIM: &str = "2 ms";

pub fn run() -> anyhow::Result<()> {
    let mut bench = Bench::new()?;
    let empty = bench.state.clone();
    let view = bench.view.clone();
    let mut rows = Rows::default();
    rows.measure("from nothing, none of 10,000 placed", FULL_AIM, || {
        timed(|| drop(black_box(plan::plan(&empty, &view))))
    });
    bench.settle()?;
    anyhow::ensure!(bench.state.instances.len() == DEPLOYMENTS * INSTANCES as usize);
    rows.measure("from nothing, 10,000 placed", FULL_AIM, || {
        timed(|| drop(black_box(plan::plan(&bench.state, &bench.view))))
    });

    let mut planner = Planner::default();
    planner.plan(&bench.state, &bench.view);
    rows.measure("nothing has changed", CHANGE_AIM, || {
        // As gossip brings it: another view that says the same.
        let view = Arc::new(View::clone(&bench.view));
        timed(|| drop(black_box(planner.plan(&bench.state, &view))))
    });
    rows.try_measure("one instance more", CHANGE_AIM, |round| {
        let name = format!("app{}", round * 31 % DEPLOYMENTS).parse()?;
        let scale = INSTANCES + 1;
        let mut state = bench.state.clone();
        bench.run(
            &mut state,
            Command::ScaleDeployment {
                name,
                based_on: None,
                scale,
            },
        )?;
        planner.plan(&bench.state, &bench.view);
        let view = Arc::new(View::clone(&bench.view));
        let mut changes = 0;
        let nanos = timed(|| changes = planner.plan(&state, &view).changes.len());
        anyhow::ensure!(changes == 1, "{changes} changes");
        Ok(nanos)
    })?;
    rows.try_measure("one instance no longer ready", CHANGE_AIM, |round| {
        planner.plan(&bench.state, &bench.view);
        let mut view = View::clone(&bench.view);
        let node = view.nodes.values_mut().nth(round * 17);
        let facts = node.and_then(|node| node.instances.values_mut().next());
        let facts = facts.ok_or_else(|| anyhow::anyhow!("an instance"))?;
        facts.health = Health::Unhealthy;
        let view = Arc::new(view);
        Ok(timed(|| {
            drop(black_box(planner.plan(&bench.state, &view)));
        }))
    })?;
    rows.try_measure("one node of ten instances lost", CHANGE_AIM, |round| {
        planner.plan(&bench.state, &bench.view);
        let mut view = View::clone(&bench.view);
        let node = view.nodes.values_mut().nth(round * 17);
        node.ok_or_else(|| anyhow::anyhow!("a node"))?.alive = false;
        let view = Arc::new(view);
        let mut changes = 0;
        let nanos = timed(|| changes = planner.plan(&bench.state, &view).changes.len());
        anyhow::ensure!(changes > 0, "nothing is replaced");
        Ok(nanos)
    })?;
    planner.plan(&bench.state, &bench.view);
    rows.measure("a look for something to even out", CHANGE_AIM, || {
        timed(|| drop(black_box(planner.rebalance(&bench.state))))
    });
    let header = ["plan", "median", "worst", "aim"];
    report::publish("plan", &header, &rows.shown, &json!(rows.raw))
}

fn timed(what: impl FnOnce()) -> f64 {
    let start = Instant::now();
    what();
    start.elapsed().as_secs_f64() * 1e3
}

#[derive(Default)]
struct Rows {
    shown: Vec<Vec<String>>,
    raw: Vec<Value>,
}

impl Rows {
    fn measure(&mut self, what: &str, aim: &str, mut round: impl FnMut() -> f64) {
        let millis = (0..ROUNDS).map(|_| round()).collect();
        self.add(what, aim, millis);
    }

    fn try_measure(
        &mut self,
        what: &str,
        aim: &str,
        round: impl FnMut(usize) -> anyhow::Result<f64>,
    ) -> anyhow::Result<()> {
        let millis = (0..ROUNDS).map(round).collect::<anyhow::Result<_>>()?;
        self.add(what, aim, millis);
        Ok(())
    }

    fn add(&mut self, what: &str, aim: &str, millis: Vec<f64>) {
        let worst = millis.iter().copied().fold(0.0, f64::max);
        let median = report::median(millis.clone());
        self.shown.push(vec![
            what.to_owned(),
            format!("{median:.2} ms"),
            format!("{worst:.2} ms"),
            aim.to_owned(),
        ]);
        self.raw.push(json!({ "plan": what, "millis": millis }));
    }
}

struct Bench {
    state: State,
    view: Arc<View>,
    requests: std::cell::Cell<u128>,
}

impl Bench {
    /// All nodes and deployments, and no instance yet.
    fn new() -> anyhow::Result<Bench> {
        let bench = Bench {
            state: State::default(),
            view: Arc::default(),
            requests: std::cell::Cell::new(0),
        };
        let mut state = State::default();
        let mut view = View::default();
        let address = |n: u64, port: u16| {
            let [.., high, low] = n.to_be_bytes();
            std::net::SocketAddr::from(([127, 0, high, low], port))
        };
        let addresses = |n: u64| Addresses {
            quic: address(n, 1),
            api: address(n, 2),
            edge: address(n, 3),
        };
        bench.run(
            &mut state,
            Command::Init {
                cluster: Cluster {
                    id: ClusterId("bench".to_owned()),
                    ca_pem: String::new(),
                },
                name: "n1".parse()?,
                addresses: addresses(1),
                api_token_sha256: [0; 32],
            },
        )?;
        let token = JoinToken {
            id: TokenId("bench".to_owned()),
            secret_sha256: [1; 32],
            role: Role::Worker,
            created_at: Millis(0),
            expires_at: Millis(1),
            reusable: true,
            used: 0,
        };
        let now = Millis(0);
        bench.run(&mut state, Command::CreateJoinToken { token, now })?;
        for n in 1..=NODES {
            if n > 1 {
                let join = Command::Join {
                    token: TokenId("bench".to_owned()),
                    secret_sha256: [1; 32],
                    now,
                    name: format!("n{n}").parse()?,
                    addresses: addresses(n),
                    level: nebula_domain::level::LEVEL,
                };
                bench.run(&mut state, join)?;
            }
            let zone = format!("zone-{}", n % ZONES);
            let label = Command::SetLabels {
                node: NodeId(n),
                set: [("zone".parse()?, zone.parse()?)].into(),
                remove: Vec::new(),
            };
            bench.run(&mut state, label)?;
            view.nodes.insert(NodeId(n), node());
        }
        for i in 0..DEPLOYMENTS {
            let create = Command::CreateDeployment {
                name: format!("app{i}").parse()?,
                spec: spec(i)?,
                scale: INSTANCES,
                artifact: Digest([1; 32]),
                artifact_bytes: 1,
                origin: Default::default(),
                now,
            };
            bench.run(&mut state, create)?;
        }
        Ok(Bench {
            state,
            view: Arc::new(view),
            ..bench
        })
    }

    fn run(&self, state: &mut State, command: Command) -> anyhow::Result<()> {
        self.requests.set(self.requests.get() + 1);
        let id = RequestId(self.requests.get());
        let applied = apply(
            state,
            &Request {
                id,
                stamp: Stamp::default(),
                command,
            },
        );
        applied
            .map(|_| ())
            .map_err(|rejection| anyhow::anyhow!("refused: {rejection}"))
    }

    /// Plans and applies until nothing is left to do; nodes do at once what they are told.
    fn settle(&mut self) -> anyhow::Result<()> {
        let mut planner = Planner::default();
        let mut state = self.state.clone();
        loop {
            let plan = planner.plan(&state, &self.view);
            if plan.changes.is_empty() {
                anyhow::ensure!(plan.unplaced.is_empty(), "{:?}", plan.unplaced);
                break;
            }
            let assign = Command::Assign {
                plan_revision: plan.plan_revision,
                changes: plan.changes,
            };
            self.run(&mut state, assign)?;
        }
        let ready = InstanceFacts {
            phase: Phase::Running,
            health: Health::Healthy,
            restarts: 0,
            reason: String::new(),
            exit: None,
            last_end: None,
        };
        // Every first release is out and good.
        for deployment in self.state.deployments.values() {
            let mut deployment = deployment.clone();
            deployment.rollout = None;
            state
                .deployments
                .insert(deployment.name.clone(), deployment);
        }
        let view = Arc::make_mut(&mut self.view);
        for instance in state.instances.values() {
            anyhow::ensure!(instance.desired == Desired::Run);
            if let Some(node) = view.nodes.get_mut(&instance.node) {
                node.instances.insert(instance.id, ready.clone());
            }
        }
        self.state = state;
        Ok(())
    }
}

fn node() -> NodeView {
    NodeView {
        alive: true,
        returning: false,
        deaths: 0,
        facts: NodeFacts {
            version: "bench".to_owned(),
            capacity_instances: 64,
            cpus: 4,
            memory_bytes: 8 << 30,
            ..NodeFacts::default()
        },
        instances: Default::default(),
    }
}

/// Of every second one the instances spread over zones, and every fifth is kept out of one.
fn spec(i: usize) -> anyhow::Result<Spec> {
    let mut service = Service::new("./run");
    service.resources.memory = Some(Memory::mib(64));
    service.resources.cpu = Some(Cpu(100));
    service.placement = Placement {
        spread: i.is_multiple_of(2).then(|| "zone".parse()).transpose()?,
        require: match i % 5 {
            0 => vec!["zone!=zone-0".parse()?],
            _ => Vec::new(),
        },
        ..Placement::default()
    };
    Ok(Spec::new(
        Workload::Service(service),
        "example.test".parse()?,
    ))
}
