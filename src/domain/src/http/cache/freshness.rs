//! How old an answer is, how long it is fresh, and what it may be used for then (RFC 9111 section 4.2, RFC 5861).

use std::time::Duration;

use super::RequestControl;
use crate::traffic::Nanos;

/// What is known of an answer's age, and what it says of its use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    /// When it came.
    pub(super) received: Nanos,
    /// How old it was then (section 4.2.3).
    pub(super) initial_age: Duration,
    pub(super) lifetime: Duration,
    /// To be asked about each time: `no-cache`.
    pub(super) always_validate: bool,
    /// After its lifetime.
    pub(super) while_revalidate: Duration,
    pub(super) if_error: Duration,
    /// It says of itself that those who authenticate may have it as well (section 3.5).
    pub(super) for_authorized: bool,
    /// It says nothing of its lifetime: the deployment's policy does.
    pub(super) assumed: bool,
}

/// What may be done with an answer that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    Fresh,
    /// To be given as it is, while a new one is fetched.
    Stale,
    /// A new one first; this one if that fails and `if_error` says so.
    Validate {
        if_error: bool,
    },
}

impl Freshness {
    pub fn age(&self, now: Nanos) -> Duration {
        let held = Duration::from_nanos(now.saturating_sub(self.received));
        self.initial_age.saturating_add(held)
    }

    /// Seconds for which it is fresh yet; less than zero: for how long it is not.
    pub fn ttl(&self, now: Nanos) -> i64 {
        let whole = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        whole(self.lifetime).saturating_sub(whole(self.age(now)))
    }

    /// Whether it may be given at all to somebody who sends a password or a cookie.
    pub fn is_for(&self, asker: super::Asker) -> bool {
        (self.for_authorized || !asker.authorized) && !(self.assumed && asker.cookies)
    }

    /// Whether it may be given only after it was asked about.
    pub fn always_validates(&self) -> bool {
        self.always_validate
    }

    /// The same for one that has just been asked about and holds still.
    pub fn renewed(self, now: Nanos) -> Freshness {
        Freshness {
            received: now,
            initial_age: Duration::ZERO,
            ..self
        }
    }

    pub fn decide(&self, asked: &RequestControl, now: Nanos) -> Use {
        let age = self.age(now);
        let seconds = |of: u32| Duration::from_secs(u64::from(of));
        let past = age.saturating_sub(self.lifetime);
        let is_stale = age >= self.lifetime;
        let if_error = !self.always_validate && past < self.if_error;
        let too_old = asked.max_age.is_some_and(|max| age > seconds(max));
        let too_short = asked
            .min_fresh
            .is_some_and(|min| self.lifetime.saturating_sub(age) < seconds(min));
        if self.always_validate || asked.no_cache || too_old {
            return Use::Validate { if_error };
        }
        match is_stale {
            false if !too_short => Use::Fresh,
            true if !too_short && past < self.while_revalidate => Use::Stale,
            _ => Use::Validate { if_error },
        }
    }

    /// For how long after now it may be of use without being asked about.
    pub(super) fn is_of_use(&self, now: Nanos) -> bool {
        let longest = self.while_revalidate.max(self.if_error);
        !self.always_validate && self.age(now) < self.lifetime.saturating_add(longest)
    }
}
