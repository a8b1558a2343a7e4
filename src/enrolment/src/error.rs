//! Why a join, a renewal or a hand-over of the CA key did not happen.

use nebula_registry::ProposeError;
use nebula_wire::api::{ApiError, ErrorCode};

#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    #[error("{0}")]
    BadRequest(String),
    #[error("no voter that can sign certificates is reachable from this node")]
    NoSigner,
    #[error("{0}")]
    Proposal(#[from] ProposeError),
    #[error("node {0} is not a voter and may not hold the CA key")]
    NotAVoter(nebula_domain::NodeId),
    #[error("node {0} is not a member as far as this node knows")]
    NotAMember(nebula_domain::NodeId),
    #[error("the certificate of node {0} has ended: it may only be renewed")]
    Expired(nebula_domain::NodeId),
    #[error("the certificate or its request was refused: {0}")]
    Pki(#[from] nebula_pki::PkiError),
    #[error("the renewed certificate is not valid now: the clocks of the two nodes differ")]
    Clock,
    #[error("the mesh did not take the renewed identity: {0}")]
    Mesh(#[from] nebula_mesh::MeshError),
    #[error("another node refused: {}", .0.message)]
    Refused(ApiError),
    #[error("the answer of another node could not be read")]
    BadAnswer,
}

impl EnrolError {
    pub fn to_api(&self) -> ApiError {
        let (code, hint) = match self {
            EnrolError::Refused(error) => return error.clone(),
            EnrolError::Proposal(error) => return propose_error(error),
            EnrolError::BadRequest(_) | EnrolError::BadAnswer | EnrolError::Pki(_) => (
                ErrorCode::BadRequest,
                "use the same version of nodectl on all machines",
            ),
            EnrolError::Clock => (ErrorCode::Unavailable, "set the clocks of all machines"),
            EnrolError::NoSigner | EnrolError::Mesh(_) | EnrolError::NotAMember(_) => (
                ErrorCode::Unavailable,
                "try again, or join through the address of a voter",
            ),
            EnrolError::Expired(_) => (ErrorCode::Forbidden, "renew the certificate first"),
            EnrolError::NotAVoter(_) => (ErrorCode::Forbidden, "join the node with a voter token"),
        };
        ApiError::new(code, self.to_string(), hint)
    }
}

/// The one mapping from failed proposals to API errors.
pub fn propose_error(error: &ProposeError) -> ApiError {
    match error {
        ProposeError::Rejected(rejection) => ApiError::from(rejection),
        ProposeError::NoQuorum => ApiError::new(
            ErrorCode::NoQuorum,
            "the cluster has no leader that a majority of the voters follows, so nothing can be changed",
            "bring back enough voters (see 'nodectl members'); what runs goes on running",
        ),
        ProposeError::Timeout => ApiError::new(
            ErrorCode::Timeout,
            "the change was not confirmed in time; it may still happen",
            "look at the present state, or repeat the same request id",
        ),
        ProposeError::TooLarge(limit) => ApiError::new(
            ErrorCode::LimitExceeded,
            limit.to_string(),
            "ask for less in one change",
        ),
        ProposeError::DiskFull { .. } => ApiError::new(
            ErrorCode::DiskFull,
            error.to_string(),
            "make room on its disk; it goes on by itself",
        ),
        ProposeError::Busy { .. } => ApiError::new(
            ErrorCode::Unavailable,
            error.to_string(),
            "try again in a moment",
        ),
        ProposeError::Stopped => ApiError::new(
            ErrorCode::Unavailable,
            error.to_string(),
            "try again at another node",
        ),
    }
}
