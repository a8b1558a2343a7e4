//! `Protocol::Artifact`: one request frame, one answer frame; after [`ArtifactAnswer::Sending`] the
//! archive's bytes follow on the stream.

use nebula_domain::Digest;
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
pub enum ArtifactRequest {
    /// Do you hold it?
    Has { digest: Digest },
    /// Send it to me.
    Get { digest: Digest },
    /// Fetch it from me; answer when you hold it for good.
    Fetch { digest: Digest },
}

#[derive(Debug, Serialize, Deserialize)]
pub enum ArtifactAnswer {
    /// Held, verified when it came, and this large.
    Held {
        size_bytes: u64,
    },
    Missing,
    Sending {
        size_bytes: u64,
    },
    /// In one sentence, why not.
    Failed {
        message: String,
    },
}
