//! The receiving side. A request must name the node as its author that sent it.

use async_trait::async_trait;
use nebula_domain::NodeId;
use nebula_domain::state::Role;
use nebula_mesh::{Peer, Service, Stream};
use nebula_wire::codec;
use openraft::error::{InstallSnapshotError, RaftError};
use openraft::raft::InstallSnapshotRequest;

use super::{RaftAnswer, RaftRequest};
use crate::limits;
use crate::types::{Raft, Vote};

pub struct RaftService(pub Raft);

#[async_trait]
impl Service for RaftService {
    async fn serve(&self, peer: Peer, mut stream: Stream) {
        let frame = match stream.read_frame(limits::RAFT_FRAME_BYTES).await {
            Ok(frame) => frame,
            Err(error) => {
                tracing::debug!(peer = %peer.node, %error, "a Raft request was not read");
                return;
            }
        };
        let answer = match codec::decode(&frame) {
            // Only a node that may vote can stand for election or lead.
            Ok(_) if peer.role == Some(Role::Worker) => {
                RaftAnswer::Refused("a worker does not vote".to_owned())
            }
            Ok(request) => self.answer(peer.node, request).await,
            Err(error) => RaftAnswer::Refused(error.to_string()),
        };
        if let RaftAnswer::Refused(reason) = &answer {
            tracing::debug!(peer = %peer.node, reason, "a Raft request was refused");
        }
        let sent = match codec::encode(&answer) {
            Ok(bytes) => stream.write_frame(bytes).await,
            Err(error) => {
                tracing::error!(%error, "a Raft answer cannot be encoded");
                return;
            }
        };
        if let Err(error) = sent {
            tracing::debug!(peer = %peer.node, %error, "a Raft answer was not sent");
        }
    }
}

impl RaftService {
    async fn answer(&self, peer: NodeId, request: RaftRequest) -> RaftAnswer {
        let author = match &request {
            RaftRequest::Append(rpc) => author(&rpc.vote),
            RaftRequest::Vote(rpc) => author(&rpc.vote),
            RaftRequest::Snapshot { vote, .. } => author(vote),
        };
        if author != Some(peer) {
            tracing::warn!(%peer, ?author, "a node spoke Raft in the name of another");
            return RaftAnswer::Refused("the sender is not the author".to_owned());
        }
        match request {
            RaftRequest::Append(rpc) => match self.0.append_entries(rpc).await {
                Ok(answer) => RaftAnswer::Append(answer),
                Err(error) => RaftAnswer::Refused(error.to_string()),
            },
            RaftRequest::Vote(rpc) => match self.0.vote(rpc).await {
                Ok(answer) => RaftAnswer::Vote(answer),
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
                if offset.saturating_add(data.len() as u64) > limits::SNAPSHOT_BYTES {
                    return RaftAnswer::Refused("the snapshot is too large".to_owned());
                }
                let rpc = InstallSnapshotRequest {
                    vote,
                    meta,
                    offset,
                    data,
                    done,
                };
                match self.0.install_snapshot(rpc).await {
                    Ok(answer) => RaftAnswer::Snapshot(answer),
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
