//! What is tried again, how often and until when.
//!
//! Retries help against single failures and make overload worse, so they draw on a budget that
//! requests fill (the idea of Finagle and Linkerd).

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::fields::Form;
use super::{Longest, TrafficError, WINDOW, check_count, check_window};
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

/// A second copy of a slow request that may be repeated, the first answer wins (Dean and Barroso, "The Tail at
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

impl Hedge {
    pub fn check(&self) -> Result<(), TrafficError> {
        check_window("after", self.after)
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
