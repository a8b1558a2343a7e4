//! Who leads and whether the cluster can decide, as one node sees it.
//!
//! Raft's own metrics move with every message. This looks at once when leadership or membership
//! change, and otherwise samples them a few times a second.

use std::collections::BTreeSet;
use std::time::Duration;

use nebula_domain::NodeId;
use openraft::{RaftMetrics, ServerState};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use crate::metrics::RegistryMetrics;
use crate::types::Raft;

/// Between two looks at what moves all the time.
const SAMPLE: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    pub leader: Option<NodeId>,
    pub is_leader: bool,
    pub term: u64,
    pub voters: BTreeSet<NodeId>,
    pub applied_index: u64,
    /// Whether changes can be expected to succeed: a leader is known, and if this node is it, a
    /// majority of the voters has lately answered.
    pub quorum: bool,
}

pub struct Observer {
    raft: Raft,
    /// A leader that no majority has answered for so long may have been replaced.
    patience: Duration,
    leading_since: Option<Instant>,
    metrics: RegistryMetrics,
    status: watch::Sender<Status>,
}

impl Observer {
    pub fn new(
        raft: Raft,
        patience: Duration,
        metrics: RegistryMetrics,
        status: watch::Sender<Status>,
    ) -> Observer {
        Observer {
            raft,
            patience,
            leading_since: None,
            metrics,
            status,
        }
    }

    /// Runs until Raft ends.
    pub async fn run(mut self) {
        let mut server = self.raft.server_metrics();
        let mut sample = tokio::time::interval(SAMPLE);
        sample.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let running = self.look();
            if !running {
                return;
            }
            tokio::select! {
                changed = server.changed() => if changed.is_err() {
                    self.look();
                    return;
                },
                _ = sample.tick() => {}
            }
            server.borrow_and_update();
        }
    }

    fn look(&mut self) -> bool {
        let metrics = self.raft.metrics();
        let (next, running) = {
            let raft = metrics.borrow();
            (self.status_of(&raft), raft.running_state.is_ok())
        };
        self.metrics
            .term
            .set(i64::try_from(next.term).unwrap_or(i64::MAX));
        self.metrics.leads.set(i64::from(next.is_leader));
        self.metrics
            .applied_index
            .set(i64::try_from(next.applied_index).unwrap_or(i64::MAX));
        self.status.send_if_modified(|now| {
            let changed = *now != next;
            if changed {
                *now = next;
            }
            changed
        });
        running
    }

    fn status_of(&mut self, raft: &RaftMetrics<u64, openraft::EmptyNode>) -> Status {
        let running = raft.running_state.is_ok();
        let is_leader = running && raft.state == ServerState::Leader;
        let leader = raft.current_leader.filter(|_| running).map(NodeId);
        let voters: BTreeSet<NodeId> = raft
            .membership_config
            .membership()
            .voter_ids()
            .map(NodeId)
            .collect();
        if is_leader {
            self.leading_since.get_or_insert_with(Instant::now);
        } else {
            self.leading_since = None;
        }
        let alone = voters.len() == 1 && voters.contains(&NodeId(raft.id));
        let quorum = match self.leading_since {
            None => leader.is_some(),
            Some(_) if alone => true,
            // A new leader has the votes of a majority, which count as its answers for a while.
            Some(since) => raft.millis_since_quorum_ack.map_or_else(
                || since.elapsed() < self.patience,
                |ms| Duration::from_millis(ms) < self.patience,
            ),
        };
        Status {
            leader,
            is_leader,
            term: raft.current_term,
            voters,
            applied_index: raft.last_applied.map_or(0, |id| id.index),
            quorum,
        }
    }
}
