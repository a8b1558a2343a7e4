//! `Protocol::Identity`: one request frame, one answer frame.

use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
pub enum IdentityRequest {
    /// A joiner's request, passed on by a node that cannot sign. JSON of `api::JoinRequest`.
    Join { request_json: Vec<u8> },
    /// A new certificate for the asking node, whoever it is by its present one.
    Renew { csr: String },
    /// The CA key for a voter, sealed for this public key.
    FetchAuthority { public_key: [u8; 32] },
}

#[derive(Serialize, Deserialize)]
pub enum IdentityAnswer {
    /// JSON of `api::JoinResponse`.
    Joined {
        response_json: Vec<u8>,
    },
    Renewed {
        certificate: String,
    },
    /// The CA key in a sealed box that only the asker can open.
    Authority {
        sealed: Vec<u8>,
    },
    /// JSON of `api::ApiError`.
    Refused {
        error_json: Vec<u8>,
    },
}
