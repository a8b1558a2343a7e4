//! `/v1/deployments/{name}/releases`, and what is done with releases.

use axum::Json;
use axum::extract::{Path, Query, State as Ex};
use axum::http::HeaderMap;
use axum::response::Response;
use nebula_domain::rollout::{self, Stage};
use nebula_domain::state::{Deployment, Fate, Release};
use nebula_domain::time::Millis;
use nebula_domain::{Command, ReleaseNumber};
use nebula_wire::api::{ApiError, Deployed, Order, ReleaseInfo, Releases, RollBack, RolloutStatus};
use nebula_wire::convert;

use crate::app::{App, Consistency};
use crate::deployments::{changed, name, unknown};
use crate::error::Answer;
use crate::node::rfc3339;

/// The kept releases, newest first, without their specs.
pub(crate) fn infos(deployment: &Deployment) -> Vec<ReleaseInfo> {
    let newest_first = deployment.releases.iter().rev();
    newest_first
        .map(|release| info(deployment, release))
        .collect()
}

fn info(deployment: &Deployment, release: &Release) -> ReleaseInfo {
    let (fate, settled_at, why) = match &release.fate {
        Fate::Open => ("open", None, None),
        Fate::Good { at } => ("good", Some(at), None),
        Fate::Failed { at, why } => ("failed", Some(at), Some(why.clone())),
        Fate::Aborted { at } => ("aborted", Some(at), None),
        Fate::Superseded { at } => ("superseded", Some(at), None),
    };
    ReleaseInfo {
        number: release.number.0,
        created_at: rfc3339(release.created_at),
        author: release.origin.author.clone(),
        message: release.origin.message.clone(),
        artifact: release.artifact.to_string(),
        fate: fate.to_owned(),
        settled_at: settled_at.map(|at| rfc3339(*at)),
        why,
        wanted: release.number == deployment.target,
        spec: None,
    }
}

/// The release on its way, if one is.
pub(crate) fn rollout(deployment: &Deployment, now: Millis) -> Option<RolloutStatus> {
    let rollout = deployment.rollout.as_ref()?;
    let stage = match rollout.stage {
        Stage::Before { .. } => "pre-release",
        Stage::Job { .. } => "job",
        Stage::Replacing => "replacing",
        Stage::Beside => "beside",
        Stage::Warm { .. } => "warm",
        Stage::Canary { .. } => "canary",
        Stage::Watching { .. } => "watching",
    };
    let shares = deployment.shares();
    let percent = shares.and_then(|shares| shares.0.get(&deployment.target).copied());
    Some(RolloutStatus {
        from: rollout.from.map(|from| from.0),
        to: deployment.target.0,
        strategy: deployment
            .current()
            .spec
            .strategy
            .takeover
            .name()
            .to_owned(),
        stage: stage.to_owned(),
        percent,
        paused: rollout.paused.is_some(),
        wanted: deployment.demand().new,
        began_at: rfc3339(rollout.began_at),
        due_at: rollout::due(deployment, now).map(rfc3339),
    })
}

/// The kept releases of a deployment with their specs.
#[utoipa::path(get, path = "/v1/deployments/{name}/releases", params(("name" = String, Path), Consistency),
    responses((status = 200, body = Releases), (status = 404, body = ApiError)))]
pub async fn list(
    Ex(app): Ex<App>,
    Path(text): Path<String>,
    Query(consistency): Query<Consistency>,
) -> Answer<Response> {
    let name = name(&text)?;
    let read = app.read(consistency).await?;
    let deployment = read.state.deployments.get(&name);
    let deployment = deployment.ok_or_else(|| unknown(&name))?;
    let newest_first = deployment.releases.iter().rev();
    let releases = newest_first
        .map(|release| ReleaseInfo {
            spec: Some(convert::told_spec(&release.spec)),
            ..info(deployment, release)
        })
        .collect();
    Ok(read.answer(Json(Releases {
        name: name.to_string(),
        releases,
    })))
}

/// Makes an older release the wanted one again.
#[utoipa::path(post, path = "/v1/deployments/{name}/rollback", request_body = RollBack, params(("name" = String, Path)),
    responses((status = 200, body = Deployed), (status = 404, body = ApiError), (status = 409, body = ApiError)))]
pub async fn roll_back(
    Ex(app): Ex<App>,
    Path(text): Path<String>,
    headers: HeaderMap,
    Json(body): Json<RollBack>,
) -> Answer<Json<Deployed>> {
    let (to, now) = (body.release.map(ReleaseNumber), app.clock.now());
    changed(&app, &headers, &text, |name| Command::RollBack {
        name,
        to,
        now,
    })
    .await
}

/// Pauses, resumes, promotes or aborts the release on its way.
#[utoipa::path(post, path = "/v1/deployments/{name}/rollout", request_body = Order, params(("name" = String, Path)),
    responses((status = 200, body = Deployed), (status = 404, body = ApiError), (status = 409, body = ApiError)))]
pub async fn order(
    Ex(app): Ex<App>,
    Path(text): Path<String>,
    headers: HeaderMap,
    Json(body): Json<Order>,
) -> Answer<Json<Deployed>> {
    let (order, now) = (convert::order(&body.order)?, app.clock.now());
    changed(&app, &headers, &text, |name| Command::OrderRollout {
        name,
        order,
        now,
    })
    .await
}
