//! The loop against a registry of one value, which applies commands by the real rules.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use nebula_actors::{Child, Guardian};
use nebula_domain::command::Change;
use nebula_domain::events::Kind;
use nebula_domain::observed::{Health, InstanceFacts, NodeFacts, NodeView, Phase, View};
use nebula_domain::rollout::Step;
use nebula_domain::spec::{Service, Spec, Workload};
use nebula_domain::state::{Addresses, Desired, Node, Role};
use nebula_domain::time::Millis;
use nebula_domain::{
    Command, DeploymentName, Digest, InstanceId, NodeId, Rejection, ReleaseNumber, Request,
    RequestId, State,
};
use nebula_registry::{Applied, ProposeError, Status};
use nebula_scheduler::{
    EVEN_OUT_AFTER, EVEN_OUT_PERIOD, LOST_FOR, PERIOD, RETURN_GRACE, Registrar, Scheduler,
};
use nebula_telemetry::Metrics;
use tokio::sync::watch;
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(60);

/// A registry without peers: what is proposed is applied at once, and visible a moment later.
#[derive(Clone)]
struct Solo {
    /// What is applied.
    applied: Arc<Mutex<State>>,
    /// What is published of it, a moment later.
    state: watch::Sender<Arc<State>>,
    status: watch::Sender<Status>,
    requests: Arc<AtomicU64>,
    proposals: Arc<Mutex<Vec<Vec<Change>>>>,
    /// Taken from the front: what happens to a proposal instead of being applied.
    faults: Arc<Mutex<Vec<Fault>>>,
}

enum Fault {
    NoQuorum,
    /// Another command is applied first.
    Overtaken(Command),
    Refused(Rejection),
    Panic,
}

impl Solo {
    fn apply(&self, command: Command) -> Result<Applied, ProposeError> {
        let id = RequestId(u128::from(self.requests.fetch_add(1, Ordering::SeqCst)));
        let mut applied = self.applied.lock().unwrap();
        let result = nebula_domain::apply(&mut applied, &Request::new(id, command));
        let revision = applied.revision;
        let (source, sender) = (self.applied.clone(), self.state.clone());
        // The watch lags behind the answer, as the real one may.
        tokio::spawn(async move {
            tokio::task::yield_now().await;
            let applied = source.lock().unwrap().clone();
            sender.send_replace(Arc::new(applied));
        });
        match result {
            Ok(outcome) => Ok(Applied { outcome, revision }),
            Err(rejection) => Err(ProposeError::Rejected(rejection)),
        }
    }

    /// Applies a command of somebody else.
    async fn do_now(&self, command: Command) {
        let applied = self.apply(command).unwrap();
        let mut seen = self.state.subscribe();
        seen.wait_for(|state| state.revision >= applied.revision)
            .await
            .unwrap();
    }

    fn proposals(&self) -> usize {
        self.proposals.lock().unwrap().len()
    }
}

#[async_trait]
impl Registrar for Solo {
    fn watch(&self) -> watch::Receiver<Arc<State>> {
        self.state.subscribe()
    }

    fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    async fn propose(&self, command: Command) -> Result<Applied, ProposeError> {
        let changes = match &command {
            Command::Assign { changes, .. } => changes,
            Command::Record { .. } => return self.apply(command),
            _ => panic!("the scheduler only assigns and records: {command:?}"),
        };
        self.proposals.lock().unwrap().push(changes.clone());
        let fault = {
            let mut faults = self.faults.lock().unwrap();
            (!faults.is_empty()).then(|| faults.remove(0))
        };
        match fault {
            Some(Fault::NoQuorum) => return Err(ProposeError::NoQuorum),
            Some(Fault::Overtaken(other)) => self.do_now(other).await,
            Some(Fault::Refused(rejection)) => return Err(ProposeError::Rejected(rejection)),
            Some(Fault::Panic) => panic!("planted"),
            None => {}
        }
        self.apply(command)
    }
}

struct Bench {
    solo: Solo,
    view: watch::Sender<Arc<View>>,
    guardian: Guardian,
    child: Child,
    metrics: Metrics,
}

fn status(is_leader: bool) -> Status {
    Status {
        leader: Some(NodeId(1)),
        is_leader,
        term: 1,
        voters: BTreeSet::from([NodeId(1)]),
        applied_index: 1,
        quorum: true,
        no_quorum_since: None,
        ..Status::default()
    }
}

fn name() -> DeploymentName {
    "api".parse().unwrap()
}

/// Three members and one deployment of three instances, none assigned yet.
fn initial() -> State {
    let mut state = State {
        next_node_id: 4,
        next_instance_id: 1,
        ..State::default()
    };
    for id in 1..=3u16 {
        let at = |port: u16| ([127, 0, 0, 1], port + id).into();
        let node = Node {
            id: NodeId(u64::from(id)),
            name: format!("n{id}").parse().unwrap(),
            role: Role::Voter,
            addresses: Addresses {
                quic: at(7000),
                api: at(8000),
                edge: at(9000),
            },
            draining: false,
            leaving: false,
            awaited_since: None,
            labels: Default::default(),
            level: 1,
        };
        state.nodes.insert(node.id, node);
    }
    state.cluster = Some(nebula_domain::state::Cluster {
        id: nebula_domain::ClusterId("test".into()),
        ca_pem: String::new(),
    });
    state
}

fn create(scale: u32) -> Command {
    Command::CreateDeployment {
        name: name(),
        spec: Spec::new(
            Workload::Service(Service {
                stop_grace: Duration::from_secs(1),
                ..Service::new("serve")
            }),
            "example.test".parse().unwrap(),
        ),
        scale,
        artifact: Digest([1; 32]),
        artifact_bytes: 1,
        origin: Default::default(),
        now: Millis(1),
    }
}

/// What a view says of a node that was heard of: all its instances run.
fn heard(state: &State, node: NodeId, alive: bool) -> NodeView {
    NodeView {
        alive,
        returning: false,
        deaths: 0,
        facts: NodeFacts {
            version: "1".into(),
            capacity_instances: 100,
            cpus: 2,
            memory_bytes: 1 << 30,
            ..NodeFacts::default()
        },
        instances: state
            .instances_on(node)
            .map(|instance| {
                let facts = InstanceFacts {
                    phase: Phase::Running,
                    health: Health::Healthy,
                    restarts: 0,
                    reason: String::new(),
                    exit: None,
                    last_end: None,
                };
                (instance.id, facts)
            })
            .collect(),
    }
}

fn view(state: &State, dead: &[u64]) -> Arc<View> {
    let nodes = state.nodes.keys();
    Arc::new(View {
        nodes: nodes
            .map(|id| (*id, heard(state, *id, !dead.contains(&id.0))))
            .collect(),
    })
}

impl Bench {
    fn start(state: State, first: Arc<View>, is_leader: bool) -> Bench {
        let solo = Solo {
            applied: Arc::new(Mutex::new(state.clone())),
            state: watch::channel(Arc::new(state)).0,
            status: watch::channel(status(is_leader)).0,
            requests: Arc::new(AtomicU64::new(1)),
            proposals: Arc::default(),
            faults: Arc::default(),
        };
        let (view, view_seen) = watch::channel(first);
        let metrics = Metrics::new();
        let guardian = Guardian::start(&metrics);
        let (registry, counted) = (solo.clone(), metrics.clone());
        let child = guardian.supervise("scheduler", move || {
            Scheduler::new(registry.clone(), view_seen.clone(), &counted)
        });
        Bench {
            solo,
            view,
            guardian,
            child,
            metrics,
        }
    }

    /// Waits until the running instances are on these nodes.
    async fn runs_on(&self, nodes: &[u64]) -> Arc<State> {
        let mut state = self.solo.state.subscribe();
        let wanted = |state: &Arc<State>| {
            let mut on: Vec<u64> = running(state).map(|(_, node)| node.0).collect();
            on.sort_unstable();
            on == nodes
        };
        let seen = timeout(DEADLINE, state.wait_for(wanted)).await;
        seen.unwrap().unwrap().clone()
    }

    /// Several periods in which nothing may be proposed.
    async fn stays_calm(&self) {
        let before = self.solo.proposals();
        tokio::time::sleep(PERIOD * 5).await;
        assert_eq!(self.solo.proposals(), before);
    }
}

fn running(state: &State) -> impl Iterator<Item = (InstanceId, NodeId)> + '_ {
    let instances = state.instances.values();
    instances
        .filter(|instance| instance.desired == Desired::Run)
        .map(|instance| (instance.id, instance.node))
}

#[tokio::test(start_paused = true)]
async fn places_once_and_replaces_what_a_dead_node_ran() {
    let bench = Bench::start(initial(), view(&initial(), &[]), true);
    bench.solo.do_now(create(3)).await;
    let state = bench.runs_on(&[1, 2, 3]).await;
    assert_eq!(
        bench.solo.proposals(),
        1,
        "planned again before it saw its own plan applied"
    );
    bench.view.send_replace(view(&state, &[]));
    bench.stays_calm().await;

    bench.view.send_replace(view(&state, &[3]));
    let state = bench.runs_on(&[1, 1, 2]).await;
    bench.view.send_replace(view(&state, &[3]));
    bench.stays_calm().await;
    // What the dead node ran was dropped: it stops that by itself when it returns.
    assert!(
        bench
            .solo
            .state
            .borrow()
            .instances_on(NodeId(3))
            .next()
            .is_none()
    );
    bench.guardian.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_restarting_node_runs_stays_until_it_is_away_too_long() {
    let bench = Bench::start(initial(), view(&initial(), &[]), true);
    bench.solo.do_now(create(3)).await;
    let state = bench.runs_on(&[1, 2, 3]).await;
    let mut away = view(&state, &[3]);
    Arc::make_mut(&mut away)
        .nodes
        .get_mut(&NodeId(3))
        .unwrap()
        .returning = true;
    bench.view.send_replace(away);
    bench.stays_calm().await;

    bench.view.send_replace(view(&state, &[3]));
    bench.runs_on(&[1, 1, 2]).await;
    bench.guardian.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_stays_is_given_its_part_and_the_new_one_starts_first() {
    let bench = Bench::start(initial(), view(&initial(), &[3]), true);
    bench.solo.do_now(create(4)).await;
    let state = bench.runs_on(&[1, 1, 2, 2]).await;
    bench.view.send_replace(view(&state, &[3]));
    let good = Command::StepRollout {
        name: name(),
        release: ReleaseNumber(1),
        seq: 0,
        step: Step::Next {
            ready: 4,
            restarts: 0,
        },
        now: Millis(2),
    };
    bench.solo.do_now(good).await;

    bench.view.send_replace(view(&state, &[]));
    let before = bench.solo.proposals();
    tokio::time::sleep(EVEN_OUT_AFTER - PERIOD).await;
    assert_eq!(bench.solo.proposals(), before, "it may go again");
    let state = bench.runs_on(&[1, 1, 2, 2, 3]).await;
    assert_eq!(state.moving.len(), 1);
    tokio::time::sleep(EVEN_OUT_PERIOD * 3).await;
    assert_eq!(bench.solo.proposals(), before + 1, "one at a time");
    bench.view.send_replace(view(&state, &[]));
    let state = bench.runs_on(&[1, 1, 2, 3]).await;
    assert!(state.moving.is_empty());
    bench.stays_calm().await;
    let metrics = bench.metrics.encode();
    assert!(
        metrics.contains("nebula_scheduler_moves_total 1"),
        "{metrics}"
    );
    bench.guardian.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_follower_proposes_nothing_until_it_leads() {
    let bench = Bench::start(initial(), view(&initial(), &[]), false);
    bench.solo.do_now(create(3)).await;
    bench.stays_calm().await;
    bench.solo.status.send_replace(status(true));
    bench.runs_on(&[1, 2, 3]).await;
    bench.guardian.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_has_just_restarted_replaces_nothing() {
    // The state as it was before: three instances run.
    let before = Bench::start(initial(), view(&initial(), &[]), true);
    before.solo.do_now(create(3)).await;
    let placed = before.runs_on(&[1, 2, 3]).await;
    let state = State::clone(&placed);
    before.guardian.stop().await;

    // At first the view has not even caught up with the members.
    let bench = Bench::start(state.clone(), Arc::new(View::default()), true);
    bench.stays_calm().await;
    // Then it lists them and has heard of itself alone.
    let mut fresh = View::default();
    fresh
        .nodes
        .insert(NodeId(1), heard(&state, NodeId(1), true));
    fresh.nodes.insert(NodeId(2), NodeView::unheard());
    fresh.nodes.insert(NodeId(3), NodeView::unheard());
    bench.view.send_replace(Arc::new(fresh.clone()));
    bench.stays_calm().await;
    // Even of its own instances it may not have heard yet.
    fresh.nodes.insert(NodeId(1), NodeView::unheard());
    bench.view.send_replace(Arc::new(fresh));
    bench.stays_calm().await;
    // All are heard of: everything is where it was.
    bench.view.send_replace(view(&state, &[]));
    bench.stays_calm().await;
    assert_eq!(bench.solo.proposals(), 0);
    bench.guardian.stop().await;
}

#[tokio::test(start_paused = true)]
async fn those_who_return_with_the_quorum_are_given_time() {
    let bench = Bench::start(initial(), view(&initial(), &[]), true);
    bench.solo.do_now(create(3)).await;
    let state = bench.runs_on(&[1, 2, 3]).await;
    let without_quorum = || Status {
        is_leader: false,
        quorum: false,
        no_quorum_since: Some(tokio::time::Instant::now()),
        ..status(false)
    };
    // A majority was lost.
    bench.solo.status.send_replace(without_quorum());
    bench.view.send_replace(view(&state, &[2, 3]));
    tokio::time::sleep(LOST_FOR * 2).await;
    bench.solo.status.send_replace(status(true));
    let before = bench.solo.proposals();
    tokio::time::sleep(RETURN_GRACE / 2).await;
    assert_eq!(bench.solo.proposals(), before);
    // One returns in time, the other does not.
    bench.view.send_replace(view(&state, &[3]));
    let state = bench.runs_on(&[1, 1, 2]).await;

    // Only the leader was lost.
    bench.view.send_replace(view(&state, &[]));
    bench.stays_calm().await;
    bench.solo.status.send_replace(without_quorum());
    tokio::time::sleep(LOST_FOR / 2).await;
    bench.view.send_replace(view(&state, &[2]));
    let begun = tokio::time::Instant::now();
    bench.solo.status.send_replace(status(true));
    bench.runs_on(&[1, 1, 3]).await;
    assert!(begun.elapsed() < RETURN_GRACE / 4);
    bench.guardian.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_stale_plan_is_made_again_and_no_quorum_waits_for_the_next_wake() {
    let bench = Bench::start(initial(), view(&initial(), &[]), true);
    bench.stays_calm().await;
    let scale = Command::ScaleDeployment {
        name: name(),
        scale: 2,
        based_on: None,
    };
    *bench.solo.faults.lock().unwrap() = vec![Fault::NoQuorum, Fault::Overtaken(scale)];
    let begun = tokio::time::Instant::now();
    bench.solo.do_now(create(3)).await;
    let state = bench.runs_on(&[1, 2]).await;
    assert_eq!(running(&state).count(), 2);
    assert_eq!(bench.solo.proposals(), 3);
    // One period for the quorum, nothing for the stale plan.
    assert!(begun.elapsed() < PERIOD * 2);
    let metrics = bench.metrics.encode();
    assert!(
        metrics.contains("nebula_scheduler_stale_plans_total 1"),
        "{metrics}"
    );
    bench.guardian.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_fault_in_the_scheduler_is_survived() {
    let bench = Bench::start(initial(), view(&initial(), &[]), true);
    bench.stays_calm().await;
    bench.solo.faults.lock().unwrap().push(Fault::Panic);
    bench.solo.do_now(create(3)).await;
    bench.runs_on(&[1, 2, 3]).await;
    assert_eq!(bench.child.restarts(), 1);

    bench.child.kill();
    bench
        .solo
        .do_now(Command::ScaleDeployment {
            name: name(),
            scale: 4,
            based_on: None,
        })
        .await;
    bench.runs_on(&[1, 1, 2, 3]).await;
    assert_eq!(bench.child.restarts(), 2);
    bench.guardian.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_placed_is_counted_while_it_leads() {
    let mut full = View::clone(&view(&initial(), &[]));
    for node in full.nodes.values_mut() {
        node.facts.capacity_instances = 1;
    }
    let bench = Bench::start(initial(), Arc::new(full), true);
    bench.solo.do_now(create(5)).await;
    bench.runs_on(&[1, 2, 3]).await;
    bench.stays_calm().await;
    let text = bench.metrics.encode();
    assert!(
        text.contains("nebula_scheduler_unplaced{deployment=\"api\"}"),
        "{text}"
    );
    assert!(
        text.contains("nebula_scheduler_unplaced_deployments 1"),
        "{text}"
    );

    bench.solo.status.send_replace(status(false));
    bench.stays_calm().await;
    let text = bench.metrics.encode();
    assert!(!text.contains("deployment=\"api\""), "{text}");
    assert!(
        text.contains("nebula_scheduler_unplaced_deployments 0"),
        "{text}"
    );
    bench.guardian.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_plan_refused_for_good_is_a_failure_with_a_pause_and_not_a_spin() {
    let bench = Bench::start(initial(), view(&initial(), &[]), true);
    bench.stays_calm().await;
    *bench.solo.faults.lock().unwrap() = vec![
        Fault::Refused(Rejection::NodeUnknown(NodeId(9))),
        Fault::Refused(Rejection::NodeUnknown(NodeId(9))),
    ];
    bench.solo.do_now(create(3)).await;
    bench.runs_on(&[1, 2, 3]).await;
    assert_eq!(bench.child.restarts(), 2);
    assert_eq!(bench.solo.proposals(), 3);
    bench.guardian.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_waited_for_is_in_the_history_before_what_follows() {
    let state = initial();
    let bench = Bench::start(state.clone(), view(&state, &[]), true);
    bench.solo.do_now(create(1)).await;
    let state = bench.runs_on(&[1]).await;
    let mut needs = Service::new("serve");
    needs.depends_on = [name()].into();
    let waiting: DeploymentName = "waiting".parse().unwrap();
    let command = Command::CreateDeployment {
        name: waiting.clone(),
        spec: Spec::new(Workload::Service(needs), "example.test".parse().unwrap()),
        scale: 1,
        artifact: Digest([1; 32]),
        artifact_bytes: 1,
        origin: Default::default(),
        now: Millis(1),
    };
    bench.solo.do_now(command).await;
    bench.stays_calm().await;

    bench.view.send_replace(view(&state, &[]));
    let state = bench.runs_on(&[1, 2]).await;
    let of = |kind, deployment: &DeploymentName| {
        let mut events = state.events.after_of(deployment, 0);
        events.find(|e| e.kind == kind).map(|event| event.seq)
    };
    let ready = of(Kind::InstanceReady, &name()).unwrap();
    assert!(ready < of(Kind::InstancePlaced, &waiting).unwrap());
    bench.guardian.stop().await;
}
