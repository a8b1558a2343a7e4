//! What can go wrong, for those who start, write and read.

use std::io;
use std::path::PathBuf;

use nebula_domain::Rejection;
use nebula_domain::limits::LimitExceeded;

/// The registry's errors by what was asked of it: [`StartError`], [`ProposeError`], [`ReadError`], [`RecoverError`].
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the store '{path}' cannot be opened")]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "the store '{path}' is damaged: {detail}; remove this node and join it again with an empty folder"
    )]
    Corrupt { path: PathBuf, detail: String },
    #[error(
        "the disk of '{path}' is full: {free} bytes are free, and at least {floor} are needed (space_stop_bytes)"
    )]
    DiskFull {
        path: PathBuf,
        free: u64,
        floor: u64,
    },
    #[error("the Raft timing is not usable: {0}")]
    Timing(String),
    #[error("Raft did not start: {0}")]
    Raft(String),
}

/// Why a request has no outcome. After `NoQuorum` and `Timeout` it may still be applied; proposing it
/// again with the same id is safe.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    #[error(transparent)]
    Rejected(Rejection),
    #[error("the cluster has no quorum: no majority of the voters can be reached")]
    NoQuorum,
    #[error("the registry did not answer in time")]
    Timeout,
    #[error("the request is too large: {0}")]
    TooLarge(LimitExceeded),
    /// It was never handed on: trying again is safe, later.
    #[error("this node is busy: {limit} requests wait already (proposals_queued)")]
    Busy { limit: usize },
    /// And no other node leads.
    #[error(
        "the disk of this node is nearly full: less than {floor} bytes are free (space_low_bytes)"
    )]
    DiskFull { floor: u64 },
    #[error("the registry of this node has stopped")]
    Stopped,
}

/// Why a linearizable read was not possible.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("the cluster has no quorum: no majority of the voters can be reached")]
    NoQuorum,
    #[error("the registry did not answer in time")]
    Timeout,
    #[error("this node is busy: {limit} reads wait already (reads_queued)")]
    Busy { limit: usize },
    #[error("the registry of this node has stopped")]
    Stopped,
}

/// Why a cluster was not brought back on a node.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("this node has never received the registry: there is nothing here to go on with")]
    Empty,
    #[error(transparent)]
    Survivor(#[from] nebula_domain::recovery::RecoveryError),
    #[error("{by} refuses this node: {reason}")]
    Refused { by: String, reason: String },
    #[error("{0} follows a leader: the cluster works without being brought back")]
    Led(String),
    #[error("{by} answers and does not say whether it hears a leader: {reason}")]
    Unclear { by: String, reason: String },
    #[error(
        "{0} can be reached, which is a majority of the voters with this node: start its daemon, and they find a leader by themselves"
    )]
    Majority(String),
    #[error(
        "{by} can be reached and knows log entry {index} of term {term}, which this node does not: bring the cluster back there"
    )]
    KnowsMore { by: String, term: u64, index: u64 },
    #[error("the registry's stores cannot be read or written")]
    Store(#[source] io::Error),
}
