//! The response cache of deployments that have one (RFC 9111, as a shared cache): this node's, in memory.
//!
//! A request comes here when it has been let in. What is kept is given at once; for what is not, one fetch is made for all who
//! want it. What may be kept, and for how long, are rules of `nebula_domain::http::cache`. `key` says what a request is, `space`
//! holds one deployment's answers, `entry` an answer, whole or coming in, `flight` is a fetch as those see it who wait for it, `fetch` makes
//! it, `incoming` reads its answer, `landing` decides what becomes of that, and `answer` tells the client.
//!
//! Nothing here costs a deployment without a cache anything.

mod answer;
mod entry;
mod fetch;
mod flight;
mod incoming;
mod key;
mod landing;
mod space;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use http::{Method, Response};
use nebula_domain::DeploymentName;
use nebula_domain::http::cache::{CacheStatus, Forwarded, RequestControl, Use, is_failure};
use nebula_domain::traffic::Nanos;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::body::ResponseBody;
use crate::config::Limits;
use crate::edge::Edge;
use crate::h1::RequestHead;
use crate::headers::Asked;
use crate::metrics::{Cached, ProxyMetrics};
use crate::origin::Scheme;
use crate::pages::Problem;
use crate::service::Service;
use entry::{Growing, Memory, Stored};
use fetch::{Fetch, Owned};
use flight::{Lead, State, Waiter};
use key::{Ask, Key};
use landing::Led;
use space::{Look, Space};

/// How often a request looks again because what it waited for was for others.
const LOOKS_MAX: usize = 3;
/// One deployment has at most this part of a node's fetches: with slow instances it could take all of them from the others.
const FETCHES_SHARE: usize = 4;

/// One for all edge threads of a node.
pub(crate) struct ResponseCache {
    /// Of all that is kept.
    max_bytes: usize,
    kept: Arc<AtomicUsize>,
    memory: Arc<Memory>,
    spaces: RwLock<HashMap<DeploymentName, Arc<Space>>>,
    fetches: Arc<Semaphore>,
    fetches_of_one: usize,
    idle: Nanos,
    passes: NonZeroUsize,
}

impl ResponseCache {
    pub(crate) fn new(limits: &Limits, metrics: &ProxyMetrics) -> ResponseCache {
        let bytes = limits.cache_bytes.saturating_add(limits.cache_spare_bytes);
        ResponseCache {
            max_bytes: limits.cache_bytes,
            kept: Arc::default(),
            memory: Memory::new(bytes, metrics.cache_bytes.clone()),
            spaces: RwLock::default(),
            fetches: Arc::new(Semaphore::new(limits.cache_fetches)),
            fetches_of_one: (limits.cache_fetches / FETCHES_SHARE).max(1),
            idle: u64::try_from(limits.cache_idle.as_nanos()).unwrap_or(u64::MAX),
            passes: NonZeroUsize::new(limits.cache_passes).unwrap_or(NonZeroUsize::MIN),
        }
    }

    fn space(&self, name: &DeploymentName, now: Nanos) -> Arc<Space> {
        let spaces = self.spaces.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(space) = spaces.get(name) {
            return Arc::clone(space);
        }
        drop(spaces);
        let mut spaces = self.spaces.write().unwrap_or_else(PoisonError::into_inner);
        // Those of deployments that are gone.
        spaces.retain(|_, space| !self.is_idle(space, now));
        let new = || {
            let kept = Arc::clone(&self.kept);
            Arc::new(Space::new(kept, self.passes, self.fetches_of_one))
        };
        Arc::clone(spaces.entry(name.clone()).or_insert_with(new))
    }

    fn is_idle(&self, space: &Space, now: Nanos) -> bool {
        now.saturating_sub(space.last_used()) > self.idle
    }

    /// Lets go of so much that the rest is within bounds. It is taken from deployments that nobody asks for, and then from the one
    /// that has most, so that one which keeps much cannot push out others.
    fn make_room(&self, now: Nanos) {
        self.keep_at_most(self.max_bytes, now);
    }

    /// Lets go of so many bytes.
    fn shrink(&self, bytes: usize, now: Nanos) {
        let kept = self.kept.load(Ordering::Relaxed);
        self.keep_at_most(kept.saturating_sub(bytes), now);
    }

    fn keep_at_most(&self, bytes: usize, now: Nanos) {
        while self.kept.load(Ordering::Relaxed) > bytes {
            let spaces = self.spaces.read().unwrap_or_else(PoisonError::into_inner);
            let with_any = spaces.values().filter(|space| space.bytes() > 0);
            let victim = with_any.max_by_key(|space| (self.is_idle(space, now), space.bytes()));
            let Some(victim) = victim.cloned() else {
                return;
            };
            drop(spaces);
            if !victim.evict() {
                return;
            }
        }
    }
}

/// A request that has been let in.
pub(crate) struct Visit<'a> {
    pub(crate) edge: &'a Arc<Edge>,
    pub(crate) service: &'a Arc<Service>,
    pub(crate) head: &'a RequestHead,
    pub(crate) asked: Asked<'a>,
}

pub(crate) enum Visited {
    /// With the number of the instance that was asked for it; 0: none.
    Answer(Response<ResponseBody>, u64),
    Pass(Pass),
}

/// A request that goes on to an instance by itself.
pub(crate) struct Pass {
    /// What its answer says of that.
    pub(crate) said: CacheStatus,
    /// What it may change.
    changes: Option<(Arc<Space>, [Key; 2])>,
}

impl Pass {
    fn new(why: Forwarded, detail: Option<&'static str>) -> Pass {
        Pass {
            said: CacheStatus {
                detail,
                ..CacheStatus::forwarded(why)
            },
            changes: None,
        }
    }

    /// Told of the answer's status before the client is: what is kept of a URL that was changed is not used any more (RFC 9111
    /// section 4.4).
    pub(crate) fn answered(&self, status: u16) {
        if let Some((space, keys)) = &self.changes
            && (200..400).contains(&status)
        {
            keys.iter().for_each(|key| space.invalidate(key));
        }
    }
}

/// What came of a visit, for the figures.
type Counted = Result<(Visited, Cached), Problem>;

pub(crate) async fn visit(visit: Visit<'_>) -> Result<Visited, Problem> {
    let figures = Arc::clone(&visit.service.figures);
    let visited = visit.run().await;
    let counted = match &visited {
        Ok((_, cached)) => *cached,
        Err(_) => Cached::Miss,
    };
    figures.cache(counted);
    visited.map(|(visited, _)| visited)
}

impl Visit<'_> {
    async fn run(&self) -> Counted {
        let route = &self.service.route;
        if !route.is_undivided() {
            // Each release has its own share of the clients, and an answer of one would go to all.
            return Ok(pass(Forwarded::Bypass, Some("weights")));
        }
        let (edge, head, asked) = (self.edge, self.head, &self.asked);
        let cache = &edge.shared.cache;
        let space = cache.space(&route.deployment, edge.now());
        let key = |scheme| Key::of_request(asked.origin, scheme, asked.host, asked.target);
        let ask = match Ask::of(head, key(asked.origin.scheme)) {
            Ok(ask) => ask,
            Err(why) => {
                let mut pass = Pass::new(why, None);
                if why == Forwarded::Method && !is_safe(&head.method) {
                    let keys = [key(Scheme::Http), key(Scheme::Https)];
                    pass.changes = Some((space, keys));
                }
                return Ok((Visited::Pass(pass), Cached::Bypass));
            }
        };
        for _ in 0..LOOKS_MAX {
            let is_current = || {
                let newest = edge.again(route, asked.host);
                newest.is_some_and(|newest| newest.version == route.version)
            };
            match space.look(&ask, route.version, is_current, edge.now()) {
                Look::Fresh(stored) => return Ok(self.hit(&ask, &stored, Cached::Hit)),
                Look::Stale(stored, lead) => {
                    if let Some(lead) = lead {
                        self.begin(lead, None);
                    }
                    return Ok(self.hit(&ask, &stored, Cached::Stale));
                }
                Look::Absent => {
                    let absent = Visited::Answer(answer::absent(), 0);
                    return Ok((absent, Cached::Miss));
                }
                Look::Pass(why, detail) => return Ok(pass(why, detail)),
                Look::Fetch(lead, old, why) => return self.lead(&ask, lead, old, why).await,
                Look::Wait(waiter, old, why) => {
                    if let Some(visited) = self.wait(&ask, waiter, old, why).await {
                        return Ok(visited);
                    }
                }
            }
        }
        Ok(pass(Forwarded::VaryMiss, None))
    }

    fn hit(&self, ask: &Ask<'_>, stored: &Stored, cached: Cached) -> (Visited, Cached) {
        let now = self.edge.now();
        let said = CacheStatus {
            ttl: Some(stored.head.fresh.ttl(now)),
            ..CacheStatus::default()
        };
        (
            Visited::Answer(answer::stored(ask, stored, now, said), 0),
            cached,
        )
    }

    /// Begins a fetch, if there may be one more.
    fn begin(&self, lead: Lead, leader: Option<oneshot::Sender<Led>>) -> Option<Arc<AtomicU64>> {
        let fetches = &self.edge.shared.cache.fetches;
        let of_node = Arc::clone(fetches).try_acquire_owned().ok()?;
        let permits = [of_node, lead.space.fetch()?];
        let known = lead.known.as_deref();
        let request = Owned::of(self.head, &self.asked, known)?;
        let instance = Arc::new(AtomicU64::new(0));
        let fetch = Fetch {
            edge: Arc::clone(self.edge),
            service: Arc::clone(self.service),
            request,
            lead,
            leader,
            instance: Arc::clone(&instance),
            permits,
        };
        match fetch.leader {
            Some(_) => self.edge.fetches.spawn(fetch.run()),
            // Nobody waits for it, and so neither does a drain.
            None => tokio::spawn(fetch.run()),
        };
        Some(instance)
    }

    async fn lead(
        &self,
        ask: &Ask<'_>,
        lead: Lead,
        old: Option<Arc<Stored>>,
        why: Forwarded,
    ) -> Counted {
        let (leader, led) = oneshot::channel();
        let waits = lead.flight.join();
        let Some(instance) = self.begin(lead, Some(leader)) else {
            return Ok(pass(why, Some("busy")));
        };
        let led = led.await.unwrap_or(Led::Nothing);
        drop(waits);
        let instance = instance.load(Ordering::Relaxed);
        let now = self.edge.now();
        let said = CacheStatus::forwarded(why);
        let (response, cached) = match (led, old) {
            (Led::Growing(growing), _) => {
                let said = CacheStatus {
                    status: Some(growing.head.status.as_u16()),
                    stored: true,
                    ..said
                };
                (answer::growing(ask, &growing, now, said), Cached::Miss)
            }
            (Led::Renewed(stored, kept), _) => {
                let said = CacheStatus {
                    status: Some(304),
                    stored: kept.is_ok(),
                    detail: kept.err().map(|why| why.as_str()),
                    ..said
                };
                let response = answer::stored(ask, &stored, now, said);
                (response, Cached::Revalidated)
            }
            (Led::Passed { status, .. }, Some(old)) if is_failure(status.as_u16()) => {
                return Ok(self.in_error(ask, &old, Some(status.as_u16())));
            }
            (Led::Failed(_), Some(old)) => return Ok(self.in_error(ask, &old, None)),
            (
                Led::Passed {
                    status,
                    fields,
                    body,
                    why,
                },
                _,
            ) => {
                let said = CacheStatus {
                    status: Some(status.as_u16()),
                    detail: Some(why.as_str()),
                    ..said
                };
                (
                    answer::passed(ask, status, fields, body, said),
                    Cached::Miss,
                )
            }
            (Led::Failed(problem), None) => return Err(problem),
            (Led::Nothing, _) => return Ok(pass(why, None)),
        };
        Ok((Visited::Answer(response, instance), cached))
    }

    /// Something old in place of an error (RFC 5861 section 4).
    fn in_error(&self, ask: &Ask<'_>, old: &Stored, status: Option<u16>) -> (Visited, Cached) {
        let now = self.edge.now();
        let said = CacheStatus {
            status,
            ttl: Some(old.head.fresh.ttl(now)),
            detail: Some("stale-if-error"),
            ..CacheStatus::default()
        };
        let response = answer::stored(ask, old, now, said);
        (Visited::Answer(response, 0), Cached::Stale)
    }

    /// Waits for what somebody else fetches; nothing if it was for others and there may be something by now.
    async fn wait(
        &self,
        ask: &Ask<'_>,
        mut waiter: Waiter,
        old: Option<Arc<Stored>>,
        why: Forwarded,
    ) -> Option<(Visited, Cached)> {
        // From its beginning: what has taken long already is not waited for as long again.
        let until = waiter.began() + self.edge.shared.limits.cache_wait;
        let said = CacheStatus {
            collapsed: true,
            ..CacheStatus::forwarded(why)
        };
        let alone = |detail| {
            let mut pass = Pass::new(why, Some(detail));
            pass.said.collapsed = true;
            Some((Visited::Pass(pass), Cached::Bypass))
        };
        let Ok(state) = timeout_at(until, waiter.outcome()).await else {
            return match old {
                Some(old) => Some(self.in_error(ask, &old, None)),
                None => alone("waited"),
            };
        };
        let now = self.edge.now();
        let response = match (state, old) {
            (State::Filling(growing), _) => {
                let variant = &growing.variant;
                if ask.values(&variant.vary) != variant.values {
                    return None;
                }
                if !is_for_all(&growing.head.fresh, ask, now) {
                    return alone("uncacheable");
                }
                if !self.will_be_whole(&growing, until).await {
                    return alone("waited");
                }
                answer::growing(ask, &growing, self.edge.now(), said)
            }
            (State::Renewed(stored), _) if is_for_all(&stored.head.fresh, ask, now) => {
                answer::stored(ask, &stored, now, said)
            }
            (State::Failed, Some(old)) => return Some(self.in_error(ask, &old, None)),
            _ => return alone("uncacheable"),
        };
        Some((Visited::Answer(response, 0), Cached::Collapsed))
    }

    /// An answer of unknown length may turn out too large to be kept, and then it is for one alone: it is waited for to its end.
    async fn will_be_whole(&self, growing: &Growing, until: Instant) -> bool {
        if growing.length.is_some() {
            return true;
        }
        let whole: Result<Option<Bytes>, _> = timeout_at(until, growing.whole()).await;
        matches!(whole, Ok(Some(_)))
    }
}

/// Whether an answer that somebody else has asked for may be given to this one as well.
fn is_for_all(fresh: &nebula_domain::http::cache::Freshness, ask: &Ask<'_>, now: Nanos) -> bool {
    // It is as new as one that this request would have fetched.
    let any = RequestControl::default();
    fresh.is_for(ask.asker) && fresh.decide(&any, now) == Use::Fresh
}

fn pass(why: Forwarded, detail: Option<&'static str>) -> (Visited, Cached) {
    (Visited::Pass(Pass::new(why, detail)), Cached::Bypass)
}

/// RFC 9110 section 9.2.1: it asks for no change.
fn is_safe(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE].contains(method)
}
