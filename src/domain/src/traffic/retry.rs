//! What is tried again, how often and until when.
//!
//! Retries help against single failures and make overload worse, so they draw on a budget that
//! requests fill (the idea of Finagle and Linkerd). The budget is shared by all threads (atomics); a request's
//! own [`Tries`] belong to it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::fields::Form;
use super::window::{Counts, Window};
use super::{Longest, Nanos, TrafficError, WINDOW, check_count, check_window, nanos};
use crate::limits::Limit;
use crate::text::{Percent, show_duration};

/// Tries of one request; each further one only adds to its time.
pub const TRIES: Limit = Limit {
    name: "tries",
    max: 10,
};
/// For one try and for a whole request: longer waits want a stream or a job, not a pending request.
pub const REQUEST_TIME: Longest = Longest {
    name: "request_time",
    max: Duration::from_secs(24 * 3600),
};

/// Text: `tries=3 budget=20% min_per_second=10 window=10s`; `tries=1` is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// Tries of one request in all, the first one included.
    pub tries: u32,
    /// Retries may be this share of the requests of the window.
    pub budget: Percent,
    /// And so many each second besides, so that a quiet deployment has retries too.
    pub min_per_second: u32,
    /// How long a request counts.
    pub window: Duration,
}

impl Default for RetryPolicy {
    /// Linkerd's budget (20%, 10 a second, 10 s).
    fn default() -> Self {
        RetryPolicy {
            tries: 3,
            budget: Percent::capped(20),
            min_per_second: 10,
            window: Duration::from_secs(10),
        }
    }
}

const FORM: Form = Form {
    what: "a retry setting",
    example: "tries=3 budget=20% min_per_second=10",
    words: &["tries", "budget", "min_per_second", "window"],
};

impl RetryPolicy {
    pub fn check(&self) -> Result<(), TrafficError> {
        check_count("tries", self.tries, 1)?;
        TRIES.check("tries", self.tries as usize)?;
        check_count("min_per_second", self.min_per_second, 0)?;
        check_window("window", self.window)
    }
}

impl FromStr for RetryPolicy {
    type Err = TrafficError;

    fn from_str(text: &str) -> Result<Self, TrafficError> {
        let (fields, default) = (FORM.read(text)?, RetryPolicy::default());
        let policy = RetryPolicy {
            tries: fields.count("tries", default.tries)?,
            budget: fields.percent("budget", default.budget)?,
            min_per_second: fields.count("min_per_second", default.min_per_second)?,
            window: fields.duration("window", default.window)?,
        };
        policy.check()?;
        Ok(policy)
    }
}

impl fmt::Display for RetryPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "tries={} budget={} min_per_second={} window={}",
            self.tries,
            self.budget,
            self.min_per_second,
            show_duration(self.window)
        )
    }
}

/// How long a request may wait for its answer to begin; a body that flows has no limit here, so that
/// streams live. Text: `per_try=60s whole=2m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deadlines {
    /// For one try, from its start to the head of the response.
    pub per_try: Duration,
    /// For all tries together, from the request's head to the head of the response.
    pub whole: Duration,
}

impl Default for Deadlines {
    /// nginx's `proxy_read_timeout`, 60 s, for one try; time for a second one in all.
    fn default() -> Self {
        Deadlines {
            per_try: Duration::from_secs(60),
            whole: Duration::from_secs(120),
        }
    }
}

const DEADLINES_FORM: Form = Form {
    what: "a time limit",
    example: "per_try=60s whole=2m",
    words: &["per_try", "whole"],
};

impl Deadlines {
    pub fn check(&self) -> Result<(), TrafficError> {
        for (field, time) in [("per_try", self.per_try), ("whole", self.whole)] {
            check_window(field, time.min(WINDOW.max))?;
            REQUEST_TIME.check(field, time)?;
        }
        Ok(())
    }
}

impl FromStr for Deadlines {
    type Err = TrafficError;

    fn from_str(text: &str) -> Result<Self, TrafficError> {
        let (fields, default) = (DEADLINES_FORM.read(text)?, Deadlines::default());
        let deadlines = Deadlines {
            per_try: fields.duration("per_try", default.per_try)?,
            whole: fields.duration("whole", default.whole)?,
        };
        deadlines.check()?;
        Ok(deadlines)
    }
}

impl fmt::Display for Deadlines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (per_try, whole) = (show_duration(self.per_try), show_duration(self.whole));
        write!(f, "per_try={per_try} whole={whole}")
    }
}

/// A second copy of a slow request that changes nothing ([`is_safe`]), the first answer wins (Dean and Barroso, "The Tail at
/// Scale", 2013). Drawn from the retry budget. Text: `after=200ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hedge {
    /// How long the first copy is waited for.
    pub after: Duration,
}

const HEDGE_FORM: Form = Form {
    what: "a hedge",
    example: "after=200ms",
    words: &["after"],
};

/// So many times the wait for a first copy...
const HUNG_WAITS: u32 = 10;
/// ... and no less than this: programs stand still for some hundred milliseconds now and then.
const HUNG_AT_LEAST: Duration = Duration::from_secs(1);

impl Hedge {
    pub fn check(&self) -> Result<(), TrafficError> {
        check_window("after", self.after)
    }

    /// How long an instance may be outpaced by others without an answer of its own in between. Each of its requests ends long before
    /// the time for a try, so that this alone tells one that hangs from one that is slow: far more than the wait, and no more than
    /// what a single request would have had.
    pub fn unheard_max(&self, deadlines: &Deadlines) -> Duration {
        let waits = self.after.saturating_mul(HUNG_WAITS);
        waits.max(HUNG_AT_LEAST).min(deadlines.per_try)
    }
}

impl FromStr for Hedge {
    type Err = TrafficError;

    fn from_str(text: &str) -> Result<Self, TrafficError> {
        let fields = HEDGE_FORM.read(text)?;
        let hedge = Hedge {
            after: fields.duration("after", Duration::ZERO)?,
        };
        hedge.check()?;
        Ok(hedge)
    }
}

impl fmt::Display for Hedge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "after={}", show_duration(self.after))
    }
}

/// RFC 9110 section 9.2.1: methods whose requests ask for no change. Two of others at the same time may be done in any order, and the one
/// that nobody waits for any more undo what its client did since.
pub fn is_safe(method: &[u8]) -> bool {
    matches!(method, b"GET" | b"HEAD" | b"OPTIONS" | b"TRACE")
}

/// RFC 9110 section 9.2.2: methods whose request has the same effect once and twice. Of the names in
/// the registry only those of RFC 9110 count; names are case-sensitive.
fn is_idempotent(method: &[u8]) -> bool {
    is_safe(method) || matches!(method, b"PUT" | b"DELETE")
}

/// Whether a request may have its effect twice, by its method or because its client says that the second one has none: with an
/// `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header), of which `has_key` tells.
pub fn is_repeatable(method: &[u8], has_key: impl FnOnce() -> bool) -> bool {
    is_idempotent(method) || has_key()
}

/// What of a request's body can still be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// There is none, or all of it can still be sent from its first byte.
    Whole,
    /// Some of it was handed on and is no longer here.
    Gone,
}

/// How a try ended without the beginning of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// There was no connection: nothing was sent.
    Connect,
    /// The other side says that it has not processed the request: `REFUSED_STREAM`, or a stream above `GOAWAY`'s
    /// (RFC 9113 sections 8.7 and 6.8); `H3_REQUEST_REJECTED` (RFC 9114 section 4.1.1).
    Refused,
    /// The connection ended after something was sent.
    Broken,
    /// No response in the time for a try, or its node fell silent.
    Silent,
}

/// Whether a request may be sent again by what it is. Not sent at all, or known not to be processed: any request.
/// Otherwise it may have had its effect, and only one that [`is_repeatable`] may have it twice (RFC 9110 section 9.2.2).
/// Never one whose body has gone.
pub fn may_repeat(is_repeatable: bool, body: Body, failure: Failure) -> bool {
    match (body, failure) {
        (Body::Gone, _) => false,
        (Body::Whole, Failure::Connect | Failure::Refused) => true,
        (Body::Whole, Failure::Broken | Failure::Silent) => is_repeatable,
    }
}

/// What a deployment's requests have earned in retries at this node.
#[derive(Debug, Default)]
pub struct Budget {
    window: Window,
}

impl Budget {
    /// A request came, whatever becomes of it. Not for its retries.
    pub fn deposit(&self, policy: &RetryPolicy, now: Nanos) {
        let one = Counts { all: 1, of_kind: 0 };
        self.window.add(policy.window, now, one);
    }

    /// Whether [`Budget::withdraw`] would grant one now.
    pub fn has_any(&self, policy: &RetryPolicy, now: Nanos) -> bool {
        let counts = self.window.sum(policy.window, now);
        let reserve = policy.window.as_millis() * u128::from(policy.min_per_second) / 1_000;
        let earned = u128::from(policy.budget.of(counts.all)) + reserve;
        u128::from(counts.of_kind) < earned
    }

    /// Takes one retry, or hedge, out of the budget. Threads that ask at the very same time may each get the last.
    #[must_use]
    pub fn withdraw(&self, policy: &RetryPolicy, now: Nanos) -> bool {
        let granted = self.has_any(policy, now);
        if granted {
            let one = Counts { all: 0, of_kind: 1 };
            self.window.add(policy.window, now, one);
        }
        granted
    }
}

/// One request's tries.
#[derive(Debug, Clone, Copy)]
pub struct Tries {
    began: Nanos,
    begun: u32,
}

/// Why a request is not tried again. Its last failure is the answer then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GiveUp {
    /// What it is, or that its body has gone.
    NotRepeatable,
    TriesOver,
    TimeOver,
    BudgetSpent,
}

impl Tries {
    /// The request's head came at `now`.
    pub fn new(now: Nanos) -> Tries {
        Tries {
            began: now,
            begun: 0,
        }
    }

    /// A try begins. Until when it may take; `None`: the time of the whole request is over.
    pub fn begin(&mut self, deadlines: &Deadlines, now: Nanos) -> Option<Nanos> {
        let whole = self.began.saturating_add(nanos(deadlines.whole));
        if whole <= now {
            return None;
        }
        self.begun += 1;
        Some(whole.min(now.saturating_add(nanos(deadlines.per_try))))
    }

    pub fn begun(&self) -> u32 {
        self.begun
    }

    /// Whether to try once more after a failure; takes the retry out of the budget when so. A kept connection that
    /// turns out to have been closed by the other side says nothing of the instance: for that one ask
    /// [`may_repeat`] alone, and use a fresh connection to the same instance.
    pub fn again(
        &self,
        policy: &RetryPolicy,
        deadlines: &Deadlines,
        budget: &Budget,
        may_repeat: bool,
        now: Nanos,
    ) -> Result<(), GiveUp> {
        if !may_repeat {
            return Err(GiveUp::NotRepeatable);
        }
        if self.begun >= policy.tries {
            return Err(GiveUp::TriesOver);
        }
        if self.began.saturating_add(nanos(deadlines.whole)) <= now {
            return Err(GiveUp::TimeOver);
        }
        match budget.withdraw(policy, now) {
            true => Ok(()),
            false => Err(GiveUp::BudgetSpent),
        }
    }
}

#[cfg(test)]
mod tests;
