//! The receiving side. A request must name the node as its author that sent it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use nebula_domain::state::Role;
use nebula_domain::{NodeId, State};
use nebula_mesh::{Answer, CallError, Peer};
use nebula_wire::codec;
use openraft::error::{InstallSnapshotError, RaftError};
use openraft::raft::{AppendEntriesResponse, InstallSnapshotRequest};
use openraft::storage::RaftLogStorage;
use tokio::sync::watch;

use super::{RaftAnswer, RaftRequest};
use crate::elections::Refused;
use crate::limits;
use crate::log::LogStore;
use crate::room::Space;
use crate::status::{Heard, Status};
use crate::types::{Raft, Vote};

/// Notes when the leader was last heard. What comes while Raft waits for room on the disk is refused: it
/// would only pile up.
pub struct RaftService {
    pub raft: Raft,
    pub log: LogStore,
    pub heard: Heard,
    pub pledged: Heard,
    pub refused: Refused,
    pub status: watch::Receiver<Status>,
    pub state: watch::Receiver<Arc<State>>,
    pub space: watch::Receiver<Space>,
    pub lease: Duration,
}

#[async_trait]
impl Answer for RaftService {
    fn max_request_bytes(&self, peer: Peer) -> usize {
        match peer.role {
            // It is refused whatever it says.
            Some(Role::Worker) => limits::REFUSED_FRAME_BYTES,
            Some(Role::Voter) | None => limits::RAFT_FRAME_BYTES,
        }
    }

    async fn answer(&self, peer: Peer, request: Result<Bytes, CallError>) -> Option<Bytes> {
        let answer = match request {
            // Said, because Raft asks again at once when it hears nothing.
            Err(error) => RaftAnswer::Refused(error.to_string()),
            Ok(frame) => match codec::decode(&frame) {
                Ok(request) => match self.check(peer, &request) {
                    Ok(()) => {
                        let asked = vote_of(&request).copied();
                        let answer = self.carry_out(request).await;
                        match asked.is_some_and(|asked| tells_of_recovery(&asked, &answer)) {
                            true => RaftAnswer::Refused("the sender's term is over".to_owned()),
                            false => answer,
                        }
                    }
                    Err(reason) => RaftAnswer::Refused(reason),
                },
                Err(error) => RaftAnswer::Refused(error.to_string()),
            },
        };
        if let RaftAnswer::Refused(reason) = &answer {
            tracing::debug!(peer = %peer.node, reason, "a Raft request was refused");
        }
        codec::encode(&answer)
            .inspect_err(|error| tracing::error!(%error, "a Raft answer cannot be encoded"))
            .ok()
            .map(Bytes::from)
    }
}

impl RaftService {
    /// Only a node that may vote can stand for election or lead, and only in its own name.
    fn check(&self, peer: Peer, request: &RaftRequest) -> Result<(), String> {
        // Answered with a full disk, too, and to whatever role: before a recovery everybody is asked.
        let asks = matches!(request, RaftRequest::Known);
        if *self.space.borrow() == Space::Full && !asks {
            return Err("the disk of this node is full".to_owned());
        }
        let (author, votes) = match request {
            RaftRequest::Append(rpc) => (author(&rpc.vote), false),
            RaftRequest::Vote(rpc) => (author(&rpc.vote), true),
            RaftRequest::Snapshot { vote, .. } => (author(vote), false),
            // Who asks tells nothing and changes nothing.
            RaftRequest::Silence | RaftRequest::Known => (Some(peer.node), true),
        };
        if author != Some(peer.node) {
            tracing::warn!(peer = %peer.node, ?author, "a node spoke Raft in the name of another");
            return Err("the sender is not the author".to_owned());
        }
        // The mesh refuses it as well, once it has heard of the removal: at the very start it may not have, and a voter
        // that was lost and removed must learn nothing of our term.
        if self.state.borrow().was_removed(peer.node) {
            return Err("the sender was removed from the cluster".to_owned());
        }
        match peer.role {
            _ if asks => Ok(()),
            Some(Role::Voter) => Ok(()),
            Some(Role::Worker) => Err("a worker does not vote".to_owned()),
            // It joined after what this node has applied, and this node has it in its log as a voter.
            None if self.is_voter(peer.node) => Ok(()),
            None if votes => Err("the sender is not known to be a voter".to_owned()),
            // A leader among such nodes is the only one that can bring this node up to date; to become one it needs
            // the votes of those that know it. As long as a leader that this node knows is heard there is none.
            None if self.has_leader_beside(peer.node) => {
                Err("the sender is not known, and there is a leader".to_owned())
            }
            None => Ok(()),
        }
    }

    /// Whether this node leads with a majority, or has lately heard another leader than this one.
    fn has_leader_beside(&self, node: NodeId) -> bool {
        let status = self.status.borrow();
        status.quorum && status.leader.is_some_and(|leader| leader != node)
    }

    fn is_voter(&self, node: NodeId) -> bool {
        let metrics = self.raft.metrics().borrow().clone();
        let mut voters = metrics.membership_config.membership().voter_ids();
        voters.any(|id| id == node.0)
    }

    fn misses_leader(&self) -> bool {
        // Short of disk, or without a majority that answers it, it has stopped to lead, whatever Raft says.
        let leads = {
            let status = self.status.borrow();
            status.is_leader && status.quorum
        };
        let follows = self.heard.within(self.lease) || self.pledged.within(self.lease);
        !leads && !follows
    }

    async fn carry_out(&self, request: RaftRequest) -> RaftAnswer {
        match request {
            RaftRequest::Append(rpc) => match self.raft.append_entries(rpc).await {
                Ok(answer) => {
                    // Of a term that is over, its sender no longer leads.
                    if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
                        self.heard.note();
                    }
                    RaftAnswer::Append(answer)
                }
                Err(error) => RaftAnswer::Refused(error.to_string()),
            },
            RaftRequest::Vote(rpc) => {
                let asked = rpc.vote.leader_id().get_term();
                match self.raft.vote(rpc).await {
                    Ok(answer) => {
                        match answer.vote_granted {
                            true => self.pledged.note(),
                            false => self.refused.note(asked),
                        }
                        RaftAnswer::Vote(answer)
                    }
                    Err(error) => RaftAnswer::Refused(error.to_string()),
                }
            }
            RaftRequest::Silence => RaftAnswer::Silence(self.misses_leader()),
            RaftRequest::Known => match self.log.clone().get_log_state().await {
                Ok(log) => RaftAnswer::Known {
                    silence: self.misses_leader(),
                    last: log.last_log_id,
                },
                Err(error) => RaftAnswer::Refused(error.to_string()),
            },
            RaftRequest::Snapshot {
                vote,
                meta,
                offset,
                data,
                done,
            } => {
                let data = data.0;
                let end = usize::try_from(offset)
                    .unwrap_or(usize::MAX)
                    .saturating_add(data.len());
                if let Err(limit) = limits::SNAPSHOT_BYTES.check("the snapshot", end) {
                    tracing::error!(%limit, "the leader's snapshot was refused");
                    return RaftAnswer::Refused(limit.to_string());
                }
                let rpc = InstallSnapshotRequest {
                    vote,
                    meta,
                    offset,
                    data,
                    done,
                };
                match self.raft.install_snapshot(rpc).await {
                    Ok(answer) => {
                        self.heard.note();
                        RaftAnswer::Snapshot(answer)
                    }
                    Err(RaftError::APIError(InstallSnapshotError::SnapshotMismatch(_))) => {
                        RaftAnswer::SnapshotUnknown
                    }
                    Err(RaftError::Fatal(error)) => RaftAnswer::Refused(error.to_string()),
                }
            }
        }
    }
}

fn author(vote: &Vote) -> Option<NodeId> {
    vote.leader_id().voted_for().map(NodeId)
}

fn vote_of(request: &RaftRequest) -> Option<&Vote> {
    match request {
        RaftRequest::Append(rpc) => Some(&rpc.vote),
        RaftRequest::Vote(rpc) => Some(&rpc.vote),
        RaftRequest::Snapshot { vote, .. } => Some(vote),
        RaftRequest::Silence | RaftRequest::Known => None,
    }
}

/// Whether an answer shows a term that is a recovery's leap above the sender's. A node knows that term with the first
/// word of the recovered leader, and who was removed only with its snapshot; an old voter that hears the term in
/// between stands for election above it. A term that nobody has won is shown: a recovery that was cut off has raised
/// its node's vote alone, and that node takes part in its old cluster.
fn tells_of_recovery(asked: &Vote, answer: &RaftAnswer) -> bool {
    let shown = match answer {
        RaftAnswer::Append(AppendEntriesResponse::HigherVote(vote)) => vote,
        RaftAnswer::Vote(answer) => &answer.vote,
        RaftAnswer::Snapshot(answer) => &answer.vote,
        _ => return false,
    };
    let term = |vote: &Vote| vote.leader_id().get_term();
    shown.is_committed()
        && shown.leader_id().voted_for() != asked.leader_id().voted_for()
        && term(shown).saturating_sub(term(asked)) > limits::RECOVERY_TERMS / 2
}

#[cfg(test)]
mod tests {
    use openraft::raft::{InstallSnapshotResponse, VoteResponse};

    use super::*;

    #[test]
    fn an_old_voter_does_not_hear_the_term_of_a_recovery() {
        let asked = Vote::new(7, 1);
        let (far, near) = (
            7 + limits::RECOVERY_TERMS + 1,
            7 + limits::RECOVERY_TERMS / 2,
        );
        let answers = |vote: Vote| {
            [
                RaftAnswer::Append(AppendEntriesResponse::HigherVote(vote)),
                RaftAnswer::Vote(VoteResponse::new(vote, None, false)),
                RaftAnswer::Snapshot(InstallSnapshotResponse { vote }),
            ]
        };
        let told = |vote| answers(vote).map(|answer| tells_of_recovery(&asked, &answer));
        assert_eq!(told(Vote::new_committed(far, 3)), [true; 3]);
        assert_eq!(told(Vote::new_committed(near, 3)), [false; 3]);
        assert_eq!(told(Vote::new(far, 3)), [false; 3], "nobody has won it");
        assert_eq!(told(Vote::new_committed(far, 1)), [false; 3], "its own");
        let other = RaftAnswer::Append(AppendEntriesResponse::Success);
        assert!(!tells_of_recovery(&asked, &other));
    }
}
