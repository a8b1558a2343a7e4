//! What the handlers work with, and what every read and every change has in common.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use nebula_artifacts::Artifacts;
use nebula_domain::{Command, NodeId, Request, RequestId, State, View};
use nebula_enrolment::Enrolment;
use nebula_logs::Logs;
use nebula_registry::{Applied, Registry};
use nebula_telemetry::{Clock, Metrics, Random};
use nebula_wire::api::{CONSISTENCY_HEADER, ErrorCode, REQUEST_ID_HEADER, REVISION_HEADER};
use serde::Deserialize;
use tokio::sync::watch;

use crate::error::{Answer, Failure};

/// A change is given this long before its client is told that it may or may not have happened.
pub const CHANGE_DEADLINE: Duration = Duration::from_secs(5);
/// A linearizable read, likewise.
pub const READ_DEADLINE: Duration = Duration::from_secs(3);

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

/// A state to answer from, labelled with how fresh it is.
pub struct Read {
    pub state: Arc<State>,
    level: Level,
}

impl Read {
    /// The answer with the headers that label it.
    pub fn answer(self, body: impl IntoResponse) -> Response {
        let mut response = body.into_response();
        let label = match self.level {
            Level::Linearizable => "linearizable",
            Level::Stale => "stale",
        };
        let headers = response.headers_mut();
        headers.insert(CONSISTENCY_HEADER, HeaderValue::from_static(label));
        headers.insert(REVISION_HEADER, HeaderValue::from(self.state.revision));
        response
    }
}

impl App {
    pub async fn read(&self, consistency: Consistency) -> Answer<Read> {
        let state = match consistency.consistency {
            Level::Linearizable => self.registry.read(READ_DEADLINE).await?,
            Level::Stale => self.registry.state(),
        };
        Ok(Read {
            state,
            level: consistency.consistency,
        })
    }

    /// Proposes under the client's request id, so that its retry applies once.
    pub async fn change(&self, headers: &HeaderMap, command: Command) -> Answer<Applied> {
        let id = self.request_id(headers)?;
        Ok(self
            .registry
            .propose_request(Request { id, command }, CHANGE_DEADLINE)
            .await?)
    }

    fn request_id(&self, headers: &HeaderMap) -> Answer<RequestId> {
        let Some(value) = headers.get(REQUEST_ID_HEADER) else {
            return Ok(self.random.request_id());
        };
        value
            .to_str()
            .ok()
            .and_then(|text| text.parse().ok())
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
}
