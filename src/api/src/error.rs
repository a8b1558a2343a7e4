//! The one place that turns errors into HTTP answers.

use axum::Json;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use nebula_artifacts::ArtifactError;
use nebula_domain::names::NameError;
use nebula_enrolment::EnrolError;
use nebula_registry::{ProposeError, ReadError};
use nebula_wire::api::{ApiError, ErrorCode, NO_ACTION_HINT};

/// An [`ApiError`] on its way to the client.
#[derive(Debug)]
pub struct Failure(pub ApiError);

pub type Answer<T> = Result<T, Failure>;

impl Failure {
    pub fn new(code: ErrorCode, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Failure(ApiError::new(code, message, hint))
    }

    pub fn not_found(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(ErrorCode::NotFound, message, hint)
    }
}

/// What was remembered of a request is of another one.
pub fn other_change() -> Failure {
    Failure::new(
        ErrorCode::Conflict,
        "this request id was used for another kind of change",
        "send a new request id",
    )
}

/// A path or a method that the API does not have.
pub async fn not_an_action(request: Request) -> Failure {
    let message = format!(
        "there is no action {} {}",
        request.method(),
        request.uri().path()
    );
    Failure::not_found(message, NO_ACTION_HINT)
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.code.http_status())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(self.0)).into_response()
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Failure(error)
    }
}

impl From<NameError> for Failure {
    fn from(error: NameError) -> Self {
        Failure(error.into())
    }
}

impl From<ProposeError> for Failure {
    fn from(error: ProposeError) -> Self {
        Failure(nebula_enrolment::propose_error(&error))
    }
}

impl From<EnrolError> for Failure {
    fn from(error: EnrolError) -> Self {
        Failure(error.to_api())
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        let (code, hint) = match error {
            ReadError::Busy { .. } => (ErrorCode::Unavailable, "try again in a moment"),
            ReadError::Timeout | ReadError::Stopped => (
                ErrorCode::Unavailable,
                "try again, or read with consistency=stale",
            ),
            ReadError::NoQuorum => (
                ErrorCode::NoQuorum,
                "bring back a majority of the voters, or read with consistency=stale",
            ),
        };
        let message = format!("a linearizable read is not possible now: {error}");
        Failure::new(code, message, hint)
    }
}

impl From<ArtifactError> for Failure {
    fn from(error: ArtifactError) -> Self {
        let (code, hint) = artifact_code(&error);
        Failure::new(code, with_causes(&error), hint)
    }
}

fn artifact_code(error: &ArtifactError) -> (ErrorCode, &'static str) {
    use nebula_artifacts::ErrorKind as K;
    match error.kind() {
        K::DigestMismatch => (ErrorCode::DigestMismatch, "upload the archive again"),
        K::BadArchive => (
            ErrorCode::BadArchive,
            "correct the folder and deploy it again",
        ),
        K::TooLarge => (ErrorCode::LimitExceeded, "deploy a smaller folder"),
        K::Missing => (ErrorCode::ArtifactMissing, "upload the artifact first"),
        K::NotReplicated => (
            ErrorCode::Unavailable,
            "see 'nodectl members': another member has to be reachable and have room on its disk",
        ),
        K::Interrupted => (ErrorCode::BadRequest, "upload the archive again"),
        K::DiskFull => (
            ErrorCode::DiskFull,
            "free some space on that machine, or upload through another node",
        ),
        K::Disk => (ErrorCode::Internal, "see this node's log"),
    }
}

/// The error and what caused it, on one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_has_a_code_and_a_status_of_its_own() {
        let full = ArtifactError::DiskFull {
            free: 1,
            wanted: 2,
            floor: 3,
        };
        let failure = Failure::from(full);
        assert_eq!(failure.0.code, ErrorCode::DiskFull);
        assert!(failure.0.message.contains("min_free_bytes"));
        let response = failure.into_response();
        assert_eq!(response.status(), StatusCode::INSUFFICIENT_STORAGE);
        // Also when the disk says so itself.
        let written = ArtifactError::Disk {
            action: "write",
            path: "x".into(),
            source: std::io::ErrorKind::StorageFull.into(),
        };
        assert_eq!(Failure::from(written).0.code, ErrorCode::DiskFull);
        let json = serde_json::to_string(&ErrorCode::DiskFull).unwrap();
        assert_eq!(json, "\"disk_full\"");
    }
}
