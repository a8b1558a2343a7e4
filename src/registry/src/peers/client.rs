//! The sending side: what openraft asks of its network.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nebula_domain::NodeId;
use nebula_mesh::{CallError, Net};
use nebula_wire::codec;
use nebula_wire::peer::Protocol;
use nebula_wire::peer::registry::Blob;
use openraft::error::{
    InstallSnapshotError, NetworkError, RPCError, RaftError, RemoteError, SnapshotMismatch,
    Unreachable,
};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use openraft::{EmptyNode, SnapshotSegmentId};

use super::{RaftAnswer, RaftRequest};
use crate::types::TypeConfig;

/// Pauses between attempts to reach a node that cannot be reached; the last one repeats. Below the
/// election timeout, so that a node that returns hears of the leader before it stands for election.
const BACKOFF: [Duration; 3] = [
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
];

#[derive(Clone)]
pub struct Network(pub Arc<dyn Net>);

pub struct Client {
    mesh: Arc<dyn Net>,
    target: u64,
}

/// Why there is no answer.
enum Fault {
    Unreachable(Unreachable),
    Network(NetworkError),
}

impl<E: std::error::Error> From<Fault> for RPCError<u64, EmptyNode, E> {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Unreachable(error) => RPCError::Unreachable(error),
            Fault::Network(error) => RPCError::Network(error),
        }
    }
}

impl From<CallError> for Fault {
    fn from(error: CallError) -> Fault {
        if error.never_sent() {
            Fault::Unreachable(Unreachable::new(&error))
        } else {
            Fault::Network(NetworkError::new(&error))
        }
    }
}

fn unexpected(what: &str) -> Fault {
    Fault::Unreachable(Unreachable::new(&std::io::Error::other(what.to_owned())))
}

impl Client {
    async fn call(&self, request: &RaftRequest, deadline: Duration) -> Result<RaftAnswer, Fault> {
        let bytes = codec::encode(request).map_err(|e| Fault::Network(NetworkError::new(&e)))?;
        let answer = self
            .mesh
            .call(
                NodeId(self.target),
                Protocol::Raft,
                Bytes::from(bytes),
                deadline,
            )
            .await?;
        match codec::decode(&answer).map_err(|e| Fault::Network(NetworkError::new(&e)))? {
            RaftAnswer::Refused(reason) => Err(unexpected(&reason)),
            answer => Ok(answer),
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: u64, _: &EmptyNode) -> Client {
        Client {
            mesh: self.0.clone(),
            target,
        }
    }
}

impl RaftNetwork<TypeConfig> for Client {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, RPCError<u64, EmptyNode, RaftError<u64>>> {
        match self
            .call(&RaftRequest::Append(rpc), option.hard_ttl())
            .await?
        {
            RaftAnswer::Append(answer) => Ok(answer),
            _ => Err(unexpected("an append was answered by something else").into()),
        }
    }

    async fn install_snapshot(
        &mut self,
        rpc: InstallSnapshotRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<
        InstallSnapshotResponse<u64>,
        RPCError<u64, EmptyNode, RaftError<u64, InstallSnapshotError>>,
    > {
        let segment = |offset| SnapshotSegmentId {
            id: rpc.meta.snapshot_id.clone(),
            offset,
        };
        let mismatch = SnapshotMismatch {
            expect: segment(0),
            got: segment(rpc.offset),
        };
        let request = RaftRequest::Snapshot {
            vote: rpc.vote,
            meta: rpc.meta,
            offset: rpc.offset,
            data: Blob(rpc.data),
            done: rpc.done,
        };
        match self.call(&request, option.hard_ttl()).await? {
            RaftAnswer::Snapshot(answer) => Ok(answer),
            RaftAnswer::SnapshotUnknown => {
                let error = InstallSnapshotError::SnapshotMismatch(mismatch);
                Err(RemoteError::new(self.target, RaftError::APIError(error)).into())
            }
            _ => Err(unexpected("a snapshot was answered by something else").into()),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, RPCError<u64, EmptyNode, RaftError<u64>>> {
        match self
            .call(&RaftRequest::Vote(rpc), option.hard_ttl())
            .await?
        {
            RaftAnswer::Vote(answer) => Ok(answer),
            _ => Err(unexpected("a vote was answered by something else").into()),
        }
    }

    fn backoff(&self) -> Backoff {
        let last = BACKOFF[BACKOFF.len() - 1];
        Backoff::new(BACKOFF.into_iter().chain(std::iter::repeat(last)))
    }
}
