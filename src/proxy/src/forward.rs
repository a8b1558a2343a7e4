//! One request to an instance, and once more to another when that is safe.
//!
//! Safe means: nothing of the request was sent yet, or the request may be repeated by what it is
//! (RFC 9110 section 9.2.2) and has no body, and no response had begun. How often, and until when, says the deployment's
//! policy; what is decided lives in `nebula_domain::traffic`.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nebula_domain::http::{HttpPolicy, Upstream as Protocol};
use nebula_domain::routes::Endpoint;
use nebula_domain::traffic::Nanos;
use nebula_domain::traffic::instance::Heard;
use nebula_domain::traffic::retry::{Body, Failure, GiveUp, Tries, is_idempotent, may_repeat};
use nebula_domain::{InstanceId, NodeId};
use nebula_wire::peer::tunnel::Site;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::choice::{Chosen, Wish, choose};
use crate::edge::Edge;
use crate::exchange::{Fault, Link, Request, exchange};
use crate::metrics::Retry;
use crate::origin::Scheme;
use crate::pages::Problem;
use crate::service::Service;
use crate::upstream::{DialError, Target, Upstream, Via, fell_silent, is_websocket};

/// How one endpoint was tried.
enum Attempt {
    /// Whether the client's connection may carry another request.
    Served(bool),
    /// Nothing came of it, and perhaps another may have it.
    Elsewhere(Retry, Problem),
    Failed(Problem),
}

/// One request while it looks for an instance.
struct Trip<'a> {
    edge: &'a Edge,
    policy: &'a HttpPolicy,
    site: Option<Site>,
    /// A node that has been tried in another way.
    avoid: Option<NodeId>,
    body: Body,
    /// Filled only by failures, so that a request that succeeds at once allocates nothing for it.
    tried: Vec<InstanceId>,
}

/// Sends a request to an endpoint of the route and passes the response on. `avoid` is a node that has been tried in
/// another way. With an error, nothing has been written to the client.
pub(crate) async fn forward<T>(
    edge: &Edge,
    mut service: Arc<Service>,
    request: &Request<'_>,
    link: &mut Link<'_, T>,
    site: Option<Site>,
    avoid: Option<NodeId>,
) -> Result<bool, Problem>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let policy = Arc::clone(&service.route.policy);
    if service.route.endpoints.is_empty() {
        let newer = edge.ready(&service.route, request.asked.host).await;
        let Some(newer) = newer else {
            let name = service.route.deployment.to_string();
            return Err(Problem::NotReady(name));
        };
        service = edge.shared.services.of(&newer, edge.now());
    }
    let head = request.head;
    let whole = !head.has_body() && head.upgrade().is_none();
    let mut trip = Trip {
        edge,
        policy: &policy,
        site,
        avoid,
        body: if whole { Body::Whole } else { Body::Gone },
        tried: Vec::new(),
    };
    let began = edge.now();
    service.budget().deposit(&policy.retry, began);
    let _admitted = service.admit(&policy, || edge.now()).await?;
    let mut tries = Tries::new(began);
    let mut problem = None;
    while let Some(until) = tries.begin(&policy.deadlines, edge.now()) {
        let Some(chosen) = trip.choose(&service, request) else {
            // Another thread took the last place, or all have been tried.
            problem.get_or_insert_with(|| service.overloaded(&policy.capacity));
            break;
        };
        let instance = chosen.endpoint.instance;
        request.asked_last.store(instance.0, Ordering::Relaxed);
        let (retry, failed) = match trip.attempt(&service, chosen, until, request, link).await {
            Attempt::Served(persistent) => return Ok(persistent),
            Attempt::Failed(problem) => return Err(problem),
            Attempt::Elsewhere(retry, problem) => (retry, problem),
        };
        problem = Some(failed);
        trip.tried.push(instance);
        // Rules and policy stay those of the first table; of who is there the newest knows more.
        if let Some(newer) = edge.again(&service.route, request.asked.host) {
            service = edge.shared.services.of(&newer, edge.now());
        }
        let mut others = service.route.endpoints.iter();
        if !others.any(|endpoint| trip.is_fresh(endpoint)) {
            break;
        }
        let may_repeat = trip.may_repeat(request, retry);
        let again = tries.again(
            &policy.retry,
            &policy.deadlines,
            service.budget(),
            may_repeat,
            edge.now(),
        );
        match again {
            Ok(()) => service.figures.retry(retry),
            Err(why) => {
                if why == GiveUp::BudgetSpent {
                    service.figures.budget_spent.inc();
                }
                break;
            }
        }
    }
    Err(problem.unwrap_or_else(|| Problem::Silent(service.route.deployment.to_string())))
}

impl Trip<'_> {
    /// It has not been tried.
    fn is_fresh(&self, endpoint: &Endpoint) -> bool {
        Some(endpoint.node) != self.avoid && !self.tried.contains(&endpoint.instance)
    }

    fn may_repeat(&self, request: &Request<'_>, retry: Retry) -> bool {
        let failure = match retry {
            // Nothing was sent, so that whatever there is of a body is still there.
            Retry::Connect | Retry::Tunnel => return true,
            Retry::Suspect | Retry::Silent => Failure::Silent,
            Retry::Broken | Retry::Stale => Failure::Broken,
        };
        may_repeat(request.head.method.as_str().as_bytes(), self.body, failure)
    }

    /// Whether it may be sent a second time although it may have had its effect.
    fn is_repeatable(&self, request: &Request<'_>) -> bool {
        self.body == Body::Whole && is_idempotent(request.head.method.as_str().as_bytes())
    }

    fn choose<'s>(&'s self, service: &'s Service, request: &'s Request<'_>) -> Option<Chosen<'s>> {
        let wish = Wish {
            edge: self.edge,
            policy: self.policy,
            head: request.head,
            client: request.asked.origin.client,
            secure: request.asked.origin.scheme == Scheme::Https,
            is_site: self.site.is_some(),
            secret: self.edge.table().secret,
        };
        choose(service, &wish, |endpoint| self.is_fresh(endpoint))
    }

    async fn attempt<T>(
        &self,
        service: &Service,
        chosen: Chosen<'_>,
        until: Nanos,
        request: &Request<'_>,
        link: &mut Link<'_, T>,
    ) -> Attempt
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let edge = self.edge;
        let limits = &edge.shared.limits;
        let endpoint = chosen.endpoint;
        let name = || service.route.deployment.to_string();
        let repeatable = self.is_repeatable(request);
        let target = match edge.dialer.target(endpoint, self.site) {
            Ok(target) => target,
            Err(error) => return self.unreachable(service, &chosen, &error),
        };
        let idle_max = match repeatable {
            true => limits.upstream_idle,
            false => limits.upstream_idle_unrepeatable,
        };
        let h2c = self.policy.upstream == Protocol::H2c && self.site.is_none();
        let mut kept = match h2c {
            true => edge.links.take(target, idle_max),
            false => edge.pool.take(target, idle_max),
        };
        // One more try with the same instance, where the connection may be to blame.
        let mut once_more = true;
        loop {
            let was_kept = kept.is_some();
            let mut upstream = match kept.take() {
                Some(upstream) => upstream,
                None => match self.dial(target, h2c).await {
                    Ok(upstream) => upstream,
                    Err(error) => return self.unreachable(service, &chosen, &error),
                },
            };
            let was_kept = once_more && (was_kept || upstream.wire.io.is_shared());
            if is_websocket(request.head) && !upstream.wire.io.takes_websocket() {
                return Attempt::Failed(Problem::NoWebSocket(name()));
            }
            let patience = Duration::from_nanos(until.saturating_sub(edge.now()));
            if patience.is_zero() {
                return Attempt::Failed(Problem::Silent(name()));
            }
            let told = |status: u16| {
                let heard = match status {
                    500 | 502..=504 => Heard::Error,
                    _ => Heard::Answer,
                };
                chosen.heard(heard);
                (request.answered)(status);
            };
            let request = &Request {
                patience,
                cookie: chosen.cookie.as_deref(),
                answered: &told,
                ..*request
            };
            let exchanged = match target.via {
                Via::Local { .. } => {
                    let never = poll_fn(|_| std::task::Poll::Pending);
                    exchange(limits, request, link, &mut upstream, never).await
                }
                Via::Remote { node, .. } => {
                    let silence = upstream.silence.clone();
                    let silent = self.silent(service, node, silence, repeatable);
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
                _ => {
                    let timed_out = matches!(fault, Fault::TimedOut { .. });
                    let (mut heard, attempt) = judge(fault, &name);
                    if timed_out && patience < self.policy.deadlines.per_try {
                        // The request's time was over, not the instance's.
                        heard = Heard::Unknown;
                    }
                    chosen.heard(heard);
                    return attempt;
                }
            }
            once_more = false;
            service.figures.retry(Retry::Stale);
        }
    }

    async fn dial(&self, target: Target, h2c: bool) -> Result<Upstream, DialError> {
        let dialer = &self.edge.dialer;
        match h2c {
            true => self.edge.links.open(dialer, target).await,
            false => dialer.dial(target).await,
        }
    }

    fn unreachable(&self, service: &Service, chosen: &Chosen<'_>, error: &DialError) -> Attempt {
        let Endpoint { instance, node } = chosen.endpoint;
        tracing::debug!(%instance, %node, error = error as &dyn std::error::Error, "an instance could not be reached");
        let name = service.route.deployment.to_string();
        let problem = match error {
            // It is there and at work.
            DialError::Full => {
                chosen.heard(Heard::Unknown);
                let problem = service.overloaded(&self.policy.capacity);
                return Attempt::Elsewhere(Retry::Connect, problem);
            }
            DialError::NotHttp2 => Problem::NotHttp2(name),
            _ => Problem::Unreachable(name),
        };
        if error.is_of_node() {
            // None of its instances would answer, and none of them is to blame.
            self.edge.shared.ejections.node(node);
            chosen.heard(Heard::Unknown);
            return Attempt::Elsewhere(Retry::Tunnel, problem);
        }
        self.edge.shared.ejections.instance(instance);
        chosen.heard(Heard::Nothing);
        Attempt::Elsewhere(Retry::Connect, problem)
    }

    /// Ends when the node that has the request is to be given up: one that can go elsewhere as soon as the node is
    /// suspect, any other when its connection stays silent. With nowhere else to go, waiting is the better choice: the
    /// node may only be slow.
    async fn silent(
        &self,
        service: &Service,
        node: NodeId,
        silence: Option<nebula_mesh::Silence>,
        repeatable: bool,
    ) {
        match (repeatable, silence) {
            (true, _) => {
                fell_silent(&mut self.edge.dialer.suspects.clone(), node).await;
                let mut others = service.route.endpoints.iter();
                let elsewhere = others.any(|e| e.node != node && self.is_fresh(e));
                if elsewhere {
                    return;
                }
            }
            (false, Some(mut silence)) => {
                silence.lasts(self.edge.shared.limits.lost_after).await;
                return;
            }
            (false, None) => {}
        }
        std::future::pending::<()>().await;
    }
}

/// What a fault says of the instance, and what becomes of the request.
fn judge(fault: Fault, name: &dyn Fn() -> String) -> (Heard, Attempt) {
    match fault {
        Fault::NotSent => (
            Heard::Nothing,
            Attempt::Elsewhere(Retry::Connect, Problem::Unreachable(name())),
        ),
        Fault::Broken => (
            Heard::Nothing,
            Attempt::Elsewhere(Retry::Broken, Problem::Broken(name())),
        ),
        Fault::Cancelled => (
            Heard::Unknown,
            Attempt::Elsewhere(Retry::Broken, Problem::Cancelled(name())),
        ),
        // The node is to blame, and is known for it.
        Fault::Silent => (
            Heard::Unknown,
            Attempt::Elsewhere(Retry::Suspect, Problem::Lost(name())),
        ),
        Fault::TimedOut { complete: true } => (
            Heard::Nothing,
            Attempt::Elsewhere(Retry::Silent, Problem::Silent(name())),
        ),
        Fault::TimedOut { complete: false } => {
            (Heard::Unknown, Attempt::Failed(Problem::SlowClient))
        }
        Fault::Request(refusal) => (Heard::Unknown, Attempt::Failed(Problem::Refused(refusal))),
        Fault::ClientGone => (Heard::Unknown, Attempt::Failed(Problem::ClientGone)),
    }
}
