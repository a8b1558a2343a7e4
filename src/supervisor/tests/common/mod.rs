//! One node with a real mesh, gossip and artifact store; the registry's part is played by the test,
//! the programs' by the fake driver.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nebula_actors::{Child, Guardian};
use nebula_artifacts::{Artifacts, archive};
use nebula_domain::ids::{ClusterId, Digest, InstanceId, NodeId, ReleaseNumber};
use nebula_domain::observed::{InstanceFacts, LocalInstances, NodeFacts, Phase, View};
use nebula_domain::spec::{ProbeSpec, Service, Spec, StaticSite, Workload};
use nebula_domain::state::{Cluster, Deployment, Desired, Instance, Release, Role};
use nebula_domain::time::Millis;
use nebula_domain::{DeploymentName, State};
use nebula_drivers::fake::FakeDriver;
use nebula_membership::Membership;
use nebula_mesh::{Directory, DirectoryEntry, Limits, Mesh};
use nebula_pki::{Authority, Identity};
use nebula_registry::Status;
use nebula_supervisor::{Handle, Supervisor, SupervisorConfig};
use nebula_telemetry::{Clock, Metrics};
use tokio::sync::watch;

/// Far above what anything here takes; reached only by a failure.
pub const PATIENCE: Duration = Duration::from_secs(20);
pub const ME: NodeId = NodeId(1);
pub const ONE: InstanceId = InstanceId(1);
pub const TWO: InstanceId = InstanceId(2);
pub const STOP_GRACE: Duration = Duration::from_secs(7);

pub struct Node {
    pub driver: FakeDriver,
    pub state: watch::Sender<Arc<State>>,
    pub membership: Membership,
    pub locals: watch::Receiver<Arc<LocalInstances>>,
    pub handle: Handle,
    pub child: Child,
    pub guardian: Guardian,
    artifact: Digest,
    _dir: tempfile::TempDir,
    _status: watch::Sender<Status>,
    _directory: watch::Sender<Arc<Directory>>,
}

pub async fn node() -> Node {
    let dir = tempfile::tempdir().unwrap();
    let cluster = ClusterId("test".to_owned());
    let now = Clock::system().now();
    let metrics = Metrics::new();
    let (directory, seen) = watch::channel(Arc::new(Directory {
        me: ME,
        nodes: BTreeMap::new(),
        next_node_id: 2,
    }));
    let authority = Authority::create(&cluster, now).unwrap();
    let key = Identity::generate_key().unwrap();
    let certificate = authority.sign(&key.csr().unwrap(), &cluster, ME, now);
    let identity = Identity::new(key, &certificate.unwrap(), &authority.ca_pem()).unwrap();
    let config = nebula_mesh::Config {
        listen: ([127, 0, 0, 1], 0).into(),
        limits: Limits::default(),
    };
    let mesh = Mesh::bind(config, identity, seen, &metrics).unwrap();
    directory.send_modify(|directory| {
        let entry = DirectoryEntry {
            quic: mesh.local_addr(),
            role: Role::Voter,
        };
        Arc::make_mut(directory).nodes.insert(ME, entry);
    });

    let config = nebula_membership::Config::new(cluster, now);
    let membership = Membership::start(config, mesh.clone(), &metrics);
    let config = nebula_artifacts::Config::new(dir.path().join("artifacts"));
    let artifacts = Artifacts::open(config, mesh, &metrics).unwrap();
    let artifact = upload(&artifacts, dir.path()).await;

    let work_dir = dir.path().join("work");
    std::fs::create_dir(&work_dir).unwrap();
    let driver = FakeDriver::new(Clock::system());
    let (locals_tx, locals) = watch::channel(Arc::default());
    let config = SupervisorConfig::new(ME, "a".to_owned(), work_dir);
    let handle = Handle::new(config, Arc::new(driver.clone()), locals_tx);
    let (state, state_rx) = watch::channel(Arc::new(State::default()));
    let (status, status_rx) = watch::channel(Status {
        quorum: true,
        ..Status::default()
    });
    let guardian = Guardian::start(&metrics);
    let child = guardian.supervise("supervisor", {
        let (handle, membership) = (handle.clone(), membership.clone());
        move || {
            Supervisor::new(
                &handle,
                state_rx.clone(),
                status_rx.clone(),
                membership.clone(),
                artifacts.clone(),
            )
        }
    });
    Node {
        driver,
        state,
        membership,
        locals,
        handle,
        child,
        guardian,
        artifact,
        _dir: dir,
        _status: status,
        _directory: directory,
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
    pub fn registry(&self, change: impl FnOnce(&mut State)) {
        self.state.send_modify(|state| {
            let state = Arc::make_mut(state);
            state.revision += 1;
            change(state);
        });
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
        let name: DeploymentName = name.parse().unwrap();
        let release = Release {
            number: ReleaseNumber(1),
            spec: Spec {
                workload,
                tld: "test".parse().unwrap(),
            },
            artifact,
            artifact_bytes: 1,
            created_at: Millis(0),
        };
        let deployment = Deployment {
            name: name.clone(),
            generation: 1,
            epoch: 1,
            scale: 1,
            releases: imbl::vector![Arc::new(release)],
            removing: false,
        };
        self.registry(|state| {
            state.cluster.get_or_insert_with(|| Cluster {
                id: ClusterId("test".to_owned()),
                ca_pem: String::new(),
            });
            state.next_instance_id = state.next_instance_id.max(instance.0 + 1);
            state.deployments.insert(name.clone(), deployment);
            let assigned = Instance {
                id: instance,
                deployment: name,
                release: ReleaseNumber(1),
                epoch: 1,
                node: ME,
                desired: Desired::Run,
                since_revision: state.revision,
            };
            state.instances.insert(instance, assigned);
        });
    }

    pub fn unassign(&self, instance: InstanceId) {
        self.registry(|state| {
            let since = state.revision;
            let assigned = state.instances.get_mut(&instance).unwrap();
            assigned.desired = Desired::Stop;
            assigned.since_revision = since;
        });
    }

    /// Every proxy thread of this node routes by the registry's latest revision.
    pub fn acknowledge(&self) {
        self.membership.publish_node(NodeFacts {
            routed_revision: self.state.borrow().revision,
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

    pub fn is_local(&self, instance: InstanceId) -> bool {
        self.locals.borrow().contains_key(&instance)
    }
}

pub fn service() -> Workload {
    Workload::Service(Service {
        command: "run".to_owned(),
        env: BTreeMap::new(),
        probe: ProbeSpec::default(),
        stop_grace: STOP_GRACE,
    })
}

pub fn site() -> Workload {
    Workload::Static(StaticSite::default())
}
