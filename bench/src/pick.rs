//! The decisions that every request pays for: its route, and which of its instances it goes to.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nebula_domain::observed::{Health, InstanceFacts, NodeView, Phase};
use nebula_domain::routes::{self, RequestView, RouteTable};
use nebula_domain::spec::{Service, Spec, Workload};
use nebula_domain::state::{Addresses, Cluster};
use nebula_domain::time::Millis;
use nebula_domain::traffic::balance::{Ask, Balance, HashKey, Target, Targets};
use nebula_domain::traffic::breaker::BreakerPolicy;
use nebula_domain::traffic::ejection::EjectionPolicy;
use nebula_domain::traffic::instance::{HealthPolicy, Instance};
use nebula_domain::{
    ClusterId, Command, Digest, InstanceId, NodeId, Request, RequestId, State, View, apply, plan,
};
use serde_json::json;

use crate::report;

const ROUTES: usize = 10_000;
const PICKS: usize = 2_000_000;
const ROUNDS: usize = 7;
/// Instances of a route that is balanced.
const INSTANCES: u64 = 3;

pub fn run() -> anyhow::Result<()> {
    let (state, view) = services()?;
    let table: RouteTable = routes::build(&state, &view);
    let hosts: Vec<String> = (0..ROUTES)
        .map(|i| format!("app{i}.example.test"))
        .collect();
    anyhow::ensure!(
        hosts.iter().all(|h| table.route(h).is_some()),
        "every host has a route"
    );
    let request = RequestView {
        method: "GET",
        path: "/",
        header: &|_| None,
    };
    let round = || {
        let start = Instant::now();
        let mut host = 0;
        for _ in 0..PICKS {
            // A stride that visits the routes out of order, so that the cache cannot guess.
            host = (host + 7_919) % ROUTES;
            let found = table.find(black_box(&hosts[host]), black_box(&request));
            black_box(found.map(|found| found.route.endpoints.len()));
        }
        #[allow(clippy::cast_precision_loss)]
        let nanos = start.elapsed().as_nanos() as f64 / PICKS as f64;
        nanos
    };
    let nanos: Vec<f64> = (0..ROUNDS).map(|_| round()).collect();
    let median = report::median(nanos.clone());
    let mut rows = vec![vec![
        format!("route of {ROUTES}"),
        format!("{median:.0} ns"),
        "200 ns".to_owned(),
    ]];
    let mut raw = vec![json!({ "decision": "route", "nanos": nanos })];
    for policy in [
        Balance::PowerOfTwo,
        Balance::RoundRobin,
        Balance::LeastConnections,
        Balance::Hash(HashKey::Address),
    ] {
        let nanos = balance(&policy);
        let median = report::median(nanos.clone());
        rows.push(vec![
            format!("{policy} of {INSTANCES}"),
            format!("{median:.0} ns"),
            "100 ns".to_owned(),
        ]);
        raw.push(json!({ "decision": policy.to_string(), "nanos": nanos }));
    }
    report::publish("pick", &["decision", "median", "aim"], &rows, &json!(raw))
}

/// Nanoseconds of a pick in each round, with what the proxy asks of each instance.
fn balance(policy: &Balance) -> Vec<f64> {
    let target = |id: u64| {
        let instance = Instance::new(0);
        instance
            .load
            .observe(Duration::from_millis(1 + id), false, 0);
        Target {
            id: InstanceId(id),
            instance: Arc::new(instance),
            weight: 1,
            local: id == 0,
        }
    };
    let targets = Targets::new((0..INSTANCES).map(target).collect(), 0);
    let (ejection, breaker) = (EjectionPolicy::default(), BreakerPolicy::default());
    let health = HealthPolicy {
        ejection: Some(&ejection),
        breaker: Some(&breaker),
        per_instance: u32::MAX,
    };
    let round = || {
        let start = Instant::now();
        for pick in 0..PICKS as u64 {
            // Different numbers for each pick, without the cost of a generator.
            let random = pick.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let ask = Ask {
                now: pick,
                random,
                key: random,
                slow_start: None,
            };
            let usable = |index: usize| {
                targets.targets()[index]
                    .instance
                    .may_begin(&health, ask.now)
            };
            black_box(targets.pick(policy, black_box(&ask), usable));
        }
        #[allow(clippy::cast_precision_loss)]
        let nanos = start.elapsed().as_nanos() as f64 / PICKS as f64;
        nanos
    };
    (0..ROUNDS).map(|_| round()).collect()
}

/// A cluster of one node that runs as many services as there are routes to be.
pub fn services() -> anyhow::Result<(State, View)> {
    let mut state = State::default();
    let mut serial = 0;
    let mut run = |state: &mut State, command: Command| {
        serial += 1;
        let applied = apply(
            state,
            &Request {
                id: RequestId(serial),
                command,
                stamp: Default::default(),
            },
        );
        applied.map_err(|rejection| anyhow::anyhow!("refused: {rejection}"))
    };
    let address = |port: u16| std::net::SocketAddr::from(([127, 0, 0, 1], port));
    run(
        &mut state,
        Command::Init {
            cluster: Cluster {
                id: ClusterId("bench".to_owned()),
                ca_pem: String::new(),
            },
            name: "n1".parse()?,
            addresses: Addresses {
                quic: address(1),
                api: address(2),
                edge: address(3),
            },
            api_token_sha256: [0; 32],
        },
    )?;
    let service = Service::new("./run");
    let spec = Spec::new(Workload::Service(service), "example.test".parse()?);
    let artifact = Digest([1; 32]);
    for i in 0..ROUTES {
        let (name, spec) = (format!("app{i}").parse()?, spec.clone());
        let now = Millis(0);
        run(
            &mut state,
            Command::CreateDeployment {
                name,
                spec,
                scale: 1,
                artifact,
                artifact_bytes: 1,
                origin: Default::default(),
                now,
            },
        )?;
    }
    let mut node = NodeView::unheard();
    node.facts.version = "bench".to_owned();
    node.facts.capacity_instances = u32::MAX;
    let mut view = View {
        nodes: [(NodeId(1), node)].into(),
    };
    loop {
        let plan = plan::plan(&state, &view);
        if plan.changes.is_empty() {
            break;
        }
        run(
            &mut state,
            Command::Assign {
                plan_revision: plan.plan_revision,
                changes: plan.changes,
            },
        )?;
    }
    let facts = InstanceFacts {
        phase: Phase::Running,
        health: Health::Healthy,
        restarts: 0,
        reason: String::new(),
        exit: None,
        last_end: None,
    };
    let node = view.nodes.get_mut(&NodeId(1)).expect("the only node");
    node.instances = state
        .instances
        .keys()
        .map(|id| (*id, facts.clone()))
        .collect();
    Ok((state, view))
}
