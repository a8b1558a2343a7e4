//! `/v1/deployments`: what runs.

use axum::Json;
use axum::extract::{Path, Query, State as Ex};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use nebula_domain::runs::Waiting;
use nebula_domain::settings::DEFAULT_TLD;
use nebula_domain::state::Origin;
use nebula_domain::status::{Summary, summarise, summarise_all};
use nebula_domain::{Command, DeploymentName, Digest, Outcome, Rejection, State};
use nebula_wire::api::{
    ApiError, CreateDeployment, Deployed, DeploymentPhase, DeploymentStatus, Deployments,
    InstanceStatus, Scale, UpdateDeployment,
};
use nebula_wire::convert::{self, Passwords};
use serde::Deserialize;

use crate::app::{App, Consistency, Level};
use crate::artifacts;
use crate::detail;
use crate::error::{Answer, Failure, other_change};
use crate::{releases, runs};

pub(crate) fn name(text: &str) -> Answer<DeploymentName> {
    Ok(text.parse()?)
}

pub(crate) fn unknown(name: &DeploymentName) -> Failure {
    ApiError::from(&Rejection::DeploymentUnknown(name.clone())).into()
}

#[derive(Debug, Clone, Copy, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub struct StatusQuery {
    /// See the list of deployments.
    #[serde(default)]
    pub consistency: Level,
    /// Ask the nodes what keeps each instance apart, what it uses, and how it answers its probes; takes up to two seconds
    /// when one is silent.
    #[serde(default)]
    pub detail: bool,
}

/// All deployments with their instances.
#[utoipa::path(get, path = "/v1/deployments", params(Consistency), responses((status = 200, body = Deployments)))]
pub async fn list(Ex(app): Ex<App>, Query(consistency): Query<Consistency>) -> Answer<Response> {
    let read = app.read(consistency).await?;
    let view = app.view();
    let summaries = summarise_all(&read.state, &view);
    let mut waiting = Waiting::new(&read.state, &view, app.clock.now());
    let deployments = summaries
        .into_iter()
        .filter_map(|(name, summary)| status(&app, &read.state, &mut waiting, (&name, summary)))
        .collect();
    let as_of = Some(read.as_of.clone());
    Ok(read.answer(Json(Deployments { deployments, as_of })))
}

/// One deployment with its instances.
#[utoipa::path(get, path = "/v1/deployments/{name}", params(("name" = String, Path), StatusQuery),
    responses((status = 200, body = DeploymentStatus), (status = 404, body = ApiError)))]
pub async fn get(
    Ex(app): Ex<App>,
    Path(text): Path<String>,
    Query(query): Query<StatusQuery>,
) -> Answer<Response> {
    let name = name(&text)?;
    let consistency = Consistency {
        consistency: query.consistency,
    };
    let read = app.read(consistency).await?;
    let view = app.view();
    let mut waiting = Waiting::new(&read.state, &view, app.clock.now());
    let summary = summarise(&read.state, &view, &name);
    let mut status = summary
        .and_then(|summary| status(&app, &read.state, &mut waiting, (&name, summary)))
        .ok_or_else(|| unknown(&name))?;
    if query.detail {
        detail::add(&app, &read.state, &name, &mut status).await;
    }
    // Not in lists: an environment may hold 32 KiB, and secrets.
    let deployment = read.state.deployments.get(&name);
    let spec = deployment.map(|d| convert::told_spec(&d.current().spec));
    let releases = deployment.map_or_else(Vec::new, releases::infos);
    let as_of = Some(read.as_of.clone());
    Ok(read.answer(Json(DeploymentStatus {
        spec,
        releases,
        as_of,
        ..status
    })))
}

fn status(
    app: &App,
    state: &State,
    waiting: &mut Waiting<'_>,
    (name, summary): (&DeploymentName, Summary),
) -> Option<DeploymentStatus> {
    let deployment = state.deployments.get(name)?;
    let release = deployment.current();
    let (last_run, next_run_at) = runs::summary(state, waiting, name);
    Some(DeploymentStatus {
        name: name.to_string(),
        kind: release.spec.type_name().to_owned(),
        generation: deployment.generation,
        release: release.number.0,
        phase: phase(&summary),
        rollout: releases::rollout(deployment, app.clock.now()),
        desired: summary.desired,
        ready: summary.ready,
        urls: summary.urls.clone(),
        artifact: release.artifact.to_string(),
        spec: None,
        releases: Vec::new(),
        instances: summary
            .instances
            .iter()
            .map(|i| instance(state, i))
            .collect(),
        problems: summary.problems,
        last_run,
        next_run_at,
        as_of: None,
        silent: Vec::new(),
    })
}

fn phase(summary: &Summary) -> DeploymentPhase {
    use nebula_domain::status::Phase as P;
    match summary.phase {
        P::Progressing => DeploymentPhase::Progressing,
        P::Ready => DeploymentPhase::Ready,
        P::Degraded => DeploymentPhase::Degraded,
        P::Failed => DeploymentPhase::Failed,
        P::Removing => DeploymentPhase::Removing,
    }
}

fn instance(state: &State, instance: &nebula_domain::status::InstanceSummary) -> InstanceStatus {
    InstanceStatus {
        id: instance.id.to_string(),
        node: state
            .nodes
            .get(&instance.node)
            .map_or_else(|| instance.node.to_string(), |n| n.name.to_string()),
        node_id: instance.node.0,
        release: instance.release.0,
        phase: instance.phase.to_string(),
        health: instance.health.to_string(),
        restarts: instance.restarts,
        reason: instance.reason.clone(),
        secrets: state
            .instances
            .get(&instance.id)
            .into_iter()
            .flat_map(|known| &known.secrets)
            .map(|(name, version)| (name.to_string(), *version))
            .collect(),
        last_end: instance.last_end.map(detail::last_end),
        detail: None,
    }
}

/// Proposes a change of a deployment that is there, and tells what it has become.
pub(crate) async fn changed(
    app: &App,
    headers: &HeaderMap,
    text: &str,
    command: impl FnOnce(DeploymentName) -> Command,
) -> Answer<Json<Deployed>> {
    let name = name(text)?;
    let applied = app.change(headers, command(name.clone())).await?;
    Ok(Json(deployed(app, &name, None, &applied.outcome)?))
}

/// The answer to a change, from what the registry said of it.
pub(crate) fn deployed(
    app: &App,
    name: &DeploymentName,
    asked: Option<Vec<String>>,
    outcome: &Outcome,
) -> Answer<Deployed> {
    let &Outcome::Deployed {
        generation,
        release,
    } = outcome
    else {
        return Err(other_change());
    };
    // A follower may not have applied its own proposal yet: then the names are those that were asked for.
    let known = || {
        let state = app.registry.state();
        let deployment = state.deployments.get(name);
        deployment.map(|d| d.current().spec.urls(name))
    };
    let urls = asked.or_else(known).unwrap_or_default();
    Ok(Deployed {
        name: name.to_string(),
        generation,
        release: release.0,
        urls,
    })
}

/// How a change is gone about. A rehearsal changes nothing, and the artifact need not be there.
#[derive(Clone, Copy)]
enum Mode<'a> {
    Change(&'a HeaderMap),
    Rehearsal,
}

impl Mode<'_> {
    /// The artifact, and how large it is when it has to be there.
    async fn artifact(self, app: &App, text: &str) -> Answer<(Digest, u64)> {
        let digest = artifacts::parse(text)?;
        let bytes = match self {
            Mode::Rehearsal => 0,
            Mode::Change(_) => artifacts::secure(app, digest).await?.0,
        };
        Ok((digest, bytes))
    }

    async fn go(self, app: &App, command: Command) -> Answer<Outcome> {
        match self {
            Mode::Rehearsal => app.rehearse(command).await,
            Mode::Change(headers) => Ok(app.change(headers, command).await?.outcome),
        }
    }
}

/// Creates a deployment from an uploaded artifact.
#[utoipa::path(post, path = "/v1/deployments", request_body = CreateDeployment,
    responses((status = 201, body = Deployed), (status = 400, body = ApiError), (status = 409, body = ApiError)))]
pub async fn create(
    Ex(app): Ex<App>,
    headers: HeaderMap,
    Json(body): Json<CreateDeployment>,
) -> Answer<(StatusCode, Json<Deployed>)> {
    let created = created(&app, Mode::Change(&headers), body).await?;
    Ok((StatusCode::CREATED, Json(created)))
}

/// What creating a deployment would come to, or why it would be refused. Changes nothing; the artifact need not be there.
#[utoipa::path(post, path = "/v1/rehearsals/deployments", request_body = CreateDeployment,
    responses((status = 200, body = Deployed), (status = 400, body = ApiError), (status = 409, body = ApiError)))]
pub async fn rehearse_create(
    Ex(app): Ex<App>,
    Json(body): Json<CreateDeployment>,
) -> Answer<Json<Deployed>> {
    Ok(Json(created(&app, Mode::Rehearsal, body).await?))
}

async fn created(app: &App, mode: Mode<'_>, body: CreateDeployment) -> Answer<Deployed> {
    let name = name(&body.name)?;
    let state = app.registry.state();
    let spec = convert::spec(
        &body.spec,
        state.settings.get(DEFAULT_TLD).map(String::as_str),
        Passwords::Stored(&[]),
    )?;
    let asked = spec.urls(&name);
    let (artifact, artifact_bytes) = mode.artifact(app, &body.artifact).await?;
    let command = Command::CreateDeployment {
        name: name.clone(),
        spec,
        scale: body.instances,
        artifact,
        artifact_bytes,
        origin: Origin {
            author: body.author,
            message: body.message,
        },
        now: app.clock.now(),
    };
    let outcome = mode.go(app, command).await?;
    deployed(app, &name, Some(asked), &outcome)
}

/// Makes a new release.
#[utoipa::path(put, path = "/v1/deployments/{name}", request_body = UpdateDeployment, params(("name" = String, Path)),
    responses((status = 200, body = Deployed), (status = 404, body = ApiError), (status = 409, body = ApiError)))]
pub async fn update(
    Ex(app): Ex<App>,
    Path(text): Path<String>,
    headers: HeaderMap,
    Json(body): Json<UpdateDeployment>,
) -> Answer<Json<Deployed>> {
    Ok(Json(
        updated(&app, Mode::Change(&headers), &text, body).await?,
    ))
}

/// What a new release would come to, or why it would be refused. Changes nothing; the artifact need not be there.
#[utoipa::path(put, path = "/v1/rehearsals/deployments/{name}", request_body = UpdateDeployment, params(("name" = String, Path)),
    responses((status = 200, body = Deployed), (status = 404, body = ApiError), (status = 409, body = ApiError)))]
pub async fn rehearse_update(
    Ex(app): Ex<App>,
    Path(text): Path<String>,
    Json(body): Json<UpdateDeployment>,
) -> Answer<Json<Deployed>> {
    Ok(Json(updated(&app, Mode::Rehearsal, &text, body).await?))
}

async fn updated(
    app: &App,
    mode: Mode<'_>,
    text: &str,
    body: UpdateDeployment,
) -> Answer<Deployed> {
    let name = name(text)?;
    let keeps = body
        .spec
        .as_ref()
        .is_some_and(|spec| spec.http.keeps_passwords());
    let consistency = Consistency {
        // A password that this node has not heard of yet must not be undone.
        consistency: if keeps {
            Level::Linearizable
        } else {
            Level::Stale
        },
    };
    let state = app.read(consistency).await?.state;
    let deployment = state.deployments.get(&name);
    let current = deployment.map(|d| &d.current().spec);
    let users = current.map_or(&[][..], |spec| &spec.http.basic_auth.users);
    let current_tld = current.map(|spec| spec.tld.as_str());
    let read = |spec| convert::spec(spec, current_tld, Passwords::Stored(users));
    let spec = body.spec.as_ref().map(read).transpose()?;
    let generation = deployment.map(|d| d.generation).filter(|_| keeps);
    let (artifact, artifact_bytes) = mode.artifact(app, &body.artifact).await?;
    let asked = spec.as_ref().map(|spec| spec.urls(&name));
    let command = Command::UpdateDeployment {
        name: name.clone(),
        based_on: body.based_on.or(generation),
        spec,
        artifact,
        artifact_bytes,
        origin: Origin {
            author: body.author,
            message: body.message,
        },
        now: app.clock.now(),
    };
    let outcome = mode.go(app, command).await?;
    deployed(app, &name, asked, &outcome)
}

/// Changes the number of instances.
#[utoipa::path(post, path = "/v1/deployments/{name}/scale", request_body = Scale, params(("name" = String, Path)),
    responses((status = 200, body = Deployed), (status = 404, body = ApiError), (status = 409, body = ApiError)))]
pub async fn scale(
    Ex(app): Ex<App>,
    Path(text): Path<String>,
    headers: HeaderMap,
    Json(body): Json<Scale>,
) -> Answer<Json<Deployed>> {
    changed(&app, &headers, &text, |name| Command::ScaleDeployment {
        name,
        scale: body.instances,
        based_on: body.based_on,
    })
    .await
}

/// Replaces every instance by a new one of the same release.
#[utoipa::path(post, path = "/v1/deployments/{name}/restart", params(("name" = String, Path)),
    responses((status = 200, body = Deployed), (status = 404, body = ApiError)))]
pub async fn restart(
    Ex(app): Ex<App>,
    Path(text): Path<String>,
    headers: HeaderMap,
) -> Answer<Json<Deployed>> {
    let now = app.clock.now();
    changed(&app, &headers, &text, |name| Command::RestartDeployment {
        name,
        now,
    })
    .await
}

/// Stops all instances, then forgets the deployment.
#[utoipa::path(delete, path = "/v1/deployments/{name}", params(("name" = String, Path)),
    responses((status = 204), (status = 404, body = ApiError)))]
pub async fn remove(
    Ex(app): Ex<App>,
    Path(text): Path<String>,
    headers: HeaderMap,
) -> Answer<StatusCode> {
    let name = name(&text)?;
    app.change(&headers, Command::RemoveDeployment { name })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}
