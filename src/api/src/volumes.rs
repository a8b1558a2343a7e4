//! `/v1/volumes`: what deployments keep, and where.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, Query, State as Ex};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use nebula_domain::volume::VolumeSet;
use nebula_domain::{Command, DeploymentName, State, View, VolumeName};
use nebula_wire::api::{ApiError, VolumeInfo, VolumeStanding, Volumes};

use crate::app::{App, Consistency};
use crate::deployments::name;
use crate::error::Answer;

type Bytes = BTreeMap<(DeploymentName, u32, VolumeName), u64>;

/// All volumes, those of removed deployments included, with what lies in them.
#[utoipa::path(get, path = "/v1/volumes", params(Consistency), responses((status = 200, body = Volumes)))]
pub async fn list(Ex(app): Ex<App>, Query(consistency): Query<Consistency>) -> Answer<Response> {
    let read = app.read(consistency).await?;
    let mut bytes = Bytes::new();
    for sized in app.volumes.of(None).await {
        bytes.extend(sized.volumes.into_iter().map(|volume| {
            let id = (volume.deployment, volume.ordinal, volume.name);
            (id, volume.used_bytes)
        }));
    }
    let volumes = infos(&read.state, &app.view(), &bytes);
    let as_of = Some(read.as_of.clone());
    Ok(read.answer(Json(Volumes { volumes, as_of })))
}

/// Deletes the volumes of a deployment that is removed or being removed. Nothing brings them back.
#[utoipa::path(delete, path = "/v1/volumes/{name}", params(("name" = String, Path)),
    responses((status = 204), (status = 404, body = ApiError), (status = 409, body = ApiError)))]
pub async fn delete(
    Ex(app): Ex<App>,
    Path(text): Path<String>,
    headers: HeaderMap,
) -> Answer<StatusCode> {
    let name = name(&text)?;
    app.change(&headers, Command::DeleteVolumes { name })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

fn infos(state: &State, view: &View, bytes: &Bytes) -> Vec<VolumeInfo> {
    let mut infos = Vec::new();
    for (deployment, sets) in &state.volumes {
        for (ordinal, set) in sets {
            let node = state.nodes.get(&set.node);
            infos.extend(set.names.iter().map(|name| {
                VolumeInfo {
                    deployment: deployment.to_string(),
                    ordinal: *ordinal,
                    name: name.to_string(),
                    node: node.map_or_else(|| set.node.to_string(), |node| node.name.to_string()),
                    node_id: set.node.0,
                    standing: standing(state, view, deployment, set),
                    instance: set.holder.map(|holder| holder.to_string()),
                    used_bytes: bytes
                        .get(&(deployment.clone(), *ordinal, name.clone()))
                        .copied(),
                }
            }));
        }
    }
    infos
}

fn standing(
    state: &State,
    view: &View,
    deployment: &DeploymentName,
    set: &VolumeSet,
) -> VolumeStanding {
    if !state.nodes.contains_key(&set.node) {
        VolumeStanding::Lost
    } else if !view.is_alive(set.node) {
        VolumeStanding::Unreachable
    } else if set.deleting {
        VolumeStanding::Deleting
    } else if set.holder.is_some() {
        VolumeStanding::Used
    } else if state.deployments.contains_key(deployment) {
        VolumeStanding::Free
    } else {
        VolumeStanding::Left
    }
}
