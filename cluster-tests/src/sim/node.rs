//! One simulated node: the real registry, membership, scheduler, supervisor and routing, wired as the
//! daemon wires them, over a simulated network, disk and driver.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nebula_actors::{Child, Guardian};
use nebula_domain::observed::{Health, LocalInstances, NodeFacts};
use nebula_domain::routes::RouteTable;
use nebula_domain::state::Addresses;
use nebula_domain::time::Millis;
use nebula_domain::{ClusterId, NodeId, State};
use nebula_drivers::fake::FakeDriver;
use nebula_membership::{Codec, CodecThread, Membership};
use nebula_node::parts::{Announcer, DirectoryKeeper, Peers, directory};
use nebula_registry::{Compaction, Registry, StartError, Storage, Timing};
use nebula_routing::Routing;
use nebula_scheduler::{Caretaker, Rollouts, Scheduler};
use nebula_supervisor::{Supervisor, SupervisorConfig};
use nebula_telemetry::{Clock, ManualClock, Metrics, Random};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::disk::Disk;
use super::driver::{Lease, NoFiles, NoRequests};
use super::network::{Network, Socket};
use super::trace::Trace;

pub const CLUSTER: &str = "simulated";
/// Where the wall clocks of a run begin; any date does.
pub const EPOCH_MS: u64 = 1_700_000_000_000;
const FACTS_PERIOD: Duration = Duration::from_secs(2);

/// What all nodes of a run share.
#[derive(Clone)]
pub struct Ground {
    pub network: Network,
    pub trace: Trace,
    pub random: Random,
    pub codec: CodecThread,
    pub compaction: Compaction,
    pub zero: Instant,
}

/// A machine: what outlives its daemon, and the daemon while there is one.
pub struct Node {
    pub id: NodeId,
    pub name: String,
    pub disk: Disk,
    pub programs: FakeDriver,
    pub life: Option<Life>,
    clock: Clock,
    hand: ManualClock,
    /// By how much its clock is wrong.
    skew_ms: i64,
    told: Peers,
    ground: Ground,
}

/// A running daemon. Clones are the same one.
#[derive(Clone)]
pub struct Life {
    pub node: NodeId,
    pub socket: Socket,
    pub registry: Registry,
    pub membership: Membership,
    pub table: watch::Receiver<Arc<RouteTable>>,
    pub loops: Vec<Child>,
    guardian: Guardian,
    dead: Arc<watch::Sender<bool>>,
}

impl Life {
    pub fn is_dead(&self) -> bool {
        *self.dead.borrow()
    }

    /// Ends with the daemon.
    pub fn death(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut dead = self.dead.subscribe();
        async move {
            let _ = dead.wait_for(|dead| *dead).await;
        }
    }

    /// Returns once this node is no longer a member, by its registry or a voter's word.
    pub async fn removed(&self) {
        let mut state = self.registry.watch_plan();
        let mut refused = self.socket.removed();
        let me = self.node;
        let told = async { state.wait_for(|state| state.was_removed(me)).await.is_ok() };
        let refused = async { refused.wait_for(|removed| *removed).await.is_ok() };
        tokio::select! {
            true = told => {}
            true = refused => {}
            else => std::future::pending().await,
        }
    }
}

/// Where a node is told to be found.
pub fn addresses(id: u64) -> Addresses {
    let at = |port: u16| {
        let [.., high, low] = id.to_be_bytes();
        SocketAddr::from(([10, 0, high, low], port))
    };
    Addresses {
        quic: at(7600),
        api: at(7601),
        edge: at(80),
    }
}

impl Node {
    pub fn new(id: NodeId, name: String, told: Peers, ground: &Ground) -> Node {
        let (clock, hand) = Clock::manual(Millis(EPOCH_MS));
        let node = Node {
            id,
            name,
            disk: Disk::new(id, seeded(&ground.random), ground.trace.clone()),
            programs: FakeDriver::new(clock.clone()),
            life: None,
            clock,
            hand,
            skew_ms: 0,
            told,
            ground: ground.clone(),
        };
        node.tell_time();
        node
    }

    pub fn now(&self) -> Millis {
        self.clock.now()
    }

    /// The wall clock follows the run's time, with its error.
    pub fn tell_time(&self) {
        let run = u64::try_from(self.ground.zero.elapsed().as_millis()).unwrap_or(u64::MAX);
        let right = EPOCH_MS + run;
        self.hand
            .set(Millis(right.saturating_add_signed(self.skew_ms)));
    }

    pub fn set_skew(&mut self, skew_ms: i64) {
        self.skew_ms = skew_ms;
        self.tell_time();
    }

    /// The daemon starts. A new cluster's first node has to be initialised afterwards.
    pub async fn start(&mut self) -> Result<Life, StartError> {
        let ground = self.ground.clone();
        let random = seeded(&ground.random);
        let metrics = Metrics::new();
        let (me, told) = (self.id, self.told.clone());
        self.tell_time();
        let (directory_tx, directory_rx) =
            watch::channel(Arc::new(directory(me, &State::default(), &told)));
        let socket = ground.network.attach(me, directory_rx);
        let dead = Arc::new(watch::Sender::new(false));

        let config = nebula_registry::Config {
            storage: Storage::Medium(self.disk.mount()),
            timing: Timing::default(),
            compaction: ground.compaction,
            clock: self.clock.clone(),
        };
        let registry = Registry::start(config, socket.clone(), random.clone(), &metrics).await?;
        let membership = Membership::start(
            nebula_membership::Config {
                cluster: ClusterId(CLUSTER.to_owned()),
                started: self.clock.now(),
                codec: Codec::Thread(ground.codec.clone()),
            },
            socket.clone(),
            &metrics,
        );
        let (table_tx, table) = watch::channel(Arc::new(RouteTable::default()));
        let (locals_tx, locals) = watch::channel(Arc::new(LocalInstances::new()));

        let guardian = Guardian::start(&metrics);
        let directory_tx = Arc::new(directory_tx);
        let mut loops = Vec::new();
        loops.push({
            let registry = registry.clone();
            guardian.supervise("directory", move || {
                let mut state = registry.watch_plan();
                state.mark_changed();
                DirectoryKeeper {
                    me,
                    told: told.clone(),
                    state,
                    directory: directory_tx.clone(),
                }
            })
        });
        registry.manage_voters(membership.view());
        loops.push({
            let (registry, membership) = (registry.clone(), membership.clone());
            guardian.supervise("routing", move || {
                let (state, view) = (registry.watch_plan(), membership.view());
                Routing::new(me, state, view, table_tx.clone()).in_place()
            })
        });
        let rollout_metrics = metrics.clone();
        loops.push({
            let (registry, membership) = (registry.clone(), membership.clone());
            guardian.supervise("scheduler", move || {
                Scheduler::new(registry.clone(), membership.view(), &metrics)
            })
        });
        loops.push({
            let (registry, clock) = (registry.clone(), self.clock.clone());
            guardian.supervise("caretaker", move || {
                Caretaker::new(registry.clone(), clock.clone())
            })
        });
        loops.push({
            let (registry, membership, clock) =
                (registry.clone(), membership.clone(), self.clock.clone());
            guardian.supervise("rollouts", move || {
                let (clock, view) = (clock.clone(), membership.view());
                let evidence = Arc::new(NoRequests);
                Rollouts::new(registry.clone(), view, evidence, clock, &rollout_metrics)
            })
        });
        let driver = Lease {
            programs: self.programs.clone(),
            random: random.clone(),
            dead: dead.subscribe(),
        };
        // No program is given up here: see `probe`.
        let (_, given_up) = watch::channel(Arc::default());
        let config = SupervisorConfig::new(me, self.name.clone(), "work".into());
        let handle = nebula_supervisor::Handle::new(config, Arc::new(driver), locals_tx, given_up);
        let files = Arc::new(NoFiles {
            random: random.clone(),
        });
        loops.push({
            let (membership, registry) = (membership.clone(), Arc::new(registry.clone()));
            guardian.supervise("supervisor", move || {
                let (membership, files) = (membership.clone(), files.clone());
                Supervisor::with_files(&handle, registry.clone(), membership, files)
            })
        });
        loops.push({
            let registry = registry.clone();
            guardian.supervise("announcer", move || Announcer {
                me,
                addresses: addresses(me.0),
                state: registry.watch_plan(),
                registry: registry.clone(),
            })
        });

        let life = Life {
            node: me,
            socket,
            registry,
            membership,
            table,
            loops,
            guardian,
            dead,
        };
        life.beside(say_facts(life.clone()));
        life.beside(probe(life.membership.clone(), locals, random));
        self.life = Some(life.clone());
        Ok(life)
    }

    /// The daemon dies where it stands; its programs go on. What is left of it is cleaned up without
    /// anybody noticing: it has no network, disk or driver any more.
    pub fn kill(&mut self) {
        let Some(life) = self.life.take() else {
            return;
        };
        life.dead.send_replace(true);
        self.ground.network.detach(&life.socket);
        self.disk.crash();
        tokio::spawn(async move {
            life.guardian.stop().await;
            life.membership.shutdown().await;
            life.registry.shutdown().await;
        });
    }

    /// The machine loses its power: the programs end, too.
    pub fn cut_power(&mut self) {
        self.kill();
        for instance in self.running() {
            self.programs.exit(instance, nebula_drivers::Exit::Reboot);
        }
    }

    pub fn running(&self) -> Vec<nebula_domain::InstanceId> {
        let runs = nebula_drivers::Driver::runs(&self.programs)
            .borrow()
            .clone();
        let running = runs.iter().filter(|(_, run)| run.is_running());
        running.map(|(id, _)| *id).collect()
    }
}

impl Life {
    /// A task that ends with the daemon.
    pub fn beside(&self, task: impl Future<Output = ()> + Send + 'static) {
        let death = self.death();
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = death => {}
                () = task => {}
            }
        });
    }
}

/// A generator of its own, so that what one node does changes nothing for another.
fn seeded(random: &Random) -> Random {
    Random::seeded(random.u64())
}

/// As the daemon does, without the figures of a real machine.
async fn say_facts(life: Life) {
    let mut table = life.table.clone();
    let status = life.registry.status();
    loop {
        let routed_revision = table.borrow_and_update().revision;
        life.membership.publish_node(NodeFacts {
            version: "simulated".to_owned(),
            capacity_instances: 100,
            cpus: 1,
            applied_index: status.borrow().applied_index,
            routed_revision,
            ..NodeFacts::default()
        });
        tokio::select! {
            changed = table.changed() => if changed.is_err() {
                return;
            },
            () = sleep(FACTS_PERIOD) => {}
        }
    }
}

/// In the place of probes: every program is well, some time after it has started.
async fn probe(
    membership: Membership,
    mut locals: watch::Receiver<Arc<LocalInstances>>,
    random: Random,
) {
    loop {
        let known = locals.borrow_and_update().clone();
        sleep(Duration::from_millis(20 + random.below(200))).await;
        for instance in known.keys() {
            membership.publish_health(*instance, Health::Healthy, "");
        }
        if locals.changed().await.is_err() {
            return;
        }
    }
}
