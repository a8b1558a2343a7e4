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
use tokio::sync::watch;

use super::{RaftAnswer, RaftRequest};
use crate::limits;
use crate::room::Space;
use crate::status::{Heard, Status};
use crate::types::{Raft, Vote};

/// Notes when the leader was last heard. What comes while Raft waits for room on the disk is refused: it
/// would only pile up.
pub struct RaftService {
    pub raft: Raft,
    pub heard: Heard,
    pub pledged: Heard,
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
                    Ok(()) => self.carry_out(request).await,
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
        if *self.space.borrow() == Space::Full {
            return Err("the disk of this node is full".to_owned());
        }
        let (author, votes) = match request {
            RaftRequest::Append(rpc) => (author(&rpc.vote), false),
            RaftRequest::Vote(rpc) => (author(&rpc.vote), true),
            RaftRequest::Snapshot { vote, .. } => (author(vote), false),
            // Who asks tells nothing and changes nothing.
            RaftRequest::Silence => (Some(peer.node), true),
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
            RaftRequest::Vote(rpc) => match self.raft.vote(rpc).await {
                Ok(answer) => {
                    if answer.vote_granted {
                        self.pledged.note();
                    }
                    RaftAnswer::Vote(answer)
                }
                Err(error) => RaftAnswer::Refused(error.to_string()),
            },
            RaftRequest::Silence => {
                // Short of disk, or without a majority that answers it, it has stopped to lead, whatever Raft says.
                let leads = {
                    let status = self.status.borrow();
                    status.is_leader && status.quorum
                };
                let follows = self.heard.within(self.lease) || self.pledged.within(self.lease);
                RaftAnswer::Silence(!leads && !follows)
            }
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
