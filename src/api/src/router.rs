//! Paths to handlers, and the OpenAPI document that follows from them.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures::StreamExt;
use nebula_wire::api::ErrorCode;
use tokio::time::{Instant, timeout_at};
use utoipa::OpenApi;
use utoipa::openapi::OpenApi as Document;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::error::{Failure, not_an_action};
use crate::{
    access, artifacts, deployments, events, health, join, logs, members, node, placement, purge,
    releases, runs, secrets, settings, tokens, volumes,
};

/// JSON bodies: a spec with its whole environment fits many times over. Artifacts stream past this.
const MAX_JSON_BYTES: usize = 256 * 1024;
/// From the end of a request's head to the end of its JSON body. A client without a token may send
/// one (to join), and must not hold a connection by never finishing it.
const JSON_BODY_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(OpenApi)]
#[openapi(info(title = "Nebula", description = "The API that every node serves."))]
struct Description;

fn documented() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(node::health))
        .routes(routes!(node::status))
        .routes(routes!(join::join))
        .routes(routes!(members::list))
        .routes(routes!(members::remove))
        .routes(routes!(members::drain, members::drained))
        .routes(routes!(members::label))
        .routes(routes!(placement::ask))
        .routes(routes!(tokens::list, tokens::create))
        .routes(routes!(tokens::revoke))
        .routes(routes!(deployments::list, deployments::create))
        .routes(routes!(
            deployments::get,
            deployments::update,
            deployments::remove
        ))
        .routes(routes!(deployments::rehearse_create))
        .routes(routes!(deployments::rehearse_update))
        .routes(routes!(deployments::scale))
        .routes(routes!(deployments::restart))
        .routes(routes!(releases::list))
        .routes(routes!(releases::roll_back))
        .routes(routes!(releases::order))
        .routes(routes!(runs::list, runs::start))
        .routes(routes!(runs::cancel))
        .routes(routes!(purge::purge))
        .routes(routes!(secrets::list))
        .routes(routes!(secrets::set, secrets::delete))
        .routes(routes!(volumes::list))
        .routes(routes!(volumes::delete))
        .routes(routes!(logs::stream))
        .routes(routes!(health::of_deployment))
        .routes(routes!(events::stream))
        .routes(routes!(settings::list))
        .routes(routes!(settings::get, settings::set, settings::unset))
        .layer(DefaultBodyLimit::max(MAX_JSON_BYTES))
        .layer(middleware::map_request(timely_body))
        .merge(
            OpenApiRouter::new()
                .routes(routes!(artifacts::get, artifacts::put))
                .layer(DefaultBodyLimit::disable()),
        )
}

/// The document served at `/v1/openapi.json`.
pub fn openapi() -> Document {
    documented().split_for_parts().1
}

/// The whole API behind its guard.
pub fn router(app: App) -> Router {
    let (router, document) = documented().split_for_parts();
    router
        .route(
            "/v1/openapi.json",
            get(move || async move { Json(document) }),
        )
        .route("/metrics", get(node::metrics))
        .method_not_allowed_fallback(not_an_action)
        .route_layer(middleware::from_fn_with_state(app.clone(), access::guard))
        .fallback(not_an_action)
        .layer(middleware::map_response(plain_rejections_as_json))
        .with_state(app)
}

async fn timely_body(request: Request) -> Request {
    body_within(JSON_BODY_TIMEOUT, request)
}

/// A body that fails once its time is over.
fn body_within(time: Duration, request: Request) -> Request {
    let deadline = Instant::now() + time;
    request.map(|body| {
        let pieces =
            futures::stream::unfold(body.into_data_stream(), move |mut pieces| async move {
                let piece = match timeout_at(deadline, pieces.next()).await {
                    Ok(piece) => piece?.map_err(std::io::Error::other),
                    Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
                };
                Some((piece, pieces))
            });
        Body::from_stream(pieces)
    })
}

/// axum's own refusals (bad JSON, bad query, body too large) are plain text: give them the one shape, and
/// the status that goes with the code.
async fn plain_rejections_as_json(response: Response) -> Response {
    let status = response.status();
    let plain = response
        .headers()
        .get(axum::http::header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"text/plain"));
    let code = match status.as_u16() {
        _ if !plain => return response,
        413 => ErrorCode::LimitExceeded,
        404 | 405 => ErrorCode::NotFound,
        400..=499 => ErrorCode::BadRequest,
        500..=599 => ErrorCode::Internal,
        _ => return response,
    };
    let body = axum::body::to_bytes(response.into_body(), 4096)
        .await
        .unwrap_or_default();
    let message = String::from_utf8_lossy(&body).trim().to_owned();
    Failure::new(code, message, "see GET /v1/openapi.json").into_response()
}

/// Every action that the document names.
#[cfg(test)]
pub fn documented_actions() -> (Vec<(axum::http::Method, String)>, Document) {
    use axum::http::Method;
    let document = openapi();
    let mut actions = Vec::new();
    for (path, item) in &document.paths.paths {
        let methods = [
            (item.get.is_some(), Method::GET),
            (item.put.is_some(), Method::PUT),
            (item.post.is_some(), Method::POST),
            (item.delete.is_some(), Method::DELETE),
        ];
        actions.extend(
            methods
                .into_iter()
                .filter(|(there, _)| *there)
                .map(|(_, method)| (method, path.clone())),
        );
    }
    (actions, document)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn plain_refusals_get_the_one_shape() {
        use axum::http::StatusCode as S;
        for (status, shaped, code) in [
            (S::UNSUPPORTED_MEDIA_TYPE, S::BAD_REQUEST, "bad_request"),
            (S::UNPROCESSABLE_ENTITY, S::BAD_REQUEST, "bad_request"),
            (S::PAYLOAD_TOO_LARGE, S::PAYLOAD_TOO_LARGE, "limit_exceeded"),
            (S::METHOD_NOT_ALLOWED, S::NOT_FOUND, "not_found"),
            (
                S::INTERNAL_SERVER_ERROR,
                S::INTERNAL_SERVER_ERROR,
                "internal",
            ),
        ] {
            let answer = plain_rejections_as_json((status, "why").into_response()).await;
            assert_eq!(answer.status(), shaped);
            let body = axum::body::to_bytes(answer.into_body(), 1000).await;
            let body: serde_json::Value = serde_json::from_slice(&body.unwrap()).unwrap();
            assert_eq!(
                (&body["code"], &body["message"]),
                (&code.into(), &"why".into())
            );
            assert!(body["hint"].is_string());
        }
        let metrics = plain_rejections_as_json("a 1".into_response()).await;
        let body = axum::body::to_bytes(metrics.into_body(), 1000)
            .await
            .unwrap();
        assert_eq!(body, "a 1");
    }

    #[test]
    fn the_document_has_the_shape_of_http_policies() {
        let (_, document) = documented_actions();
        let schemas = document.components.unwrap().schemas;
        for shape in [
            "DeploymentSpec",
            "Http",
            "HttpRule",
            "HttpRateLimit",
            "HttpBasicAuth",
        ] {
            assert!(schemas.contains_key(shape), "{shape}");
        }
    }

    #[tokio::test]
    async fn a_body_that_never_ends_fails() {
        let first = futures::stream::iter([Ok::<_, std::io::Error>("{")]);
        let body = Body::from_stream(first.chain(futures::stream::pending()));
        let request = body_within(Duration::from_millis(20), Request::new(body));
        let read = axum::body::to_bytes(request.into_body(), 100).await;
        assert!(read.is_err());
    }
}
