//! Which endpoint gets a request, and the place that it has there.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nebula_domain::http::HttpPolicy;
use nebula_domain::routes::Endpoint;
use nebula_domain::state::EdgeSecret;
use nebula_domain::traffic::Nanos;
use nebula_domain::traffic::balance::{Ask, Balance, HashKey};
use nebula_domain::traffic::breaker::BreakerState;
use nebula_domain::traffic::ejection::Ejected;
use nebula_domain::traffic::hash::stable_hash;
use nebula_domain::traffic::instance::{Heard, Instance, Place};
use nebula_domain::traffic::rate::table::Key;
use nebula_domain::traffic::sticky::{Stickiness, StickyKey, find_cookie};

use crate::edge::Edge;
use crate::h1::RequestHead;
use crate::service::{Service, health};
use crate::trials::Counting;
use crate::visitor::Visitor;

/// Tries to take a place before it is given up: each failure means that another thread took one in between.
const RACES_MAX: usize = 4;

/// What a request wants.
#[derive(Clone, Copy)]
pub(crate) struct Wish<'a> {
    pub(crate) edge: &'a Edge,
    pub(crate) now: Nanos,
    pub(crate) policy: &'a HttpPolicy,
    pub(crate) head: &'a RequestHead,
    pub(crate) client: IpAddr,
    /// The client came over TLS.
    pub(crate) secure: bool,
    /// The request is at work somewhere, so that nothing but an endpoint that is well is of use.
    pub(crate) only_well: bool,
    /// For a file of a site, of which every instance has the same.
    pub(crate) is_site: bool,
    /// What cookies are signed with.
    pub(crate) secret: Option<EdgeSecret>,
}

/// An endpoint and the request's place at it, which ends when this is dropped.
pub(crate) struct Chosen<'a> {
    edge: &'a Edge,
    policy: &'a HttpPolicy,
    service: &'a Service,
    pub(crate) endpoint: Endpoint,
    index: usize,
    place: Place,
    /// The value of `Set-Cookie` that makes the client come back here.
    pub(crate) cookie: Option<String>,
    /// What came of it is known.
    heard: AtomicBool,
    began: Nanos,
    /// While two releases are compared.
    counting: Option<Counting<'a>>,
    /// It became a connection of another protocol.
    upgraded: AtomicBool,
}

/// The best endpoint first: one that its policy lets be chosen, on a node that answers. When there is none the request has
/// nowhere else to go, and only what was tried (what is not `fresh`), and the number of requests, hold it back.
pub(crate) fn choose<'a>(
    service: &'a Service,
    wish: &Wish<'a>,
    fresh: impl Fn(&Endpoint) -> bool,
) -> Option<Chosen<'a>> {
    let edge = wish.edge;
    let (route, targets) = (&service.route, service.targets.targets());
    let per_instance = wish.policy.capacity.per_instance;
    let limited = health(wish.policy, per_instance);
    let random: u64 = rand::random();
    let now = wish.now;
    let key = match &wish.policy.balance {
        Balance::Hash(key) => hash(key, wish),
        _ => 0,
    };
    let suspects = edge.dialer.suspects.borrow();
    let at = |index: usize| &route.endpoints[index];
    let fresh = |index: usize| fresh(at(index));
    let calm = |index: usize| fresh(index) && !suspects.contains(&at(index).node);
    let reachable = |index: usize| calm(index) && !edge.shared.ejections.contains(at(index));
    let well = |index: usize| reachable(index) && targets[index].instance.may_begin(&limited, now);
    let sticky = wish.policy.sticky.as_ref().zip(wish.secret);
    let sticky = sticky.filter(|_| !wish.is_site);
    // Where releases have weights, those of one release; a client that is hashed stays with its release, and one that is to stay
    // with its instance does that.
    let visitor = match key == 0 && sticky.is_none() {
        true => Visitor::of(route, wish),
        false => None,
    };
    let draw = visitor.as_ref().map(|visitor| visitor.draw);
    let share = route.endpoints_for(draw.unwrap_or(if key == 0 { random } else { key }));
    let all = share.len() == route.endpoints.len();
    let shared = |index: usize| all || share.contains(at(index));
    let ask = |race: usize| Ask {
        now,
        random: random.rotate_left(16 * race as u32),
        key,
        slow_start: wish.policy.slow_start.as_ref(),
    };
    let pick = |race: usize, usable: &dyn Fn(usize) -> bool| {
        let picked = service
            .targets
            .pick(&wish.policy.balance, &ask(race), usable);
        // Small numbers of endpoints, none of which the draws have met.
        picked.or_else(|| (0..targets.len()).find(|index| usable(*index)))
    };
    let sticky = sticky.map(|(policy, secret)| (policy, StickyKey::new(&secret.0)));
    let name = &route.deployment;
    let chosen = |index: usize, place: Place| {
        if place.is_first_probe() {
            service.figures.breaker(BreakerState::HalfOpen);
        }
        let seat = sticky.as_ref().map(|(policy, key)| {
            let value = key.sign(name, targets[index].id);
            policy.set_cookie(&value, wish.secure)
        });
        Chosen {
            cookie: seat.or_else(|| visitor.as_ref()?.cookie(wish.secure)),
            edge,
            policy: wish.policy,
            service,
            endpoint: *at(index),
            index,
            place,
            heard: AtomicBool::new(false),
            began: now,
            counting: service.counting(index, wish.head),
            upgraded: AtomicBool::new(false),
        }
    };
    if let Some((policy, key)) = &sticky {
        let mut cookies = wish.head.fields().all("cookie");
        let cookie = cookies.find_map(|cookie| find_cookie(cookie, &policy.cookie));
        let usable = |id| {
            let index = targets.iter().position(|target| target.id == id)?;
            (well(index) && route.has_share(at(index))).then_some(index)
        };
        if let Stickiness::Keep(index) = key.decide(name, cookie, usable)
            && let Some(place) = targets[index].instance.begin(&limited, now)
        {
            let mut kept = chosen(index, place);
            // The client has it; one with an age is as young again.
            if policy.max_age.is_zero() {
                kept.cookie = None;
            }
            return Some(kept);
        }
    }
    for race in 0..RACES_MAX {
        let index = pick(race, &|index| shared(index) && well(index))
            .or_else(|| (!all).then(|| pick(race, &well)).flatten());
        let Some(index) = index else { break };
        if let Some(place) = targets[index].instance.begin(&limited, now) {
            return Some(chosen(index, place));
        }
    }
    if wish.only_well {
        return None;
    }
    // One that is well and full is waited for; what is left out is asked only when nobody is well.
    let unbounded = health(wish.policy, u32::MAX);
    let full =
        |index: usize| reachable(index) && targets[index].instance.may_begin(&unbounded, now);
    if (0..targets.len()).any(full) {
        return None;
    }
    let room = |index: usize| targets[index].instance.load.in_flight() < per_instance;
    let anyway = [
        pick(0, &|index| calm(index) && room(index)),
        pick(0, &|index| fresh(index) && room(index)),
    ];
    let mut anyway = anyway.into_iter().flatten();
    anyway.find_map(|index| {
        let place = targets[index].instance.begin_anyway(&limited, now)?;
        Some(chosen(index, place))
    })
}

/// Of what a deployment's requests are told apart by; without it, of the client's address.
fn hash(key: &HashKey, wish: &Wish<'_>) -> u64 {
    let fields = wish.head.fields();
    let named = match key {
        HashKey::Address => None,
        HashKey::Header(name) => fields.first(name),
        HashKey::Cookie(name) => {
            let mut cookies = fields.all("cookie");
            cookies.find_map(|cookie| find_cookie(cookie, name))
        }
    };
    match (named, Key::from(wish.client)) {
        (Some(value), _) | (None, Key::Value(value)) => stable_hash(value),
        (None, Key::V4(octets)) => stable_hash(&octets),
        (None, Key::V6(octets)) => stable_hash(&octets),
        (None, Key::Everyone) => 0,
    }
}

impl Chosen<'_> {
    fn instance(&self) -> &Instance {
        &self.service.targets.targets()[self.index].instance
    }

    /// The head of its answer is there.
    pub(crate) fn answered(&self, status: u16) {
        if let Some(counting) = &self.counting {
            counting.answered(status, self.took(self.edge.now()));
        }
    }

    /// There will be none, whoever is to blame for that in a single case.
    pub(crate) fn unanswered(&self) {
        if let Some(counting) = &self.counting {
            counting.unanswered();
        }
    }

    fn took(&self, now: Nanos) -> Duration {
        Duration::from_nanos(now.saturating_sub(self.began))
    }

    /// The request has become a connection of another protocol.
    pub(crate) fn upgraded(&self) {
        if !self.upgraded.swap(true, Ordering::Relaxed) {
            self.instance().load.upgrade();
        }
    }

    /// What came of the request, once; what comes later of the same request says nothing new.
    pub(crate) fn heard(&self, heard: Heard) {
        if self.heard.swap(true, Ordering::Relaxed) {
            return;
        }
        let health = health(self.policy, self.policy.capacity.per_instance);
        let now: Nanos = self.edge.now();
        match (&self.counting, heard) {
            (Some(counting), Heard::Nothing) => counting.unanswered(),
            (Some(counting), Heard::Outpaced { .. }) => counting.outpaced(self.took(now)),
            _ => {}
        }
        let all = self.service.instances();
        let changed = self.instance().heard(&health, &self.place, heard, all, now);
        let figures = &self.service.figures;
        let name = self.service.route.deployment.as_str();
        let instance = self.endpoint.instance;
        if changed.ejected == Some(Ejected::Now) {
            tracing::info!(deployment = name, %instance, "an instance does not answer and is left out");
            figures.ejections.inc();
        }
        if let Some(state) = changed.breaker {
            tracing::info!(deployment = name, %instance, ?state, "a circuit breaker changed");
            figures.breaker(state);
        }
    }
}

impl Drop for Chosen<'_> {
    fn drop(&mut self) {
        self.heard(Heard::Unknown);
        if self.upgraded.load(Ordering::Relaxed) {
            self.instance().load.end_upgraded();
        }
        self.instance().end();
        self.service.place_left();
    }
}
