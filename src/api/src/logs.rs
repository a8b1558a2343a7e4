//! `/v1/deployments/{name}/logs`: output of all instances on all nodes, one JSON object per line.

use axum::body::Body;
use axum::extract::{Path, Query, State as Ex};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use futures::StreamExt;
use nebula_domain::{DeploymentName, InstanceId, Rejection};
use nebula_wire::api::{ApiError, LogLine};
use serde::Deserialize;

use crate::app::App;
use crate::error::Answer;

#[derive(Debug, Clone, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub struct LogQuery {
    /// Go on with new lines until the client goes away.
    #[serde(default)]
    pub follow: bool,
    /// Lines from before now.
    #[serde(default = "default_tail")]
    pub tail: usize,
    /// Only this instance.
    pub instance: Option<String>,
}

fn default_tail() -> usize {
    200
}

/// Output of a deployment's instances.
#[utoipa::path(get, path = "/v1/deployments/{name}/logs", params(("name" = String, Path), LogQuery),
    responses((status = 200, body = LogLine, content_type = "application/x-ndjson"), (status = 404, body = ApiError)))]
pub async fn stream(
    Ex(app): Ex<App>,
    Path(text): Path<String>,
    Query(query): Query<LogQuery>,
) -> Answer<Response> {
    let name: DeploymentName = text.parse()?;
    if !app.registry.state().deployments.contains_key(&name) {
        return Err(ApiError::from(&Rejection::DeploymentUnknown(name)).into());
    }
    let instance = query
        .instance
        .as_deref()
        .map(str::parse::<InstanceId>)
        .transpose();
    let instance =
        instance.map_err(|e| ApiError::bad_request(e.to_string(), "see 'nebula deploy status'"))?;
    if query.tail > nebula_logs::MAX_TAIL {
        let message = format!(
            "tail is {}, over the limit of {} lines (max_tail)",
            query.tail,
            nebula_logs::MAX_TAIL
        );
        return Err(ApiError::bad_request(message, "ask for fewer lines").into());
    }
    let wanted = nebula_logs::Query {
        deployment: name,
        follow: query.follow,
        tail: query.tail,
        instance,
    };
    let lines = app
        .logs
        .stream(wanted)
        .map(|line| Ok::<_, std::convert::Infallible>(json_line(&line)));
    let mut response = Response::new(Body::from_stream(lines));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/x-ndjson"),
    );
    Ok(response)
}

fn json_line(line: &LogLine) -> Bytes {
    let mut json = serde_json::to_vec(line).unwrap_or_default();
    json.push(b'\n');
    json.into()
}
