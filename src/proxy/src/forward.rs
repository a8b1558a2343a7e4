//! One request to an instance, and once more to another when that is safe.
//!
//! Safe means: nothing of the request was sent yet, or the request may be repeated by what it is (RFC 9110 section 9.2.2, or
//! its client's `Idempotency-Key`) and all of it is here, and no response had begun. How often, and until when, says the
//! deployment's policy; what is decided lives in `nebula_domain::traffic`.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nebula_domain::http::{HttpPolicy, Upstream as Protocol};
use nebula_domain::routes::Endpoint;
use nebula_domain::traffic::Nanos;
use nebula_domain::traffic::instance::Heard;
use nebula_domain::traffic::retry::{
    Body, Failure, GiveUp, Hedge, Tries, is_repeatable, is_safe, may_repeat,
};
use nebula_domain::{InstanceId, NodeId};
use nebula_wire::peer::tunnel::Site;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::choice::{Chosen, Wish, choose};
use crate::edge::Edge;
use crate::exchange::{Fault, Link, Request, Upload, ask, collect, deliver};
use crate::h1::{Length, RequestHead};
use crate::hedge;
use crate::metrics::Retry;
use crate::origin::Scheme;
use crate::pages::Problem;
use crate::service::Service;
use crate::upstream::{DialError, Target, Told, Upstream, Via, fell_silent, is_websocket};

const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// How one endpoint was tried, or two at the same time.
pub(crate) enum Attempt {
    /// Whether the client's connection may carry another request.
    Served(bool),
    /// Nothing came of it, and perhaps another may have it.
    Elsewhere(Retry, Problem),
    Failed(Problem),
}

/// An instance whose response has begun.
pub(crate) struct Asked {
    target: Target,
    pub(crate) upstream: Upstream,
    upload: Upload,
}

/// One request while it looks for an instance.
pub(crate) struct Trip<'a> {
    edge: &'a Edge,
    pub(crate) policy: &'a HttpPolicy,
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
    let kept = match short_body(edge, &policy, request) {
        Some(length) => {
            let limits = &edge.shared.limits;
            let content = collect(limits, request, link, length).await;
            // It may have taken a while.
            if let Some(newer) = edge.again(&service.route, request.asked.host) {
                service = edge.shared.services.of(&newer, edge.now());
            }
            Some(content.map_err(|fault| match fault {
                Fault::ClientGone => Problem::ClientGone,
                _ => Problem::SlowClient,
            })?)
        }
        None => None,
    };
    let request = &Request {
        kept: kept.as_deref(),
        ..*request
    };
    if service.route.endpoints.is_empty() {
        service = ready(edge, &service, request).await?;
    }
    let head = request.head;
    let whole = (!head.has_body() || kept.is_some()) && head.upgrade().is_none();
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
    // One look at the clock serves all that is decided before something is waited for.
    let mut now = began;
    let mut admitted = service.admit(edge, request.asked.host, now).await?;
    if admitted.waited {
        service = admitted.newest.take().unwrap_or(service);
        if service.route.endpoints.is_empty() {
            // They have gone while it waited.
            service = ready(edge, &service, request).await?;
        }
        now = edge.now();
    }
    let mut tries = Tries::new(began);
    let mut problem = None;
    while let Some(until) = tries.begin(&policy.deadlines, now) {
        let Some(chosen) = trip.choose(&service, request, None, now) else {
            // Another thread took the last place, or all have been tried.
            problem.get_or_insert_with(|| service.overloaded(&policy.capacity));
            break;
        };
        let instance = chosen.endpoint.instance;
        request.asked_last.store(instance.0, Ordering::Relaxed);
        let request = &Request {
            since: edge.shared.guard.instant(now),
            ..*request
        };
        let (retry, failed) = match trip.attempt(&service, chosen, until, request, link).await {
            Attempt::Served(persistent) => return Ok(persistent),
            Attempt::Failed(problem) => return Err(problem),
            Attempt::Elsewhere(retry, problem) => (retry, problem),
        };
        now = edge.now();
        problem = Some(failed);
        trip.tried.push(instance);
        // Rules and policy stay those of the first table; of who is there the newest knows more.
        if let Some(newer) = edge.again(&service.route, request.asked.host) {
            service = edge.shared.services.of(&newer, now);
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
            now,
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

/// Whether it may be sent a second time although it may have had its effect, as far as its head goes. A key counts only where
/// retries are wanted, and where the instance gets to see it.
fn may_happen_twice(head: &RequestHead, policy: &HttpPolicy) -> bool {
    is_repeatable(head.method.as_str().as_bytes(), || {
        let key = head.fields().get(IDEMPOTENCY_KEY);
        policy.retry.tries > 1
            && key.is_some_and(|key| !key.trim_ascii().is_empty())
            && !head.is_named_by_connection(IDEMPOTENCY_KEY.as_bytes())
    })
}

/// The length of a body that is read before anybody is asked, so that all of the request can be sent again.
fn short_body(edge: &Edge, policy: &HttpPolicy, request: &Request<'_>) -> Option<usize> {
    let Length::Sized(length) = request.head.body_length() else {
        return None;
    };
    let max = request
        .max_body
        .min(edge.shared.limits.kept_body_bytes as u64);
    let is_short = length <= max && request.head.upgrade().is_none() && policy.retry.tries > 1;
    let length = usize::try_from(length).ok().filter(|_| is_short)?;
    may_happen_twice(request.head, policy).then_some(length)
}

/// A deployment without an instance, once it has one.
async fn ready(
    edge: &Edge,
    service: &Service,
    request: &Request<'_>,
) -> Result<Arc<Service>, Problem> {
    match edge.ready(&service.route, request.asked.host).await {
        Some(newer) => Ok(edge.shared.services.of(&newer, edge.now())),
        None => Err(Problem::NotReady(service.route.deployment.to_string())),
    }
}

impl<'a> Trip<'a> {
    /// It has not been tried.
    fn is_fresh(&self, endpoint: &Endpoint) -> bool {
        Some(endpoint.node) != self.avoid && !self.tried.contains(&endpoint.instance)
    }

    fn may_repeat(&self, request: &Request<'_>, retry: Retry) -> bool {
        let failure = match retry {
            // Nothing was sent, so that whatever there is of a body is still there.
            Retry::Connect | Retry::Tunnel => return true,
            Retry::Suspect | Retry::Silent => Failure::Silent,
            Retry::Broken | Retry::Stale | Retry::Hedge => Failure::Broken,
        };
        may_repeat(
            may_happen_twice(request.head, self.policy),
            self.body,
            failure,
        )
    }

    /// Whether it may be sent a second time although it may have had its effect.
    fn is_repeatable(&self, request: &Request<'_>) -> bool {
        self.body == Body::Whole && may_happen_twice(request.head, self.policy)
    }

    /// An endpoint that is none of those tried, and not `other`.
    pub(crate) fn choose<'s>(
        &self,
        service: &'s Service,
        request: &Request<'s>,
        other: Option<InstanceId>,
        now: Nanos,
    ) -> Option<Chosen<'s>>
    where
        'a: 's,
    {
        let wish = Wish {
            edge: self.edge,
            now,
            policy: self.policy,
            head: request.head,
            client: request.asked.origin.client,
            secure: request.asked.origin.scheme == Scheme::Https,
            only_well: other.is_some(),
            is_site: self.site.is_some(),
            secret: self.edge.table().secret,
        };
        choose(service, &wish, |endpoint| {
            self.is_fresh(endpoint) && Some(endpoint.instance) != other
        })
    }

    /// How long one instance is waited for before another is asked as well. Not where a client is to stay with its instance.
    fn hedge(&self, service: &Service, request: &Request<'_>) -> Option<Hedge> {
        let hedge = self.policy.hedge?;
        let sticks = self.policy.sticky.is_some() && self.site.is_none();
        let safe = self.body == Body::Whole && is_safe(request.head.method.as_str().as_bytes());
        (safe && !sticks && service.route.endpoints.len() > 1).then_some(hedge)
    }

    /// Another endpoint for a copy of a request that `first` is slow to answer, if the budget has room for it.
    pub(crate) fn second<'s>(
        &self,
        service: &'s Service,
        request: &Request<'s>,
        first: &Chosen<'_>,
    ) -> Option<Chosen<'s>>
    where
        'a: 's,
    {
        let now = self.edge.now();
        let budget = service.budget();
        if !budget.has_any(&self.policy.retry, now) {
            service.figures.budget_spent.inc();
            return None;
        }
        // Choosing may make a breaker half-open, and the budget is for copies that are sent: another thread may have taken the rest.
        let second = self.choose(service, request, Some(first.endpoint.instance), now)?;
        if !budget.withdraw(&self.policy.retry, now) {
            service.figures.budget_spent.inc();
            return None;
        }
        service.figures.retry(Retry::Hedge);
        Some(second)
    }

    async fn attempt<'s, T>(
        &mut self,
        service: &'s Service,
        chosen: Chosen<'s>,
        until: Nanos,
        request: &Request<'s>,
        link: &mut Link<'_, T>,
    ) -> Attempt
    where
        T: AsyncRead + AsyncWrite + Unpin,
        'a: 's,
    {
        let answered = match self.hedge(service, request) {
            None => {
                let asked = self.ask(service, &chosen, until, request, link).await;
                asked.map(|asked| (asked, chosen))
            }
            Some(hedge) => {
                let race = hedge::race(self, hedge, service, chosen, until, request, link);
                // Few requests need so much room.
                let (answered, second) = Box::pin(race).await;
                self.tried.extend(second);
                if let Ok((_, won)) = &answered {
                    let instance = won.endpoint.instance;
                    request.asked_last.store(instance.0, Ordering::Relaxed);
                }
                answered
            }
        };
        let (mut asked, chosen) = match answered {
            Ok(answered) => answered,
            Err(attempt) => return attempt,
        };
        let told = |status: u16| {
            let heard = match is_error(status) {
                true => Heard::Error,
                false => Heard::Answer,
            };
            chosen.answered(status);
            chosen.heard(heard);
            if status == 101 {
                chosen.upgraded();
            }
            (request.answered)(status);
        };
        let request = &Request {
            cookie: chosen.cookie.as_deref(),
            answered: &told,
            ..*request
        };
        let limits = &self.edge.shared.limits;
        let exchanged = deliver(limits, request, link, &mut asked.upstream, asked.upload).await;
        if exchanged.reusable {
            self.edge.pool.put(asked.target, asked.upstream);
        }
        Attempt::Served(exchanged.persistent)
    }

    /// Asks an endpoint, over a kept connection if there is one.
    pub(crate) async fn ask<T>(
        &self,
        service: &Service,
        chosen: &Chosen<'_>,
        until: Nanos,
        request: &Request<'_>,
        link: &mut Link<'_, T>,
    ) -> Result<Asked, Attempt>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let edge = self.edge;
        let limits = &edge.shared.limits;
        let name = || service.route.deployment.to_string();
        let repeatable = self.is_repeatable(request);
        let unreachable = |error| self.unreachable(service, chosen, &error);
        let dialer = &edge.dialer;
        let target = dialer.target(chosen.endpoint, self.site);
        let target = target.map_err(unreachable)?;
        let idle_max = match repeatable {
            true => limits.upstream_idle,
            false => limits.upstream_idle_unrepeatable,
        };
        let mut since = request.since;
        let h2c = self.policy.upstream == Protocol::H2c && self.site.is_none();
        let mut kept = match h2c {
            true => edge.links.take(target, idle_max),
            false => edge.pool.take(target, idle_max, since),
        };
        // One more try with the same instance, where the connection may be to blame.
        let mut once_more = true;
        loop {
            let was_kept = kept.is_some();
            let mut upstream = match kept.take() {
                Some(upstream) => upstream,
                None => {
                    let dialed = self.dial(target, h2c).await.map_err(unreachable)?;
                    since = Instant::now();
                    dialed
                }
            };
            let was_kept = once_more && (was_kept || upstream.wire.io.is_shared());
            if is_websocket(request.head) && !upstream.wire.io.takes_websocket() {
                return Err(Attempt::Failed(Problem::NoWebSocket(name())));
            }
            let patience = until.saturating_sub(edge.shared.guard.at(since));
            let patience = Duration::from_nanos(patience);
            if patience.is_zero() {
                return Err(Attempt::Failed(Problem::Silent(name())));
            }
            let request = &Request {
                since,
                patience,
                ..*request
            };
            let asked = match target.via {
                Via::Local { .. } => {
                    let never = poll_fn(|_| std::task::Poll::Pending);
                    ask(limits, request, link, &mut upstream, never).await
                }
                Via::Remote { node, .. } => {
                    let silence = upstream.silence.clone();
                    let silent = self.silent(service, node, silence, repeatable);
                    ask(limits, request, link, &mut upstream, Box::pin(silent)).await
                }
            };
            // A stream that was reset says nothing of the connection that it shares with others.
            let failed = upstream.wire.io.told() == Some(Told::Failed);
            let fault = match asked {
                Ok(upload) => {
                    return Ok(Asked {
                        target,
                        upstream,
                        upload,
                    });
                }
                Err(fault) => fault,
            };
            tracing::debug!(instance = %target.instance, ?fault, "an exchange with an instance failed");
            match fault {
                // The instance closed a connection just when it was used again: that says nothing of
                // the instance, so it is asked again, on a connection of its own.
                Fault::NotSent if was_kept => {}
                Fault::Broken if was_kept && repeatable && !failed => {}
                _ => {
                    let timed_out = matches!(fault, Fault::TimedOut { .. });
                    // It gave up itself, or had all the time that the request has.
                    let failed = match fault {
                        Fault::TimedOut { complete } => complete && self.tried.is_empty(),
                        Fault::Cancelled => true,
                        _ => false,
                    };
                    if failed {
                        chosen.unanswered();
                    }
                    let (mut heard, attempt) = judge(fault, &name);
                    if timed_out && patience < self.policy.deadlines.per_try {
                        // The request's time was over, not the instance's.
                        heard = Heard::Unknown;
                    }
                    chosen.heard(heard);
                    return Err(attempt);
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

/// A status by which an instance says that it could not do what it was asked.
pub(crate) fn is_error(status: u16) -> bool {
    matches!(status, 500 | 502..=504)
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
