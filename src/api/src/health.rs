//! `/v1/deployments/{name}/health`: what probes say of a deployment's instances, on all nodes.

use axum::Json;
use axum::extract::{Path, Query, State as Ex};
use nebula_domain::State;
use nebula_health::{Also, Report};
use nebula_wire::api::{ApiError, DeploymentHealth, InstanceHealth, ProbeChange, ProbeHealth};
use nebula_wire::peer::health::{Change, Probe, Probed};
use serde::Deserialize;

use crate::app::App;
use crate::deployments::{name, unknown};
use crate::error::Answer;
use crate::node::rfc3339;

#[derive(Debug, Clone, Copy, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub struct HealthQuery {
    /// The latest changes of each instance too.
    #[serde(default)]
    pub history: bool,
}

/// How a deployment's instances answer their probes.
#[utoipa::path(get, path = "/v1/deployments/{name}/health", params(("name" = String, Path), HealthQuery),
    responses((status = 200, body = DeploymentHealth), (status = 404, body = ApiError)))]
pub async fn of_deployment(
    Ex(app): Ex<App>,
    Path(text): Path<String>,
    Query(query): Query<HealthQuery>,
) -> Answer<Json<DeploymentHealth>> {
    let name = name(&text)?;
    let state = app.registry.state();
    if !state.deployments.contains_key(&name) {
        return Err(unknown(&name));
    }
    let also = Also {
        history: query.history,
        runs: false,
    };
    let reports = app.probes.of(&name, also).await;
    let mut health = DeploymentHealth {
        name: name.to_string(),
        instances: Vec::new(),
        silent: Vec::new(),
    };
    for Report { node, answer } in reports {
        match answer {
            Ok(answer) => {
                let known = state.nodes.get(&node);
                let node = known.map_or_else(|| node.to_string(), |node| node.name.to_string());
                let told = answer
                    .instances
                    .into_iter()
                    .map(|one| instance(&state, &node, one));
                health.instances.extend(told);
            }
            Err(error) => health.silent.push(app.silent(&state, node, error)),
        }
    }
    Ok(Json(health))
}

fn instance(state: &State, node: &str, probed: Probed) -> InstanceHealth {
    let known = state.instances.get(&probed.instance);
    InstanceHealth {
        id: probed.instance.to_string(),
        node: node.to_owned(),
        release: known.map_or(0, |instance| instance.release.0),
        run: probed.run,
        probes: probed.probes.into_iter().map(probe).collect(),
        history: probed.history.into_iter().map(change).collect(),
    }
}

pub(crate) fn probe(probe: Probe) -> ProbeHealth {
    let (ok, at, reason) = match probe.last {
        Some(last) => (Some(last.ok), Some(rfc3339(last.at)), last.reason),
        None => (None, None, String::new()),
    };
    ProbeHealth {
        probe: probe.role.to_string(),
        asks: probe.asks,
        state: probe.standing.as_str().to_owned(),
        ok,
        at,
        reason,
        streak: probe.streak,
    }
}

fn change(change: Change) -> ProbeChange {
    ProbeChange {
        at: rfc3339(change.at),
        run: change.run,
        probe: change.role.to_string(),
        state: change.standing.as_str().to_owned(),
        reason: change.reason,
    }
}
