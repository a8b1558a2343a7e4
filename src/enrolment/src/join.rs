//! Admitting a machine that holds a token.

use std::net::SocketAddr;

use nebula_domain::state::Addresses;
use nebula_domain::{Command, NodeId, Outcome, Request, RequestId, TokenId};
use nebula_wire::api::{JoinRequest, JoinResponse, Peer};
use nebula_wire::convert::role_name;
use nebula_wire::peer::identity::{IdentityAnswer, IdentityRequest};
use sha2::{Digest, Sha256};

use crate::error::EnrolError;
use crate::{EXCHANGE_DEADLINE, Enrolment};

impl Enrolment {
    /// Checks the token, registers the node and signs its certificate; a node without the CA key
    /// passes the request to a voter. The same request id gives the same node id.
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
        let applied = self
            .shared
            .registry
            .propose_request(Request { id, command }, EXCHANGE_DEADLINE)
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

    fn command(&self, request: &JoinRequest) -> Result<(RequestId, Command), EnrolError> {
        let bad = |what: &str| EnrolError::BadRequest(format!("the join request has a bad {what}"));
        let address = |text: &str, what| text.parse::<SocketAddr>().map_err(|_| bad(what));
        let addresses = Addresses {
            quic: address(&request.quic, "mesh address")?,
            api: address(&request.api, "API address")?,
            edge: address(&request.edge, "edge address")?,
        };
        let id = request.request_id.parse().map_err(|_| bad("request id"))?;
        let mut secret = [0; 32];
        hex::decode_to_slice(&request.secret, &mut secret).map_err(|_| bad("secret"))?;
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
        };
        Ok((id, command))
    }
}
