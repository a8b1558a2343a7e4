//! Who may do what. Deny by default: an action that is not in [`ACTIONS`] is refused to everyone.

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use nebula_wire::api::ErrorCode;
use sha2::{Digest, Sha256};

use crate::app::App;
use crate::error::{Failure, not_an_action};

/// How the connection came in; set by the server, never by the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// The root-only Unix socket: the file's mode has already decided.
    Local,
    Network,
}

/// What an action asks of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    Nothing,
    /// A secret of its own in the body (a join token).
    OwnProof,
    Operator,
}

const GET: Method = Method::GET;
const PUT: Method = Method::PUT;
const POST: Method = Method::POST;
const DELETE: Method = Method::DELETE;

/// Every action of the API.
const ACTIONS: &[(Method, &str, Needs)] = &[
    (GET, "/v1/health", Needs::Nothing),
    (GET, "/v1/openapi.json", Needs::Nothing),
    (POST, "/v1/join", Needs::OwnProof),
    (GET, "/v1/members", Needs::Operator),
    (DELETE, "/v1/members/{node}", Needs::Operator),
    (GET, "/v1/members/{node}/drain", Needs::Operator),
    (POST, "/v1/members/{node}/drain", Needs::Operator),
    (POST, "/v1/members/{node}/labels", Needs::Operator),
    (POST, "/v1/placement", Needs::Operator),
    (GET, "/v1/status", Needs::Operator),
    (GET, "/v1/tokens", Needs::Operator),
    (POST, "/v1/tokens", Needs::Operator),
    (DELETE, "/v1/tokens/{id}", Needs::Operator),
    (GET, "/v1/artifacts/{digest}", Needs::Operator),
    (PUT, "/v1/artifacts/{digest}", Needs::Operator),
    (GET, "/v1/deployments", Needs::Operator),
    (POST, "/v1/deployments", Needs::Operator),
    (POST, "/v1/rehearsals/deployments", Needs::Operator),
    (PUT, "/v1/rehearsals/deployments/{name}", Needs::Operator),
    (GET, "/v1/deployments/{name}", Needs::Operator),
    (PUT, "/v1/deployments/{name}", Needs::Operator),
    (DELETE, "/v1/deployments/{name}", Needs::Operator),
    (POST, "/v1/deployments/{name}/scale", Needs::Operator),
    (POST, "/v1/deployments/{name}/restart", Needs::Operator),
    (GET, "/v1/deployments/{name}/releases", Needs::Operator),
    (POST, "/v1/deployments/{name}/rollback", Needs::Operator),
    (POST, "/v1/deployments/{name}/rollout", Needs::Operator),
    (POST, "/v1/deployments/{name}/cache/purge", Needs::Operator),
    (GET, "/v1/deployments/{name}/runs", Needs::Operator),
    (POST, "/v1/deployments/{name}/runs", Needs::Operator),
    (DELETE, "/v1/deployments/{name}/runs/{run}", Needs::Operator),
    (GET, "/v1/deployments/{name}/logs", Needs::Operator),
    (GET, "/v1/deployments/{name}/health", Needs::Operator),
    (GET, "/v1/secrets", Needs::Operator),
    (PUT, "/v1/secrets/{name}", Needs::Operator),
    (DELETE, "/v1/secrets/{name}", Needs::Operator),
    (GET, "/v1/volumes", Needs::Operator),
    (DELETE, "/v1/volumes/{name}", Needs::Operator),
    (GET, "/v1/events", Needs::Operator),
    (GET, "/v1/config", Needs::Operator),
    (GET, "/v1/config/{key}", Needs::Operator),
    (PUT, "/v1/config/{key}", Needs::Operator),
    (DELETE, "/v1/config/{key}", Needs::Operator),
    (GET, "/metrics", Needs::Operator),
];

fn needs(method: &Method, path: &str) -> Option<Needs> {
    // HEAD is GET without a body, and needs what GET needs (RFC 9110, 9.3.2).
    let method = if method == Method::HEAD { &GET } else { method };
    ACTIONS
        .iter()
        .find(|(m, p, _)| m == method && *p == path)
        .map(|(_, _, needs)| *needs)
}

/// Lets a request through, or answers it.
pub async fn guard(State(app): State<App>, request: Request, next: Next) -> Response {
    let channel = request
        .extensions()
        .get::<Channel>()
        .copied()
        .unwrap_or(Channel::Network);
    let path = request
        .extensions()
        .get::<MatchedPath>()
        .map(|p| p.as_str().to_owned());
    let needed = path
        .as_deref()
        .and_then(|path| needs(request.method(), path));
    match (needed, channel) {
        (None, _) => return not_an_action(request).await.into_response(),
        (Some(Needs::Nothing | Needs::OwnProof), _) | (Some(Needs::Operator), Channel::Local) => {}
        (Some(Needs::Operator), Channel::Network) => {
            let bearer = bearer(request.headers());
            if !bearer.is_some_and(|token| is_operator(&app, token)) {
                return unauthorized(bearer.is_some());
            }
        }
    }
    next.run(request).await
}

/// The bearer token, if one was sent.
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then_some(token.trim())
}

/// Looked up by SHA-256, so that neither the registry nor timing tells a token.
fn is_operator(app: &App, token: &str) -> bool {
    token_name(app, token).is_some()
}

fn token_name(app: &App, token: &str) -> Option<String> {
    let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
    app.registry.state().api_tokens.get(&hash).cloned()
}

/// Who asks, for the history: the name of the token, or the owner of this machine.
pub fn who(app: &App, headers: &HeaderMap) -> String {
    let token = bearer(headers).and_then(|token| token_name(app, token));
    token.unwrap_or_else(|| "local".to_owned())
}

fn unauthorized(given: bool) -> Response {
    let message = if given {
        "the bearer token is not known to this cluster"
    } else {
        "no bearer token was sent"
    };
    let hint = "use the cluster file that 'nodectl init' wrote (--cluster FILE), or the Unix socket as root";
    let mut response = Failure::new(ErrorCode::Unauthorized, message, hint).into_response();
    // RFC 9110, 15.5.2: an answer of 401 names the scheme that would do.
    let scheme = HeaderValue::from_static("Bearer");
    response
        .headers_mut()
        .insert(header::WWW_AUTHENTICATE, scheme);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_listed_is_denied() {
        assert_eq!(needs(&GET, "/v1/members"), Some(Needs::Operator));
        assert_eq!(
            needs(&Method::HEAD, "/v1/artifacts/{digest}"),
            Some(Needs::Operator)
        );
        assert_eq!(needs(&POST, "/v1/members"), None);
        assert_eq!(needs(&GET, "/v1/secrets/{name}"), None);
    }

    #[test]
    fn every_documented_action_is_listed_and_every_listed_one_documented() {
        let (documented, _) = crate::router::documented_actions();
        for (method, path, _) in ACTIONS {
            let undocumented = ["/v1/openapi.json", "/metrics"].contains(path);
            assert!(
                undocumented || documented.contains(&(method.clone(), (*path).to_owned())),
                "{method} {path}"
            );
        }
        for (method, path) in documented {
            assert!(
                needs(&method, &path).is_some(),
                "{method} {path} is not in the action table"
            );
        }
    }
}
