//! One request to an instance, and once more to another when that is safe.
//!
//! Safe means: nothing of the request was sent yet, or the request may be repeated by what it is
//! (RFC 9110 section 9.2.2) and has no body, and no response had begun.

use std::future::poll_fn;
use std::sync::Arc;

use http::Method;
use nebula_domain::routes::{Endpoint, Route};
use nebula_domain::{InstanceId, NodeId};
use nebula_wire::peer::tunnel::Site;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::edge::Edge;
use crate::exchange::{Fault, Link, Request, exchange};
use crate::metrics::Retry;
use crate::pages::Problem;
use crate::upstream::{DialError, Via, fell_silent};

/// How one endpoint was tried.
enum Attempt {
    /// Whether the client's connection may carry another request.
    Served(bool),
    /// Nothing came of it, and the request is still ours to send.
    Elsewhere(Retry),
    Failed(Problem),
}

/// Sends a request to an endpoint of the route and passes the response on. `avoid` is a node that has been tried in
/// another way. With an error, nothing has been written to the client.
pub(crate) async fn forward<T>(
    edge: &Edge,
    mut route: Arc<Route>,
    request: &Request<'_>,
    link: &mut Link<'_, T>,
    site: Option<Site>,
    avoid: Option<NodeId>,
) -> Result<bool, Problem>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let repeatable = !request.head.has_body()
        && request.head.upgrade().is_none()
        && request.head.method.is_idempotent()
        && request.head.method != Method::CONNECT;
    // Filled only by failures, so that a request that succeeds at once allocates nothing for it.
    let mut tried: Vec<InstanceId> = Vec::new();
    let mut problem = None;

    if route.endpoints.is_empty() {
        route = edge.ready(route, request.asked.host).await;
    }
    while tried.len() < edge.shared.limits.attempts {
        let Some(endpoint) = choose(edge, &route, avoid, &tried) else {
            break;
        };
        let others = Others {
            route: &route,
            avoid,
            tried: &tried,
        };
        match attempt(edge, endpoint, site, repeatable, others, request, link).await {
            Attempt::Served(persistent) => return Ok(persistent),
            Attempt::Failed(problem) => return Err(problem),
            Attempt::Elsewhere(reason) => {
                problem = Some(match reason {
                    Retry::Broken => Problem::Broken(others.name()),
                    _ => Problem::Unreachable(others.name()),
                });
                tried.push(endpoint.instance);
                edge.shared.metrics.retry(reason);
                // The table may know more by now.
                let newer = edge.route(request.asked.host);
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

async fn attempt<T>(
    edge: &Edge,
    endpoint: Endpoint,
    site: Option<Site>,
    repeatable: bool,
    others: Others<'_>,
    request: &Request<'_>,
    link: &mut Link<'_, T>,
) -> Attempt
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let limits = &edge.shared.limits;
    let target = match edge.dialer.target(endpoint, site) {
        Ok(target) => target,
        Err(error) => return unreachable(edge, endpoint, &error),
    };
    let idle_max = match repeatable {
        true => limits.upstream_idle,
        false => limits.upstream_idle_unrepeatable,
    };
    let mut kept = edge.pool.take(target, idle_max);
    loop {
        let was_kept = kept.is_some();
        let mut upstream = match kept.take() {
            Some(upstream) => upstream,
            None => match edge.dialer.dial(target).await {
                Ok(upstream) => upstream,
                Err(error) => return unreachable(edge, endpoint, &error),
            },
        };
        let exchanged = match target.via {
            Via::Local { .. } => {
                let never = poll_fn(|_| std::task::Poll::Pending);
                exchange(limits, request, link, &mut upstream, never).await
            }
            Via::Remote { node, .. } => {
                let silence = upstream.silence.clone();
                let silent = silent(edge, node, silence, repeatable.then_some(others));
                exchange(limits, request, link, &mut upstream, Box::pin(silent)).await
            }
        };
        let fault = match exchanged {
            Ok(exchanged) => {
                if exchanged.reusable {
                    edge.pool.put(target, upstream);
                }
                return Attempt::Served(exchanged.persistent);
            }
            Err(fault) => fault,
        };
        tracing::debug!(instance = %target.instance, ?fault, "an exchange with an instance failed");
        match fault {
            // The instance closed a connection just when it was used again: that says nothing of
            // the instance, so it is asked again, on a connection of its own.
            Fault::NotSent if was_kept => {}
            Fault::Broken if was_kept && repeatable => {}
            Fault::NotSent => return Attempt::Elsewhere(Retry::Connect),
            Fault::Broken if repeatable => return Attempt::Elsewhere(Retry::Broken),
            Fault::Silent if repeatable => return Attempt::Elsewhere(Retry::Suspect),
            Fault::Broken => return Attempt::Failed(Problem::Broken(others.name())),
            Fault::Silent => return Attempt::Failed(Problem::Lost(others.name())),
            Fault::TimedOut { complete: true } => {
                return Attempt::Failed(Problem::Silent(others.name()));
            }
            Fault::TimedOut { complete: false } => return Attempt::Failed(Problem::SlowClient),
            Fault::Request(refusal) => return Attempt::Failed(Problem::Refused(refusal)),
            Fault::ClientGone => return Attempt::Failed(Problem::ClientGone),
        }
        edge.shared.metrics.retry(Retry::Stale);
    }
}

fn unreachable(edge: &Edge, endpoint: Endpoint, error: &DialError) -> Attempt {
    let Endpoint { instance, node } = endpoint;
    tracing::debug!(%instance, %node, error = error as &dyn std::error::Error, "an instance could not be reached");
    let of_node = error.is_of_node();
    match of_node {
        true => edge.shared.ejections.node(node),
        false => edge.shared.ejections.instance(instance),
    }
    Attempt::Elsewhere(match of_node {
        true => Retry::Tunnel,
        false => Retry::Connect,
    })
}

/// Ends when the node that has the request is to be given up: one that can go elsewhere as soon as the node is
/// suspect, any other when its connection stays silent. With nowhere else to go, waiting is the better choice: the
/// node may only be slow.
async fn silent(
    edge: &Edge,
    node: NodeId,
    silence: Option<nebula_mesh::Silence>,
    escape: Option<Others<'_>>,
) {
    match (escape, silence) {
        (Some(others), _) => {
            fell_silent(&mut edge.dialer.suspects.clone(), node).await;
            if others.than(node) {
                return;
            }
        }
        (None, Some(mut silence)) => {
            silence.lasts(edge.shared.limits.lost_after).await;
            return;
        }
        (None, None) => {}
    }
    std::future::pending::<()>().await;
}
