//! Who leads and whether the cluster can decide, as one node sees it.
//!
//! Raft's own metrics move with every message. This looks at once when leadership or membership
//! change, and otherwise samples them a few times a second.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nebula_domain::NodeId;
use openraft::{EmptyNode, LogId, RaftMetrics, ServerState, StoredMembership};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use crate::elections::may_lead;
use crate::metrics::RegistryMetrics;
use crate::room::Space;
use crate::types::Raft;

/// Between two looks at what moves all the time.
const SAMPLE: Duration = Duration::from_millis(250);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    pub leader: Option<NodeId>,
    pub is_leader: bool,
    pub term: u64,
    /// Those of the last configuration that was settled: one under way needs majorities of the old and of the
    /// new one, so nobody can rely on it yet.
    pub voters: BTreeSet<NodeId>,
    pub applied_index: u64,
    /// Whether changes can be expected to succeed: a leader was heard lately, or this node leads and a
    /// majority of the voters has lately answered it.
    pub quorum: bool,
    /// Since when that is not so, within this life of the daemon.
    pub no_quorum_since: Option<Instant>,
    /// A node that is short of it does not lead, and with a full disk takes no part.
    pub space: Space,
}

impl Status {
    /// Whether this node's disk is why nobody that it knows leads.
    pub fn lacks_space(&self) -> bool {
        self.space != Space::Enough && self.leader.is_none()
    }
}

/// When a leader was last heard. Raft itself knows who leads from its vote alone, which outlives the
/// leader: on a worker, which never stands for election, and on any node that has just started.
#[derive(Clone, Default)]
pub struct Heard(Arc<Mutex<Option<Instant>>>);

impl Heard {
    pub fn note(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    pub fn last(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn within(&self, time: Duration) -> bool {
        self.last().is_some_and(|at| at.elapsed() < time)
    }
}

/// The voters, once the latest configuration is a single one and a majority is known to hold it.
fn settled(
    latest: &StoredMembership<u64, EmptyNode>,
    applied: Option<LogId<u64>>,
) -> Option<BTreeSet<NodeId>> {
    let membership = latest.membership();
    let is_settled = membership.get_joint_config().len() == 1 && *latest.log_id() <= applied;
    is_settled.then(|| membership.voter_ids().map(NodeId).collect())
}

pub struct Observer {
    raft: Raft,
    heard: Heard,
    /// When Raft's task answered last: while it stands still, what it tells of itself is old.
    answers: Heard,
    /// A leader that no majority has answered, or that was not heard, for so long may have been replaced.
    patience: Duration,
    lost_since: Option<Instant>,
    leading_since: Option<Instant>,
    settled: Option<BTreeSet<NodeId>>,
    space: watch::Receiver<Space>,
    metrics: RegistryMetrics,
    status: watch::Sender<Status>,
}

impl Observer {
    pub fn new(
        raft: Raft,
        heard: Heard,
        answers: Heard,
        patience: Duration,
        space: watch::Receiver<Space>,
        metrics: RegistryMetrics,
        status: watch::Sender<Status>,
    ) -> Observer {
        Observer {
            raft,
            heard,
            answers,
            patience,
            lost_since: None,
            leading_since: None,
            settled: None,
            space,
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
        self.metrics.space.set(match next.space {
            Space::Enough => 0,
            Space::Low => 1,
            Space::Full => 2,
        });
        self.status.send_if_modified(|now| {
            let changed = *now != next;
            if changed {
                *now = next;
            }
            changed
        });
        running
    }

    fn status_of(&mut self, raft: &RaftMetrics<u64, EmptyNode>) -> Status {
        let running = raft.running_state.is_ok();
        let voters: BTreeSet<NodeId> = raft
            .membership_config
            .membership()
            .voter_ids()
            .map(NodeId)
            .collect();
        let alone = voters.len() == 1 && voters.contains(&NodeId(raft.id));
        let space = *self.space.borrow();
        // It has stopped to lead, whether Raft has noticed or not, and with a full disk Raft stands still.
        let (leads, follows) = (may_lead(space, alone), space != Space::Full);
        let is_leader = running && leads && raft.state == ServerState::Leader;
        let leader = raft.current_leader.filter(|id| {
            let allowed = if *id == raft.id { leads } else { follows };
            running && allowed
        });
        let leader = leader.map(NodeId);
        if is_leader {
            self.leading_since.get_or_insert_with(Instant::now);
        } else {
            self.leading_since = None;
        }
        let quorum = match self.leading_since {
            None => leader.is_some() && self.heard.within(self.patience),
            Some(since)
                if since.elapsed() > self.patience && !self.answers.within(self.patience) =>
            {
                false
            }
            Some(_) if alone => true,
            // A new leader has the votes of a majority, which count as its answers for a while.
            Some(since) => raft.millis_since_quorum_ack.map_or_else(
                || since.elapsed() < self.patience,
                |ms| Duration::from_millis(ms) < self.patience,
            ),
        };
        if quorum {
            self.lost_since = None;
        } else {
            self.lost_since.get_or_insert_with(Instant::now);
        }
        if let Some(settled) = settled(&raft.membership_config, raft.last_applied) {
            self.settled = Some(settled);
        }
        Status {
            leader,
            is_leader,
            term: raft.current_term,
            // After a restart, until anything is known to be settled: the latest.
            voters: self.settled.clone().unwrap_or(voters),
            applied_index: raft.last_applied.map_or(0, |id| id.index),
            quorum,
            no_quorum_since: self.lost_since,
            space,
        }
    }
}

#[cfg(test)]
mod tests {
    use openraft::{CommittedLeaderId, Membership};

    use super::*;

    #[test]
    fn voters_count_once_their_configuration_is_settled() {
        let at = |index| Some(LogId::new(CommittedLeaderId::new(1, 1), index));
        let set = |ids: &[u64]| ids.iter().copied().collect::<BTreeSet<u64>>();
        let stored = |configs: Vec<BTreeSet<u64>>| {
            StoredMembership::new(at(5), Membership::<u64, EmptyNode>::new(configs, None))
        };
        let joint = stored(vec![set(&[1]), set(&[1, 2, 3])]);
        assert_eq!(
            settled(&joint, at(9)),
            None,
            "without node 1 it cannot decide"
        );
        let uniform = stored(vec![set(&[1, 2, 3])]);
        assert_eq!(
            settled(&uniform, at(4)),
            None,
            "perhaps on the leader alone"
        );
        let voters = [1, 2, 3].map(NodeId).into();
        assert_eq!(settled(&uniform, at(5)), Some(voters));
    }
}
