//! Brings a cluster back that has lost a majority of its voters for good: on one survivor, whose daemon is
//! stopped, by an operator's word.
//!
//! What the survivor knows becomes a snapshot of its own making, in which it is the only voter. Everybody who
//! follows installs it whole: a member may have applied entries of the lost that the survivor never got, and a log
//! that merely went on would leave those in its state. For the same reason term and index leap over all that the
//! lost can have reached, so that nothing of theirs is ever taken for newer, or for the same.
//!
//! The snapshot's own sync is what decides: a crash before it leaves the node as it was, save for a higher vote,
//! and one after it leaves a recovered node, since Raft itself removes a log that ends before the snapshot.

mod replay;
mod voices;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use nebula_domain::recovery::{self, Known};
use nebula_domain::state::Recovery;
use nebula_domain::time::Millis;
use nebula_domain::{NodeId, State};
use nebula_telemetry::{Gauge, Metrics};
use openraft::storage::RaftLogStorage;
use openraft::{CommittedLeaderId, EmptyNode, Membership};

use self::replay::{Removed, replay};
pub use self::voices::Voice;
use crate::config::{Config, Storage};
use crate::error::RecoverError;
use crate::limits;
use crate::log::LogStore;
use crate::machine::{SnapshotStore, encode};
use crate::metrics::RegistryMetrics;
use crate::points::point;
use crate::room::Room;
use crate::types::{LogId, SnapshotMeta, StorageError, StoredMembership, Vote};

/// The stores of a node whose daemon is stopped, and what they hold.
pub struct Survivor {
    me: NodeId,
    dir: PathBuf,
    log: LogStore,
    snapshots: SnapshotStore,
    room: Room,
    state: Arc<State>,
    configs: Vec<BTreeSet<u64>>,
    /// Whom the end of the log removes.
    removed: BTreeMap<NodeId, Removed>,
    /// The highest term that this node has heard of, and its last entry.
    pub(crate) term: u64,
    last: LogId,
}

/// A cluster that was brought back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    pub recovery: Recovery,
    /// Of the snapshot that it begins with.
    pub term: u64,
    pub index: u64,
    pub revision: u64,
}

fn failed(error: StorageError) -> RecoverError {
    RecoverError::Store(io::Error::other(error))
}

impl Survivor {
    /// Opens the stores of a node, checks them from end to end, and carries out all entries of the log: those
    /// at its end that nobody has confirmed as well, since whoever could is gone.
    pub async fn open(config: &Config, me: NodeId) -> Result<Survivor, RecoverError> {
        if let Storage::Files(dir) = &config.storage
            && !dir.is_dir()
        {
            return Err(RecoverError::Empty);
        }
        let metrics = RegistryMetrics::new(&Metrics::new());
        let (dir, room) = match &config.storage {
            Storage::Files(dir) => (dir.clone(), Room::of(dir, Gauge::default())),
            Storage::Medium(_) => (PathBuf::from("medium"), Room::endless()),
        };
        let opened = crate::start::open_stores(config, &room, &metrics).await?;
        let (mut log, mut machine, snapshots, published) = opened;
        match replay(&mut log, &mut machine, &published.state, me).await {
            Ok(replayed) => Ok(Survivor {
                me,
                dir,
                log,
                snapshots,
                room,
                state: replayed.state,
                configs: replayed.configs,
                removed: replayed.removed,
                term: replayed.term,
                last: replayed.last,
            }),
            Err(error) => {
                crate::start::close(log, snapshots).await;
                Err(error)
            }
        }
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    /// How far this node's log reaches. The survivor whose log reaches farthest knows most.
    pub fn known(&self) -> Known {
        Known {
            term: self.last.leader_id.term,
            index: self.last.index,
        }
    }

    /// Whether a recovery is the last thing that this node knows of.
    pub fn is_just_recovered(&self) -> bool {
        let last = self.state.recoveries.last();
        last.is_some_and(|last| self.last.index == last.index + limits::RECOVERY_ENTRIES)
    }

    /// Those who vote by the latest configuration, this node left out.
    pub fn other_voters(&self) -> BTreeSet<NodeId> {
        let all = self.configs.iter().flatten().copied().map(NodeId);
        all.filter(|id| *id != self.me).collect()
    }

    /// Makes this node the only voter of a cluster without `lost`. On return it is durable, and the stores are
    /// closed.
    pub async fn recover(
        self,
        lost: &BTreeSet<NodeId>,
        now: Millis,
    ) -> Result<Recovered, RecoverError> {
        let done = self.write(lost, now).await;
        self.close().await;
        done
    }

    async fn write(&self, lost: &BTreeSet<NodeId>, now: Millis) -> Result<Recovered, RecoverError> {
        let mut state = (*self.state).clone();
        let recovery = recovery::recover(&mut state, self.me, lost, self.known(), now)?;
        let done = Recovered {
            term: self.term + limits::RECOVERY_TERMS,
            index: self.last.index + limits::RECOVERY_ENTRIES,
            revision: state.revision,
            recovery,
        };
        // For the snapshot and what sled moves, and once more for the log. What finds no room later waits for it.
        let bytes = encode(&state).map_err(RecoverError::Store)?;
        self.room.holds(&self.dir, 4 * bytes.len() as u64)?;
        self.raise_vote(done.term).await?;
        point!("recover-after-vote");
        let last = self.save(&state, bytes, done.term, done.index).await?;
        point!("recover-after-snapshot");
        self.log.clone().purge(last).await.map_err(failed)?;
        Ok(done)
    }

    /// First, so that no snapshot is ever of a later term than the vote. By itself it is one more failed election.
    pub(crate) async fn raise_vote(&self, term: u64) -> Result<(), RecoverError> {
        let vote = Vote::new(term, self.me.0);
        self.log.clone().save_vote(&vote).await.map_err(failed)
    }

    /// Durable on return.
    pub(crate) async fn save(
        &self,
        state: &State,
        bytes: Vec<u8>,
        term: u64,
        index: u64,
    ) -> Result<LogId, RecoverError> {
        let last = LogId::new(CommittedLeaderId::new(term, self.me.0), index);
        let members = state.nodes.keys().map(|id| (id.0, EmptyNode {}));
        let members: BTreeMap<u64, EmptyNode> = members.collect();
        let membership = Membership::new(vec![BTreeSet::from([self.me.0])], members);
        let meta = SnapshotMeta {
            last_log_id: Some(last),
            last_membership: StoredMembership::new(Some(last), membership),
            snapshot_id: format!("{last}-{}", blake3::hash(&bytes).to_hex().split_at(16).0),
        };
        let saved = self.snapshots.save(meta, bytes).await;
        saved.map(|_| last).map_err(RecoverError::Store)
    }

    /// Lets go of the files.
    pub async fn close(self) {
        self.room.close();
        crate::start::close(self.log, self.snapshots).await;
    }
}
