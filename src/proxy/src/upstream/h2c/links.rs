//! The connections of HTTP/2 of one edge thread, and how many streams are on each.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nebula_domain::InstanceId;
use nebula_mesh::Silence;
use tokio::sync::Notify;
use tokio::time::timeout_at;

use super::link::{self, Handle};
use super::stream::Stream;
use crate::config::Limits;
use crate::h1::{ResponseHead, Wire};
use crate::metrics::ProxyMetrics;
use crate::upstream::{DialError, Dialer, Io, Target, Upstream, Via};

/// The oldest connection with room is used first: those that were opened for a burst grow idle and are let go.
pub(crate) struct Links {
    limits: Limits,
    metrics: ProxyMetrics,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    instances: HashMap<InstanceId, Instance>,
    /// Connections in all.
    count: usize,
    /// Of the next connection.
    next_id: u64,
}

#[derive(Default)]
struct Instance {
    links: Vec<Link>,
    /// A connection is being opened; whoever wants one waits for it.
    opening: bool,
    /// Told when a stream has ended, and when a connection was opened or was not.
    changed: Arc<Notify>,
}

struct Link {
    id: u64,
    via: Via,
    handle: Handle,
    /// Of the node at the other end of a tunnel.
    silence: Option<Silence>,
    streams: usize,
    /// No more at once: the instance has refused one although it takes more by its settings.
    most: usize,
    /// Streams whose clients have left before their answers were through.
    cancelled: u32,
    /// Since when there have been none.
    idle_since: Instant,
}

/// Half of what the strictest of known servers take in half a minute.
const CANCELLED_MAX: u32 = 100;

/// What one who wants a stream is to do.
enum Step {
    Take(Upstream),
    Open,
    Wait,
}

impl Links {
    pub(crate) fn new(limits: &Limits, metrics: ProxyMetrics) -> Links {
        Links {
            limits: limits.clone(),
            metrics,
            inner: Mutex::default(),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stream on an open connection that is in use, or has been unused for no longer than `idle_max`.
    pub(crate) fn take(self: &Arc<Self>, target: Target, idle_max: Duration) -> Option<Upstream> {
        let mut inner = self.inner();
        inner.forget_broken(target.instance);
        let idle_max = idle_max.min(self.limits.upstream_idle);
        let instance = inner.instances.get_mut(&target.instance)?;
        self.stream(instance, target, idle_max)
    }

    /// A stream on a new connection; or on any, when others open it or there are as many as may be.
    pub(crate) async fn open(
        self: &Arc<Self>,
        dialer: &Dialer,
        target: Target,
    ) -> Result<Upstream, DialError> {
        let patience = match target.via {
            Via::Local { .. } => self.limits.connect_timeout,
            Via::Remote { .. } => self.limits.tunnel_timeout,
        };
        let deadline = Instant::now() + patience;
        let changed = {
            let mut inner = self.inner();
            let instance = inner.instances.entry(target.instance).or_default();
            Arc::clone(&instance.changed)
        };
        let mut waited = false;
        loop {
            let notified = changed.notified();
            match self.step(target, waited) {
                Step::Take(upstream) => return Ok(upstream),
                Step::Open => break,
                Step::Wait => {
                    waited = true;
                    if timeout_at(deadline.into(), notified).await.is_err() {
                        return Err(self.waited_in_vain(target));
                    }
                }
            }
        }
        let opening = Opening {
            links: self,
            instance: target.instance,
        };
        let Upstream { wire, silence, .. } = dialer.dial(target).await?;
        let (io, _) = wire.into_parts();
        let handle = link::open(io, &self.limits, patience, &self.metrics).await?;
        let upstream = self.add(target, handle, silence);
        drop(opening);
        Ok(upstream)
    }

    fn step(self: &Arc<Self>, target: Target, waited: bool) -> Step {
        let mut inner = self.inner();
        inner.forget_broken(target.instance);
        let most = self.limits.h2c_connections_per_instance;
        let instance = inner.instances.entry(target.instance).or_default();
        let full = instance.links.len() >= most;
        if (waited || full)
            && let Some(upstream) = self.stream(instance, target, Duration::MAX)
        {
            return Step::Take(upstream);
        }
        if instance.opening || full {
            return Step::Wait;
        }
        instance.opening = true;
        Step::Open
    }

    fn waited_in_vain(&self, target: Target) -> DialError {
        let inner = self.inner();
        let opening = inner
            .instances
            .get(&target.instance)
            .is_some_and(|instance| instance.opening);
        match opening {
            false => DialError::Full,
            // Whoever opens it knows whether the node or the instance is to blame; who only waits for that blames the instance.
            true => DialError::GreetingTimeout,
        }
    }

    pub(super) fn add(
        self: &Arc<Self>,
        target: Target,
        handle: Handle,
        silence: Option<Silence>,
    ) -> Upstream {
        let mut inner = self.inner();
        let inner = &mut *inner;
        if inner.count >= self.limits.upstream_idle_per_thread {
            inner.forget_idle();
        }
        inner.next_id += 1;
        inner.count += 1;
        let mut link = Link {
            id: inner.next_id,
            via: target.via,
            handle,
            silence,
            streams: 0,
            cancelled: 0,
            most: self.limits.h2c_streams,
            idle_since: Instant::now(),
        };
        let upstream = self.begin(target.instance, &mut link, false);
        let instance = inner.instances.entry(target.instance).or_default();
        instance.links.push(link);
        upstream
    }

    fn stream(
        self: &Arc<Self>,
        instance: &mut Instance,
        target: Target,
        idle_max: Duration,
    ) -> Option<Upstream> {
        let link = instance.links.iter_mut().find(|link| {
            link.via == target.via
                && !link.handle.is_worn()
                && link.streams < link.most.min(link.handle.streams_max())
                && (link.streams > 0 || link.idle_since.elapsed() <= idle_max)
        })?;
        Some(self.begin(target.instance, link, true))
    }

    fn begin(self: &Arc<Self>, instance: InstanceId, link: &mut Link, shared: bool) -> Upstream {
        link.streams += 1;
        let slot = Slot {
            links: Arc::clone(self),
            instance,
            id: link.id,
        };
        let stream = Stream::new(link.handle.clone(), slot, shared, self.limits.linger);
        Upstream {
            wire: Wire::new(Io::Stream(Box::new(stream))),
            head: ResponseHead::default(),
            silence: link.silence.clone(),
        }
    }

    /// Drops what broke, or has been unused for too long.
    pub(crate) fn expire(&self) {
        let mut inner = self.inner();
        let idle_max = self.limits.upstream_idle;
        inner.instances.retain(|_, instance| {
            instance.links.retain_mut(|link| {
                // More is tried again by and by.
                link.most = (link.most * 2).min(self.limits.h2c_streams);
                let idle = link.streams == 0 && link.idle_since.elapsed() > idle_max;
                !idle && link.handle.is_open()
            });
            // Whoever waits has a part in `changed`.
            !instance.links.is_empty() || Arc::strong_count(&instance.changed) > 1
        });
        inner.recount();
    }
}

impl Inner {
    fn recount(&mut self) {
        let links = self.instances.values().map(|instance| instance.links.len());
        self.count = links.sum();
    }

    fn forget_broken(&mut self, instance: InstanceId) {
        if let Some(instance) = self.instances.get_mut(&instance) {
            let before = instance.links.len();
            instance.links.retain_mut(|link| link.handle.is_open());
            self.count -= before - instance.links.len();
        }
    }

    /// Lets go of the connection that has been unused for longest.
    fn forget_idle(&mut self) {
        let all = self.instances.values().flat_map(|known| &known.links);
        let idle = all.filter(|link| link.streams == 0);
        let Some(oldest) = idle.min_by_key(|link| link.idle_since).map(|link| link.id) else {
            return;
        };
        for instance in self.instances.values_mut() {
            instance.links.retain(|link| link.id != oldest);
        }
        self.count -= 1;
    }
}

/// A connection is being opened, and is not any more when this goes.
struct Opening<'a> {
    links: &'a Links,
    instance: InstanceId,
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        let mut inner = self.links.inner();
        if let Some(instance) = inner.instances.get_mut(&self.instance) {
            instance.opening = false;
            instance.changed.notify_waiters();
        }
    }
}

/// One stream's place on its connection.
pub(super) struct Slot {
    links: Arc<Links>,
    instance: InstanceId,
    id: u64,
}

impl Slot {
    /// The stream's client has left. Servers end a connection on which much is cancelled, and everybody's streams with it ("rapid
    /// reset"), so that one gets no more streams in time.
    pub(super) fn cancelled(&self) {
        let mut inner = self.links.inner();
        let instance = inner.instances.get_mut(&self.instance);
        let mut links = instance.into_iter().flat_map(|known| &mut known.links);
        if let Some(link) = links.find(|link| link.id == self.id) {
            link.cancelled += 1;
            if link.cancelled >= CANCELLED_MAX {
                link.most = 0;
            }
        }
    }

    /// The stream was refused: for a while the connection gets no more than it has besides.
    pub(super) fn crowded(&self) {
        let mut inner = self.links.inner();
        let instance = inner.instances.get_mut(&self.instance);
        let mut links = instance.into_iter().flat_map(|known| &mut known.links);
        if let Some(link) = links.find(|link| link.id == self.id && link.most > 0) {
            link.most = link.most.min(link.streams - 1).max(1);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut inner = self.links.inner();
        // The connection may have been forgotten.
        let Some(instance) = inner.instances.get_mut(&self.instance) else {
            return;
        };
        let before = instance.links.len();
        if let Some(link) = instance.links.iter_mut().find(|link| link.id == self.id) {
            link.streams -= 1;
            link.idle_since = Instant::now();
            if (link.most == 0 || link.handle.is_worn()) && link.streams == 0 {
                instance.links.retain(|link| link.id != self.id);
            }
        }
        let gone = before - instance.links.len();
        instance.changed.notify_one();
        inner.count -= gone;
    }
}
