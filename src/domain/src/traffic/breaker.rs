//! A circuit breaker for each instance: closed while it answers, open while it fails, half-open to find out.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::fields::Form;
use super::{TrafficError, check_count, check_window};
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
