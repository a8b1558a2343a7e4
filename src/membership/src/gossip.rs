//! The task that keeps chitchat running, tells it our news, and publishes the view.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chitchat::{
    ChitchatConfig, ChitchatHandle, ChitchatId, FailureDetectorConfig, ProtocolVersion,
    spawn_chitchat,
};
use nebula_domain::{NodeId, View};
use nebula_mesh::Directory;
use nebula_telemetry::Counter;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use crate::address;
use crate::limits::*;
use crate::local::Local;
use crate::transport::Wire;
use crate::view::{self, Demands, Tallies, ViewBuilder};

/// From this many members on, digests are compressed: it costs time in a small cluster and saves a
/// datagram's room in a large one. Either is understood by all.
const COMPRESS_FROM: usize = 200;
const FIRST_RESTART_DELAY: Duration = Duration::from_millis(100);
const MAX_RESTART_DELAY: Duration = Duration::from_secs(5);
/// After this long without trouble the delay starts small again.
const CALM: Duration = Duration::from_secs(60);

pub(crate) struct Gossip {
    pub me: NodeId,
    pub cluster: Arc<str>,
    /// Of the next chitchat; peers take the highest for the present one.
    pub generation: u64,
    pub wire: Wire,
    pub directory: watch::Receiver<Arc<Directory>>,
    pub suspects: watch::Receiver<Arc<BTreeSet<NodeId>>>,
    pub local: watch::Receiver<Local>,
    pub view: Arc<watch::Sender<Arc<View>>>,
    pub demands: Arc<watch::Sender<Demands>>,
    pub tallies: Arc<watch::Sender<Tallies>>,
    pub stop: watch::Receiver<bool>,
    pub restarts: Counter,
    pub refused_values: Counter,
    /// A fault for tests: the present chitchat is aborted.
    pub abort: Arc<Notify>,
}

impl Gossip {
    /// Until `stop`. A chitchat that ends or panics is started again with backoff.
    pub async fn run(mut self) {
        let builder = Arc::new(Mutex::new(ViewBuilder::new(self.me)));
        let mut delay = FIRST_RESTART_DELAY;
        loop {
            let began = Instant::now();
            let life = Life {
                builder: builder.clone(),
                generation: self.generation,
                wire: self.wire.clone(),
                cluster: self.cluster.clone(),
                directory: self.directory.clone(),
                suspects: self.suspects.clone(),
                local: self.local.clone(),
                view: self.view.clone(),
                demands: self.demands.clone(),
                tallies: self.tallies.clone(),
                stop: self.stop.clone(),
                refused_values: self.refused_values.clone(),
                abort: self.abort.clone(),
                me: self.me,
                turn: 0,
            };
            // A task of its own, so that a panic in it ends here.
            let error = match tokio::spawn(life.run()).await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => format!("{error:#}"),
                Err(error) => error.to_string(),
            };
            self.restarts.inc();
            if began.elapsed() > CALM {
                delay = FIRST_RESTART_DELAY;
            }
            tracing::warn!(error, ?delay, "gossip stopped and is started again");
            tokio::select! {
                () = sleep(delay) => {}
                () = stopped(&mut self.stop) => return,
            }
            delay = (delay * 2).min(MAX_RESTART_DELAY);
            self.generation += 1;
            lock(&builder).forgotten(Instant::now());
        }
    }
}

/// One life of chitchat.
struct Life {
    me: NodeId,
    generation: u64,
    builder: Arc<Mutex<ViewBuilder>>,
    wire: Wire,
    cluster: Arc<str>,
    directory: watch::Receiver<Arc<Directory>>,
    suspects: watch::Receiver<Arc<BTreeSet<NodeId>>>,
    local: watch::Receiver<Local>,
    view: Arc<watch::Sender<Arc<View>>>,
    demands: Arc<watch::Sender<Demands>>,
    tallies: Arc<watch::Sender<Tallies>>,
    stop: watch::Receiver<bool>,
    refused_values: Counter,
    abort: Arc<Notify>,
    /// Where the next round of peers begins, so that all get their turn.
    turn: usize,
}

impl Life {
    fn config(&self) -> ChitchatConfig {
        let members = self.directory.borrow().nodes.len();
        ChitchatConfig {
            chitchat_id: ChitchatId::new(
                self.me.to_string(),
                self.generation,
                address::of(self.me),
            ),
            cluster_id: self.cluster.to_string(),
            gossip_interval: GOSSIP_INTERVAL,
            listen_addr: address::of(self.me),
            // Members are greeted from here as the directory changes; see `greet`.
            seed_nodes: Vec::new(),
            failure_detector_config: FailureDetectorConfig::new(
                PHI,
                WINDOW,
                MAX_INTERVAL,
                PRIOR,
                DEAD_KEPT,
            ),
            marked_for_deletion_grace_period: DELETED_KEPT,
            catchup_callback: None,
            extra_liveness_predicate: None,
            protocol_version: if members >= COMPRESS_FROM {
                ProtocolVersion::V1
            } else {
                ProtocolVersion::V0
            },
        }
    }

    async fn run(mut self) -> anyhow::Result<()> {
        let transport = self.wire.transport(self.generation);
        let (entries, over) = self.local.borrow_and_update().entries();
        self.refused_values.inc_by(over);
        let handle =
            spawn_chitchat(self.config(), entries.into_iter().collect(), &transport).await?;
        let result = self.watch(&handle).await;
        // Also when we fail: no second chitchat beside the next one.
        handle.abort();
        result
    }

    async fn watch(&mut self, handle: &ChitchatHandle) -> anyhow::Result<()> {
        let ended = handle.termination_watcher();
        tokio::pin!(ended);
        let heard = Arc::new(Notify::new());
        let (mut live, _listener) = handle
            .with_chitchat(|chitchat| {
                let heard = heard.clone();
                (
                    chitchat.live_nodes_watcher(),
                    chitchat.subscribe_event("", move |_| heard.notify_one()),
                )
            })
            .await;
        let mut judge = interval(GOSSIP_INTERVAL);
        judge.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut greet = interval(GREET_INTERVAL);
        greet.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut lazy = interval(LAZY_INTERVAL);
        lazy.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last_push = Instant::now();
        let mut push_at = None;
        self.directory.mark_changed();
        loop {
            tokio::select! {
                () = stopped(&mut self.stop) => {
                    let _ = handle.initiate_shutdown();
                    let _ = ended.await;
                    return Ok(());
                }
                result = &mut ended => {
                    result?;
                    anyhow::bail!("chitchat ended by itself");
                }
                () = self.abort.notified() => handle.abort(),
                changed = self.local.changed() => {
                    changed?;
                    // One burst of changes is told once.
                    push_at.get_or_insert((last_push + PUSH_SPACING).max(Instant::now()));
                }
                () = maybe(push_at) => {
                    push_at = None;
                    last_push = Instant::now();
                    self.tell(handle).await;
                    self.push(handle)?;
                }
                _ = lazy.tick() => self.tell(handle).await,
                changed = self.directory.changed() => {
                    changed?;
                    self.greet(handle, usize::MAX)?;
                }
                _ = greet.tick() => self.greet(handle, GREET_PEERS)?,
                changed = self.suspects.changed() => changed?,
                changed = live.changed() => changed?,
                () = heard.notified() => {}
                _ = judge.tick() => {}
            }
            self.refresh(handle).await;
        }
    }

    /// Hands our present facts to chitchat. What has not changed costs nothing.
    async fn tell(&mut self, handle: &ChitchatHandle) {
        let (entries, over) = self.local.borrow_and_update().entries();
        self.refused_values.inc_by(over);
        handle
            .with_chitchat(|chitchat| {
                let state = chitchat.self_node_state();
                let gone: Vec<String> = state
                    .key_values()
                    .filter(|(key, _)| !entries.contains_key(*key))
                    .map(|(key, _)| key.to_owned())
                    .collect();
                for key in gone {
                    state.delete(&key);
                }
                for (key, value) in &entries {
                    state.set(key, value);
                }
            })
            .await;
    }

    /// Starts an exchange with some live peers now instead of with the next round.
    fn push(&mut self, handle: &ChitchatHandle) -> anyhow::Result<()> {
        let peers = self.peers(true);
        self.gossip(handle, peers, PUSH_PEERS)
    }

    /// Starts an exchange with members that are not alive in the view, or new to us.
    fn greet(&mut self, handle: &ChitchatHandle, count: usize) -> anyhow::Result<()> {
        let peers = self.peers(false);
        self.gossip(handle, peers, count)
    }

    fn peers(&self, heard: bool) -> Vec<NodeId> {
        let directory = self.directory.borrow();
        let builder = lock(&self.builder);
        directory
            .nodes
            .keys()
            .copied()
            .filter(|node| *node != self.me && builder.is_heard(*node) == heard)
            .collect()
    }

    fn gossip(
        &mut self,
        handle: &ChitchatHandle,
        peers: Vec<NodeId>,
        count: usize,
    ) -> anyhow::Result<()> {
        let start = self.turn;
        self.turn = self.turn.wrapping_add(count.min(peers.len()));
        let skip = start.checked_rem(peers.len()).unwrap_or(0);
        let round = peers.iter().cycle().skip(skip).take(count.min(peers.len()));
        for node in round {
            handle.gossip(address::of(*node))?;
        }
        Ok(())
    }

    async fn refresh(&mut self, handle: &ChitchatHandle) {
        let members: BTreeSet<NodeId> = self.directory.borrow().nodes.keys().copied().collect();
        let suspects = self.suspects.borrow().clone();
        let mut refused = 0;
        let builder = &self.builder;
        let sightings = handle
            .with_chitchat(|chitchat| view::sightings(chitchat, &lock(builder), &mut refused))
            .await;
        self.refused_values.inc_by(refused);
        let (next, demands, tallies) = {
            let local = self.local.borrow();
            let mut builder = lock(&self.builder);
            let next = builder.build(&members, &local, &suspects, sightings, Instant::now());
            (next, builder.demands(), builder.tallies())
        };
        self.tallies.send_if_modified(|known| {
            let changed = *known != tallies;
            *known = tallies;
            changed
        });
        self.demands.send_if_modified(|known| {
            let changed = *known != demands;
            *known = demands;
            changed
        });
        self.view.send_if_modified(|view| {
            let changed = **view != next;
            if changed {
                *view = Arc::new(next);
            }
            changed
        });
    }
}

fn lock(builder: &Mutex<ViewBuilder>) -> std::sync::MutexGuard<'_, ViewBuilder> {
    builder.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Also when every handle is gone.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn maybe(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
