//! Passive outlier ejection: an instance whose requests failed is left out for a while.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::fields::Form;
use super::{TrafficError, check_count, check_window};
use crate::text::{Percent, show_duration};

/// Text: `max_fails=3 fail_timeout=30s max_ejected=50%`, the first two as nginx's `server` directive has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EjectionPolicy {
    /// So many failures within `fail_timeout` eject an instance.
    pub max_fails: u32,
    /// The time in which failures are counted, and for which the instance is then left out.
    pub fail_timeout: Duration,
    /// Of a deployment's instances at most this share is left out at a time (one, if that is none), and never
    /// the last one. Envoy's `max_ejection_percent`.
    pub max_ejected: Percent,
}

impl Default for EjectionPolicy {
    /// nginx's 10 s. Three failures and not its one, because a single one may be the request's fault. Half of
    /// the instances: if more fail, the fault is most likely not theirs, and the rest would be overrun.
    fn default() -> Self {
        EjectionPolicy {
            max_fails: 3,
            fail_timeout: Duration::from_secs(10),
            max_ejected: Percent::capped(50),
        }
    }
}

const FORM: Form = Form {
    what: "an ejection setting",
    example: "max_fails=3 fail_timeout=30s",
    words: &["max_fails", "fail_timeout", "max_ejected"],
};

impl EjectionPolicy {
    pub fn check(&self) -> Result<(), TrafficError> {
        check_count("max_fails", self.max_fails, 1)?;
        check_window("fail_timeout", self.fail_timeout)
    }
}

impl FromStr for EjectionPolicy {
    type Err = TrafficError;

    fn from_str(text: &str) -> Result<Self, TrafficError> {
        let (fields, default) = (FORM.read(text)?, EjectionPolicy::default());
        let policy = EjectionPolicy {
            max_fails: fields.count("max_fails", default.max_fails)?,
            fail_timeout: fields.duration("fail_timeout", default.fail_timeout)?,
            max_ejected: fields.percent("max_ejected", default.max_ejected)?,
        };
        policy.check()?;
        Ok(policy)
    }
}

impl fmt::Display for EjectionPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "max_fails={} fail_timeout={} max_ejected={}",
            self.max_fails,
            show_duration(self.fail_timeout),
            self.max_ejected
        )
    }
}
