//! When a leader is missed, and who stands for election then.
//!
//! Raft's own heartbeats share a stream with the log and wait for its syncs, its timers wait for twice
//! the lease, and whoever was cut off comes back with a term that unseats the leader. So the leader also
//! sends signs of life, one datagram each, and a voter that misses them asks the others first: it
//! stands for election only once a majority misses the leader, too (the pre-vote of Ongaro's thesis, 9.6),
//! and the voters take turns in the order of their ids. A candidate that this node gave its vote to has a
//! lease as a leader has. openraft's election timer is off.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use nebula_domain::state::Role;
use nebula_domain::{NodeId, State};
use nebula_mesh::Net;
use nebula_telemetry::Random;
use nebula_wire::codec;
use nebula_wire::peer::Protocol;
use openraft::ServerState;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest};
use openraft::storage::RaftLogStorage;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, sleep, sleep_until, timeout};

use crate::limits;
use crate::log::LogStore;
use crate::peers::{RaftAnswer, RaftRequest};
use crate::room::Space;
use crate::status::{Heard, Status};
use crate::types::{Raft, Vote};

/// Beyond the lease: the others' leases began a little earlier or later.
const MARGIN: Duration = Duration::from_millis(50);
/// Between one voter's turn and the next one's: time for an election.
const TURN: Duration = Duration::from_millis(100);
/// A voter that has just started gives the leader this many leases to find it.
const LEASES_AT_START: u32 = 3;
/// Longest pause between two tries of one voter: a slow disk makes elections slow.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Whether a node with this much space leads, if Raft says so: only when no other can.
pub fn may_lead(space: Space, alone: bool) -> bool {
    match space {
        Space::Enough => true,
        Space::Low => alone,
        Space::Full => false,
    }
}

/// Notes that Raft's task answers: it does not while a sync hangs, nor after a panic.
pub async fn feel(raft: Raft, answers: Heard, every: Duration) {
    while raft.with_raft_state(|_| ()).await.is_ok() {
        answers.note();
        sleep(every).await;
    }
}

/// Sends signs of life while this node leads.
pub struct Pulse {
    pub raft: Raft,
    pub mesh: Arc<dyn Net>,
    /// A leader that stands still, is short of disk, or hears no majority, must be replaced.
    pub status: watch::Receiver<Status>,
    pub every: Duration,
}

impl Pulse {
    pub async fn run(mut self) {
        let mut ticks = tokio::time::interval(self.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let leads = |status: &Status| status.is_leader && status.quorum;
        loop {
            ticks.tick().await;
            // Followers have nothing to wake for.
            if self.status.wait_for(leads).await.is_err() {
                return;
            }
            let metrics = self.raft.metrics();
            let (vote, voters) = {
                let metrics = metrics.borrow();
                if metrics.running_state.is_err() {
                    return;
                }
                if metrics.state != ServerState::Leader {
                    continue;
                }
                (metrics.vote, voters(&metrics))
            };
            let Ok(message) = codec::encode(&vote) else {
                continue;
            };
            let message = Bytes::from(message);
            for voter in voters.into_iter().filter(|id| *id != self.mesh.me()) {
                self.mesh.send(voter, Protocol::Raft, message.clone());
            }
        }
    }
}

/// Takes the leader's signs of life for what an append without entries is.
pub async fn listen(
    raft: Raft,
    heard: Heard,
    state: watch::Receiver<Arc<State>>,
    mut messages: mpsc::Receiver<(NodeId, Bytes)>,
) {
    while let Some((from, message)) = messages.recv().await {
        let Ok(vote) = codec::decode::<Vote>(&message) else {
            continue;
        };
        let leads = vote.is_committed() && vote.leader_id().voted_for() == Some(from.0);
        let votes = state.borrow().nodes.get(&from).map(|node| node.role) == Some(Role::Voter);
        if !(leads && votes) {
            tracing::debug!(%from, %vote, "a sign of life that its sender may not give");
            continue;
        }
        let sign = AppendEntriesRequest {
            vote,
            prev_log_id: None,
            entries: Vec::new(),
            leader_commit: None,
        };
        match raft.append_entries(sign).await {
            Ok(AppendEntriesResponse::HigherVote(_)) => {}
            Ok(_) => heard.note(),
            Err(_) => return,
        }
    }
}

/// The highest term that this node was asked to vote in and did not, because the candidate's log lacks what this one has.
/// openraft forgets such a term; a term below that of all others cannot win.
#[derive(Clone, Default)]
pub struct Refused(Arc<AtomicU64>);

impl Refused {
    pub fn note(&self, term: u64) {
        self.0.fetch_max(term, Ordering::Relaxed);
    }

    fn term(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Stands for election when it is time.
pub struct Vigil {
    pub raft: Raft,
    pub mesh: Arc<dyn Net>,
    pub heard: Heard,
    /// When this node last gave its vote to another one.
    pub pledged: Heard,
    pub refused: Refused,
    pub log: LogStore,
    pub space: watch::Receiver<Space>,
    pub lease: Duration,
    pub random: Random,
}

impl Vigil {
    pub async fn run(self) {
        let started = Instant::now();
        let mut not_before = started;
        let mut pause = self.lease;
        let mut before = None;
        loop {
            let (running, state, configs) = {
                let metrics = self.raft.metrics();
                let metrics = metrics.borrow();
                let configs = metrics.membership_config.membership();
                let configs = configs.get_joint_config().clone();
                (metrics.running_state.is_ok(), metrics.state, configs)
            };
            if !running {
                return;
            }
            let voters: BTreeSet<NodeId> = configs.iter().flatten().copied().map(NodeId).collect();
            let me = self.mesh.me();
            let turn = voters.iter().position(|id| *id == me);
            let (Some(turn), false) = (turn, state == ServerState::Leader) else {
                sleep(self.lease).await;
                continue;
            };
            let turn = TURN * u32::try_from(turn).unwrap_or(u32::MAX);
            let heard = self.heard.last();
            if heard != before {
                before = heard;
                pause = self.lease;
            }
            let missed = match heard.max(self.pledged.last()) {
                _ if voters.len() == 1 => started,
                None => started + self.lease * LEASES_AT_START + MARGIN + turn,
                Some(last) => last + self.lease + MARGIN + turn,
            };
            let due = missed.max(not_before);
            if Instant::now() < due {
                sleep_until(due).await;
                continue;
            }
            let able = may_lead(*self.space.borrow(), voters.len() == 1);
            if !(able && self.others_miss_it(&voters, &configs).await) {
                // Their leases may only have begun later.
                not_before = Instant::now() + TURN + turn;
                continue;
            }
            tracing::info!("nobody hears the leader; standing for election");
            if !self.stand().await {
                return;
            }
            not_before = Instant::now() + self.random.jitter(pause) + turn;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Asks for votes, in a term above all that this node knows of; whether Raft goes on.
    ///
    /// Raft has voters take over the term of every candidate, of one that they refuse as well (Ongaro's thesis, figure
    /// 3.1). openraft does not: the one node with the latest log, which alone can win, would stand a term too late while
    /// others, who cannot win, count on. So it gives its vote in that term to itself, which it tells nobody, and stands in the
    /// next.
    async fn stand(&self) -> bool {
        let refused = self.refused.term();
        let term = self.raft.metrics().borrow().vote.leader_id().get_term();
        if refused > term {
            let Ok(log) = self.log.clone().get_log_state().await else {
                return false;
            };
            let mine = Vote::new(refused, self.mesh.me().0);
            let ask = VoteRequest::new(mine, log.last_log_id);
            if self.raft.vote(ask).await.is_err() {
                return false;
            }
        }
        self.raft.trigger().elect().await.is_ok()
    }

    /// Whether so many, this node included, have not heard a leader for a lease that they could elect one.
    async fn others_miss_it(&self, voters: &BTreeSet<NodeId>, configs: &[BTreeSet<u64>]) -> bool {
        let me = self.mesh.me();
        let mut asked: FuturesUnordered<_> = voters
            .iter()
            .filter(|id| **id != me)
            .map(|id| async { (*id, self.misses_it(*id).await) })
            .collect();
        let count = async {
            let mut missing = BTreeSet::from([me.0]);
            while !is_quorum(&missing, configs) {
                match asked.next().await {
                    Some((id, true)) => missing.extend([id.0]),
                    Some((_, false)) => {}
                    None => return false,
                }
            }
            true
        };
        timeout(limits::PRE_VOTE, count).await.unwrap_or(false)
    }

    async fn misses_it(&self, voter: NodeId) -> bool {
        let Ok(question) = codec::encode(&RaftRequest::Silence) else {
            return false;
        };
        let answer = self
            .mesh
            .call(voter, Protocol::Raft, question.into(), limits::PRE_VOTE)
            .await;
        let answer = answer.ok().and_then(|bytes| codec::decode(&bytes).ok());
        matches!(answer, Some(RaftAnswer::Silence(true)))
    }
}

/// A majority of each configuration: while one replaces another, both decide.
pub fn is_quorum(nodes: &BTreeSet<u64>, configs: &[BTreeSet<u64>]) -> bool {
    let majority = |config: &BTreeSet<u64>| config.intersection(nodes).count() > config.len() / 2;
    configs.iter().all(majority)
}

fn voters(metrics: &openraft::RaftMetrics<u64, openraft::EmptyNode>) -> BTreeSet<NodeId> {
    let membership = metrics.membership_config.membership();
    membership.voter_ids().map(NodeId).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn while_configurations_change_a_majority_of_both_decides() {
        let configs = [BTreeSet::from([1, 2, 3]), BTreeSet::from([1, 2, 4])];
        assert!(is_quorum(&BTreeSet::from([1, 2]), &configs));
        assert!(!is_quorum(&BTreeSet::from([1, 3]), &configs));
        assert!(!is_quorum(&BTreeSet::from([1, 3]), &configs[1..]));
        assert!(is_quorum(&BTreeSet::from([1]), &[BTreeSet::from([1])]));
    }

    #[test]
    fn a_node_short_of_disk_leads_only_when_no_other_can() {
        let leads = |space| (may_lead(space, false), may_lead(space, true));
        assert_eq!(leads(Space::Enough), (true, true));
        assert_eq!(leads(Space::Low), (false, true));
        assert_eq!(leads(Space::Full), (false, false));
    }
}
