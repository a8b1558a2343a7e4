//! The table follows state and view, stays when nothing that matters changed, and survives a fault.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use nebula_actors::{Child, Guardian};
use nebula_domain::observed::{Health, InstanceFacts, NodeFacts, NodeView, Phase, View};
use nebula_domain::routes::RouteTable;
use nebula_domain::spec::{Service, Spec, Workload};
use nebula_domain::state::{Deployment, Desired, Instance, Release};
use nebula_domain::time::Millis;
use nebula_domain::{Digest, InstanceId, NodeId, ReleaseNumber, State};
use nebula_routing::{COALESCE, Routing, rebuilt};
use nebula_telemetry::Metrics;
use tokio::sync::watch;
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(20);

struct Bench {
    guardian: Guardian,
    child: Child,
    state: watch::Sender<Arc<State>>,
    view: watch::Sender<Arc<View>>,
    table: watch::Receiver<Arc<RouteTable>>,
}

impl Bench {
    fn start() -> Bench {
        let (state, state_seen) = watch::channel(Arc::new(State::default()));
        let (view, view_seen) = watch::channel(Arc::new(View::default()));
        let (table_tx, table) = watch::channel(Arc::new(RouteTable::default()));
        let guardian = Guardian::start(&Metrics::new());
        let child = guardian.supervise("routing", move || {
            Routing::new(
                NodeId(1),
                state_seen.clone(),
                view_seen.clone(),
                table_tx.clone(),
            )
        });
        Bench {
            guardian,
            child,
            state,
            view,
            table,
        }
    }

    async fn table_with(&mut self, what: impl Fn(&RouteTable) -> bool) -> Arc<RouteTable> {
        let seen = self.table.wait_for(|table| what(table));
        timeout(DEADLINE, seen).await.unwrap().unwrap().clone()
    }
}

fn state(revision: u64, instances: &[(u64, u64)]) -> Arc<State> {
    let name: nebula_domain::DeploymentName = "api".parse().unwrap();
    let release = Release::new(
        ReleaseNumber(1),
        Spec::new(
            Workload::Service(Service {
                stop_grace: Duration::from_secs(1),
                ..Service::new("serve")
            }),
            "example.test".parse().unwrap(),
        ),
        (Digest([1; 32]), 1),
        Millis(0),
    );
    let mut state = State {
        revision,
        plan_revision: revision,
        ..State::default()
    };
    state
        .deployments
        .insert(name.clone(), Deployment::new(name.clone(), 2, release));
    for (id, node) in instances {
        let instance = Instance {
            id: InstanceId(*id),
            deployment: name.clone(),
            release: ReleaseNumber(1),
            epoch: 1,
            node: NodeId(*node),
            desired: Desired::Run,
            since_revision: 1,
            secrets: Default::default(),
            run: None,
        };
        state.instances.insert(instance.id, instance);
    }
    Arc::new(state)
}

fn view(alive: bool, rss_bytes: u64, ready: &[(u64, u64)]) -> Arc<View> {
    let mut view = View::default();
    for (instance, node) in ready {
        let node = view.nodes.entry(NodeId(*node)).or_insert_with(|| NodeView {
            alive,
            returning: false,
            deaths: 0,
            facts: NodeFacts {
                rss_bytes,
                ..NodeFacts::default()
            },
            instances: BTreeMap::new(),
        });
        node.instances.insert(
            InstanceId(*instance),
            InstanceFacts {
                phase: Phase::Running,
                health: Health::Healthy,
                restarts: 0,
                reason: String::new(),
                exit: None,
                last_end: None,
            },
        );
    }
    Arc::new(view)
}

fn endpoints(table: &RouteTable) -> usize {
    table
        .route("api.example.test")
        .map_or(0, |route| route.endpoints.len())
}

#[tokio::test]
async fn follows_state_and_view_and_advances_its_revision() {
    let mut bench = Bench::start();
    bench.state.send_replace(state(5, &[(1, 1), (2, 2)]));
    let table = bench.table_with(|table| table.revision == 5).await;
    assert_eq!(endpoints(&table), 0, "assigned, and not ready");

    bench.view.send_replace(view(true, 0, &[(1, 1), (2, 2)]));
    bench.table_with(|table| endpoints(table) == 2).await;

    bench.state.send_replace(state(6, &[(1, 1), (2, 2)]));
    let table = bench.table_with(|table| table.revision == 6).await;
    assert_eq!(endpoints(&table), 2, "the same routes, by a newer revision");

    bench.view.send_replace(view(false, 0, &[(1, 1), (2, 2)]));
    bench.table_with(|table| endpoints(table) == 0).await;
    bench.guardian.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_view_that_changes_nothing_publishes_nothing_and_a_burst_publishes_once() {
    let mut bench = Bench::start();
    bench.state.send_replace(state(1, &[(1, 1)]));
    bench.view.send_replace(view(true, 0, &[(1, 1)]));
    bench.table_with(|table| endpoints(table) == 1).await;
    tokio::time::sleep(COALESCE * 5).await;

    bench.table.mark_unchanged();
    for rss_bytes in 1..10 {
        bench.view.send_replace(view(true, rss_bytes, &[(1, 1)]));
        tokio::time::sleep(COALESCE).await;
    }
    assert!(!bench.table.has_changed().unwrap());

    // Nor does a change that plans nothing, such as a setting.
    let mut setting = State::clone(&state(1, &[(1, 1)]));
    setting.revision = 9;
    bench.state.send_replace(Arc::new(setting));
    tokio::time::sleep(COALESCE * 5).await;
    assert!(!bench.table.has_changed().unwrap());

    // A change after a calm is routed by without a pause.
    let before = tokio::time::Instant::now();
    bench.state.send_replace(state(2, &[(1, 1)]));
    bench.table_with(|table| table.revision == 2).await;
    assert!(before.elapsed() <= Duration::from_millis(1));

    // What follows at once waits for its turn, and is then one table.
    let watcher = {
        let mut table = bench.table.clone();
        tokio::spawn(async move {
            let mut revisions = Vec::new();
            while revisions.last() != Some(&40) {
                table.changed().await.unwrap();
                revisions.push(table.borrow_and_update().revision);
            }
            revisions
        })
    };
    tokio::task::yield_now().await;
    for revision in 3..=40 {
        bench.state.send_replace(state(revision, &[(1, 1)]));
        tokio::task::yield_now().await;
    }
    let revisions = timeout(DEADLINE, watcher).await.unwrap().unwrap();
    assert_eq!(revisions, [40]);
    assert!(before.elapsed() <= COALESCE + Duration::from_millis(2));
    bench.guardian.stop().await;
}

#[tokio::test]
async fn a_table_is_built_while_the_one_before_it_is_read() {
    let (tables, table) = watch::channel(Arc::new(RouteTable::default()));
    // As a request does while it looks for its route. A table that was built in its place would wait for it.
    let read = table.borrow();
    let (state, view) = (state(5, &[(1, 1)]), view(true, 0, &[(1, 1)]));
    let built = timeout(DEADLINE, rebuilt(Arc::clone(&read), state, view));
    let next = built.await.unwrap().unwrap();
    assert_eq!((read.revision, next.revision), (0, 5));
    drop(read);
    tables.send_replace(next);
    assert_eq!(endpoints(&table.borrow()), 1);
}

#[tokio::test]
async fn the_last_table_stays_without_sources_and_a_killed_one_goes_on_from_it() {
    let mut bench = Bench::start();
    bench.state.send_replace(state(7, &[(1, 1)]));
    bench.view.send_replace(view(true, 0, &[(1, 1)]));
    bench.table_with(|table| endpoints(table) == 1).await;

    bench.child.kill();
    bench.view.send_replace(view(true, 0, &[]));
    bench.table_with(|table| endpoints(table) == 0).await;
    assert_eq!(bench.child.restarts(), 1);
    bench.view.send_replace(view(true, 0, &[(1, 1)]));
    bench.table_with(|table| endpoints(table) == 1).await;

    let Bench {
        guardian,
        state,
        view,
        table,
        ..
    } = bench;
    drop((state, view));
    guardian.stop().await;
    assert_eq!(endpoints(&table.borrow()), 1);
}
