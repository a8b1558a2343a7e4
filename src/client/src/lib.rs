//! Typed client of the HTTP API.
//!
//! It speaks HTTPS to any of several API addresses, or plain HTTP over a node's Unix socket. When an address does not
//! answer, the next one is tried: reads may be repeated, and every change carries a request id that the cluster
//! applies once. All waits are bounded (see [`limits`]).
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod body;
mod calls;
mod connect;
mod deployments;
mod error;
mod events;
pub mod limits;
mod lines;
mod path;
mod send;
mod upload;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nebula_wire::api::ClusterFile;

pub use error::{ClientError, Tried};
pub use events::EventQuery;
pub use lines::LogQuery;
pub use nebula_wire::api;
pub use upload::{ArtifactSource, OpenArtifact};

use connect::Transport;

/// How fresh an answer must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Consistency {
    /// What the asked node has applied so far. Works without a quorum.
    #[default]
    Stale,
    /// No older than anything acknowledged before the question. Needs a quorum.
    Linearizable,
}

impl Consistency {
    fn as_str(self) -> &'static str {
        match self {
            Consistency::Stale => "stale",
            Consistency::Linearizable => "linearizable",
        }
    }
}

/// A handle to one cluster; clones share connections.
#[derive(Clone)]
pub struct Client {
    transport: Arc<Transport>,
    token: Option<Arc<str>>,
    deadline: Duration,
    consistency: Consistency,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("addresses", &self.transport.addresses())
            .field("token", &self.token.as_ref().map(|_| "hidden"))
            .finish_non_exhaustive()
    }
}

impl Client {
    /// A client for the cluster that the file describes. Any node with a certificate of its CA is accepted.
    pub fn from_cluster_file(file: &ClusterFile) -> Result<Client, ClientError> {
        let tls = nebula_pki::client_config(&file.ca, nebula_pki::Expect::AnyNode)
            .map_err(|e| ClientError::Setup(format!("the cluster's CA cannot be used: {e}")))?;
        Client::with_tls(file.apis.clone(), tls, Some(file.token.clone()))
    }

    /// A client with TLS settings of the caller's, as a joiner needs that knows no more than the CA's hash.
    pub fn with_tls(
        addresses: Vec<String>,
        tls: impl Into<Arc<rustls::ClientConfig>>,
        token: Option<String>,
    ) -> Result<Client, ClientError> {
        Ok(Client::over(
            Transport::tls(addresses, tls.into())?,
            token.map(Arc::from),
        ))
    }

    /// A client over a node's Unix socket, where the file's permissions stand in for a token.
    pub fn unix(socket: impl Into<PathBuf>) -> Client {
        Client::over(Transport::unix(socket.into()), None)
    }

    fn over(transport: Transport, token: Option<Arc<str>>) -> Client {
        Client {
            transport: Arc::new(transport),
            token,
            deadline: limits::CALL_DEADLINE,
            consistency: Consistency::default(),
        }
    }

    /// The same client with another deadline for each call, tries at other addresses included.
    pub fn with_deadline(&self, deadline: Duration) -> Client {
        Client {
            deadline,
            ..self.clone()
        }
    }

    /// The same client with reads of this consistency.
    pub fn with_consistency(&self, consistency: Consistency) -> Client {
        Client {
            consistency,
            ..self.clone()
        }
    }

    /// Where this client connects to, in the order in which it tries.
    pub fn addresses(&self) -> Vec<String> {
        self.transport.addresses()
    }
}
