//! From a request's head to whoever answers it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use http::header::{self, HeaderValue};
use http::uri::Authority;
use http::{Method, Request, Response};
use hyper::body::Incoming;
use nebula_domain::routes::{Route, RouteKind};
use nebula_wire::peer::tunnel::Site;

use crate::body::ResponseBody;
use crate::edge::Edge;
use crate::forward::{Inbound, forward};
use crate::headers::{self, X_REQUEST_ID};
use crate::pages::Problem;
use crate::statics::Ask;

/// A host is shown in a page up to this length: longer than any that could be a name.
const SHOWN_HOST_CHARS: usize = 255;

pub(crate) async fn answer(
    edge: Arc<Edge>,
    client: IpAddr,
    request: Request<Incoming>,
) -> Response<ResponseBody> {
    let tracked = edge.shared.metrics.begin(Instant::now());
    let request_id = headers::request_id(request.headers());
    let accept = request.headers().get(header::ACCEPT).cloned();

    let (route, answered) = match find(&edge, &request) {
        Ok((host, route)) => {
            let inbound = Inbound {
                client,
                host,
                request_id: request_id.clone(),
            };
            let answered = by_route(&edge, Arc::clone(&route), &inbound, request).await;
            (Some(route), answered)
        }
        Err(problem) => (None, Err(problem)),
    };
    let mut response =
        answered.unwrap_or_else(|problem| problem.response(accept.as_ref(), &request_id));
    let deployment = route.as_ref().map(|route| route.deployment.as_str());
    edge.shared.metrics.answered(deployment, response.status());
    response.body_mut().track(tracked);
    response
}

fn find(edge: &Edge, request: &Request<Incoming>) -> Result<(HeaderValue, Arc<Route>), Problem> {
    if request.method() == Method::CONNECT {
        return Err(Problem::NotAProxy);
    }
    let host = host(request).ok_or(Problem::BadHost)?;
    match edge.route(&host) {
        Some(route) => Ok((host, route)),
        None => {
            let shown = String::from_utf8_lossy(host.as_bytes());
            let shown = shown.chars().take(SHOWN_HOST_CHARS).collect();
            Err(Problem::UnknownHost(shown))
        }
    }
}

/// The one host a request names: its target's when that is absolute (RFC 9112 section 3.2.2), else its
/// `Host` field's, which must then be there exactly once.
pub(crate) fn host<B>(request: &Request<B>) -> Option<HeaderValue> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (first, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return None;
    }
    match request.uri().authority() {
        Some(authority) => HeaderValue::from_str(without_user(authority)).ok(),
        None => first.filter(|host| !host.is_empty()).cloned(),
    }
}

fn without_user(authority: &Authority) -> &str {
    let text = authority.as_str();
    text.rsplit_once('@').map_or(text, |(_, host)| host)
}

async fn by_route(
    edge: &Edge,
    route: Arc<Route>,
    inbound: &Inbound,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Problem> {
    let RouteKind::Static { artifact, spa } = route.kind else {
        return forward(edge, route, inbound, None, None, request).await;
    };
    let site = Site { artifact, spa };
    let me = edge.shared.me;
    if !route.endpoints.iter().any(|endpoint| endpoint.node == me) {
        return forward(edge, route, inbound, Some(site), None, request).await;
    }
    let name = route.deployment.as_str();
    let answered = edge
        .shared
        .sites
        .answer(site, name, &Ask::of(&request))
        .await;
    match answered {
        // The files should be here and are not readable; another node's may be.
        Err(Problem::Unreadable(_)) if route.endpoints.len() > 1 => {
            forward(edge, route, inbound, Some(site), Some(me), request).await
        }
        Ok(mut response) => {
            let id = inbound.request_id.clone();
            response.headers_mut().insert(X_REQUEST_ID, id);
            Ok(response)
        }
        Err(problem) => Err(problem),
    }
}
