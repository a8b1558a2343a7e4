//! From a request's head to whoever answers it.

use std::sync::Arc;
use std::time::Instant;

use http::Method;
use nebula_domain::routes::{Route, RouteKind};
use nebula_wire::peer::tunnel::Site;

use crate::client::{Client, Socket};
use crate::edge::Edge;
use crate::exchange::{Link, Request};
use crate::forward::forward;
use crate::h1::{Refusal, RequestHead};
use crate::headers::{Asked, RequestId, X_REQUEST_ID};
use crate::origin::Origin;
use crate::pages::Problem;
use crate::statics::Ask;
use crate::tls::to_https;

/// A host is shown in a page up to this length: longer than any that could be a name.
const SHOWN_HOST_CHARS: usize = 255;

/// Counted for a client that went before it was answered; the code that nginx has made known for it.
const CLIENT_GONE: u16 = 499;

/// Answers the request whose head was read; whether the connection may carry another one. A request is counted before
/// the end of its answer can be seen.
pub(crate) async fn answer<T>(edge: &Edge, origin: &Origin, client: &mut Client<T>) -> bool
where
    T: Socket,
{
    let _tracked = edge.shared.metrics.begin(Instant::now());
    let passed_on = origin.passed_on(&client.head, &edge.shared.trusted_proxies);
    let origin = passed_on.as_ref().unwrap_or(origin);
    let id = RequestId::of(client.head.fields());
    let mut deployment = None;
    let answered = match find(edge, &client.head) {
        Ok(route) => {
            deployment = Some(Arc::clone(&route));
            by_route(edge, route, origin, &id, client).await
        }
        Err(problem) => Err(problem),
    };
    let problem = match answered {
        Ok(persistent) => return persistent,
        Err(problem) => problem,
    };
    let deployment = deployment.as_ref().map(|route| route.deployment.as_str());
    if problem == Problem::ClientGone {
        edge.shared.metrics.answered(deployment, CLIENT_GONE);
        return false;
    }
    let response = problem.response(client.head.fields().get("accept"), &id);
    let status = response.status().as_u16();
    edge.shared.metrics.answered(deployment, status);
    let persistent = problem.leaves_connection();
    let limits = &edge.shared.limits;
    client.respond(limits, response, persistent).await
}

/// Answers what could not be read as a request.
pub(crate) async fn refuse<T>(edge: &Edge, client: &mut Client<T>, refusal: Refusal)
where
    T: Socket,
{
    let id = RequestId::new();
    // What was read of the head may be of the request before.
    client.head = RequestHead::default();
    let response = Problem::Refused(refusal).response(None, &id);
    let status = response.status().as_u16();
    edge.shared.metrics.answered(None, status);
    client.respond(&edge.shared.limits, response, false).await;
}

fn find(edge: &Edge, head: &RequestHead) -> Result<Arc<Route>, Problem> {
    if head.method == Method::CONNECT {
        return Err(Problem::NotAProxy);
    }
    let host = head.host().ok_or(Problem::BadHost)?;
    edge.route(host).ok_or_else(|| {
        let shown = String::from_utf8_lossy(host);
        Problem::UnknownHost(shown.chars().take(SHOWN_HOST_CHARS).collect())
    })
}

async fn by_route<T>(
    edge: &Edge,
    route: Arc<Route>,
    origin: &Origin,
    id: &RequestId,
    client: &mut Client<T>,
) -> Result<bool, Problem>
where
    T: Socket,
{
    let deployment = Arc::clone(&route);
    let answered = |status| {
        let name = deployment.deployment.as_str();
        edge.shared.metrics.answered(Some(name), status);
    };
    if let Some(mut response) = to_https(edge.shared.tls.as_ref(), origin, &client.head) {
        response.headers_mut().insert(X_REQUEST_ID, id.header());
        answered(response.status().as_u16());
        let limits = &edge.shared.limits;
        return Ok(client.respond(limits, response, true).await);
    }
    let (mut site, mut avoid) = (None, None);
    if let RouteKind::Static { artifact, spa } = route.kind {
        site = Some(Site { artifact, spa });
        let me = edge.shared.me;
        if route.endpoints.iter().any(|endpoint| endpoint.node == me) {
            let name = route.deployment.as_str();
            let sites = &edge.shared.sites;
            let ask = Ask::of(&client.head);
            match sites.answer(Site { artifact, spa }, name, &ask).await {
                // The files should be here and are not readable; another node's may be.
                Err(Problem::Unreadable(_)) if route.endpoints.len() > 1 => avoid = Some(me),
                Ok(mut response) => {
                    response.headers_mut().insert(X_REQUEST_ID, id.header());
                    answered(response.status().as_u16());
                    let limits = &edge.shared.limits;
                    return Ok(client.respond(limits, response, true).await);
                }
                Err(problem) => return Err(problem),
            }
        }
    }
    let Client {
        wire,
        head,
        timer,
        body_begun,
        cut_off,
        drain,
    } = client;
    let request = Request {
        asked: Asked {
            origin,
            host: head.host().unwrap_or_default(),
            id,
        },
        head,
        drain,
        answered: &answered,
    };
    let mut link = Link {
        wire,
        timer,
        continued: false,
        body_begun,
        cut_off,
    };
    forward(edge, route, &request, &mut link, site, avoid).await
}
