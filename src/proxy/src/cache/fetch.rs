//! A fetch: the request of the one who asked first, sent to an instance as by a client of its own, so that its answer can be
//! kept and given to all who wait. It goes on when that one leaves, unless that was the last who waited for its head; what turns out
//! not to be kept ends with the one who asked.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use tokio::io::{DuplexStream, duplex};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::entry::Stored;
use super::flight::{Flight, Lead, Place};
use super::incoming::Incoming;
use super::key::{is_of_one_answer, passes};
use super::landing::{Landing, Led};
use super::space::Space;
use crate::client::Drain;
use crate::edge::Edge;
use crate::exchange::{Link, Request};
use crate::finish::Finish;
use crate::forward::forward;
use crate::h1::{End, FIELDS_MAX, HeadLimits, Inbox, RequestHead, Timer, Wire, find_end};
use crate::headers::{Asked, RequestId, line};
use crate::origin::Origin;
use crate::pages::Problem;
use crate::service::Service;

/// Between the exchange with an instance and what becomes of its answer.
const PIPE_BYTES: usize = 32 * 1024;

/// A request that nobody else holds on to.
pub(super) struct Owned {
    head: RequestHead,
    origin: Origin,
    host: Vec<u8>,
    target: String,
    id: RequestId,
}

impl Owned {
    /// What an instance is asked for in place of this: all of it, whatever the client has already, unless it is as `known`.
    /// Nothing if that is more than a head may have.
    pub(super) fn of(
        head: &RequestHead,
        asked: &Asked<'_>,
        known: Option<&Stored>,
    ) -> Option<Owned> {
        let mut text = Vec::with_capacity(head.bytes() + 128);
        for part in [b"GET ", head.target().as_bytes(), b" HTTP/1.1\r\n"] {
            text.extend_from_slice(part);
        }
        line(&mut text, b"Host", asked.host);
        let fields = head.fields();
        for field in fields.list() {
            let name = fields.name(field);
            let stays = is_of_one_answer(name) || head.is_named_by_connection(name);
            if passes(field.kind) && !stays {
                line(&mut text, name, fields.value(field));
            }
        }
        if let Some(known) = known {
            let known = known.head.validators();
            if let Some(etag) = known.etag {
                line(&mut text, b"If-None-Match", etag);
            }
            if let Some(date) = known.last_modified {
                line(&mut text, b"If-Modified-Since", date);
            }
        }
        text.extend_from_slice(b"\r\n");
        let Ok(End::At(end)) = find_end(&text, 0) else {
            return None;
        };
        let limits = HeadLimits {
            fields: FIELDS_MAX,
            target_bytes: end,
        };
        let mut whole = RequestHead::default();
        whole.take(&mut Inbox::from(text), end, limits).ok()?;
        Some(Owned {
            head: whole,
            origin: asked.origin.clone(),
            host: asked.host.to_vec(),
            target: asked.target.to_owned(),
            id: asked.id.clone(),
        })
    }
}

pub(super) struct Fetch {
    pub(super) edge: Arc<Edge>,
    pub(super) service: Arc<Service>,
    pub(super) request: Owned,
    pub(super) lead: Lead,
    /// Who asked, if anybody still waits.
    pub(super) leader: Option<oneshot::Sender<Led>>,
    /// The number of the instance that was asked last.
    pub(super) instance: Arc<AtomicU64>,
    /// One of the fetches that a deployment, and a node, has under way at once.
    pub(super) permits: [OwnedSemaphorePermit; 2],
}

/// By which a fetch is known to those who wait for it.
struct Watched {
    space: Arc<Space>,
    flight: Arc<Flight>,
    place: Place,
}

impl Watched {
    /// Ends when nobody waits for it any more before it has come to anything.
    async fn left(&self) {
        loop {
            self.flight.left().await;
            if self.space.abandon(&self.place, &self.flight) {
                return;
            }
            if self.flight.is_known() {
                // It has come to something, which is to be kept if it can be.
                return std::future::pending().await;
            }
        }
    }
}

impl Fetch {
    pub(super) async fn run(self) {
        let Fetch {
            edge,
            service,
            request,
            lead,
            leader,
            instance,
            permits,
        } = self;
        // What is fetched because it has grown old was never waited for.
        let watched = leader.as_ref().map(|_| Watched {
            space: Arc::clone(&lead.space),
            flight: Arc::clone(&lead.flight),
            place: lead.place,
        });
        let (theirs, ours) = duplex(PIPE_BYTES);
        let landing = Landing {
            edge: &edge,
            service: &service,
            request: &request.head,
            instance: &instance,
            asker: lead.place.asker,
            asked: edge.now(),
            lead,
            leader,
            _permits: permits,
        };
        let asking = ask(&edge, &service, &request, &instance, Wire::new(theirs));
        let both = async { tokio::join!(asking, landing.take(Incoming::new(ours))) };
        let left = async {
            match &watched {
                Some(watched) => watched.left().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            (asked, landing) = both => {
                if let Some(landing) = landing {
                    landing.failed(asked.err());
                }
            }
            // As when a client leaves who asks without a cache.
            () = left => {}
        }
    }
}

/// Sends the request to an instance, and its answer into the pipe.
async fn ask(
    edge: &Arc<Edge>,
    service: &Arc<Service>,
    request: &Owned,
    instance: &AtomicU64,
    mut wire: Wire<DuplexStream>,
) -> Result<bool, Problem> {
    let policy = &service.route.policy;
    let request = Request {
        head: &request.head,
        asked: Asked {
            origin: &request.origin,
            host: &request.host,
            target: &request.target,
            id: &request.id,
        },
        // Each who gets the answer has it finished by their own request.
        finish: Finish::NONE,
        since: Instant::now(),
        max_body: 0,
        kept: None,
        patience: policy.deadlines.per_try,
        idle: policy.limits.idle,
        drain: &Drain::never(),
        paced: false,
        cookie: None,
        asked_last: instance,
        answered: &|_| {},
    };
    let mut timer = Timer::default();
    let (mut body_begun, mut cut_off) = (false, false);
    let mut link = Link {
        wire: &mut wire,
        timer: &mut timer,
        continued: false,
        body_begun: &mut body_begun,
        cut_off: &mut cut_off,
    };
    forward(edge, Arc::clone(service), &request, &mut link, None, None).await
}
