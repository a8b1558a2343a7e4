//! A circuit breaker for each instance: closed while it answers, open while it fails, half-open to find out. Shared
//! by all threads: closed it is two atomic words, and a lock only otherwise.
//!
//! The pattern is Nygard's ("Release It!", 2007), the rule Hystrix's: a share of failures over the latest while, judged
//! only when there were enough requests. Ejection counts failures one by one and suits hard errors; a breaker
//! weighs them against successes and suits answers such as 500, of which some are normal.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::fields::Form;
use super::window::{Counts, Window};
use super::{Nanos, TrafficError, check_count, check_window, nanos};
use crate::text::{Percent, show_duration};

/// Text: `failures=50% window=10s min_requests=20 open=5s probes=3`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakerPolicy {
    /// The share of failures that opens the breaker.
    pub failures: Percent,
    /// The latest so long are looked at.
    pub window: Duration,
    /// With fewer requests in the window a share says nothing, and the breaker stays closed.
    pub min_requests: u32,
    /// How long it stays open before it lets probes through.
    pub open: Duration,
    /// Requests that are let through half-open; all must succeed.
    pub probes: u32,
}

impl Default for BreakerPolicy {
    /// Half of at least twenty requests in ten seconds: the figures of Hystrix, whose pattern this is.
    fn default() -> Self {
        BreakerPolicy {
            failures: Percent::capped(50),
            window: Duration::from_secs(10),
            min_requests: 20,
            open: Duration::from_secs(5),
            probes: 3,
        }
    }
}

const FORM: Form = Form {
    what: "a circuit breaker",
    example: "failures=50% window=10s min_requests=20 open=5s probes=3",
    words: &["failures", "window", "min_requests", "open", "probes"],
};

impl BreakerPolicy {
    pub fn check(&self) -> Result<(), TrafficError> {
        check_count("failures", u32::from(self.failures.get()), 1)?;
        check_window("window", self.window)?;
        check_count("min_requests", self.min_requests, 1)?;
        check_window("open", self.open)?;
        check_count("probes", self.probes, 1)
    }
}

impl FromStr for BreakerPolicy {
    type Err = TrafficError;

    fn from_str(text: &str) -> Result<Self, TrafficError> {
        let (fields, default) = (FORM.read(text)?, BreakerPolicy::default());
        let policy = BreakerPolicy {
            failures: fields.percent("failures", default.failures)?,
            window: fields.duration("window", default.window)?,
            min_requests: fields.count("min_requests", default.min_requests)?,
            open: fields.duration("open", default.open)?,
            probes: fields.count("probes", default.probes)?,
        };
        policy.check()?;
        Ok(policy)
    }
}

impl fmt::Display for BreakerPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "failures={} window={} min_requests={} open={} probes={}",
            self.failures,
            show_duration(self.window),
            self.min_requests,
            show_duration(self.open),
            self.probes
        )
    }
}

/// Where a breaker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    Closed,
    Open,
    HalfOpen,
}

/// How a request was let through. Given back with its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Admission {
    /// The breaker was closed.
    Normal,
    /// One of the requests of this half-open period; its first one began it.
    Probe { period: u64, first: bool },
}

/// What a breaker says of a request before it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    Admitted(Admission),
    /// Choose another instance.
    Refused,
}

#[derive(Debug, Default)]
pub struct Breaker {
    /// 0: closed. Otherwise [`Breaker::inner`] holds, and this is when the next requests may be let through.
    barred_until: AtomicU64,
    window: Window,
    inner: Mutex<Inner>,
}

/// Of a breaker that is not closed.
#[derive(Debug, Default)]
struct Inner {
    /// Counts the half-open periods, so that a late result of an earlier one is known as that.
    period: u64,
    /// Probes let through in this period; 0: open.
    admitted: u32,
    succeeded: u32,
}

impl Breaker {
    /// Whether a request may be let through now: for choosing an instance; [`Breaker::enter`] then decides.
    pub fn may_enter(&self, now: Nanos) -> bool {
        // Relaxed: what a stale answer lets through, `enter` refuses.
        self.barred_until.load(Ordering::Relaxed) <= now
    }

    pub fn state(&self) -> BreakerState {
        if self.barred_until.load(Ordering::Relaxed) == 0 {
            return BreakerState::Closed;
        }
        match self.inner().admitted {
            0 => BreakerState::Open,
            _ => BreakerState::HalfOpen,
        }
    }

    /// Asks for one request to this instance. What is admitted is told by [`Breaker::ended`]; a probe of which nothing
    /// is told makes place for others after the time the breaker is open for.
    pub fn enter(&self, policy: &BreakerPolicy, now: Nanos) -> Entry {
        if self.barred_until.load(Ordering::Relaxed) == 0 {
            return Entry::Admitted(Admission::Normal);
        }
        let mut inner = self.inner();
        let barred_until = self.barred_until.load(Ordering::Relaxed);
        if barred_until == 0 {
            return Entry::Admitted(Admission::Normal);
        }
        if barred_until > now {
            return Entry::Refused;
        }
        let first = inner.admitted == 0 || inner.admitted >= policy.probes;
        if first {
            inner.period += 1;
            inner.admitted = 0;
            inner.succeeded = 0;
        }
        inner.admitted += 1;
        if inner.admitted >= policy.probes {
            // All are on their way.
            self.bar(policy, now);
        }
        Entry::Admitted(Admission::Probe {
            period: inner.period,
            first,
        })
    }

    /// A request that was admitted has ended. The new state if it changed.
    pub fn ended(
        &self,
        policy: &BreakerPolicy,
        admission: Admission,
        succeeded: bool,
        now: Nanos,
    ) -> Option<BreakerState> {
        match admission {
            Admission::Normal => self.ended_closed(policy, succeeded, now),
            Admission::Probe { period, .. } => self.ended_probe(policy, period, succeeded, now),
        }
    }

    /// A request that was admitted found nothing out: a probe's place is free for another at once.
    pub fn not_used(&self, admission: Admission, now: Nanos) {
        let Admission::Probe { period, .. } = admission else {
            return;
        };
        let mut inner = self.inner();
        let open = self.barred_until.load(Ordering::Relaxed) != 0;
        if open && inner.period == period && inner.admitted > inner.succeeded {
            inner.admitted -= 1;
            self.barred_until.store(now.max(1), Ordering::Relaxed);
        }
    }

    fn ended_closed(
        &self,
        policy: &BreakerPolicy,
        succeeded: bool,
        now: Nanos,
    ) -> Option<BreakerState> {
        if self.barred_until.load(Ordering::Relaxed) != 0 {
            // It was sent before the breaker opened, and says nothing new.
            return None;
        }
        let one = Counts {
            all: 1,
            of_kind: u64::from(!succeeded),
        };
        self.window.add(policy.window, now, one);
        if succeeded {
            return None;
        }
        let counts = self.window.sum(policy.window, now);
        let enough = counts.all >= u64::from(policy.min_requests);
        if !enough || counts.of_kind * 100 < counts.all * u64::from(policy.failures.get()) {
            return None;
        }
        let mut inner = self.inner();
        if self.barred_until.load(Ordering::Relaxed) != 0 {
            return None;
        }
        self.open(&mut inner, policy, now)
    }

    fn ended_probe(
        &self,
        policy: &BreakerPolicy,
        period: u64,
        succeeded: bool,
        now: Nanos,
    ) -> Option<BreakerState> {
        let mut inner = self.inner();
        let current = self.barred_until.load(Ordering::Relaxed) != 0 && inner.period == period;
        if !current || inner.admitted == 0 {
            return None;
        }
        if !succeeded {
            return self.open(&mut inner, policy, now);
        }
        inner.succeeded += 1;
        if inner.succeeded < policy.probes {
            return None;
        }
        inner.admitted = 0;
        self.window.clear();
        self.barred_until.store(0, Ordering::Relaxed);
        Some(BreakerState::Closed)
    }

    fn open(&self, inner: &mut Inner, policy: &BreakerPolicy, now: Nanos) -> Option<BreakerState> {
        inner.admitted = 0;
        self.bar(policy, now);
        Some(BreakerState::Open)
    }

    fn bar(&self, policy: &BreakerPolicy, now: Nanos) {
        let until = now.saturating_add(nanos(policy.open)).max(1);
        self.barred_until.store(until, Ordering::Relaxed);
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
