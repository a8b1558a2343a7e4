//! One request to an instance, and once more to another when that is safe.
//!
//! Safe means: nothing of the request was sent yet, or the request may be repeated by what it is
//! (RFC 9110 section 9.2.2) and has no body, and no response had begun.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::{Body, Incoming};
use nebula_domain::routes::{Endpoint, Route};
use nebula_domain::{InstanceId, NodeId};
use nebula_wire::peer::tunnel::Site;

use crate::body::{RequestBody, ResponseBody};
use crate::edge::Edge;
use crate::headers;
use crate::metrics::Retry;
use crate::pages::Problem;
use crate::upstream::{DialError, Lease, Progress, Sender, Target, Via, fell_silent};

/// What is known of a request apart from the request itself.
pub(crate) struct Inbound {
    pub(crate) client: IpAddr,
    /// What the request was routed by.
    pub(crate) host: HeaderValue,
    pub(crate) request_id: HeaderValue,
}

/// How one endpoint was tried.
enum Attempt {
    Answered(Response<ResponseBody>),
    /// Nothing came of it, and the request is still ours to send.
    Elsewhere(Request<RequestBody>, Retry),
    Failed(Problem),
}

/// How one connection was used.
enum Exchange {
    Answered(Response<ResponseBody>),
    /// The connection was gone before anything was sent.
    NotSent(Request<RequestBody>),
    /// Sent, and then the connection broke.
    Broken,
    /// The node of the instance fell silent.
    Suspect,
    /// As `Suspect`, and the request may not be repeated.
    Lost,
    /// No response in time; whether the request had been sent to its end.
    TimedOut {
        complete: bool,
    },
}

/// Sends a request to an endpoint of the route. `avoid` is a node that has been tried in another way.
pub(crate) async fn forward(
    edge: &Edge,
    mut route: Arc<Route>,
    inbound: &Inbound,
    site: Option<Site>,
    avoid: Option<NodeId>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Problem> {
    let mut request = for_instance(request, inbound);
    let repeatable = matches!(request.body(), RequestBody::Empty)
        && (request.method().is_idempotent() && *request.method() != Method::CONNECT);
    // Filled only by failures, so that a request that succeeds at once allocates nothing for it.
    let mut tried: Vec<InstanceId> = Vec::new();
    let mut problem = None;

    while tried.len() < edge.shared.limits.attempts {
        let Some(endpoint) = choose(edge, &route, avoid, &tried) else {
            break;
        };
        let others = Others {
            route: &route,
            avoid,
            tried: &tried,
        };
        match attempt(edge, endpoint, site, repeatable, others, request).await {
            Attempt::Answered(mut response) => {
                headers::for_client(response.headers_mut(), &inbound.request_id);
                return Ok(response);
            }
            Attempt::Failed(problem) => return Err(problem),
            Attempt::Elsewhere(unsent, reason) => {
                request = unsent;
                problem = Some(match reason {
                    Retry::Broken => Problem::Broken(others.name()),
                    _ => Problem::Unreachable(others.name()),
                });
                tried.push(endpoint.instance);
                edge.shared.metrics.retry(reason);
                // The table may know more by now.
                let newer = edge.route(&inbound.host);
                if let Some(newer) = newer.filter(|newer| newer.kind == route.kind) {
                    route = newer;
                }
            }
        }
    }
    Err(problem.unwrap_or_else(|| Problem::NotReady(route.deployment.to_string())))
}

/// The next endpoint in turn, best first: not tried for this request, on a node that answers, and not
/// failed a moment ago. The last two give way when there is no other.
fn choose(
    edge: &Edge,
    route: &Route,
    avoid: Option<NodeId>,
    tried: &[InstanceId],
) -> Option<Endpoint> {
    let fresh = |e: &Endpoint| Some(e.node) != avoid && !tried.contains(&e.instance);
    let suspects = edge.dialer.suspects.borrow();
    let ejected = &edge.shared.ejections;
    route
        .pick(|e| fresh(e) && !suspects.contains(&e.node) && !ejected.contains(e))
        .or_else(|| route.pick(|e| fresh(e) && !suspects.contains(&e.node)))
        .or_else(|| route.pick(fresh))
}

/// What else a request could go to.
#[derive(Clone, Copy)]
struct Others<'a> {
    route: &'a Route,
    avoid: Option<NodeId>,
    tried: &'a [InstanceId],
}

impl Others<'_> {
    fn name(&self) -> String {
        self.route.deployment.to_string()
    }

    fn than(&self, node: NodeId) -> bool {
        self.route.endpoints.iter().any(|e| {
            e.node != node && Some(e.node) != self.avoid && !self.tried.contains(&e.instance)
        })
    }
}

async fn attempt(
    edge: &Edge,
    endpoint: Endpoint,
    site: Option<Site>,
    repeatable: bool,
    others: Others<'_>,
    mut request: Request<RequestBody>,
) -> Attempt {
    let limits = &edge.shared.limits;
    let target = match edge.dialer.target(endpoint, site) {
        Ok(target) => target,
        Err(error) => return unreachable(edge, endpoint, &error, request),
    };
    let idle_max = match repeatable {
        true => limits.upstream_idle,
        false => limits.upstream_idle_unrepeatable,
    };
    let mut kept = edge.pool.take(target, idle_max);
    loop {
        let was_kept = kept.is_some();
        let sender = match kept.take() {
            Some(sender) => sender,
            None => match edge.dialer.dial(target).await {
                Ok(sender) => sender,
                Err(error) => return unreachable(edge, endpoint, &error, request),
            },
        };
        let spare = repeatable.then(|| copy(&request));
        let escape = repeatable.then_some(others);
        let exchange = exchange(edge, sender, target, escape, request).await;
        request = match (exchange, spare) {
            (Exchange::Answered(response), _) => return Attempt::Answered(response),
            // The instance closed a connection just when it was used again: that says nothing of
            // the instance, so it is asked again, on a connection of its own.
            (Exchange::NotSent(unsent), _) if was_kept => unsent,
            (Exchange::Broken, Some(spare)) if was_kept => spare,
            (Exchange::NotSent(unsent), _) => return Attempt::Elsewhere(unsent, Retry::Connect),
            (Exchange::Broken, Some(spare)) => return Attempt::Elsewhere(spare, Retry::Broken),
            (Exchange::Suspect, Some(spare)) => return Attempt::Elsewhere(spare, Retry::Suspect),
            (Exchange::Broken | Exchange::Suspect, None) => {
                return Attempt::Failed(Problem::Broken(others.name()));
            }
            (Exchange::Lost, _) => return Attempt::Failed(Problem::Lost(others.name())),
            (Exchange::TimedOut { complete: true }, _) => {
                return Attempt::Failed(Problem::Silent(others.name()));
            }
            (Exchange::TimedOut { complete: false }, _) => {
                return Attempt::Failed(Problem::SlowClient);
            }
        };
        edge.shared.metrics.retry(Retry::Stale);
    }
}

fn unreachable(
    edge: &Edge,
    endpoint: Endpoint,
    error: &DialError,
    request: Request<RequestBody>,
) -> Attempt {
    let Endpoint { instance, node } = endpoint;
    tracing::debug!(%instance, %node, error = error as &dyn std::error::Error, "an instance could not be reached");
    let of_node = error.is_of_node();
    match of_node {
        true => edge.shared.ejections.node(node),
        false => edge.shared.ejections.instance(instance),
    }
    let reason = match of_node {
        true => Retry::Tunnel,
        false => Retry::Connect,
    };
    Attempt::Elsewhere(request, reason)
}

async fn exchange(
    edge: &Edge,
    mut sender: Sender,
    target: Target,
    escape: Option<Others<'_>>,
    request: Request<RequestBody>,
) -> Exchange {
    let progress = match request.body() {
        RequestBody::Client(_, progress) => Some(Arc::clone(progress)),
        RequestBody::Empty => None,
    };
    let patience = edge.shared.limits.response_head_timeout;
    let stalled = async {
        match progress {
            Some(progress) => progress.stalled(patience).await,
            None => {
                tokio::time::sleep(patience).await;
                true
            }
        }
    };
    let silent = async {
        if let (Via::Remote { node, .. }, Some(others)) = (target.via, escape) {
            fell_silent(&mut edge.dialer.suspects.clone(), node).await;
            // With nowhere else to go, waiting is the better choice: it may only be slow.
            if others.than(node) {
                return;
            }
        }
        std::future::pending::<()>().await;
    };
    let silence = sender.silence.clone().filter(|_| escape.is_none());
    let lost = async {
        match silence {
            Some(mut silence) => silence.lasts(edge.shared.limits.lost_after).await,
            None => std::future::pending().await,
        }
    };
    let response = tokio::select! {
        biased;
        response = sender.http.try_send_request(request) => response,
        () = silent => return Exchange::Suspect,
        () = lost => return Exchange::Lost,
        complete = stalled => return Exchange::TimedOut { complete },
    };
    match response {
        Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => Exchange::Broken,
        Ok(response) => {
            let lease = Lease {
                sender,
                target,
                pool: Arc::clone(&edge.pool),
            };
            let mut response = response.map(|incoming| ResponseBody::instance(incoming, lease));
            *response.version_mut() = Version::HTTP_11;
            Exchange::Answered(response)
        }
        Err(mut error) => match error.take_message() {
            Some(unsent) => Exchange::NotSent(unsent),
            None => {
                tracing::debug!(instance = %target.instance, error = error.error() as &dyn std::error::Error, "an instance broke a connection");
                Exchange::Broken
            }
        },
    }
}

/// The request as the instance gets it. Fields are moved, not copied.
fn for_instance(request: Request<Incoming>, inbound: &Inbound) -> Request<RequestBody> {
    let (mut parts, incoming) = request.into_parts();
    parts.version = Version::HTTP_11;
    if parts.uri.authority().is_some() {
        let path = parts.uri.into_parts().path_and_query;
        parts.uri = path.map_or_else(Uri::default, Uri::from);
    }
    headers::for_instance(
        &mut parts.headers,
        inbound.client,
        &inbound.host,
        &inbound.request_id,
    );
    let body = if incoming.is_end_stream() {
        RequestBody::Empty
    } else {
        if incoming.size_hint().exact().is_none() {
            // Said outright: for a GET, hyper would otherwise take it that there is no body.
            parts.headers.insert(
                header::TRANSFER_ENCODING,
                HeaderValue::from_static("chunked"),
            );
        }
        RequestBody::Client(incoming, Arc::new(Progress::new(Instant::now())))
    };
    Request::from_parts(parts, body)
}

/// Another copy of a request without a body.
fn copy(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(RequestBody::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy
}
