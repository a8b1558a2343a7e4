//! What can go wrong between a client and a cluster.

use std::time::Duration;

use nebula_wire::api::{ApiError, ErrorCode, NO_ACTION_HINT};

/// One address that did not answer, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    pub address: String,
    pub reason: String,
}

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The cluster answered that it would not.
    #[error("{}", .0.message)]
    Api(ApiError),
    /// No address could be connected to, or every connection broke.
    #[error("the cluster cannot be reached: {}", list(tried))]
    Unreachable { tried: Vec<Tried> },
    /// Something answered that cannot prove to be a node of the cluster; nothing was sent to it.
    #[error("{address} cannot prove that it belongs to the cluster: {reason}")]
    Untrusted { address: String, reason: String },
    /// A node was reached and said nothing in time; a change may or may not have been made.
    #[error("no answer within {} s ({})", after.as_secs(), list(tried))]
    Timeout { after: Duration, tried: Vec<Tried> },
    /// Something answered that does not speak this API.
    #[error("{address} gave an answer that is not Nebula's: {reason}")]
    BadAnswer { address: String, reason: String },
    /// The bytes to upload could not be read.
    #[error("the upload stopped: {0}")]
    Source(String),
    /// The client cannot be built from what it was given.
    #[error("{0}")]
    Setup(String),
}

impl ClientError {
    /// The API's code, when the API answered.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            ClientError::Api(e) => Some(e.code),
            _ => None,
        }
    }

    pub fn is_not_found(&self) -> bool {
        self.code() == Some(ErrorCode::NotFound)
    }

    /// Whether the node does not have the action at all: it is of another version.
    pub fn is_unknown_action(&self) -> bool {
        matches!(self, ClientError::Api(error) if error.hint == NO_ACTION_HINT)
    }

    /// Whether the same call may succeed a moment later without anyone changing anything.
    pub fn is_temporary(&self) -> bool {
        match self {
            ClientError::Unreachable { .. } | ClientError::Timeout { .. } => true,
            ClientError::Api(e) => matches!(
                e.code,
                ErrorCode::NoQuorum | ErrorCode::Unavailable | ErrorCode::Timeout
            ),
            _ => false,
        }
    }
}

fn list(tried: &[Tried]) -> String {
    tried
        .iter()
        .map(|t| format!("{}: {}", t.address, t.reason))
        .collect::<Vec<_>>()
        .join("; ")
}
