//! How a machine becomes a member and stays one: joining with a token, renewing its certificate at
//! half-life, and handing the CA key to voters, sealed.
//!
//! Any voter can sign, so that losing the first machine for good stops neither joins nor renewals.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod error;
mod join;
mod renewal;
mod service;

use std::path::PathBuf;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use nebula_domain::NodeId;
use nebula_domain::state::Role;
use nebula_mesh::{CallError, Mesh};
use nebula_pki::{Authority, Identity};
use nebula_registry::Registry;
use nebula_telemetry::Clock;
use nebula_wire::api::{ApiError, ErrorCode};
use nebula_wire::peer::Protocol;
use nebula_wire::peer::identity::{IdentityAnswer, IdentityRequest};
use zeroize::Zeroizing;

pub use error::{EnrolError, propose_error};
pub use renewal::Renewal;

/// One exchange with another node about identities.
const EXCHANGE_DEADLINE: Duration = Duration::from_secs(5);

/// What enrolment works with.
pub struct Parts {
    pub data_dir: PathBuf,
    pub registry: Registry,
    pub mesh: Mesh,
    pub clock: Clock,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Enrolment {
    shared: Arc<Shared>,
}

struct Shared {
    data_dir: PathBuf,
    registry: Registry,
    mesh: Mesh,
    clock: Clock,
    /// Held by voters once it has reached them.
    authority: RwLock<Option<Arc<Authority>>>,
}

impl Enrolment {
    /// Loads the CA key if this node holds it, and answers other nodes from now on.
    pub fn start(parts: Parts) -> Result<Enrolment, EnrolError> {
        let authority = Authority::load(&parts.data_dir)?.map(Arc::new);
        let shared = Shared {
            data_dir: parts.data_dir,
            registry: parts.registry,
            mesh: parts.mesh.clone(),
            clock: parts.clock,
            authority: RwLock::new(authority),
        };
        let enrolment = Enrolment {
            shared: Arc::new(shared),
        };
        parts.mesh.serve(
            Protocol::Identity,
            Arc::new(service::IdentityService(enrolment.clone())),
        );
        Ok(enrolment)
    }

    /// SHA-256 of the CA's certificate, for join tokens.
    pub fn ca_sha256(&self) -> [u8; 32] {
        self.identity().ca_sha256()
    }

    /// This node's present identity.
    pub fn identity(&self) -> Arc<Identity> {
        self.shared.mesh.identity().current()
    }

    /// The loop that renews the certificate and fetches the CA key, to be run by a guardian.
    pub fn renewal(&self) -> Renewal {
        Renewal::new(self.clone())
    }

    /// Whether this node can sign.
    pub fn can_sign(&self) -> bool {
        self.authority().is_some()
    }

    /// See [`Authority::derived`]; none where the CA's key is not.
    pub fn derived_key(&self, purpose: &str) -> Option<Zeroizing<[u8; 32]>> {
        self.authority().map(|authority| authority.derived(purpose))
    }

    fn authority(&self) -> Option<Arc<Authority>> {
        self.shared
            .authority
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }

    /// Other members that may hold the CA key: the leader first.
    fn signers(&self) -> Vec<NodeId> {
        let me = self.shared.mesh.me();
        let leader = self.shared.registry.status().borrow().leader;
        let state = self.shared.registry.state();
        let mut voters: Vec<NodeId> = if state.nodes.is_empty() {
            // Not caught up yet: those that were members when this node joined.
            let directory = self.shared.mesh.directory().borrow().clone();
            directory
                .nodes
                .iter()
                .filter(|(_, e)| e.role == Role::Voter)
                .map(|(id, _)| *id)
                .collect()
        } else {
            state
                .nodes
                .values()
                .filter(|n| n.role == Role::Voter)
                .map(|n| n.id)
                .collect()
        };
        voters.retain(|id| *id != me);
        voters.sort_by_key(|id| Some(*id) != leader);
        voters
    }

    /// Asks one voter after the other until one answers in a way that can be understood.
    async fn ask(&self, request: &IdentityRequest) -> Result<IdentityAnswer, EnrolError> {
        let frame = nebula_wire::codec::encode(request).map_err(|_| EnrolError::BadAnswer)?;
        let mut failure = EnrolError::NoSigner;
        for voter in self.signers() {
            let call = self.shared.mesh.call(
                voter,
                Protocol::Identity,
                frame.clone().into(),
                EXCHANGE_DEADLINE,
            );
            match understood(call.await) {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => {
                    // Without the key itself, another voter may still have it.
                    let elsewhere = error.code == ErrorCode::Unavailable;
                    failure = EnrolError::Refused(error);
                    if !elsewhere {
                        break;
                    }
                }
                Err(reason) => {
                    tracing::warn!(%voter, reason, "a voter did not answer about identities");
                }
            }
        }
        Err(failure)
    }
}

/// The answer of another node, its refusal, or why it is neither.
fn understood(
    called: Result<bytes::Bytes, CallError>,
) -> Result<Result<IdentityAnswer, ApiError>, String> {
    let bytes = called.map_err(|error| error.to_string())?;
    match nebula_wire::codec::decode(&bytes).map_err(|error| error.to_string())? {
        IdentityAnswer::Refused { error_json } => serde_json::from_slice(&error_json)
            .map(Err)
            .map_err(|error| error.to_string()),
        answer => Ok(Ok(answer)),
    }
}
