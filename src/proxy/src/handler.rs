//! From a request's head to whoever answers it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::Instant;

use http::{Method, Response};
use nebula_domain::InstanceId;
use nebula_domain::http::path::{self as http_path, canonical};
use nebula_domain::http::{Https, RedirectParts};
use nebula_domain::routes::{FoundAction, RequestView, Route, RouteKind};
use nebula_wire::peer::tunnel::Site;

use crate::access::Entry;
use crate::body::ResponseBody;
use crate::cache::{self, Visit, Visited};
use crate::client::{Client, Socket};
use crate::edge::Edge;
use crate::exchange::{Link, Request, gone};
use crate::finish::Finish;
use crate::forward::forward;
use crate::grpc;
use crate::h1::{Refusal, RequestHead};
use crate::headers::{Asked, RequestId, X_REQUEST_ID};
use crate::metrics::Tracked;
use crate::origin::{Origin, Scheme};
use crate::pages::{self, Problem};
use crate::service::Service;
use crate::statics::Ask;
use crate::tls::to_https;

/// A host is shown in a page up to this length: longer than any that could be a name.
const SHOWN_HOST_CHARS: usize = 255;

/// Counted for a client that went before it was answered; the code that nginx has made known for it.
const CLIENT_GONE: u16 = 499;

/// What a request comes to by its host, path and fields.
struct Routed {
    route: Arc<Route>,
    /// Where it goes when not to an instance or a file.
    own: Option<Response<ResponseBody>>,
    /// Path and query without the prefix that a rule strips.
    stripped: Option<String>,
    missing: Option<String>,
}

/// What became of a request.
struct Outcome {
    started: Instant,
    status: AtomicU16,
    /// The instance that was asked last; 0: none.
    instance: AtomicU64,
}

/// Answers the request whose head was read; whether the connection may carry another one. A request is counted before
/// the end of its answer can be seen.
pub(crate) async fn answer<T>(edge: &Arc<Edge>, origin: &Origin, client: &mut Client<T>) -> bool
where
    T: Socket,
{
    let started = Instant::now();
    let alternative = edge.shared.alternative.as_ref();
    // Who is told while the edge drains would only be sent away there.
    let alternative = alternative.filter(|_| origin.may_change() && !client.drain.has_begun());
    client.alternative = alternative.map(Arc::clone);
    let passed_on = origin.passed_on(&client.head, &edge.shared.trusted_proxies);
    let origin = passed_on.as_ref().unwrap_or(origin);
    client.secure = origin.scheme == Scheme::Https;
    let id = RequestId::of(client.head.fields());
    let found = find(edge, origin, &client.head).map(|routed| {
        let now = edge.shared.guard.at(started);
        let service = edge.shared.services.of(&routed.route, now);
        (routed, service)
    });
    let (figures, policy) = match &found {
        Ok((routed, service)) => (
            Arc::clone(&service.figures),
            Some(Arc::clone(&routed.route.policy)),
        ),
        Err(_) => (edge.shared.metrics.of(None), None),
    };
    let tracked = Tracked::new(figures);
    let outcome = Outcome {
        started,
        status: AtomicU16::default(),
        instance: AtomicU64::default(),
    };
    let logged = policy.as_deref().and_then(|policy| {
        let name = found.as_ref().ok()?.0.route.deployment.as_str();
        Entry::begin(policy.access_log, name, origin, &client.head)
    });
    let answered = match found {
        Ok((routed, service)) => {
            by_route(edge, routed, service, origin, &id, &outcome, client).await
        }
        Err(problem) => Err(problem),
    };
    let persistent = match answered {
        Ok(persistent) => persistent,
        Err(Problem::ClientGone) => {
            outcome.status.store(CLIENT_GONE, Ordering::Relaxed);
            tracked.figures.answered(CLIENT_GONE);
            false
        }
        Err(problem) => {
            let (status, _) = problem.said();
            outcome.status.store(status.as_u16(), Ordering::Relaxed);
            tracked.figures.answered(status.as_u16());
            let is_call = client.head.method == Method::POST && client.head.is_grpc();
            let response = match is_call {
                true => grpc::answer(&problem, &id),
                false => problem.response(client.head.fields().get("accept"), &id),
            };
            let persistent = problem.leaves_connection();
            let limits = &edge.shared.limits;
            client
                .respond(limits, response, policy.as_deref(), persistent)
                .await
        }
    };
    let (sent, received) = client.moved();
    let took = started.elapsed();
    tracked.figures.ended(took, sent, received);
    if let Some(logged) = logged {
        edge.shared.access.write(Entry {
            took,
            sent,
            received,
            status: outcome.status.into_inner(),
            instance: Some(outcome.instance.into_inner())
                .filter(|id| *id > 0)
                .map(InstanceId),
            request_id: String::from_utf8_lossy(id.as_bytes()).into_owned(),
            ..logged
        });
    }
    persistent
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
    let figures = edge.shared.metrics.of(None);
    figures.answered(response.status().as_u16());
    client
        .respond(&edge.shared.limits, response, None, false)
        .await;
}

fn find(edge: &Edge, origin: &Origin, head: &RequestHead) -> Result<Routed, Problem> {
    if head.method == Method::CONNECT {
        return Err(Problem::NotAProxy);
    }
    let host = head.host().ok_or(Problem::BadHost)?;
    let host = std::str::from_utf8(host).map_err(|_| Problem::BadHost)?;
    let (path, query) = split(head.target());
    let path = canonical(path);
    let request = RequestView {
        method: head.method.as_str(),
        path: &path,
        header: &|name| head.fields().first(name),
    };
    let table = edge.table();
    let Some(found) = table.find(host, &request) else {
        let shown = host.chars().take(SHOWN_HOST_CHARS).collect();
        return Err(Problem::UnknownHost(shown));
    };
    let (mut own, mut stripped, mut missing) = (None, None, None);
    match found.action {
        FoundAction::Forward { strip_bytes: 0 } => {}
        FoundAction::Forward { strip_bytes } => {
            let mut target = http_path::stripped(&path, strip_bytes).to_owned();
            if let Some(query) = query {
                target.push('?');
                target.push_str(query);
            }
            stripped = Some(target);
        }
        FoundAction::Redirect {
            to,
            code,
            prefix_bytes,
        } => {
            let location = to.location(&RedirectParts {
                scheme: origin.scheme.as_str(),
                host,
                path: &path,
                prefix_bytes,
                query,
            });
            own = Some(pages::redirect(code.get(), &location));
        }
        FoundAction::Answer { code, body } => own = Some(pages::fixed(code.get(), body)),
        FoundAction::Missing { deployment } => missing = Some(deployment.to_string()),
    }
    Ok(Routed {
        route: Arc::clone(found.route),
        own,
        stripped,
        missing,
    })
}

/// Path and query of a target.
fn split(target: &str) -> (&str, Option<&str>) {
    match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    }
}

async fn by_route<T>(
    edge: &Arc<Edge>,
    routed: Routed,
    service: Arc<Service>,
    origin: &Origin,
    id: &RequestId,
    outcome: &Outcome,
    client: &mut Client<T>,
) -> Result<bool, Problem>
where
    T: Socket,
{
    let Routed {
        route,
        own,
        stripped,
        missing,
    } = routed;
    let policy = Arc::clone(&route.policy);
    let limits = &edge.shared.limits;
    let figures = Arc::clone(&service.figures);
    let answered = |status| {
        outcome.status.store(status, Ordering::Relaxed);
        figures.answered(status);
    };
    let redirect = match policy.https {
        Https::On => to_https(edge.shared.tls.as_ref(), origin, &client.head),
        Https::Off if client.secure => {
            return Err(Problem::NotOverTls(route.deployment.to_string()));
        }
        Https::Both | Https::Off => None,
    };
    // Before anything is asked of the client that it would send in the clear.
    let mut first = redirect;
    if first.is_none() {
        let (path, _) = split(client.head.target());
        let path = canonical(path);
        let secret = edge.table().secret;
        let guard = &edge.shared.guard;
        guard
            .admit(&route, secret, origin.client, &client.head, &path)
            .await?;
        drop(path);
        let finish = Finish::of(&policy, &client.head, client.secure);
        first = finish.preflight(&client.head);
        if first.is_none() {
            guard.authenticate(&route, &client.head).await?;
        }
    }
    if first.is_none()
        && let Some(name) = missing
    {
        return Err(Problem::NotReady(name));
    }
    if let Some(mut response) = first.or(own) {
        response.headers_mut().insert(X_REQUEST_ID, id.header());
        answered(response.status().as_u16());
        return Ok(client.respond(limits, response, Some(&policy), true).await);
    }
    let (mut site, mut avoid) = (None, None);
    if let RouteKind::Static { artifact, spa } = route.kind {
        site = Some(Site { artifact, spa });
        let me = edge.shared.me;
        if route.endpoints.iter().any(|endpoint| endpoint.node == me) {
            let name = route.deployment.as_str();
            let sites = &edge.shared.sites;
            let ask = Ask::of(&client.head, stripped.as_deref());
            match sites.answer(Site { artifact, spa }, name, &ask).await {
                // The files should be here and are not readable; another node's may be.
                Err(Problem::Unreadable(_)) if route.endpoints.len() > 1 => avoid = Some(me),
                Ok(mut response) => {
                    response.headers_mut().insert(X_REQUEST_ID, id.header());
                    answered(response.status().as_u16());
                    return Ok(client.respond(limits, response, Some(&policy), true).await);
                }
                Err(problem) => return Err(problem),
            }
        }
    }
    let mut pass = None;
    if policy.cache.on && site.is_none() {
        let visit = Visit {
            edge,
            service: &service,
            head: &client.head,
            asked: Asked {
                origin,
                host: client.head.host().unwrap_or_default(),
                target: stripped.as_deref().unwrap_or(client.head.target()),
                id,
            },
        };
        // On the heap, so that requests that meet no cache take no room for it.
        let visited = tokio::select! {
            biased;
            visited = Box::pin(cache::visit(visit)) => visited?,
            () = gone(&mut client.wire) => return Err(Problem::ClientGone),
        };
        match visited {
            Visited::Answer(mut response, instance) => {
                outcome.instance.store(instance, Ordering::Relaxed);
                response.headers_mut().insert(X_REQUEST_ID, id.header());
                answered(response.status().as_u16());
                return Ok(client.respond(limits, response, Some(&policy), true).await);
            }
            Visited::Pass(passed) => pass = Some(passed),
        }
    }
    let answered = |status| {
        if let Some(pass) = &pass {
            pass.answered(status);
        }
        answered(status);
    };
    let Client {
        wire,
        head,
        timer,
        body_begun,
        cut_off,
        drain,
        secure,
        alternative,
        ..
    } = client;
    let request = Request {
        asked: Asked {
            origin,
            host: head.host().unwrap_or_default(),
            target: stripped.as_deref().unwrap_or(head.target()),
            id,
        },
        finish: Finish::of(&policy, head, *secure)
            .telling(alternative.as_deref())
            .with_cache(pass.as_ref().map(|pass| pass.said)),
        since: outcome.started,
        patience: policy.deadlines.per_try,
        idle: policy.limits.idle,
        max_body: policy.limits.body.map_or(u64::MAX, |max| max.0),
        kept: None,
        head,
        drain,
        paced: true,
        cookie: None,
        asked_last: &outcome.instance,
        answered: &answered,
    };
    let mut link = Link {
        wire,
        timer,
        continued: false,
        body_begun,
        cut_off,
    };
    forward(edge, service, &request, &mut link, site, avoid).await
}
