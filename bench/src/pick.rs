//! The one decision that every request pays for.

use std::hint::black_box;
use std::time::Instant;

use nebula_domain::observed::{Health, InstanceFacts, NodeView, Phase};
use nebula_domain::routes::{self, RouteTable};
use nebula_domain::spec::{DEFAULT_STOP_GRACE, ProbeSpec, Service, Spec, Workload};
use nebula_domain::state::{Addresses, Cluster};
use nebula_domain::time::Millis;
use nebula_domain::{
    ClusterId, Command, Digest, NodeId, Request, RequestId, State, View, apply, plan,
};
use serde_json::json;

use crate::report;

const ROUTES: usize = 10_000;
const PICKS: usize = 2_000_000;
const ROUNDS: usize = 7;

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
    let round = || {
        let start = Instant::now();
        let mut host = 0;
        for _ in 0..PICKS {
            // A stride that visits the routes out of order, so that the cache cannot guess.
            host = (host + 7_919) % ROUTES;
            let route = table.route(black_box(&hosts[host]));
            black_box(route.and_then(|route| route.pick(|_| true)));
        }
        #[allow(clippy::cast_precision_loss)]
        let nanos = start.elapsed().as_nanos() as f64 / PICKS as f64;
        nanos
    };
    let nanos: Vec<f64> = (0..ROUNDS).map(|_| round()).collect();
    let median = report::median(nanos.clone());
    let rows = vec![vec![
        ROUTES.to_string(),
        format!("{median:.0} ns"),
        "200 ns".to_owned(),
    ]];
    report::publish(
        "pick",
        &["routes", "lookup and pick, median", "aim"],
        &rows,
        &json!({ "nanos": nanos }),
    )
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
    let service = Service {
        command: "./run".to_owned(),
        env: Default::default(),
        probe: ProbeSpec::default(),
        stop_grace: DEFAULT_STOP_GRACE,
    };
    let spec = Spec {
        workload: Workload::Service(service),
        tld: "example.test".parse()?,
    };
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
                now,
            },
        )?;
    }
    let mut node = NodeView {
        alive: true,
        facts: Default::default(),
        instances: Default::default(),
    };
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
    };
    let node = view.nodes.get_mut(&NodeId(1)).expect("the only node");
    node.instances = state
        .instances
        .keys()
        .map(|id| (*id, facts.clone()))
        .collect();
    Ok((state, view))
}
