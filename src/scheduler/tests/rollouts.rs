//! What a release's requests come to, by the real rules and a registry of one value.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use nebula_actors::Guardian;
use nebula_domain::rollout::{Figures, Rollout, Stage};
use nebula_domain::spec::{Service, Spec, Workload};
use nebula_domain::state::{Cluster, Deployment, Fate, Release};
use nebula_domain::time::Millis;
use nebula_domain::{
    ClusterId, Command, DeploymentName, Digest, ReleaseNumber, Request, RequestId, State, View,
};
use nebula_registry::{Applied, ProposeError, Status};
use nebula_scheduler::{Evidence, Registrar, Rollouts};
use nebula_telemetry::{Clock, Metrics};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

const DEADLINE: Duration = Duration::from_secs(60);
const OLD: ReleaseNumber = ReleaseNumber(1);
const NEW: ReleaseNumber = ReleaseNumber(2);

#[derive(Clone)]
struct Paper {
    state: watch::Sender<Arc<State>>,
    status: watch::Sender<Status>,
}

#[async_trait]
impl Registrar for Paper {
    fn watch(&self) -> watch::Receiver<Arc<State>> {
        self.state.subscribe()
    }

    fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    async fn propose(&self, command: Command) -> Result<Applied, ProposeError> {
        let mut state = (**self.state.borrow()).clone();
        let id = RequestId(u128::from(state.revision) + 1);
        let outcome = nebula_domain::apply(&mut state, &Request::new(id, command));
        let outcome = outcome.map_err(ProposeError::Rejected)?;
        let revision = state.revision;
        self.state.send_replace(Arc::new(state));
        Ok(Applied { outcome, revision })
    }
}

/// What the test says that was counted.
#[derive(Default)]
struct Said(Mutex<BTreeMap<ReleaseNumber, Figures>>);

impl Evidence for Said {
    fn figures(&self, name: &DeploymentName) -> BTreeMap<ReleaseNumber, Figures> {
        assert_eq!(*name, app());
        self.0.lock().unwrap().clone()
    }
}

impl Said {
    fn failed(&self, release: ReleaseNumber, failed: u64) {
        let figures = Figures {
            requests: 1_000,
            failed,
            ..Figures::default()
        };
        self.0.lock().unwrap().insert(release, figures);
    }
}

fn app() -> DeploymentName {
    "app".parse().unwrap()
}

/// Release 2 is on its way, and has had its instances for a while.
fn under_way() -> State {
    let spec = Spec::new(
        Workload::Service(Service::new("serve")),
        "example.test".parse().unwrap(),
    );
    let release = |number: ReleaseNumber| {
        let artifact = (Digest([number.0 as u8; 32]), 1);
        Release::new(number, spec.clone(), artifact, Millis(0))
    };
    let mut deployment = Deployment::new(app(), 1, release(OLD));
    deployment.releases.push_back(Arc::new(release(NEW)));
    deployment.target = NEW;
    deployment.rollout = Some(Rollout {
        from: Some(OLD),
        from_epoch: 1,
        since_revision: 0,
        stage: Stage::Replacing,
        seq: 0,
        began_at: Millis(1),
        progress_at: Millis(1),
        ready: 0,
        restarts: 0,
        paused: None,
    });
    let cluster = Cluster {
        id: ClusterId("test".into()),
        ca_pem: String::new(),
    };
    let mut state = State {
        cluster: Some(cluster),
        ..State::default()
    };
    state.deployments.insert(app(), deployment);
    state
}

fn start(is_leader: bool) -> (Paper, Arc<Said>, Guardian) {
    let status = Status {
        is_leader,
        quorum: true,
        ..Status::default()
    };
    let paper = Paper {
        state: watch::channel(Arc::new(under_way())).0,
        status: watch::channel(status).0,
    };
    let (said, metrics) = (Arc::new(Said::default()), Metrics::new());
    let guardian = Guardian::start(&metrics);
    let (registry, evidence) = (paper.clone(), said.clone());
    let (clock, _) = Clock::manual(Millis(2));
    let view = watch::channel(Arc::new(View::default())).1;
    guardian.supervise("rollouts", move || {
        let evidence = evidence.clone();
        Rollouts::new(
            registry.clone(),
            view.clone(),
            evidence,
            clock.clone(),
            &metrics,
        )
    });
    (paper, said, guardian)
}

#[tokio::test(start_paused = true)]
async fn a_release_whose_requests_fail_is_taken_back() {
    let (paper, said, _guardian) = start(true);
    said.failed(OLD, 10);
    said.failed(NEW, 12);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(paper.state.borrow().deployments[&app()].target, NEW);
    // Nothing else changes, so that it is time that makes the leader look.
    said.failed(NEW, 200);
    let mut state = paper.state.subscribe();
    let back = state.wait_for(|state| state.deployments[&app()].target == OLD);
    let state = timeout(DEADLINE, back).await.unwrap().unwrap().clone();
    let Fate::Failed { why, .. } = &state.deployments[&app()].release(NEW).unwrap().fate else {
        panic!("it has not failed")
    };
    let said = "20.0 % of 1000 requests failed, 1.0 % of the release before";
    assert_eq!(why, said);
}

#[tokio::test(start_paused = true)]
async fn only_the_leader_judges() {
    let (paper, said, _guardian) = start(false);
    said.failed(OLD, 0);
    said.failed(NEW, 1_000);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(paper.state.borrow().deployments[&app()].target, NEW);
    let leads = Status {
        is_leader: true,
        quorum: true,
        ..Status::default()
    };
    paper.status.send_replace(leads);
    let mut state = paper.state.subscribe();
    let back = state.wait_for(|state| state.deployments[&app()].target == OLD);
    timeout(DEADLINE, back).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_release_that_finds_no_place_fails_for_that() {
    let (paper, _, _guardian) = start(true);
    sleep(Duration::from_secs(700)).await;
    let mut state = paper.state.subscribe();
    let back = state.wait_for(|state| state.deployments[&app()].target == OLD);
    let state = timeout(DEADLINE, back).await.unwrap().unwrap().clone();
    let Fate::Failed { why, .. } = &state.deployments[&app()].release(NEW).unwrap().fate else {
        panic!("it has not failed")
    };
    assert!(why.starts_with("no progress for 600 s"), "{why}");
    assert!(
        why.ends_with("cannot be placed: the cluster has no nodes"),
        "{why}"
    );
}
