//! What clients did and saw. Every operation has a beginning and an end on one clock, and its outcome is known, known
//! not to have happened, or unknown.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::api::Consistency;

/// A value read that no client ever writes: what was stored was not a number.
pub const CORRUPT: u64 = u64::MAX;

/// A point in a run. Of two moments the one with the lower `order` was first: all are drawn from one counter, so there
/// are no ties, whatever the resolution of the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Moment {
    pub order: u64,
    /// Since the run began.
    pub at: Duration,
}

/// Hands out moments and values. All clients of a run share one.
#[derive(Clone)]
pub struct Clock(Arc<Inner>);

struct Inner {
    zero: Instant,
    order: AtomicU64,
    value: AtomicU64,
}

impl Default for Clock {
    fn default() -> Clock {
        Clock(Arc::new(Inner {
            zero: Instant::now(),
            order: AtomicU64::new(1),
            value: AtomicU64::new(1),
        }))
    }
}

impl Clock {
    pub fn now(&self) -> Moment {
        Moment {
            order: self.0.order.fetch_add(1, Ordering::SeqCst),
            at: self.0.zero.elapsed(),
        }
    }

    /// A value that nobody else writes in this run.
    pub fn value(&self) -> u64 {
        self.0.value.fetch_add(1, Ordering::SeqCst)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Action {
    Write {
        value: u64,
        /// All tries of one write have the same.
        request: String,
    },
    Read(Consistency),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Outcome {
    Written,
    /// `None`: the key is not set.
    Read(Option<u64>),
    /// It did not happen and will not.
    Failed(String),
    /// It may have happened, may still happen, or never. A timeout is that.
    Unknown(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Op {
    pub client: usize,
    /// The node that answered, or was asked last.
    pub node: usize,
    pub key: String,
    pub action: Action,
    pub invoked: Moment,
    pub returned: Moment,
    pub outcome: Outcome,
    pub tries: u32,
}

impl Op {
    pub fn took(&self) -> Duration {
        self.returned.at.saturating_sub(self.invoked.at)
    }

    pub fn is_write(&self) -> bool {
        matches!(self.action, Action::Write { .. })
    }

    pub fn is_acknowledged_write(&self) -> bool {
        self.outcome == Outcome::Written
    }

    /// Neither done nor read.
    pub fn has_failed(&self) -> bool {
        matches!(self.outcome, Outcome::Failed(_) | Outcome::Unknown(_))
    }
}

/// All operations of a run, by the order in which they ended.
#[derive(Debug, Clone, Default, Serialize)]
pub struct History {
    pub ops: Vec<Op>,
}

impl History {
    pub fn by_key(&self) -> BTreeMap<&str, Vec<&Op>> {
        let mut keys: BTreeMap<&str, Vec<&Op>> = BTreeMap::new();
        for op in &self.ops {
            keys.entry(&op.key).or_default().push(op);
        }
        keys
    }

    pub fn acknowledged(&self) -> usize {
        self.ops
            .iter()
            .filter(|o| o.is_acknowledged_write())
            .count()
    }

    pub fn unknown(&self) -> usize {
        let unknown = |o: &&Op| matches!(o.outcome, Outcome::Unknown(_)) && o.is_write();
        self.ops.iter().filter(unknown).count()
    }

    /// From `after` until the first write that began later was acknowledged.
    pub fn resumed(&self, after: Moment) -> Option<Duration> {
        let later = self
            .ops
            .iter()
            .filter(|o| o.is_acknowledged_write() && o.invoked.order > after.order);
        later.map(|o| o.returned.at - after.at).min()
    }
}
