//! The connection to each peer: made on demand, kept, and made again after it was lost.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use nebula_domain::NodeId;
use nebula_domain::time::Millis;
use nebula_wire::peer::Protocol;
use quinn::ConnectionError;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::error::{code, lost};
use crate::lane::Lane;
use crate::link::{Busy, Link};
use crate::mesh::Inner;
use crate::{CallError, monitor, transport};

/// A connection that lasted this long was a good one: when it is lost, the next dial is at once.
const STABLE: Duration = Duration::from_secs(5);

/// A lost or unreachable peer is dialled again in the background while somebody has wanted it within
/// this time.
const WANTED_FOR: Duration = Duration::from_secs(60);

pub(crate) type Message = (Protocol, Bytes);

/// One peer's place on one lane.
pub(crate) struct Slot {
    pub(crate) node: NodeId,
    pub(crate) lane: Lane,
    inside: Mutex<Inside>,
}

struct Inside {
    state: State,
    wanted: Instant,
    /// A handshake was refused, here or there, and that was said; until a connection has lasted.
    refused: bool,
}

enum State {
    Idle,
    Dialling {
        outcome: watch::Receiver<Option<Result<(), CallError>>>,
        queue: Vec<Message>,
    },
    Up(Arc<Link>),
    Failed {
        until: Instant,
        failures: u32,
        error: CallError,
    },
}

pub(crate) enum Demand {
    Ready(Busy),
    Wait(watch::Receiver<Option<Result<(), CallError>>>),
    Failed(CallError),
}

impl Slot {
    pub(crate) fn new(node: NodeId, lane: Lane) -> Slot {
        Slot {
            node,
            lane,
            inside: Mutex::new(Inside {
                state: State::Idle,
                wanted: Instant::now(),
                refused: false,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives up the present connection, if there is one: its users keep it, the next one dials.
    pub(crate) fn retire(&self) -> Option<Arc<Link>> {
        let mut inside = self.lock();
        let State::Up(link) = &inside.state else {
            return None;
        };
        let link = link.clone();
        inside.state = State::Idle;
        link.retire();
        Some(link)
    }

    /// Lets go of a connection that nobody has used for `unused`. Decided under the lock, so that a
    /// user who gets the link at this moment is seen.
    pub(crate) fn release_unused(&self, link: &Arc<Link>, unused: Duration) -> bool {
        let mut inside = self.lock();
        let idle = !link.owed() && link.last_used().elapsed() >= unused;
        if idle && inside.holds(link) {
            inside.state = State::Idle;
            link.retire();
        }
        idle
    }
}

impl Inside {
    fn holds(&self, link: &Arc<Link>) -> bool {
        matches!(&self.state, State::Up(up) if Arc::ptr_eq(up, link))
    }

    /// Says once that certificates do not agree: nothing but people can mend that, unless it mends itself. The peer's
    /// own refusal comes when our half of the handshake is done: it ends a connection that is up.
    fn refused(&mut self, node: NodeId, error: &ConnectionError) {
        if is_tls(error) && !std::mem::replace(&mut self.refused, true) {
            tracing::warn!(%node, %error, "the certificates of this node and another do not agree: compare the clocks of both");
        }
    }
}

impl Inner {
    /// A connection to the peer, dialled if there is none. Waits; the caller sets the deadline.
    pub(crate) async fn link(
        self: &Arc<Self>,
        node: NodeId,
        lane: Lane,
    ) -> Result<Busy, CallError> {
        loop {
            let slot = self.slot(node, lane)?;
            let mut outcome = match self.demand(&slot, None) {
                Demand::Ready(busy) => return Ok(busy),
                Demand::Failed(error) => return Err(error),
                Demand::Wait(outcome) => outcome,
            };
            match outcome.wait_for(Option::is_some).await.as_deref() {
                Ok(Some(Err(error))) => return Err(error.clone()),
                Ok(_) => {}
                Err(_) => return Err(CallError::Closed),
            }
        }
    }

    /// What there is of a connection now; begins a dial if there is nothing. A message waits for it.
    pub(crate) fn demand(self: &Arc<Self>, slot: &Arc<Slot>, message: Option<Message>) -> Demand {
        let mut inside = slot.lock();
        inside.wanted = Instant::now();
        if let State::Up(link) = &inside.state {
            let Some(error) = link.connection.close_reason() else {
                return Demand::Ready(Busy::new(link));
            };
            // Seen here before its monitor has seen it.
            let link = link.clone();
            self.replace_lost(slot, &mut inside, &link, &error);
        }
        let failures = match &mut inside.state {
            State::Dialling { outcome, queue } => {
                if let Some(message) = message {
                    if queue.len() < self.limits.queued_messages {
                        queue.push(message);
                    } else {
                        self.counters.dropped("queue_full");
                    }
                }
                return Demand::Wait(outcome.clone());
            }
            State::Failed { until, error, .. } if Instant::now() < *until => {
                return Demand::Failed(error.clone());
            }
            State::Failed { failures, .. } => *failures,
            State::Idle | State::Up(_) => 0,
        };
        let queue = message.into_iter().collect();
        Demand::Wait(self.begin_dial(slot, &mut inside, failures, queue))
    }

    fn begin_dial(
        self: &Arc<Self>,
        slot: &Arc<Slot>,
        inside: &mut Inside,
        failures: u32,
        queue: Vec<Message>,
    ) -> watch::Receiver<Option<Result<(), CallError>>> {
        let (told, outcome) = watch::channel(None);
        inside.state = State::Dialling {
            outcome: outcome.clone(),
            queue,
        };
        let (inner, slot) = (self.clone(), slot.clone());
        self.spawn(async move {
            let result = inner.dial(&slot, failures).await;
            let result = inner.dialled(&slot, failures, result);
            // No one may be waiting any more.
            let _ = told.send(Some(result));
        });
        outcome
    }

    async fn dial(&self, slot: &Slot, failures: u32) -> Result<Arc<Link>, CallError> {
        let node = slot.node;
        let address = self
            .directory
            .borrow()
            .nodes
            .get(&node)
            .map(|entry| entry.quic)
            .ok_or(CallError::UnknownNode(node))?;
        let unreachable = |reason: String| CallError::Unreachable {
            node,
            address,
            reason,
        };
        let handshake = |reason: String| CallError::Handshake {
            node,
            address,
            reason,
        };
        let config = transport::client(&self.limits, &self.identity, node)
            .map_err(|error| handshake(error.to_string()))?;
        let connecting = self
            .endpoint()
            .ok_or(CallError::Closed)?
            .connect_with(config, address, "node")
            .map_err(|error| handshake(error.to_string()))?;
        let deadline = self.limits.handshake_deadline;
        let connection = timeout(deadline, connecting)
            .await
            .map_err(|_| unreachable(format!("no answer within {} ms", deadline.as_millis())))?
            .map_err(|error| {
                slot.lock().refused(node, &error);
                match lost(node, &error) {
                    refused @ CallError::Refused { .. } => refused,
                    _ if is_silence(&error) => unreachable(error.to_string()),
                    _ => handshake(error.to_string()),
                }
            })?;
        let (_, lifetime) = peer_of(&connection).map_err(|e| handshake(e.to_string()))?;
        Ok(Link::new(node, slot.lane, connection, lifetime, failures))
    }

    /// Puts a dial's result in place.
    fn dialled(
        self: &Arc<Self>,
        slot: &Arc<Slot>,
        failures: u32,
        result: Result<Arc<Link>, CallError>,
    ) -> Result<(), CallError> {
        // Removed while the dial went on.
        let gone = !self.directory.borrow().nodes.contains_key(&slot.node);
        let mut inside = slot.lock();
        let before = std::mem::replace(&mut inside.state, State::Idle);
        let queue = match before {
            State::Dialling { queue, .. } => queue,
            _ => Vec::new(),
        };
        match result {
            _ if gone => {
                self.suspects.clear(slot.node, slot.lane);
                Err(CallError::UnknownNode(slot.node))
            }
            Ok(link) => {
                self.counters.dialled("connected");
                inside.state = State::Up(link.clone());
                drop(inside);
                self.suspects.clear(slot.node, slot.lane);
                self.spawn(monitor::run(self.clone(), slot.clone(), link.clone()));
                for (protocol, bytes) in queue {
                    self.transmit(&link, protocol, bytes);
                }
                Ok(())
            }
            Err(error) => {
                self.counters.dialled("failed");
                tracing::debug!(node = slot.node.0, %error, "dial failed");
                queue
                    .iter()
                    .for_each(|_| self.counters.dropped("unreachable"));
                self.fail(slot, &mut inside, failures + 1, error.clone());
                Err(error)
            }
        }
    }

    /// The peer is out of reach: callers are told at once, and it is dialled again after a pause.
    fn fail(
        self: &Arc<Self>,
        slot: &Arc<Slot>,
        inside: &mut Inside,
        failures: u32,
        error: CallError,
    ) {
        let pause = self
            .limits
            .redial_min
            .saturating_mul(1 << failures.saturating_sub(1).min(10))
            .min(self.limits.redial_max);
        let until = Instant::now() + pause;
        inside.state = State::Failed {
            until,
            failures,
            error,
        };
        self.suspect(slot.node, slot.lane);
        let (inner, slot) = (self.clone(), slot.clone());
        self.spawn(async move {
            tokio::time::sleep_until(until).await;
            inner.redial(&slot, until);
        });
    }

    fn redial(self: &Arc<Self>, slot: &Arc<Slot>, after: Instant) {
        let known = self.directory.borrow().nodes.contains_key(&slot.node);
        let mut inside = slot.lock();
        let failures = match &inside.state {
            State::Failed {
                until, failures, ..
            } if *until == after => *failures,
            // Somebody else has begun already.
            _ => return,
        };
        if known && inside.wanted.elapsed() < WANTED_FOR {
            self.begin_dial(slot, &mut inside, failures, Vec::new());
        } else {
            inside.state = State::Idle;
            self.suspects.clear(slot.node, slot.lane);
        }
    }

    /// A connection has ended.
    pub(crate) fn lost(
        self: &Arc<Self>,
        slot: &Arc<Slot>,
        link: &Arc<Link>,
        error: &ConnectionError,
    ) {
        let mut inside = slot.lock();
        if inside.holds(link) {
            self.replace_lost(slot, &mut inside, link, error);
        }
    }

    fn replace_lost(
        self: &Arc<Self>,
        slot: &Arc<Slot>,
        inside: &mut Inside,
        link: &Link,
        error: &ConnectionError,
    ) {
        inside.state = State::Idle;
        if matches!(error, ConnectionError::LocallyClosed) {
            self.suspects.clear(slot.node, slot.lane);
            return;
        }
        self.counters.lost.inc();
        tracing::debug!(node = slot.node.0, lane = ?slot.lane, %error, "connection lost");
        let lasted = link.born.elapsed() >= STABLE;
        inside.refused &= !lasted;
        inside.refused(slot.node, error);
        let closed_with = match error {
            ConnectionError::ApplicationClosed(close) => Some(close.error_code),
            _ => None,
        };
        if closed_with == Some(code::REMOVED) {
            self.told_removed(slot.node);
        }
        let refused = closed_with == Some(code::REFUSED) || closed_with == Some(code::REMOVED);
        if inside.wanted.elapsed() >= WANTED_FOR {
            self.suspects.clear(slot.node, slot.lane);
        } else if lasted && !refused {
            self.suspect(slot.node, slot.lane);
            self.begin_dial(slot, inside, 0, Vec::new());
        } else {
            self.fail(slot, inside, link.failures + 1, lost(slot.node, error));
        }
    }

    pub(crate) fn suspect(&self, node: NodeId, lane: Lane) {
        if self.suspects.mark(node, lane) {
            self.counters.suspected.inc();
            tracing::debug!(node = node.0, ?lane, "peer is silent");
        }
    }
}

/// Whether nothing came from the other end; all else takes somebody there.
fn is_silence(error: &ConnectionError) -> bool {
    use ConnectionError::{CidsExhausted, LocallyClosed, TimedOut};
    matches!(error, TimedOut | LocallyClosed | CidsExhausted)
}

/// Whether a handshake ended with an alert of TLS, ours or the peer's (RFC 9001, section 4.8).
fn is_tls(error: &ConnectionError) -> bool {
    let code = match error {
        ConnectionError::TransportError(error) => error.code,
        ConnectionError::ConnectionClosed(close) => close.error_code,
        _ => return false,
    };
    (0x100..0x200).contains(&u64::from(code))
}

/// Who is at the other end, and how much longer its certificate is valid.
pub(crate) fn peer_of(
    connection: &quinn::Connection,
) -> Result<(NodeId, Duration), nebula_pki::PkiError> {
    let chain = connection.peer_identity().and_then(|any| {
        any.downcast::<Vec<rustls::pki_types::CertificateDer<'static>>>()
            .ok()
    });
    let leaf = chain.as_deref().and_then(|chain| chain.first());
    let leaf = leaf.map(AsRef::as_ref).unwrap_or_default();
    let (_, node) = nebula_pki::node_of(leaf)?;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let now = Millis(u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
    Ok((node, nebula_pki::not_after(leaf)?.since(now)))
}

#[cfg(test)]
mod tests {
    use quinn::TransportErrorCode;

    use super::*;

    #[test]
    fn certificates_that_do_not_agree_are_told_from_other_ends() {
        let ended = |code: TransportErrorCode| ConnectionError::TransportError(code.into());
        // certificate_expired, RFC 8446 section 6.
        let expired = ended(TransportErrorCode::crypto(45));
        let slot = Slot::new(NodeId(2), Lane::Control);
        let mut inside = slot.lock();
        for other in [
            ended(TransportErrorCode::CONNECTION_REFUSED),
            ConnectionError::TimedOut,
        ] {
            inside.refused(NodeId(2), &other);
            assert!(!inside.refused, "{other}");
        }
        inside.refused(NodeId(2), &expired);
        assert!(inside.refused);
    }
}
