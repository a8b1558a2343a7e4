//! Admitting a machine that holds a token.

use std::net::SocketAddr;

use nebula_domain::level;
use nebula_domain::state::Addresses;
use nebula_domain::{Command, NodeId, Outcome, Rejection, Request, RequestId, State, TokenId};
use nebula_registry::{ProposeError, ReadError};
use nebula_wire::api::{JoinRequest, JoinResponse, Peer};
use nebula_wire::convert::role_name;
use nebula_wire::peer::identity::{IdentityAnswer, IdentityRequest};
use sha2::{Digest, Sha256};

use crate::error::EnrolError;
use crate::{EXCHANGE_DEADLINE, Enrolment};

impl Enrolment {
    /// Checks the token, registers the node and signs its certificate; a node without the CA key
    /// passes the request to a voter. The same request again gives the same node id.
    pub async fn join(&self, request: JoinRequest) -> Result<JoinResponse, EnrolError> {
        if self.can_sign() {
            return self.admit(request).await;
        }
        let request_json = serde_json::to_vec(&request).map_err(|_| EnrolError::BadAnswer)?;
        match self.ask(&IdentityRequest::Join { request_json }).await? {
            IdentityAnswer::Joined { response_json } => {
                serde_json::from_slice(&response_json).map_err(|_| EnrolError::BadAnswer)
            }
            _ => Err(EnrolError::BadAnswer),
        }
    }

    pub(crate) async fn admit(&self, request: JoinRequest) -> Result<JoinResponse, EnrolError> {
        let authority = self.authority().ok_or(EnrolError::NoSigner)?;
        let identity = self.identity();
        // Before anything is registered: a request that cannot be signed must use up no token.
        authority.sign(
            &request.csr,
            identity.cluster(),
            NodeId(0),
            self.shared.clock.now(),
        )?;
        let (id, command) = self.command(&request)?;
        self.check(&command, request.level).await?;
        let applied = self
            .shared
            .registry
            .propose_request(Request::new(id, command), EXCHANGE_DEADLINE)
            .await?;
        let Outcome::Joined { node, role } = applied.outcome else {
            return Err(EnrolError::BadRequest(
                "this request id was used for something else".to_owned(),
            ));
        };
        let cluster = identity.cluster();
        let certificate = authority.sign(&request.csr, cluster, node, self.shared.clock.now())?;
        // A follower proposes through the leader and may be behind its own proposal.
        let mut states = self.shared.registry.watch();
        let applied_here = states.wait_for(|state| state.revision >= applied.revision);
        let state = match tokio::time::timeout(EXCHANGE_DEADLINE, applied_here).await {
            Ok(Ok(state)) => state.clone(),
            _ => return Err(EnrolError::NoSigner),
        };
        let peers = state.nodes.values().map(|n| Peer {
            id: n.id.0,
            quic: n.addresses.quic.to_string(),
            role: role_name(n.role).to_owned(),
        });
        Ok(JoinResponse {
            cluster_id: cluster.to_string(),
            node_id: node.0,
            role: role_name(role).to_owned(),
            certificate,
            ca: identity.ca_pem(),
            peers: peers.collect(),
            next_node_id: state.next_node_id,
        })
    }

    /// Anyone may ask to join: what does not come with a token must not cost an entry of the log, nor push
    /// the answers to others' requests out of memory. Whether the token is still good, and what the cluster uses by then, is
    /// decided on apply.
    async fn check(&self, command: &Command, level: u32) -> Result<(), EnrolError> {
        let state = self.shared.registry.read(EXCHANGE_DEADLINE).await;
        let state = state.map_err(|error| match error {
            ReadError::NoQuorum => ProposeError::NoQuorum,
            ReadError::Timeout => ProposeError::Timeout,
            ReadError::Busy { limit } => ProposeError::Busy { limit },
            ReadError::Stopped => ProposeError::Stopped,
        })?;
        if !holds_token(&state, command) {
            return Err(ProposeError::Rejected(Rejection::TokenUnknown).into());
        }
        match level::refusal(&state, level) {
            Some(why) => Err(EnrolError::BadRequest(why)),
            None => Ok(()),
        }
    }

    fn command(&self, request: &JoinRequest) -> Result<(RequestId, Command), EnrolError> {
        let bad = |what: &str| EnrolError::BadRequest(format!("the join request has a bad {what}"));
        let address = |text: &str, what| text.parse::<SocketAddr>().map_err(|_| bad(what));
        let addresses = Addresses {
            quic: address(&request.quic, "mesh address")?,
            api: address(&request.api, "API address")?,
            edge: address(&request.edge, "edge address")?,
        };
        let asked: RequestId = request.request_id.parse().map_err(|_| bad("request id"))?;
        let mut secret = [0; 32];
        hex::decode_to_slice(&request.secret, &mut secret).map_err(|_| bad("secret"))?;
        let id = bound_id(asked, &request.token_id, &secret, &request.csr);
        let command = Command::Join {
            token: TokenId(request.token_id.clone()),
            secret_sha256: Sha256::digest(secret).into(),
            now: self.shared.clock.now(),
            name: request
                .name
                .parse()
                .map_err(|e: nebula_domain::names::NameError| {
                    EnrolError::BadRequest(e.to_string())
                })?,
            addresses,
            level: request.level,
        };
        Ok((id, command))
    }
}

fn holds_token(state: &State, command: &Command) -> bool {
    let Command::Join {
        token,
        secret_sha256,
        ..
    } = command
    else {
        return false;
    };
    let known = state.join_tokens.get(token);
    known.is_some_and(|known| known.secret_sha256 == *secret_sha256)
}

/// The id under which a join is proposed. Members know the ids of all that was proposed, and a known
/// id is answered without a look at the token: this one also takes the secret, which only its joiner
/// has, and the key that the answer is signed for.
fn bound_id(asked: RequestId, token: &str, secret: &[u8; 32], csr: &str) -> RequestId {
    let mut hash = Sha256::new();
    hash.update(asked.0.to_be_bytes());
    hash.update(secret);
    hash.update(Sha256::digest(token));
    hash.update(Sha256::digest(csr));
    let hash: [u8; 32] = hash.finalize().into();
    let mut id = [0; 16];
    id.copy_from_slice(&hash[..16]);
    RequestId(u128::from_be_bytes(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_joiner_repeats_a_request() {
        let id = bound_id(RequestId(7), "t", &[1; 32], "csr");
        assert_eq!(bound_id(RequestId(7), "t", &[1; 32], "csr"), id);
        assert_ne!(id, RequestId(7));
        for other in [
            bound_id(RequestId(8), "t", &[1; 32], "csr"),
            bound_id(RequestId(7), "u", &[1; 32], "csr"),
            bound_id(RequestId(7), "t", &[2; 32], "csr"),
            bound_id(RequestId(7), "t", &[1; 32], "another"),
        ] {
            assert_ne!(other, id);
        }
    }
}
