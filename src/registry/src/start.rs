//! Bringing a registry up: stores, Raft, tasks, services.

use std::sync::Arc;

use nebula_mesh::Net;
use nebula_telemetry::{Metrics, Random};
use nebula_wire::peer::Protocol;
use openraft::SnapshotPolicy;
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;

use crate::config::{Config, Storage};
use crate::elections::{self, Pulse, Vigil, may_lead};
use crate::error::StartError;
use crate::limits;
use crate::log::LogStore;
use crate::machine::Machine;
use crate::medium::Medium;
use crate::metrics::RegistryMetrics;
use crate::peers::{Network, RaftService};
use crate::planted::Planted;
use crate::proposals::Proposer;
use crate::reads::Reads;
use crate::registry::{Inner, Registry, Tasks};
use crate::room::{Room, Space};
use crate::service::RegistryService;
use crate::status::{Heard, Observer, Status};
use crate::types::Raft;

/// Without an answer of a majority, or without a leader, for so many leases, nothing can be decided.
const LEASES_OF_PATIENCE: u32 = 3;

fn raft_config(config: &Config) -> Result<openraft::Config, StartError> {
    let ms = |d: std::time::Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    openraft::Config {
        cluster_name: "nebula".to_owned(),
        heartbeat_interval: ms(config.timing.heartbeat),
        // The lease; openraft's election timer itself is off.
        election_timeout_min: ms(config.timing.lease).saturating_sub(1),
        election_timeout_max: ms(config.timing.lease),
        enable_elect: false,
        install_snapshot_timeout: ms(limits::INSTALL_SNAPSHOT),
        snapshot_max_chunk_size: limits::SNAPSHOT_CHUNK_BYTES,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(config.compaction.every_entries),
        max_in_snapshot_log_to_keep: config.compaction.kept_entries,
        // Frames are bounded by bytes where the log is read; this bounds them by count.
        max_payload_entries: 256,
        // The log is purged in larger steps than one entry, when a snapshot has been taken anyway.
        purge_batch_size: 64.min(config.compaction.every_entries.max(1)),
        ..openraft::Config::default()
    }
    .validate()
    .map_err(|e| StartError::Timing(e.to_string()))
}

impl Registry {
    /// Opens the stores of `config.storage`, recovers what they hold, and takes part in the cluster. A node
    /// with empty stores waits for [`Registry::initialise`], or for a leader that adds it.
    pub async fn start(
        config: Config,
        mesh: impl Net,
        random: Random,
        metrics: &Metrics,
    ) -> Result<Registry, StartError> {
        let raft_config = Arc::new(raft_config(&config)?);
        let counters = RegistryMetrics::new(metrics);
        let room = match &config.storage {
            Storage::Files(dir) => Room::of(dir, counters.free_bytes.clone()),
            Storage::Medium(_) => Room::endless(),
        };
        let (log, machine, snapshots, published) = open_stores(&config, &room, &counters).await?;

        let mesh: Arc<dyn Net> = Arc::new(mesh);
        let network = Network(mesh.clone());
        let me = mesh.me();
        let led = log.stop_leading(me.0);
        let raft = Raft::new(me.0, raft_config, network, log.clone(), machine).await;
        let raft = match raft {
            Ok(raft) => raft,
            Err(error) => {
                close(log, snapshots).await;
                return Err(StartError::Raft(error.to_string()));
            }
        };

        if led && is_alone(&raft) {
            // There is nobody whose time to stand for election would have to be waited for.
            let _ = raft.trigger().elect().await;
        }

        let (status_tx, status) = watch::channel(Status::default());
        let (proposals, proposal_queue) = mpsc::channel(limits::PROPOSALS_QUEUED);
        let (readers, reader_queue) = mpsc::channel(limits::READERS_QUEUED);
        let (heard, pledged, answers) = (Heard::default(), Heard::default(), Heard::default());
        let refused = elections::Refused::default();
        let patience = config.timing.lease * LEASES_OF_PATIENCE;
        let observer = Observer::new(
            raft.clone(),
            heard.clone(),
            answers.clone(),
            patience,
            room.watch(),
            counters.clone(),
            status_tx,
        );
        let proposer = Proposer {
            raft: raft.clone(),
            mesh: mesh.clone(),
            status: status.clone(),
            state: published.state.clone(),
            metrics: counters.clone(),
        };
        let reads = Reads {
            raft: raft.clone(),
            mesh: mesh.clone(),
            status: status.clone(),
            planted: Planted::from_env(),
        };
        let tasks = Tasks::default();
        tasks.spawn(observer.run());
        tasks.spawn(proposer.run(proposal_queue));
        tasks.spawn(reads.run(reader_queue));
        tasks.spawn(snapshot_when_due(
            raft.clone(),
            published.snapshot_due.clone(),
        ));

        tasks.spawn(yield_without_room(raft.clone(), room.watch()));
        if matches!(config.storage, Storage::Files(_)) {
            tasks.spawn(look_for_room(room.clone()));
        }

        let service = RegistryService {
            proposals: proposals.clone(),
            readers: readers.clone(),
            status: status.clone(),
            state: published.state.clone(),
            refused: counters.refused.clone(),
            clock: config.clock.clone(),
        };
        mesh.answer(
            Protocol::Raft,
            Arc::new(RaftService {
                raft: raft.clone(),
                log: log.clone(),
                heard: heard.clone(),
                pledged: pledged.clone(),
                refused: refused.clone(),
                status: status.clone(),
                state: published.state.clone(),
                space: room.watch(),
                lease: config.timing.lease,
            }),
        );
        tasks.spawn(elections::feel(raft.clone(), answers, config.timing.lease));
        let (signs, signs_received) = mpsc::channel(limits::SIGNS_QUEUED);
        mesh.serve_messages(Protocol::Raft, signs);
        tasks.spawn(elections::listen(
            raft.clone(),
            heard.clone(),
            published.state.clone(),
            signs_received,
        ));
        tasks.spawn(
            Pulse {
                raft: raft.clone(),
                mesh: mesh.clone(),
                status: status.clone(),
                every: config.timing.pulse,
            }
            .run(),
        );
        tasks.spawn(
            Vigil {
                raft: raft.clone(),
                mesh: mesh.clone(),
                heard,
                pledged,
                refused,
                log: log.clone(),
                space: room.watch(),
                lease: config.timing.lease,
                random: random.clone(),
            }
            .run(),
        );
        mesh.answer(Protocol::Registry, Arc::new(service));
        Ok(Registry::new(Inner {
            me,
            raft,
            log,
            snapshots,
            room,
            published,
            proposals,
            readers,
            status,
            random,
            clock: config.clock,
            metrics: counters,
            voters_period: config.timing.voters_period,
            tasks,
        }))
    }
}

pub fn is_alone(raft: &Raft) -> bool {
    let metrics = raft.metrics();
    let metrics = metrics.borrow();
    metrics
        .membership_config
        .membership()
        .voter_ids()
        .eq([metrics.id])
}

type Stores = (
    LogStore,
    Machine,
    crate::machine::SnapshotStore,
    crate::machine::Published,
);

pub async fn open_stores(
    config: &Config,
    room: &Room,
    metrics: &RegistryMetrics,
) -> Result<Stores, StartError> {
    let dir = match &config.storage {
        Storage::Files(dir) => dir.clone(),
        Storage::Medium(medium) => return open_on(medium, config, metrics).await,
    };
    let path = dir.clone();
    let every_bytes = config.compaction.every_bytes;
    let metrics = metrics.clone();
    let room = room.clone();
    let opened = tokio::task::spawn_blocking(move || {
        room.check(&dir)?;
        let (machine, snapshots, published) = Machine::open(
            &dir.join("raft-state"),
            every_bytes,
            metrics.state_syncs,
            metrics.snapshot_bytes,
            room.clone(),
        )?;
        let path = dir.join("raft-log");
        let log = LogStore::open(&path, metrics.log_syncs, room, snapshots.durable());
        match log {
            Ok(log) => Ok((log, machine, snapshots, published)),
            Err(error) => {
                snapshots.close();
                Err(error)
            }
        }
    });
    match opened.await {
        Ok(result) => result,
        // sled panics on some damage that it meets while it reads.
        Err(error) => Err(StartError::Corrupt {
            path,
            detail: error.to_string(),
        }),
    }
}

async fn open_on(
    medium: &Arc<dyn Medium>,
    config: &Config,
    metrics: &RegistryMetrics,
) -> Result<Stores, StartError> {
    let corrupt = |error: std::io::Error| StartError::Corrupt {
        path: "medium".into(),
        detail: error.to_string(),
    };
    let every_bytes = config.compaction.every_bytes;
    let size = metrics.snapshot_bytes.clone();
    let opened = Machine::open_on(medium.clone(), every_bytes, size).await;
    let (machine, snapshots, published) = opened.map_err(corrupt)?;
    let log = LogStore::open_on(medium, snapshots.durable()).map_err(corrupt)?;
    Ok((log, machine, snapshots, published))
}

/// Lets go of the files of both stores.
pub async fn close(log: LogStore, snapshots: crate::machine::SnapshotStore) {
    let blocks = log.blocks();
    let both = move || {
        log.close();
        snapshots.close();
    };
    if !blocks {
        return both();
    }
    if let Err(error) = tokio::task::spawn_blocking(both).await {
        tracing::error!(%error, "the registry's stores were not closed in order");
    }
}

/// The count of entries is Raft's own reason for a snapshot; their size is this one.
async fn snapshot_when_due(raft: Raft, due: Arc<tokio::sync::Notify>) {
    loop {
        due.notified().await;
        if raft.trigger().snapshot().await.is_err() {
            return;
        }
    }
}

/// Keeps measuring, on a thread that may block.
async fn look_for_room(room: Room) {
    let mut ticks = tokio::time::interval(limits::SPACE_LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let room = room.clone();
        if tokio::task::spawn_blocking(move || room.look())
            .await
            .is_err()
        {
            return;
        }
    }
}

/// A node that is short of room does not keep others from electing.
async fn yield_without_room(raft: Raft, mut space: watch::Receiver<Space>) {
    loop {
        let alone = {
            let metrics = raft.metrics();
            let metrics = metrics.borrow();
            metrics.membership_config.membership().voter_ids().count() == 1
        };
        let leads = may_lead(*space.borrow_and_update(), alone);
        raft.runtime_config().heartbeat(leads);
        if space.changed().await.is_err() {
            return;
        }
    }
}
