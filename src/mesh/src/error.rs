//! What can go wrong between nodes, and the codes by which a peer says so.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use nebula_domain::NodeId;
use nebula_wire::peer::Protocol;
use quinn::{ConnectionError, ReadError, ReadExactError, VarInt, WriteError};

/// Why a mesh was not bound, or an identity not replaced.
#[derive(Debug, thiserror::Error)]
pub enum MeshError {
    #[error(
        "cannot listen on {address}/udp for other nodes: choose a free address of this machine with the 'quic' setting"
    )]
    Bind {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("the mesh must be bound inside a tokio runtime")]
    NoRuntime,
    #[error("this node's certificate cannot be used for the mesh")]
    Identity(#[from] nebula_pki::PkiError),
    #[error("the TLS settings do not suit QUIC: {0}")]
    Tls(String),
}

/// Why a call, or a read or write of a stream, did not succeed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    #[error("node {0} is not a member of this cluster, as far as this node knows")]
    UnknownNode(NodeId),
    #[error("node {node} cannot be reached at {address}: {reason}")]
    Unreachable {
        node: NodeId,
        address: SocketAddr,
        reason: String,
    },
    /// Anything but silence: somebody is there and ends the handshake, or this node cannot begin one.
    #[error("node {node} at {address} cannot be spoken with, which is not silence: {reason}")]
    Handshake {
        node: NodeId,
        address: SocketAddr,
        reason: String,
    },
    #[error("the connection to node {node} was lost: {reason}")]
    Lost { node: NodeId, reason: String },
    #[error("node {node} refuses this node: {reason}")]
    Refused { node: NodeId, reason: String },
    #[error("node {node} does not serve {protocol:?} (it may be starting or stopping)")]
    NotServed { node: NodeId, protocol: Protocol },
    #[error("no answer from node {node} to {protocol:?} within {} ms", deadline.as_millis())]
    Deadline {
        node: NodeId,
        protocol: Protocol,
        deadline: Duration,
    },
    #[error("a frame of {actual} bytes is over the limit of {limit} bytes (frame_bytes)")]
    TooLarge { actual: usize, limit: usize },
    #[error(
        "a frame of {actual} bytes beside others of node {node} is over the limit of {limit} bytes (frame_bytes_under_way)"
    )]
    TooMuch {
        node: NodeId,
        actual: usize,
        limit: usize,
    },
    #[error("node {node} ended the stream before it was complete")]
    Ended { node: NodeId },
    #[error("this node's mesh is closed")]
    Closed,
}

impl CallError {
    /// Whether the peer cannot have seen the request, so that it may be sent again or elsewhere.
    pub fn never_sent(&self) -> bool {
        matches!(
            self,
            CallError::UnknownNode(_)
                | CallError::Unreachable { .. }
                | CallError::Handshake { .. }
                | CallError::NotServed { .. }
                | CallError::Refused { .. }
                | CallError::Closed
        )
    }
}

impl From<CallError> for io::Error {
    fn from(error: CallError) -> io::Error {
        let kind = match &error {
            CallError::UnknownNode(_) => io::ErrorKind::NotFound,
            CallError::Unreachable { .. } | CallError::Handshake { .. } => {
                io::ErrorKind::HostUnreachable
            }
            CallError::Lost { .. } => io::ErrorKind::ConnectionReset,
            CallError::Refused { .. } | CallError::NotServed { .. } => {
                io::ErrorKind::ConnectionRefused
            }
            CallError::Deadline { .. } => io::ErrorKind::TimedOut,
            CallError::TooLarge { .. } | CallError::TooMuch { .. } => io::ErrorKind::InvalidData,
            CallError::Ended { .. } => io::ErrorKind::UnexpectedEof,
            CallError::Closed => io::ErrorKind::NotConnected,
        };
        io::Error::new(kind, error)
    }
}

/// What a stream's reset or stop, or a connection's close, means.
pub(crate) mod code {
    use super::VarInt;

    /// Orderly: the node stops, or has no more use for the connection.
    pub(crate) const DONE: VarInt = VarInt::from_u32(0);
    /// No service is registered for the stream's protocol.
    pub(crate) const NOT_SERVED: VarInt = VarInt::from_u32(1);
    /// The certificate is fine and the directory says no.
    pub(crate) const REFUSED: VarInt = VarInt::from_u32(2);
    /// The stream's owner went away before it was complete.
    pub(crate) const ABORTED: VarInt = VarInt::from_u32(3);
    /// The first byte of a stream is not a protocol, or did not come in time.
    pub(crate) const MALFORMED: VarInt = VarInt::from_u32(4);
    /// The dialler was a member once and is none any more.
    pub(crate) const REMOVED: VarInt = VarInt::from_u32(5);
}

/// Whom a stream is with and about, for errors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context {
    pub(crate) node: NodeId,
    pub(crate) protocol: Protocol,
}

impl Context {
    fn code(self, code: VarInt) -> CallError {
        let node = self.node;
        match code {
            code::NOT_SERVED => CallError::NotServed {
                node,
                protocol: self.protocol,
            },
            code::REFUSED => CallError::Refused {
                node,
                reason: format!("{:?} is for members only", self.protocol),
            },
            _ => CallError::Ended { node },
        }
    }

    pub(crate) fn connection(self, error: &ConnectionError) -> CallError {
        lost(self.node, error)
    }

    pub(crate) fn write(self, error: WriteError) -> CallError {
        match error {
            WriteError::Stopped(code) => self.code(code),
            WriteError::ConnectionLost(error) => self.connection(&error),
            WriteError::ClosedStream | WriteError::ZeroRttRejected => {
                CallError::Ended { node: self.node }
            }
        }
    }

    pub(crate) fn read(self, error: ReadError) -> CallError {
        match error {
            ReadError::Reset(code) => self.code(code),
            ReadError::ConnectionLost(error) => self.connection(&error),
            ReadError::ClosedStream
            | ReadError::IllegalOrderedRead
            | ReadError::ZeroRttRejected => CallError::Ended { node: self.node },
        }
    }

    pub(crate) fn read_exact(self, error: ReadExactError) -> CallError {
        match error {
            ReadExactError::FinishedEarly(_) => CallError::Ended { node: self.node },
            ReadExactError::ReadError(error) => self.read(error),
        }
    }
}

pub(crate) fn lost(node: NodeId, error: &ConnectionError) -> CallError {
    match error {
        ConnectionError::ApplicationClosed(close)
            if [code::REFUSED, code::REMOVED].contains(&close.error_code) =>
        {
            CallError::Refused {
                node,
                reason: String::from_utf8_lossy(&close.reason).into_owned(),
            }
        }
        error => CallError::Lost {
            node,
            reason: error.to_string(),
        },
    }
}
