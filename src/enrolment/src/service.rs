//! Answers other nodes: joins passed on, renewals, and the sealed CA key.

use nebula_domain::state::Role;
use nebula_mesh::{Peer, Service, Stream};
use nebula_wire::codec;
use nebula_wire::peer::identity::{IdentityAnswer, IdentityRequest};

use crate::error::EnrolError;
use crate::{EXCHANGE_DEADLINE, Enrolment};

/// A CSR and a join request are a few KiB.
const MAX_REQUEST_BYTES: usize = 64 * 1024;

pub(crate) struct IdentityService(pub(crate) Enrolment);

#[async_trait::async_trait]
impl Service for IdentityService {
    async fn serve(&self, peer: Peer, mut stream: Stream) {
        let reading = stream.read_frame(MAX_REQUEST_BYTES);
        let Ok(Ok(frame)) = tokio::time::timeout(EXCHANGE_DEADLINE, reading).await else {
            return;
        };
        stream.stop_reading();
        let answer = match codec::decode(&frame) {
            Ok(request) => self.0.answer(peer, request).await,
            Err(_) => Err(EnrolError::BadRequest(
                "the request could not be read".to_owned(),
            )),
        };
        let answer = answer.unwrap_or_else(|error| {
            tracing::warn!(peer = %peer.node, %error, "refused another node's request about identities");
            IdentityAnswer::Refused { error_json: serde_json::to_vec(&error.to_api()).unwrap_or_default() }
        });
        if let Ok(bytes) = codec::encode(&answer) {
            // The asker may have gone, or read nothing; it asks again.
            let _ = tokio::time::timeout(EXCHANGE_DEADLINE, stream.write_frame(&bytes)).await;
        }
    }
}

impl Enrolment {
    async fn answer(
        &self,
        Peer { node, expired, .. }: Peer,
        request: IdentityRequest,
    ) -> Result<IdentityAnswer, EnrolError> {
        if expired && !matches!(request, IdentityRequest::Renew { .. }) {
            return Err(EnrolError::Expired(node));
        }
        let role = {
            let state = self.shared.registry.state();
            state.nodes.get(&node).map(|known| known.role)
        };
        match request {
            IdentityRequest::Join { request_json } => {
                let request =
                    serde_json::from_slice(&request_json).map_err(|_| EnrolError::BadAnswer)?;
                let response = self.admit(request).await?;
                let response_json =
                    serde_json::to_vec(&response).map_err(|_| EnrolError::BadAnswer)?;
                Ok(IdentityAnswer::Joined { response_json })
            }
            // The id comes from the present certificate, never from the request. One that has ended still proves it,
            // and whether the node is a member today is for the registry to say.
            IdentityRequest::Renew { csr } => {
                if role.is_none() {
                    return Err(EnrolError::NotAMember(node));
                }
                let authority = self.authority().ok_or(EnrolError::NoSigner)?;
                let now = self.shared.clock.now();
                let certificate = authority.sign(&csr, self.identity().cluster(), node, now)?;
                tracing::info!(%node, expired, "renewed a node's certificate");
                Ok(IdentityAnswer::Renewed { certificate })
            }
            IdentityRequest::FetchAuthority { public_key } => {
                if role != Some(Role::Voter) {
                    return Err(EnrolError::NotAVoter(node));
                }
                let authority = self.authority().ok_or(EnrolError::NoSigner)?;
                tracing::info!(%node, "handed the sealed CA key to a voter");
                Ok(IdentityAnswer::Authority {
                    sealed: authority.seal(&public_key)?,
                })
            }
        }
    }
}
