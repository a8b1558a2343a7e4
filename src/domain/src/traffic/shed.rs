//! How much an instance and a deployment may have under way at one node, and what happens beyond it: a short
//! queue, then 503 with `Retry-After`. Better a quick answer to some than a slow one to all.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::fields::Form;
use super::{Longest, TrafficError, check_count};
use crate::text::show_duration;

/// The longest wait for a place: clients commonly give up after a minute.
pub const QUEUE_WAIT: Longest = Longest {
    name: "queue_wait",
    max: Duration::from_secs(60),
};

/// Text: `per_instance=1024 total=8192 queue=1024 wait=1s`. All counts hold for each node's proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    /// Requests under way at one instance (HAProxy's `maxconn`, nginx's `max_conns`).
    pub per_instance: u32,
    /// Requests under way at all instances of the deployment.
    pub total: u32,
    /// Requests that may wait for a place; zero: none waits.
    pub queue: u32,
    /// How long one may wait.
    pub wait: Duration,
}

impl Default for Capacity {
    /// 1024 for each instance and in the queue, as Envoy's circuit breakers have it. A second's wait bridges
    /// a restart; whoever would wait longer is better told at once.
    fn default() -> Self {
        Capacity {
            per_instance: 1024,
            total: 8192,
            queue: 1024,
            wait: Duration::from_secs(1),
        }
    }
}

const FORM: Form = Form {
    what: "a capacity",
    example: "per_instance=1024 total=8192 queue=1024 wait=1s",
    words: &["per_instance", "total", "queue", "wait"],
};

impl Capacity {
    pub fn check(&self) -> Result<(), TrafficError> {
        check_count("per_instance", self.per_instance, 1)?;
        check_count("total", self.total, 1)?;
        check_count("queue", self.queue, 0)?;
        QUEUE_WAIT.check("wait", self.wait)
    }
}

impl FromStr for Capacity {
    type Err = TrafficError;

    fn from_str(text: &str) -> Result<Self, TrafficError> {
        let (fields, default) = (FORM.read(text)?, Capacity::default());
        let capacity = Capacity {
            per_instance: fields.count("per_instance", default.per_instance)?,
            total: fields.count("total", default.total)?,
            queue: fields.count("queue", default.queue)?,
            wait: fields.duration("wait", default.wait)?,
        };
        capacity.check()?;
        Ok(capacity)
    }
}

impl fmt::Display for Capacity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "per_instance={} total={} queue={} wait={}",
            self.per_instance,
            self.total,
            self.queue,
            show_duration(self.wait)
        )
    }
}
