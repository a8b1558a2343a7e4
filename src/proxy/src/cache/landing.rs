//! What becomes of a fetch's answer: kept and shared as it comes, or for the one who asked alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use nebula_domain::InstanceId;
use nebula_domain::http::HttpPolicy;
use nebula_domain::http::cache::{Asker, Refusal, Times, Vary, is_failure, is_same, keep};
use nebula_domain::traffic::Nanos;
use nebula_domain::traffic::visitor::VISITOR_COOKIE;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::entry::{Growing, Head, Stored, Variant, lines};
use super::flight::{Lead, State};
use super::incoming::Incoming;
use super::key::values;
use crate::edge::Edge;
use crate::h1::{Kind, RequestHead, ResponseHead};
use crate::pages::Problem;
use crate::service::Service;

/// What became of a fetch, for the one who asked.
pub(super) enum Led {
    /// It is to be kept, and comes in.
    Growing(Arc<Growing>),
    /// What was kept holds still; whether it is kept on.
    Renewed(Arc<Stored>, Result<(), Refusal>),
    /// It is not kept.
    Passed {
        status: StatusCode,
        fields: HeaderMap,
        body: Incoming,
        why: Refusal,
    },
    Failed(Problem),
    /// It has led to nothing; an instance is to be asked without the cache.
    Nothing,
}

/// Where the answer arrives.
pub(super) struct Landing<'a> {
    pub(super) edge: &'a Arc<Edge>,
    pub(super) service: &'a Arc<Service>,
    pub(super) request: &'a RequestHead,
    pub(super) instance: &'a AtomicU64,
    pub(super) asker: Asker,
    pub(super) asked: Nanos,
    pub(super) lead: Lead,
    pub(super) leader: Option<oneshot::Sender<Led>>,
    /// Given back once the answer is in or is for one alone: that may take as long as it likes.
    pub(super) _permits: [OwnedSemaphorePermit; 2],
}

impl<'a> Landing<'a> {
    fn policy(&self) -> &'a HttpPolicy {
        &self.service.route.policy
    }

    fn times(&self) -> Times {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Times {
            asked: self.asked,
            received: self.edge.now(),
            date: since.unwrap_or(Duration::ZERO).as_secs(),
        }
    }

    fn tell(&mut self, led: Led) {
        if let Some(leader) = self.leader.take() {
            // Who has gone needs no answer; with it goes a body that is not kept.
            let _ = leader.send(led);
        }
    }

    /// Takes the answer; itself again if none comes.
    pub(super) async fn take(mut self, mut incoming: Incoming) -> Option<Landing<'a>> {
        let Some(answer) = incoming.head().await else {
            return Some(self);
        };
        let fields = fields(&answer);
        let Ok(status) = StatusCode::from_u16(answer.status) else {
            return Some(self);
        };
        if status == StatusCode::NOT_MODIFIED
            && let Some(known) = self.lead.known.clone()
        {
            self.renewed(&known, &fields);
            return None;
        }
        match self.growing(status, &fields, incoming.length()) {
            Ok(growing) => self.fill(Arc::new(growing), incoming).await,
            Err(why) => self.passed(status, fields, incoming, why),
        }
        None
    }

    /// An answer that is to be kept.
    fn growing(
        &self,
        status: StatusCode,
        fields: &HeaderMap,
        length: Option<u64>,
    ) -> Result<Growing, Refusal> {
        let instance = InstanceId(self.instance.load(Ordering::Relaxed));
        if self.service.route.is_older(instance) {
            return Err(Refusal::Outdated);
        }
        let mut fields = fields.clone();
        self.without_seat(&mut fields);
        let cache = &self.policy().cache;
        let times = self.times();
        let fresh = keep(cache, self.asker, status.as_u16(), lines(&fields), times)?;
        let vary = Vary::read(&lines(&fields)("vary"))?;
        if length.is_some_and(|length| length > cache.max_response.0) {
            return Err(Refusal::TooLarge);
        }
        fields.remove(header::AGE);
        let head = Head {
            status,
            fields,
            fresh,
        };
        let length = length.and_then(|length| usize::try_from(length).ok());
        let store = &self.edge.shared.cache;
        let bytes = head.bytes() + length.unwrap_or(0);
        let charge = store.memory.charge(bytes).or_else(|| {
            // What slow clients hold of answers that were pushed out is nobody's to let go of; what is kept is.
            store.shrink(bytes, self.edge.now());
            store.memory.charge(bytes)
        });
        let variant = Variant {
            values: values(self.request, &vary),
            vary,
        };
        let charge = charge.ok_or(Refusal::NoRoom)?;
        Ok(Growing::new(head, variant, length, charge))
    }

    /// The cookie by which a client stays with its instance, or its release, is for that client, and set by the edge: it says
    /// nothing of the answer.
    fn without_seat(&self, fields: &mut HeaderMap) {
        let sticky = self.policy().sticky.as_ref();
        let names = [
            Some(VISITOR_COOKIE),
            sticky.map(|policy| policy.cookie.as_str()),
        ];
        let is_seat = |value: &HeaderValue| {
            let mut names = names.into_iter().flatten();
            let value = value.as_bytes();
            names.any(|name| {
                value
                    .strip_prefix(name.as_bytes())
                    .is_some_and(|rest| rest.starts_with(b"="))
            })
        };
        if !fields.get_all(header::SET_COOKIE).iter().any(is_seat) {
            return;
        }
        let others = fields.get_all(header::SET_COOKIE).iter();
        let others: Vec<_> = others.filter(|value| !is_seat(value)).cloned().collect();
        fields.remove(header::SET_COOKIE);
        for value in others {
            fields.append(header::SET_COOKIE, value);
        }
    }

    async fn fill(&mut self, growing: Arc<Growing>, mut incoming: Incoming) {
        let max = usize::try_from(self.policy().cache.max_response.0).unwrap_or(usize::MAX);
        let version = self.service.route.version;
        let space = Arc::clone(&self.lead.space);
        space.learn(&mut self.lead, version, &growing.variant);
        self.lead.tell(State::Filling(Arc::clone(&growing)));
        self.tell(Led::Growing(Arc::clone(&growing)));
        loop {
            match incoming.next().await {
                Some(Ok(piece)) => {
                    if !growing.add(piece, max) {
                        self.remember_pass();
                        self.lead.tell(State::Alone);
                        return growing.pass_on(incoming);
                    }
                }
                // With the lead goes word to all who read along.
                Some(Err(_)) => return,
                None => break,
            }
        }
        let Some(body) = growing.finish() else {
            return;
        };
        let stored = Arc::new(Stored {
            head: growing.head.clone(),
            body,
        });
        if self
            .lead
            .space
            .keep(&self.lead, version, &growing.variant, stored)
        {
            self.edge.shared.cache.make_room(self.edge.now());
        }
    }

    /// The instance says that what is kept holds still (RFC 9111 section 4.3.3).
    fn renewed(&mut self, known: &Stored, said: &HeaderMap) {
        let theirs = said.get(header::ETAG).map(HeaderValue::as_bytes);
        if let (Some(theirs), Some(ours)) = (theirs, known.head.validators().etag)
            && !is_same(theirs, ours)
        {
            // It speaks of another one.
            self.lead.space.forget(&self.lead);
            return self.tell(Led::Nothing);
        }
        if self
            .service
            .route
            .is_older(InstanceId(self.instance.load(Ordering::Relaxed)))
        {
            // What an older release says of it does not count.
            return self.tell(Led::Nothing);
        }
        let mut said = said.clone();
        self.without_seat(&mut said);
        let mut fields = known.head.refreshed(&said);
        let (cache, times) = (&self.policy().cache, self.times());
        let status = known.head.status;
        let vary = Vary::read(&lines(&fields)("vary"));
        let same = vary.is_ok() && vary == Vary::read(&lines(&known.head.fields)("vary"));
        let fresh = match same {
            true => keep(cache, self.asker, status.as_u16(), lines(&fields), times),
            false => Err(Refusal::Vary),
        };
        fields.remove(header::AGE);
        let stored = Arc::new(Stored {
            head: Head {
                status,
                fields,
                fresh: fresh.unwrap_or(known.head.fresh.renewed(times.received)),
            },
            body: known.body.clone(),
        });
        match fresh {
            Ok(_) => {
                let version = self.service.route.version;
                self.lead.space.renew(&self.lead, version, &stored);
                self.lead.tell(State::Renewed(Arc::clone(&stored)));
            }
            Err(_) => {
                self.lead.space.forget(&self.lead);
                self.remember_pass();
                self.lead.tell(State::Alone);
            }
        }
        self.tell(Led::Renewed(stored, fresh.map(|_| ())));
    }

    fn passed(&mut self, status: StatusCode, fields: HeaderMap, body: Incoming, why: Refusal) {
        let failure = is_failure(status.as_u16());
        match why {
            // That says nothing of the next one.
            Refusal::NoRoom | Refusal::Outdated => {}
            _ if failure => {}
            // Of the request, not of what its URL names: 404 and 410 are about that.
            _ if status.is_client_error()
                && !matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE) => {}
            _ => {
                self.lead.space.forget(&self.lead);
                self.remember_pass();
            }
        }
        self.lead.tell(match failure {
            true => State::Failed,
            false => State::Alone,
        });
        self.tell(Led::Passed {
            status,
            fields,
            body,
            why,
        });
    }

    /// There is no answer.
    pub(super) fn failed(mut self, problem: Option<Problem>) {
        if problem.is_none() {
            // There is, and it cannot be read back: with what the edge adds it has more fields than a head may have.
            self.remember_pass();
        }
        self.lead.tell(State::Failed);
        self.tell(problem.map_or(Led::Nothing, Led::Failed));
    }

    fn remember_pass(&self) {
        let pass = self.edge.shared.limits.cache_pass;
        let pass = u64::try_from(pass.as_nanos()).unwrap_or(u64::MAX);
        let until = self.edge.now().saturating_add(pass);
        self.lead.space.pass(&self.lead, until);
    }
}

/// The fields of an answer, without those of the connection it came on.
fn fields(head: &ResponseHead) -> HeaderMap {
    let fields = head.fields();
    let mut map = HeaderMap::with_capacity(fields.list().len());
    for field in fields.list() {
        let name = fields.name(field);
        let stays = match field.kind {
            Kind::Connection
            | Kind::ContentLength
            | Kind::HopByHop
            | Kind::RequestId
            | Kind::TransferEncoding
            | Kind::Upgrade => true,
            // The fields that it announces are not passed on either.
            _ => name.eq_ignore_ascii_case(b"trailer") || head.is_named_by_connection(name),
        };
        let named = HeaderName::from_bytes(name);
        if let (false, Ok(name), Ok(value)) =
            (stays, named, HeaderValue::from_bytes(fields.value(field)))
        {
            map.append(name, value);
        }
    }
    map
}
