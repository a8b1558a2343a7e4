//! Raft between nodes, over `Protocol::Raft`: one request frame, one answer frame.

mod client;
mod service;

pub use client::Network;
pub use service::RaftService;

use nebula_wire::peer::registry::Blob;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotResponse, VoteRequest, VoteResponse,
};
use serde::{Deserialize, Serialize};

use crate::types::{LogId, SnapshotMeta, TypeConfig, Vote};

#[derive(Serialize, Deserialize)]
pub(crate) enum RaftRequest {
    Append(AppendEntriesRequest<TypeConfig>),
    Vote(VoteRequest<u64>),
    /// Whether the receiver misses a leader, too.
    Silence,
    /// One piece of a snapshot; `done` marks the last.
    Snapshot {
        vote: Vote,
        meta: SnapshotMeta,
        offset: u64,
        data: Blob,
        done: bool,
    },
    /// Whether the receiver misses a leader, and how far its log reaches: before a recovery.
    Known,
}

#[derive(Serialize, Deserialize)]
pub(crate) enum RaftAnswer {
    Append(AppendEntriesResponse<u64>),
    Vote(VoteResponse<u64>),
    Silence(bool),
    Snapshot(InstallSnapshotResponse<u64>),
    /// The receiver knows nothing of the snapshot's earlier pieces; begin again.
    SnapshotUnknown,
    /// The receiver's Raft does not run, or the request is not one that its sender may make.
    Refused(String),
    Known {
        silence: bool,
        last: Option<LogId>,
    },
}
