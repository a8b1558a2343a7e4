//! What the handlers work with, and what every read and every change has in common.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use nebula_artifacts::Artifacts;
use nebula_domain::time::Millis;
use nebula_domain::{Command, NodeId, Outcome, Request, RequestId, State, View};
use nebula_enrolment::Enrolment;
use nebula_health::Reports;
use nebula_logs::Logs;
use nebula_registry::{Applied, OperatorToken, ProposeError, Registry, Status};
use nebula_secrets::Vault;
use nebula_telemetry::{Clock, Metrics, Random};
use nebula_volumes::Sizes;
use nebula_wire::api::{
    ApiError, AsOf, CONSISTENCY_HEADER, ErrorCode, NO_QUORUM_SINCE_HEADER, REQUEST_ID_HEADER,
    REVISION_HEADER, SilentNode,
};
use serde::Deserialize;
use tokio::sync::watch;

use crate::access;
use crate::error::{Answer, Failure};

/// A change is given this long before its client is told that it may or may not have happened, and a linearizable read
/// before it fails. Longer than an election, and so short that a node that is cut off, in whatever way, says so within
/// three seconds: its client may do better at another one.
pub const DEADLINE: Duration = Duration::from_millis(2800);

/// Facts about this node that no other part of the API's dependencies knows.
#[derive(Debug, Clone)]
pub struct NodeInfo {
    pub me: NodeId,
    pub version: &'static str,
    pub data_dir: std::path::PathBuf,
    pub started: std::time::Instant,
    pub quic: std::net::SocketAddr,
    pub api: std::net::SocketAddr,
    pub edge: std::net::SocketAddr,
}

/// Everything the handlers need. Cloned per request: keep it a handful of handles.
#[derive(Clone)]
pub struct App {
    pub registry: Registry,
    pub view: watch::Receiver<Arc<View>>,
    pub artifacts: Artifacts,
    pub logs: Logs,
    pub probes: Reports,
    pub volumes: Sizes,
    pub vault: Vault,
    pub enrolment: Enrolment,
    pub metrics: Metrics,
    pub clock: Clock,
    pub random: Random,
    pub node: Arc<NodeInfo>,
}

/// `?consistency=linearizable|stale`
#[derive(Debug, Clone, Copy, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub struct Consistency {
    /// `stale` (default): what this node has applied so far. `linearizable`: at least as new as every
    /// change acknowledged before the read; needs a quorum.
    #[serde(default)]
    pub consistency: Level,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Linearizable,
    #[default]
    Stale,
}

impl Level {
    fn as_str(self) -> &'static str {
        match self {
            Level::Linearizable => "linearizable",
            Level::Stale => "stale",
        }
    }
}

/// A state to answer from, labelled with how fresh it is.
pub struct Read {
    pub state: Arc<State>,
    pub as_of: AsOf,
}

impl Read {
    /// The answer with the headers that label it.
    pub fn answer(self, body: impl IntoResponse) -> Response {
        let mut response = body.into_response();
        let headers = response.headers_mut();
        let since = self.as_of.no_quorum_since;
        for (name, value) in [
            (CONSISTENCY_HEADER, Some(self.as_of.consistency)),
            (REVISION_HEADER, Some(self.as_of.revision.to_string())),
            (NO_QUORUM_SINCE_HEADER, since),
        ] {
            if let Some(value) = value.and_then(|text| HeaderValue::try_from(text).ok()) {
                headers.insert(name, value);
            }
        }
        response
    }
}

impl App {
    pub async fn read(&self, consistency: Consistency) -> Answer<Read> {
        let state = match consistency.consistency {
            Level::Linearizable => self.registry.read(DEADLINE).await?,
            Level::Stale => self.registry.state(),
        };
        let status = self.registry.status().borrow().clone();
        let as_of = AsOf {
            consistency: consistency.consistency.as_str().to_owned(),
            revision: state.revision,
            applied_index: status.applied_index,
            no_quorum_since: self.no_quorum_since(&status),
        };
        Ok(Read { state, as_of })
    }

    /// By this node's clock, as answers show it.
    pub fn no_quorum_since(&self, status: &Status) -> Option<String> {
        let ago = status.no_quorum_since?.elapsed().as_millis();
        let ago = u64::try_from(ago).unwrap_or(u64::MAX);
        let at = Millis(self.clock.now().0.saturating_sub(ago));
        Some(crate::node::rfc3339(at))
    }

    /// Proposes under the client's request id, so that its retry applies once.
    pub async fn change(&self, headers: &HeaderMap, command: Command) -> Answer<Applied> {
        let request = self.request(headers, command)?;
        Ok(self.propose(headers, request).await?)
    }

    /// What would come of the command now: a rehearsal on a copy of the latest state, which changes nothing.
    pub async fn rehearse(&self, command: Command) -> Answer<Outcome> {
        let latest = Consistency {
            consistency: Level::Linearizable,
        };
        let mut state = State::clone(&self.read(latest).await?.state);
        let request = Request::new(self.random.request_id(), command);
        Ok(nebula_domain::apply(&mut state, &request).map_err(|e| ApiError::from(&e))?)
    }

    /// With the id that the client chose, if it did.
    pub fn request(&self, headers: &HeaderMap, command: Command) -> Answer<Request> {
        let id = self
            .request_id(headers)?
            .unwrap_or_else(|| self.random.request_id());
        Ok(Request::new(id, command))
    }

    /// One step of a change that takes several; it has an id of its own.
    pub async fn step(&self, headers: &HeaderMap, command: Command) -> Answer<Applied> {
        let id = self.random.request_id();
        Ok(self.propose(headers, Request::new(id, command)).await?)
    }

    /// Hands the caller's own token on: the leader does not take this node's word for it when it is a worker.
    pub async fn propose(
        &self,
        headers: &HeaderMap,
        mut request: Request,
    ) -> Result<Applied, ProposeError> {
        request.stamp.who = access::who(self, headers);
        let operator = access::bearer(headers).map(|token| OperatorToken(token.to_owned()));
        let proposed = self.registry.propose_for(operator, request, DEADLINE);
        proposed.await
    }

    /// The one that the client chose, if it did.
    pub fn request_id(&self, headers: &HeaderMap) -> Answer<Option<RequestId>> {
        let Some(value) = headers.get(REQUEST_ID_HEADER) else {
            return Ok(None);
        };
        value
            .to_str()
            .ok()
            .and_then(|text| text.parse().ok())
            .map(Some)
            .ok_or_else(|| {
                Failure::new(
                    ErrorCode::BadRequest,
                    format!("the header {REQUEST_ID_HEADER} is not 32 hexadecimal digits"),
                    "send a random one, or none",
                )
            })
    }

    pub fn view(&self) -> Arc<View> {
        self.view.borrow().clone()
    }

    /// A node that was asked and said nothing, and why.
    pub fn silent(&self, state: &State, node: NodeId, error: impl fmt::Display) -> SilentNode {
        let known = state.nodes.get(&node);
        let view = self.view.borrow();
        let restarts = view.nodes.get(&node).is_some_and(|seen| seen.returning);
        SilentNode {
            node: known.map_or_else(|| node.to_string(), |node| node.name.to_string()),
            reason: match restarts {
                true => "it restarts".to_owned(),
                false => error.to_string(),
            },
        }
    }
}
