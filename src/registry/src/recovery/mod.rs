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

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use futures::future::join_all;
use nebula_domain::recovery::{self, Known};
use nebula_domain::state::Recovery;
use nebula_domain::time::Millis;
use nebula_domain::{NodeId, State};
use nebula_mesh::{CallError, Net};
use nebula_telemetry::{Gauge, Metrics};
use nebula_wire::codec;
use nebula_wire::peer::Protocol;
use openraft::storage::{RaftLogStorage, RaftStateMachine};
use openraft::{CommittedLeaderId, EmptyNode, Membership, RaftLogReader};

use crate::config::{Config, Storage};
use crate::elections::is_quorum;
use crate::error::RecoverError;
use crate::limits;
use crate::log::LogStore;
use crate::machine::{Machine, SnapshotStore, encode};
use crate::metrics::RegistryMetrics;
use crate::peers::{RaftAnswer, RaftRequest};
use crate::points::point;
use crate::room::Room;
use crate::types::{LogId, SnapshotMeta, StorageError, StoredMembership, Vote};

/// The stores of a node whose daemon is stopped, and what they hold.
pub struct Survivor {
    me: NodeId,
    log: LogStore,
    snapshots: SnapshotStore,
    room: Room,
    state: Arc<State>,
    configs: Vec<BTreeSet<u64>>,
    /// The highest term that this node has heard of, and its last entry.
    pub(crate) term: u64,
    last: LogId,
}

/// What became of a voter that was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Voice {
    /// Nobody answers there.
    Silent,
    /// Its daemon runs and hears no leader.
    Leaderless,
    /// It leads, or hears a leader.
    Led,
    /// It answers and does not say.
    Unclear(String),
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
        let room = match &config.storage {
            Storage::Files(dir) => Room::of(dir, Gauge::default()),
            Storage::Medium(_) => Room::endless(),
        };
        let opened = crate::start::open_stores(config, &room, &metrics).await?;
        let (mut log, mut machine, snapshots, published) = opened;
        let read = read(&mut log, &mut machine).await;
        let state = published.state.borrow().clone();
        match read {
            Ok((configs, term, last)) => Ok(Survivor {
                me,
                log,
                snapshots,
                room,
                state,
                configs,
                term,
                last,
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

    /// Those who vote by the latest configuration, this node left out.
    pub fn other_voters(&self) -> BTreeSet<NodeId> {
        let all = self.configs.iter().flatten().copied().map(NodeId);
        all.filter(|id| *id != self.me).collect()
    }

    /// Whether these could decide together with this node, so that nothing is lost.
    pub fn would_be_quorum(&self, others: &BTreeSet<NodeId>) -> bool {
        let all = others.iter().chain([&self.me]);
        is_quorum(&all.map(|id| id.0).collect(), &self.configs)
    }

    /// Asks all other voters at once whether they hear a leader.
    pub async fn ask(&self, net: &impl Net) -> BTreeMap<NodeId, Voice> {
        let voters = self.other_voters().into_iter();
        let asked = voters.map(|voter| async move { (voter, listen(net, voter).await) });
        join_all(asked).await.into_iter().collect()
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
        self.raise_vote(done.term).await?;
        point!("recover-after-vote");
        let last = self.save(&state, done.term, done.index).await?;
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
        term: u64,
        index: u64,
    ) -> Result<LogId, RecoverError> {
        let last = LogId::new(CommittedLeaderId::new(term, self.me.0), index);
        let members = state.nodes.keys().map(|id| (id.0, EmptyNode {}));
        let members: BTreeMap<u64, EmptyNode> = members.collect();
        let membership = Membership::new(vec![BTreeSet::from([self.me.0])], members);
        let bytes = encode(state).map_err(RecoverError::Store)?;
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

/// Carries out what the log says beyond the snapshot. Returns the configurations in force, the highest term,
/// and the last entry.
async fn read(
    log: &mut LogStore,
    machine: &mut Machine,
) -> Result<(Vec<BTreeSet<u64>>, u64, LogId), RecoverError> {
    let (applied, _) = machine.applied_state().await.map_err(failed)?;
    let in_log = log.get_log_state().await.map_err(failed)?.last_log_id;
    // A log that ends before the snapshot counts for nothing, wherever its indexes reach.
    if let Some(end) = in_log.filter(|last| Some(*last) > applied) {
        let mut next = applied.map_or(0, |id| id.index + 1);
        while next <= end.index {
            let some = log.limited_get_log_entries(next, end.index + 1).await;
            let some = some.map_err(failed)?;
            let Some(last) = some.last() else {
                let what = format!("entry {next} of the log is missing");
                return Err(RecoverError::Store(io::Error::other(what)));
            };
            next = last.log_id.index + 1;
            machine.apply(some).await.map_err(failed)?;
        }
    }
    let (applied, membership) = machine.applied_state().await.map_err(failed)?;
    let last = applied.ok_or(RecoverError::Empty)?;
    let configs = membership.membership().get_joint_config().clone();
    if configs.is_empty() {
        return Err(RecoverError::Empty);
    }
    let vote = log.read_vote().await.map_err(failed)?;
    let voted = vote.map_or(0, |vote| vote.leader_id().get_term());
    Ok((configs, voted.max(last.leader_id.term), last))
}

async fn listen(net: &impl Net, voter: NodeId) -> Voice {
    let question = match codec::encode(&RaftRequest::Silence) {
        Ok(question) => question,
        Err(error) => return Voice::Unclear(error.to_string()),
    };
    let deadline = limits::RECOVERY_QUESTION;
    let called = net.call(voter, Protocol::Raft, question.into(), deadline);
    match called.await {
        Ok(answer) => match codec::decode(&answer) {
            Ok(RaftAnswer::Silence(true)) => Voice::Leaderless,
            Ok(RaftAnswer::Silence(false)) => Voice::Led,
            Ok(RaftAnswer::Refused(reason)) => Voice::Unclear(reason),
            Ok(_) => Voice::Unclear("it answers something else".to_owned()),
            Err(error) => Voice::Unclear(error.to_string()),
        },
        Err(
            CallError::UnknownNode(_)
            | CallError::Unreachable { .. }
            | CallError::Deadline { .. }
            | CallError::Closed,
        ) => Voice::Silent,
        Err(error) => Voice::Unclear(error.to_string()),
    }
}
