//! One connection that this node dialled, and who is using it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use nebula_domain::NodeId;
use quinn::Connection;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{Instant, timeout};

use crate::lane::Lane;

/// Messages too large for a datagram that may be under way to one peer; further ones are dropped.
const LARGE_MESSAGES: usize = 16;

/// A connection to a peer. QUIC closes it when the last user has let go.
pub(crate) struct Link {
    pub(crate) node: NodeId,
    pub(crate) lane: Lane,
    pub(crate) connection: Connection,
    pub(crate) born: Instant,
    /// When the peer's certificate ends, and with it the reason to trust the connection.
    pub(crate) expires: Instant,
    /// How many dials in a row had failed before this one.
    pub(crate) failures: u32,
    /// Wakes the monitor.
    pub(crate) stirred: Notify,
    pub(crate) large_messages: Semaphore,
    /// Whether the peer is silent on this connection while it owes an answer.
    pub(crate) silent: watch::Sender<bool>,
    users: AtomicUsize,
    unheard: AtomicBool,
    retired: AtomicBool,
    used_after_ms: AtomicU64,
}

impl Link {
    pub(crate) fn new(
        node: NodeId,
        lane: Lane,
        connection: Connection,
        lifetime: Duration,
        failures: u32,
    ) -> Arc<Link> {
        let born = Instant::now();
        Arc::new(Link {
            node,
            lane,
            connection,
            born,
            expires: born + lifetime,
            failures,
            stirred: Notify::new(),
            large_messages: Semaphore::new(LARGE_MESSAGES),
            silent: watch::Sender::new(false),
            users: AtomicUsize::new(0),
            unheard: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            used_after_ms: AtomicU64::new(0),
        })
    }

    pub(crate) fn in_use(&self) -> bool {
        self.users.load(Ordering::Acquire) > 0
    }

    /// Whether the peer has to be heard from: a stream is open, or a message went out.
    pub(crate) fn owed(&self) -> bool {
        self.in_use() || self.unheard.load(Ordering::Acquire)
    }

    pub(crate) fn message_sent(&self) {
        self.unheard.store(true, Ordering::Release);
        self.touch();
        self.stirred.notify_one();
    }

    pub(crate) fn heard(&self) {
        self.unheard.store(false, Ordering::Release);
    }

    /// UDP datagrams received; grows with every acknowledgement.
    pub(crate) fn datagrams_received(&self) -> u64 {
        self.connection.stats().udp_rx.datagrams
    }

    /// Nobody gets this connection from now on; its present users keep it.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
        self.stirred.notify_one();
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    pub(crate) fn last_used(&self) -> Instant {
        self.born + Duration::from_millis(self.used_after_ms.load(Ordering::Acquire))
    }

    fn touch(&self) {
        let after = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.used_after_ms.store(after, Ordering::Release);
    }
}

/// Watches whether the peer has fallen silent on the very connection that carries a stream. That says
/// more than [`Mesh::suspects`](crate::Mesh::suspects): it is not about the peer's other connections,
/// and a new connection does not end it.
#[derive(Debug, Clone)]
pub struct Silence(watch::Receiver<bool>);

impl Silence {
    /// Returns when the peer, already counted as silent (`Limits::suspect_after`), is not heard for
    /// `patience` more. Never returns once the connection has ended: its streams tell of that.
    pub async fn lasts(&mut self, patience: Duration) {
        while self.0.wait_for(|silent| *silent).await.is_ok() {
            match timeout(patience, self.0.wait_for(|silent| !*silent)).await {
                Err(_) => return,
                Ok(Ok(_)) => {}
                Ok(Err(_)) => break,
            }
        }
        std::future::pending().await
    }
}

/// Held while a stream of the link is open.
pub(crate) struct Busy(Arc<Link>);

impl Busy {
    pub(crate) fn new(link: &Arc<Link>) -> Busy {
        link.touch();
        if link.users.fetch_add(1, Ordering::AcqRel) == 0 {
            link.stirred.notify_one();
        }
        Busy(link.clone())
    }

    pub(crate) fn silence(&self) -> Silence {
        Silence(self.0.silent.subscribe())
    }

    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.0
    }
}

impl Clone for Busy {
    fn clone(&self) -> Busy {
        Busy::new(&self.0)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.touch();
        if self.0.users.fetch_sub(1, Ordering::AcqRel) == 1 && self.0.is_retired() {
            self.0.stirred.notify_one();
        }
    }
}
