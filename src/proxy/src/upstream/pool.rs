//! Unused connections of one edge thread, so that most requests find one open.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nebula_domain::InstanceId;

use super::{Target, Upstream, Via};
use crate::config::Limits;

/// The newest connection is used first: the others grow old and are let go when load falls.
pub(crate) struct Pool {
    idle_timeout: Duration,
    per_instance: usize,
    total: usize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    idle: HashMap<InstanceId, Vec<Idle>>,
    count: usize,
}

struct Idle {
    upstream: Upstream,
    via: Via,
    since: Instant,
}

impl Pool {
    pub(crate) fn new(limits: &Limits) -> Pool {
        Pool {
            idle_timeout: limits.upstream_idle,
            per_instance: limits.upstream_idle_per_instance,
            total: limits.upstream_idle_per_thread,
            inner: Mutex::default(),
        }
    }

    /// A connection that has been unused for no longer than `idle_max`, and is open as far as is known.
    pub(crate) fn take(
        &self,
        target: Target,
        idle_max: Duration,
        now: Instant,
    ) -> Option<Upstream> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let idle_max = idle_max.min(self.idle_timeout);
        let inner = &mut *inner;
        let idle = inner.idle.get_mut(&target.instance)?;
        while let Some(newest) = idle.last() {
            if now.saturating_duration_since(newest.since) > idle_max && newest.via == target.via {
                // The others are older.
                return None;
            }
            inner.count -= 1;
            let newest = idle.pop().filter(|newest| newest.via == target.via);
            if let Some(mut newest) = newest
                && newest.upstream.wire.is_quiet()
            {
                return Some(newest.upstream);
            }
        }
        None
    }

    pub(crate) fn put(&self, target: Target, mut upstream: Upstream) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let inner = &mut *inner;
        if inner.count >= self.total {
            return;
        }
        let idle = inner.idle.entry(target.instance).or_default();
        if idle.len() < self.per_instance {
            upstream.wire.shrink();
            upstream.head.shrink();
            idle.push(Idle {
                upstream,
                via: target.via,
                since: Instant::now(),
            });
            inner.count += 1;
        }
    }

    /// Drops what has been unused for too long, or was closed from the other side.
    pub(crate) fn expire(&self) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.idle.retain(|_, idle| {
            idle.retain_mut(|idle| {
                idle.since.elapsed() <= self.idle_timeout && idle.upstream.wire.is_quiet()
            });
            !idle.is_empty()
        });
        inner.count = inner.idle.values().map(Vec::len).sum();
    }
}
