//! Who is alive and what each node says of itself: chitchat over the mesh, published as one
//! [`nebula_domain::View`].
//!
//! Observed state only. Nothing here decides what should run, and nothing of it outlives the process.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod address;
mod demand;
mod envelope;
mod gossip;
mod limits;
mod local;
mod loopback;
mod tally;
mod transport;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nebula_domain::observed::{Health, NodeFacts};
use nebula_domain::rollout::Tally;
use nebula_domain::time::Millis;
use nebula_domain::traffic::rate::cluster::Demand;
use nebula_domain::{ClusterId, InstanceId, NodeId, View};
use nebula_mesh::Net;
use nebula_telemetry::{Counter, Metrics};
use nebula_wire::peer::Protocol;
use tokio::sync::{Mutex, Notify, mpsc, watch};
use tokio::task::JoinHandle;

pub use local::PhaseFacts;
pub use loopback::{Codec, CodecThread};
pub use view::{Demands, Tallies};

use local::{Change, Local};
use transport::Wire;

/// How a node takes part in gossip.
#[derive(Clone)]
pub struct Config {
    pub cluster: ClusterId,
    /// When the daemon started: tells this life of the node from its earlier ones.
    pub started: Millis,
    pub codec: Codec,
}

impl Config {
    pub fn new(cluster: ClusterId, started: Millis) -> Config {
        Config {
            cluster,
            started,
            codec: Codec::default(),
        }
    }
}

/// Handle to this node's part in gossip. Publishing is cheap, never waits, and is told to peers at once
/// where others act on it.
#[derive(Clone)]
pub struct Membership(Arc<Inner>);

struct Inner {
    me: NodeId,
    local: watch::Sender<Local>,
    view: Arc<watch::Sender<Arc<View>>>,
    demands: Arc<watch::Sender<Demands>>,
    tallies: Arc<watch::Sender<Tallies>>,
    stop: watch::Sender<bool>,
    abort: Arc<Notify>,
    over_limit: Counter,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Membership {
    /// Takes part until [`Membership::shutdown`]. Needs a tokio runtime.
    pub fn start(config: Config, mesh: impl Net, metrics: &Metrics) -> Membership {
        let mesh: Arc<dyn Net> = Arc::new(mesh);
        let me = mesh.me();
        let cluster: Arc<str> = config.cluster.0.as_str().into();
        let (messages_in, messages) = mpsc::channel(limits::INBOX);
        mesh.serve_messages(Protocol::Gossip, messages_in);

        let local = watch::Sender::new(Local::default());
        let view = Arc::new(watch::Sender::new(Arc::new(View {
            nodes: BTreeMap::from([(me, view::own(&Local::default()))]),
        })));
        let demands = Arc::new(watch::Sender::new(Demands::new()));
        let tallies = Arc::new(watch::Sender::new(Tallies::new()));
        let stop = watch::Sender::new(false);
        let abort = Arc::new(Notify::new());
        let wire = Wire::new(mesh.clone(), config.codec, cluster.clone(), metrics);
        let gossip = gossip::Gossip {
            me,
            cluster,
            generation: config.started.0,
            wire: wire.clone(),
            directory: mesh.directory(),
            suspects: mesh.suspects(),
            local: local.subscribe(),
            view: view.clone(),
            demands: demands.clone(),
            tallies: tallies.clone(),
            stop: stop.subscribe(),
            restarts: metrics.counter("gossip_restarts", "Times the gossip task was started again"),
            refused_values: metrics.counter(
                "gossip_values_refused",
                "Gossiped values left out because they were too large, too many or not readable",
            ),
            abort: abort.clone(),
        };
        let tasks = vec![
            tokio::spawn(wire.receive(messages)),
            tokio::spawn(gossip.run()),
        ];
        Membership(Arc::new(Inner {
            me,
            local,
            view,
            demands,
            tallies,
            stop,
            abort,
            over_limit: metrics.counter(
                "gossip_instances_over_limit",
                "Instances not published because this node speaks of too many",
            ),
            tasks: Mutex::new(tasks),
        }))
    }

    /// One entry for each member in the directory, and always one for this node. Changes only when
    /// its content does.
    pub fn view(&self) -> watch::Receiver<Arc<View>> {
        self.0.view.subscribe()
    }

    /// What the other nodes that are alive tell of the rate limits that all share.
    pub fn demands(&self) -> watch::Receiver<Demands> {
        self.0.demands.subscribe()
    }

    /// What is asked of the shared rate limits at this node.
    pub fn publish_demand(&self, demand: Demand) {
        self.change(|local| local.set_demand(demand));
    }

    /// What the other nodes have counted of rollouts.
    pub fn tallies(&self) -> watch::Receiver<Tallies> {
        self.0.tallies.subscribe()
    }

    /// What this node has counted of rollouts, each from its beginning to now.
    pub fn publish_tally(&self, tally: Tally) {
        self.change(|local| local.set_tally(tally));
    }

    /// What this node says of itself. Memory and the applied index alone are told once a second.
    pub fn publish_node(&self, facts: NodeFacts) {
        self.change(|local| local.set_node(facts));
    }

    /// Facts of a new run are of unknown health until it is published.
    pub fn publish_phase(&self, instance: InstanceId, facts: PhaseFacts) {
        self.change(|local| local.set_phase(instance, facts));
    }

    /// Takes back what was published of every other instance, by whomever: a publisher that was made anew
    /// does not know of all that its predecessor spoke of.
    pub fn keep_instances(&self, spoken_of: &BTreeSet<InstanceId>) {
        self.change(|local| local.keep(spoken_of));
    }

    /// Says nothing about an instance whose phase was not published. `reason`: why it is not ready, one line; empty
    /// when there is nothing to say.
    pub fn publish_health(&self, instance: InstanceId, health: Health, reason: &str) {
        self.change(|local| local.set_health(instance, health, reason));
    }

    fn change(&self, edit: impl FnOnce(&mut Local) -> Change) {
        let mut change = Change::None;
        self.0.local.send_if_modified(|local| {
            change = edit(local);
            if matches!(change, Change::Lazy | Change::Urgent) {
                // This node's own readers see it at once, whatever gossip is doing.
                let own = view::own(local);
                self.0.view.send_if_modified(|view| {
                    let changed = view.nodes.get(&self.0.me) != Some(&own);
                    if changed {
                        Arc::make_mut(view).nodes.insert(self.0.me, own);
                    }
                    changed
                });
            }
            change == Change::Urgent
        });
        if change == Change::Over {
            self.0.over_limit.inc();
        }
    }

    /// A fault for tests: the gossip task dies and has to be started again.
    pub fn kill(&self) {
        self.0.abort.notify_one();
    }

    /// Says that this node's daemon ends and is to be back in a moment, while its programs go on: peers send it nothing
    /// more, and whoever leads leaves its instances where they are for 30 s, unless it goes `for_good`, with its machine. Returns
    /// when that had time to be heard.
    pub async fn say_restarting(&self, for_good: bool) {
        self.change(|local| local.set_restarting(for_good));
        tokio::time::sleep(limits::FAREWELL).await;
    }

    /// Falls silent: peers take this node for dead after about two seconds.
    pub async fn shutdown(&self) {
        self.0.stop.send_replace(true);
        let mut tasks = self.0.tasks.lock().await;
        // The last one ends by itself; the first would wait for the mesh.
        while let Some(task) = tasks.pop() {
            if tasks.is_empty() {
                task.abort();
            }
            let _ = task.await;
        }
    }
}
