//! One node with a real mesh, gossip and artifact store; the registry's part is played by the test,
//! the programs' by the fake driver.
// Each test file uses a part of this.
#![allow(dead_code)]

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nebula_actors::{Child, Guardian};
use nebula_artifacts::{Artifacts, archive};
use nebula_domain::ids::{ClusterId, Digest, InstanceId, NodeId, ReleaseNumber};
use nebula_domain::observed::{
    GivenUp, GivenUpRun, InstanceFacts, LocalInstances, NodeFacts, Phase, View,
};
use nebula_domain::runs::{Run, Work};
use nebula_domain::spec::{Service, Spec, StaticSite, Workload};
use nebula_domain::state::{self, Deployment, Desired, Instance, Release};
use nebula_domain::time::Millis;
use nebula_domain::{DeploymentName, State};
use nebula_drivers::fake::FakeDriver;
use nebula_membership::Membership;
use nebula_registry::{ReadError, Status};
use nebula_supervisor::{Handle, Registrar, Supervisor, SupervisorConfig, Supplies};
use nebula_telemetry::Clock;
use nebula_testkit::Cluster;
use tokio::sync::watch;

/// Far above what anything here takes; reached only by a failure.
pub const PATIENCE: Duration = Duration::from_secs(20);
pub const ME: NodeId = NodeId(1);
pub const ONE: InstanceId = InstanceId(1);
pub const TWO: InstanceId = InstanceId(2);
/// Comes and goes, to show that a pass was made.
pub const MARKER: InstanceId = InstanceId(99);
const FILES_CHECK: Duration = Duration::from_millis(50);
pub const STOP_GRACE: Duration = Duration::from_secs(7);

pub struct Node {
    pub driver: FakeDriver,
    pub registry: FakeRegistry,
    pub membership: Membership,
    pub locals: watch::Receiver<Arc<LocalInstances>>,
    pub given_up: watch::Sender<Arc<GivenUp>>,
    pub handle: Handle,
    pub child: Child,
    pub guardian: Guardian,
    pub artifact: Digest,
    dir: tempfile::TempDir,
    _cluster: Cluster,
}

/// A registry that holds what the test says.
#[derive(Clone)]
pub struct FakeRegistry {
    state: Arc<watch::Sender<Arc<State>>>,
    status: Arc<watch::Sender<Status>>,
    /// Still applying what it missed.
    behind: Arc<watch::Sender<bool>>,
}

#[async_trait::async_trait]
impl Registrar for FakeRegistry {
    fn watch(&self) -> watch::Receiver<Arc<State>> {
        self.state.subscribe()
    }

    fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    async fn catch_up(&self) -> Result<(), ReadError> {
        let mut behind = self.behind.subscribe();
        let caught_up = behind.wait_for(|behind| !behind);
        caught_up.await.map(drop).map_err(|_| ReadError::Stopped)
    }
}

pub async fn node() -> Node {
    made(None).await
}

/// One whose other parts have this for its programs.
pub async fn supplied(supplies: Arc<dyn Supplies>) -> Node {
    made(Some(supplies)).await
}

async fn made(supplies: Option<Arc<dyn Supplies>>) -> Node {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::empty();
    let nebula_testkit::Node { mesh, metrics, .. } = cluster.add(ME.0);
    let now = Clock::system().now();

    let config = nebula_membership::Config::new(cluster.id.clone(), now);
    let membership = Membership::start(config, mesh.clone(), &metrics);
    let config = nebula_artifacts::Config::new(dir.path().join("artifacts"));
    let artifacts = Artifacts::open(config, mesh, &metrics).unwrap();
    let artifact = upload(&artifacts, dir.path()).await;

    let work_dir = dir.path().join("work");
    std::fs::create_dir(&work_dir).unwrap();
    let driver = FakeDriver::new(Clock::system());
    let given_up = watch::Sender::new(Arc::default());
    let (locals_tx, locals) = watch::channel(Arc::default());
    let config = SupervisorConfig {
        files_check: FILES_CHECK,
        ..SupervisorConfig::new(ME, "a".to_owned(), work_dir)
    };
    let handle = Handle::new(
        config,
        Arc::new(driver.clone()),
        locals_tx,
        given_up.subscribe(),
    );
    let handle = match supplies {
        Some(supplies) => handle.supplied(supplies),
        None => handle,
    };
    let registry = FakeRegistry {
        state: Arc::new(watch::Sender::new(Arc::new(State::default()))),
        status: Arc::new(watch::Sender::new(Status {
            quorum: true,
            ..Status::default()
        })),
        behind: Arc::new(watch::Sender::new(false)),
    };
    let guardian = Guardian::start(&metrics);
    let child = guardian.supervise("supervisor", {
        let (handle, membership) = (handle.clone(), membership.clone());
        let registry: Arc<dyn Registrar> = Arc::new(registry.clone());
        move || {
            Supervisor::new(
                &handle,
                registry.clone(),
                membership.clone(),
                artifacts.clone(),
            )
        }
    });
    Node {
        driver,
        registry,
        membership,
        locals,
        given_up,
        handle,
        child,
        guardian,
        artifact,
        dir,
        _cluster: cluster,
    }
}

async fn upload(artifacts: &Artifacts, dir: &std::path::Path) -> Digest {
    let files = dir.join("files");
    std::fs::create_dir(&files).unwrap();
    std::fs::write(files.join("index.html"), "hello").unwrap();
    let manifest = archive::scan(&files).unwrap();
    let mut packed = Vec::new();
    let digest = archive::pack(&manifest, &mut packed).unwrap().digest;
    let body = futures::stream::iter([io::Result::Ok(Bytes::from(packed))]);
    artifacts.receive(digest, body).await.unwrap();
    digest
}

impl Node {
    /// The registry has applied a change.
    pub fn apply(&self, change: impl FnOnce(&mut State)) {
        self.registry.state.send_modify(|state| {
            let state = Arc::make_mut(state);
            state.revision += 1;
            change(state);
        });
    }

    pub fn state(&self) -> Arc<State> {
        self.registry.state.borrow().clone()
    }

    pub fn set_quorum(&self, quorum: bool) {
        self.registry.status.send_modify(|s| s.quorum = quorum);
    }

    pub fn set_behind(&self, behind: bool) {
        self.registry.behind.send_replace(behind);
    }

    /// In the artifact store's folder.
    pub fn stored(&self, path: &str) -> std::path::PathBuf {
        self.dir.path().join("artifacts").join(path)
    }

    /// The supervisor dies, and another one has made a pass when this returns. Once in a test.
    pub async fn restart_supervisor(&self) {
        let restarts = self.child.restarts();
        self.child.kill();
        self.until("a new supervisor", || self.child.restarts() > restarts)
            .await;
        // A pass takes in what is assigned; by then all else that was there has been looked at.
        self.assign(MARKER, "marker", service());
        self.phase(MARKER, Phase::Running).await;
    }

    pub async fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let began = tokio::time::Instant::now();
        while !holds() {
            assert!(
                began.elapsed() < PATIENCE,
                "not within {PATIENCE:?}: {what}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// A deployment with this one release, and one instance of it on this node.
    pub fn assign(&self, instance: InstanceId, name: &str, workload: Workload) {
        self.assign_with(instance, name, workload, self.artifact);
    }

    pub fn assign_with(
        &self,
        instance: InstanceId,
        name: &str,
        workload: Workload,
        artifact: Digest,
    ) {
        let spec = Spec::new(workload, "test".parse().unwrap());
        self.put(instance, name, (spec, artifact), None);
    }

    /// The first attempt of this run.
    pub fn assign_attempt(&self, instance: InstanceId, name: &str, spec: Spec, run: Run) {
        self.put(instance, name, (spec, self.artifact), Some(run));
    }

    fn put(
        &self,
        instance: InstanceId,
        name: &str,
        (spec, artifact): (Spec, Digest),
        run: Option<Run>,
    ) {
        let name: DeploymentName = name.parse().unwrap();
        let release = Release::new(ReleaseNumber(1), spec, (artifact, 1), Millis(0));
        let deployment = Deployment::new(name.clone(), 1, release);
        self.apply(|state| {
            state.cluster.get_or_insert_with(|| state::Cluster {
                id: ClusterId("test".to_owned()),
                ca_pem: String::new(),
            });
            state.next_instance_id = state.next_instance_id.max(instance.0 + 1);
            state.deployments.insert(name.clone(), deployment);
            let assigned = Instance {
                id: instance,
                deployment: name.clone(),
                release: ReleaseNumber(1),
                epoch: 1,
                node: ME,
                desired: Desired::Run,
                since_revision: state.revision,
                secrets: Default::default(),
                run: run.as_ref().map(|run| run.number),
            };
            state.instances.insert(instance, assigned);
            if let Some(run) = run {
                let work = Work {
                    count: run.number.0,
                    runs: [run].into_iter().collect(),
                    cursor: None,
                };
                state.work.insert(name, work);
            }
        });
    }

    pub fn unassign(&self, instance: InstanceId) {
        self.apply(|state| {
            let since = state.revision;
            let assigned = state.instances.get_mut(&instance).unwrap();
            assigned.desired = Desired::Stop;
            assigned.since_revision = since;
        });
    }

    /// Every proxy thread of this node routes by the registry's latest revision.
    pub fn acknowledge(&self) {
        self.membership.publish_node(NodeFacts {
            routed_revision: self.state().revision,
            ..NodeFacts::default()
        });
    }

    /// What gossip says of an instance, once it is as asked for.
    pub async fn facts(
        &self,
        instance: InstanceId,
        what: impl Fn(&InstanceFacts) -> bool,
    ) -> InstanceFacts {
        let mut view = self.membership.view();
        let good = |view: &View| view.instance(ME, instance).filter(|f| what(f)).cloned();
        let found = tokio::time::timeout(PATIENCE, view.wait_for(|view| good(view).is_some()));
        match found.await {
            Ok(view) => good(&view.unwrap()).unwrap(),
            Err(_) => panic!(
                "{instance} is not as expected within {PATIENCE:?}: {:?}",
                self.membership.view().borrow().instance(ME, instance)
            ),
        }
    }

    pub async fn phase(&self, instance: InstanceId, phase: Phase) -> InstanceFacts {
        self.facts(instance, |facts| facts.phase == phase).await
    }

    /// The probes have given this run up.
    pub fn give_up(&self, instance: InstanceId, run: u64, reason: &str) {
        let reason = reason.to_owned();
        self.given_up.send_modify(|all| {
            Arc::make_mut(all).insert(instance, GivenUpRun { run, reason });
        });
    }

    pub fn is_local(&self, instance: InstanceId) -> bool {
        self.locals.borrow().contains_key(&instance)
    }
}

pub fn service() -> Workload {
    Workload::Service(Service {
        stop_grace: STOP_GRACE,
        ..Service::new("run")
    })
}

pub fn site() -> Workload {
    Workload::Static(StaticSite::default())
}
