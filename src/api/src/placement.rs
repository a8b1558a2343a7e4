//! `/v1/placement`: whether a program would have places.

use axum::Json;
use axum::extract::{Query, State as Ex};
use axum::response::Response;
use nebula_domain::Rejection;
use nebula_domain::limits::INSTANCES_PER_DEPLOYMENT;
use nebula_domain::plan::unplaceable;
use nebula_wire::api::{ApiError, DeploymentSpec, PlacementAnswer, PlacementQuestion};
use nebula_wire::convert::{self, Passwords};

use crate::app::{App, Consistency};
use crate::deployments::name;
use crate::error::Answer;

/// The domain is no part of the question.
const ANY_DOMAIN: &str = "default.invalid";

/// Whether so many instances of a program would have places now, and why not. Changes nothing.
#[utoipa::path(post, path = "/v1/placement", request_body = PlacementQuestion, params(Consistency),
    responses((status = 200, body = PlacementAnswer), (status = 400, body = ApiError)))]
pub async fn ask(
    Ex(app): Ex<App>,
    Query(consistency): Query<Consistency>,
    Json(body): Json<PlacementQuestion>,
) -> Answer<Response> {
    let name = name(&body.name)?;
    // Each instance is placed on paper: no more than a deployment may have.
    let instances = usize::try_from(body.instances).unwrap_or(usize::MAX);
    INSTANCES_PER_DEPLOYMENT
        .check("the number of instances", instances)
        .map_err(|e| ApiError::from(&Rejection::Limit(e)))?;
    let asked = DeploymentSpec {
        kind: "service".to_owned(),
        command: Some("true".to_owned()),
        resources: body.resources,
        placement: body.placement,
        port: body.port,
        ..DeploymentSpec::default()
    };
    let spec = convert::spec(&asked, Some(ANY_DOMAIN), Passwords::Unseen)?;
    let read = app.read(consistency).await?;
    let view = app.view();
    let unplaced = spec
        .service()
        .and_then(|service| unplaceable(&read.state, &view, (&name, service, body.instances)));
    Ok(read.answer(Json(PlacementAnswer { unplaced })))
}
