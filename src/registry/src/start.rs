//! Bringing a registry up: stores, Raft, tasks, services.

use std::sync::Arc;

use nebula_mesh::Mesh;
use nebula_telemetry::{Metrics, Random};
use nebula_wire::peer::Protocol;
use openraft::SnapshotPolicy;
use tokio::sync::{mpsc, watch};

use crate::config::Config;
use crate::error::StartError;
use crate::limits;
use crate::log::LogStore;
use crate::machine::Machine;
use crate::metrics::RegistryMetrics;
use crate::peers::{Network, RaftService};
use crate::proposals::Proposer;
use crate::reads::Reads;
use crate::registry::{Inner, Registry, Tasks};
use crate::service::RegistryService;
use crate::status::{Observer, Status};
use crate::types::Raft;

/// Readers waiting for a round; further callers wait for room until their deadline.
const READERS_QUEUED: usize = 4096;

fn raft_config(config: &Config) -> Result<openraft::Config, StartError> {
    let ms = |d: std::time::Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    openraft::Config {
        cluster_name: "nebula".to_owned(),
        heartbeat_interval: ms(config.timing.heartbeat),
        election_timeout_min: ms(config.timing.election_min),
        election_timeout_max: ms(config.timing.election_max),
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
    /// Opens the stores of `config.dir`, recovers what they hold, and takes part in the cluster. A node
    /// with empty stores waits for [`Registry::initialise`], or for a leader that adds it.
    pub async fn start(
        config: Config,
        mesh: Mesh,
        random: Random,
        metrics: &Metrics,
    ) -> Result<Registry, StartError> {
        let raft_config = Arc::new(raft_config(&config)?);
        let counters = RegistryMetrics::new(metrics);
        let (log, machine, snapshots, published) = open_stores(&config, &counters).await?;

        let network = Network(mesh.clone());
        let me = mesh.me();
        let raft = Raft::new(me.0, raft_config, network, log.clone(), machine).await;
        let raft = match raft {
            Ok(raft) => raft,
            Err(error) => {
                close(log, snapshots).await;
                return Err(StartError::Raft(error.to_string()));
            }
        };

        let (status_tx, status) = watch::channel(Status::default());
        let (proposals, proposal_queue) = mpsc::channel(limits::PROPOSALS_QUEUED);
        let (readers, reader_queue) = mpsc::channel(READERS_QUEUED);
        let observer = Observer::new(
            raft.clone(),
            config.timing.election_max,
            counters.clone(),
            status_tx,
        );
        let proposer = Proposer {
            raft: raft.clone(),
            mesh: mesh.clone(),
            status: status.clone(),
            metrics: counters.clone(),
        };
        let reads = Reads {
            raft: raft.clone(),
            mesh: mesh.clone(),
            status: status.clone(),
        };
        let tasks = Tasks::default();
        tasks.spawn(observer.run());
        tasks.spawn(proposer.run(proposal_queue));
        tasks.spawn(reads.run(reader_queue));
        tasks.spawn(snapshot_when_due(
            raft.clone(),
            published.snapshot_due.clone(),
        ));

        let service = RegistryService {
            proposals: proposals.clone(),
            readers: readers.clone(),
            status: status.clone(),
        };
        mesh.serve(Protocol::Raft, Arc::new(RaftService(raft.clone())));
        mesh.serve(Protocol::Registry, Arc::new(service));
        Ok(Registry::new(Inner {
            me,
            raft,
            log,
            snapshots,
            published,
            proposals,
            readers,
            status,
            random,
            metrics: counters,
            voters_period: config.timing.voters_period,
            tasks,
        }))
    }
}

type Stores = (
    LogStore,
    Machine,
    crate::machine::SnapshotStore,
    crate::machine::Published,
);

async fn open_stores(config: &Config, metrics: &RegistryMetrics) -> Result<Stores, StartError> {
    let dir = config.dir.clone();
    let every_bytes = config.compaction.every_bytes;
    let metrics = metrics.clone();
    let opened = tokio::task::spawn_blocking(move || {
        let log = LogStore::open(&dir.join("raft-log"), metrics.log_syncs)?;
        let machine = Machine::open(
            &dir.join("raft-state"),
            every_bytes,
            metrics.state_syncs,
            metrics.snapshot_bytes,
        );
        match machine {
            Ok((machine, snapshots, published)) => Ok((log, machine, snapshots, published)),
            Err(error) => {
                log.close();
                Err(error)
            }
        }
    });
    match opened.await {
        Ok(result) => result,
        // sled panics on some damage that it meets while it reads.
        Err(error) => Err(StartError::Corrupt {
            path: config.dir.clone(),
            detail: error.to_string(),
        }),
    }
}

/// Lets go of the files of both stores.
pub async fn close(log: LogStore, snapshots: crate::machine::SnapshotStore) {
    let closed = tokio::task::spawn_blocking(move || {
        log.close();
        snapshots.close();
    });
    if let Err(error) = closed.await {
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
