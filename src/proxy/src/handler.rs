//! From a request's head to whoever answers it.

use std::sync::Arc;
use std::time::Instant;

use http::{HeaderValue, Method, header};
use nebula_domain::routes::{Route, RouteKind};
use nebula_wire::peer::tunnel::Site;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::client::Client;
use crate::edge::Edge;
use crate::exchange::{Link, Request};
use crate::forward::{Served, forward};
use crate::h1::{Refusal, RequestHead};
use crate::headers::{Asked, Origin, RequestId, X_REQUEST_ID};
use crate::pages::Problem;

/// A host is shown in a page up to this length: longer than any that could be a name.
const SHOWN_HOST_CHARS: usize = 255;

/// Counted for a client that went before it was answered; the code that nginx has made known for it.
const CLIENT_GONE: u16 = 499;

/// Answers the request whose head was read; whether the connection may carry another one.
pub(crate) async fn answer<T>(edge: &Edge, origin: &Origin, client: &mut Client<T>) -> bool
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let _tracked = edge.shared.metrics.begin(Instant::now());
    let id = RequestId::of(client.head.fields());
    let mut deployment = None;
    let found = find(edge, &client.head);
    let answered = match found {
        Ok(route) => {
            deployment = Some(Arc::clone(&route));
            by_route(edge, route, origin, &id, client).await
        }
        Err(problem) => Err(problem),
    };
    let limits = &edge.shared.limits;
    let served = match answered {
        Ok(served) => served,
        Err(Problem::ClientGone) => Served {
            status: CLIENT_GONE,
            persistent: false,
        },
        Err(problem) => {
            let response = problem.response(client.head.fields().get("accept"), &id);
            client
                .respond(limits, response, problem.leaves_connection())
                .await
        }
    };
    let deployment = deployment.as_ref().map(|route| route.deployment.as_str());
    edge.shared.metrics.answered(deployment, served.status);
    served.persistent
}

/// Answers what could not be read as a request.
pub(crate) async fn refuse<T>(edge: &Edge, client: &mut Client<T>, refusal: Refusal)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let id = RequestId::new();
    // What was read of the head may be of the request before.
    client.head = RequestHead::default();
    let response = Problem::Refused(refusal).response(None, &id);
    let limits = &edge.shared.limits;
    let served = client.respond(limits, response, false).await;
    edge.shared.metrics.answered(None, served.status);
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
) -> Result<Served, Problem>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let (mut site, mut avoid) = (None, None);
    if let RouteKind::Static { artifact, spa } = route.kind {
        site = Some(Site { artifact, spa });
        let me = edge.shared.me;
        if route.endpoints.iter().any(|endpoint| endpoint.node == me) {
            let name = route.deployment.as_str();
            let answered = answer_file(edge, Site { artifact, spa }, name, &client.head).await;
            match answered {
                // The files should be here and are not readable; another node's may be.
                Err(Problem::Unreadable(_)) if route.endpoints.len() > 1 => avoid = Some(me),
                Ok(mut response) => {
                    response.headers_mut().insert(X_REQUEST_ID, id.header());
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
    };
    let mut link = Link {
        wire,
        timer,
        continued: false,
        body_begun,
    };
    forward(edge, route, &request, &mut link, site, avoid).await
}

async fn answer_file(
    edge: &Edge,
    site: Site,
    name: &str,
    head: &RequestHead,
) -> Result<http::Response<crate::body::ResponseBody>, Problem> {
    edge.shared.sites.answer(site, name, &for_site(head)).await
}

/// The part of a request that a static site looks at.
pub(crate) fn for_site(head: &RequestHead) -> http::Request<()> {
    let mut request = http::Request::new(());
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = http::Uri::try_from(head.target()).unwrap_or_default();
    for name in [
        header::ACCEPT,
        header::ACCEPT_ENCODING,
        header::IF_MATCH,
        header::IF_NONE_MATCH,
        header::IF_RANGE,
        header::RANGE,
    ] {
        for value in head.fields().all(name.as_str()) {
            if let Ok(value) = HeaderValue::from_bytes(value) {
                request.headers_mut().append(&name, value);
            }
        }
    }
    request
}
