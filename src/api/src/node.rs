//! `/v1/status`, `/v1/health`, `/metrics`: this node's own account of itself.

use axum::Json;
use axum::extract::State as Ex;
use axum::http::header;
use axum::response::IntoResponse;
use nebula_domain::plan::rooms;
use nebula_domain::time::Millis;
use nebula_registry::Space;
use nebula_wire::api::{NodeStatus, RecoveryInfo};
use nebula_wire::convert;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use utoipa::ToSchema;

use crate::app::App;
use crate::members;

/// UTC, whole seconds.
pub fn rfc3339(at: Millis) -> String {
    let seconds = i64::try_from(at.0 / 1000).unwrap_or(i64::MAX);
    OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| "unknown".to_owned())
}

/// This node, its part in the cluster, and the revision it speaks from.
#[utoipa::path(get, path = "/v1/status", responses((status = 200, body = NodeStatus)))]
pub async fn status(Ex(app): Ex<App>) -> Json<NodeStatus> {
    let state = app.registry.state();
    let raft = app.registry.status().borrow().clone();
    let me = &app.node;
    let member = state.nodes.get(&me.me);
    let rss_bytes = app
        .view()
        .nodes
        .get(&me.me)
        .map_or(0, |n| n.facts.rss_bytes);
    Json(NodeStatus {
        cluster_id: state
            .cluster
            .as_ref()
            .map(|c| c.id.to_string())
            .unwrap_or_default(),
        id: me.me.0,
        name: member.map(|n| n.name.to_string()).unwrap_or_default(),
        version: me.version.to_owned(),
        pid: std::process::id(),
        uptime_seconds: me.started.elapsed().as_secs(),
        leader: raft.leader.map(|n| n.0),
        term: raft.term,
        role: if raft.voters.contains(&me.me) {
            "voter"
        } else {
            "learner"
        }
        .to_owned(),
        quorum: raft.quorum,
        no_quorum_since: app.no_quorum_since(&raft),
        disk: match raft.space {
            Space::Enough => None,
            Space::Low => Some("low".to_owned()),
            Space::Full => Some("full".to_owned()),
        },
        revision: state.revision,
        recovered: state.recoveries.last().map(|recovery| RecoveryInfo {
            at: rfc3339(recovery.at),
            by: recovery.by.0,
            term: recovery.term,
            index: recovery.index,
            removed: recovery
                .removed
                .iter()
                .map(|n| n.name.to_string())
                .collect(),
        }),
        applied_index: raft.applied_index,
        rss_bytes,
        instances: u32::try_from(state.instances_on(me.me).count()).unwrap_or(u32::MAX),
        labels: member.map_or_else(Default::default, |n| convert::told_labels(&n.labels)),
        room: members::room(rooms(&state, &app.view()).get(&me.me)),
        deployments: u32::try_from(state.deployments.len()).unwrap_or(u32::MAX),
        certificate_expires_at: rfc3339(app.enrolment.identity().not_after()),
        data_dir: me.data_dir.display().to_string(),
        api: me.api.to_string(),
        edge: format!("http://{}", me.edge),
        quic: me.quic.to_string(),
    })
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Health {
    /// `ok` when the node answers at all.
    pub status: &'static str,
}

/// Whether the API answers.
#[utoipa::path(get, path = "/v1/health", responses((status = 200, body = Health)))]
pub async fn health() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// Prometheus text exposition, version 0.0.4.
pub async fn metrics(Ex(app): Ex<App>) -> impl IntoResponse {
    (
        [(
            header::CONTENT_TYPE,
            "text/plain; version=0.0.4; charset=utf-8",
        )],
        app.metrics.encode(),
    )
}
