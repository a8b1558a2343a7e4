//! `/v1/join`: a machine with a token becomes a member.

use axum::Json;
use axum::extract::State as Ex;
use nebula_wire::api::{ApiError, JoinRequest, JoinResponse};

use crate::app::App;
use crate::error::Answer;

/// Joins the cluster; the token in the body is the proof.
#[utoipa::path(post, path = "/v1/join", request_body = JoinRequest,
    responses((status = 200, body = JoinResponse), (status = 401, body = ApiError), (status = 409, body = ApiError)))]
pub async fn join(Ex(app): Ex<App>, Json(body): Json<JoinRequest>) -> Answer<Json<JoinResponse>> {
    Ok(Json(app.enrolment.join(body).await?))
}
