//! What this node's proxy counts of the requests to two releases of which one takes over from the other. It knows of no gossip:
//! whoever has it asks for what was counted, and tells the other nodes.
//!
//! A request is counted where its client came in, once for each instance that was asked, when the head of its answer is
//! there or it is known that there will be none. Not what a client broke off, nor what failed because a node was
//! lost: neither says anything of a release.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use nebula_domain::rollout::{Figures, Pair, SLICES, Side, TRIALS, Tally, Times, slice_of};
use nebula_domain::routes::{Route, RouteTable};
use tokio::sync::Notify;

/// One for a node's proxy.
#[derive(Default)]
pub struct Trials {
    /// By their numbers; at most [`TRIALS`].
    known: RwLock<HashMap<u64, Arc<Counts>>>,
    begun: Notify,
}

/// Of one trial; counted by all edge threads.
#[derive(Default)]
pub(crate) struct Counts {
    old: Count,
    new: Count,
}

struct Count {
    requests: AtomicU64,
    failed: AtomicU64,
    times: [AtomicU64; SLICES],
}

/// One request to an instance of one of the two.
pub(crate) struct Counting<'a> {
    count: &'a Count,
    /// It was counted: a request has one end.
    over: AtomicBool,
}

impl Trials {
    /// How often what was counted is told.
    pub const PERIOD: Duration = Duration::from_secs(1);

    /// Those of a route, which go on from one route of a trial to the next.
    pub(crate) fn of(&self, route: &Route) -> Option<Arc<Counts>> {
        let number = route.trial?.number;
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(counts) = known.get(&number) {
            return Some(Arc::clone(counts));
        }
        drop(known);
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if !known.contains_key(&number) && TRIALS.check("trials", known.len() + 1).is_err() {
            let deployment = route.deployment.as_str();
            tracing::warn!(
                deployment,
                "requests are not counted: too many releases are on their way"
            );
            return None;
        }
        let counts = Arc::clone(known.entry(number).or_default());
        drop(known);
        self.begun.notify_one();
        Some(counts)
    }

    /// Ends when there is something to tell.
    pub async fn begun(&self) {
        loop {
            let begun = self.begun.notified();
            if self.has_any() {
                return;
            }
            begun.await;
        }
    }

    fn has_any(&self) -> bool {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        !known.is_empty()
    }

    /// All that was counted of trials that go on by this table; the others are forgotten.
    pub fn take(&self, table: &RouteTable) -> Tally {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.retain(|number, _| table.has_trial(*number));
        let read = known
            .iter()
            .map(|(number, counts)| (*number, counts.read()));
        read.collect()
    }

    /// What was counted of one trial.
    pub fn pair(&self, number: u64) -> Option<Pair> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.get(&number).map(|counts| counts.read())
    }
}

impl Counts {
    pub(crate) fn begin(&self, side: Side) -> Counting<'_> {
        let count = match side {
            Side::Old => &self.old,
            Side::New => &self.new,
        };
        Counting {
            count,
            over: AtomicBool::new(false),
        }
    }

    fn read(&self) -> Pair {
        Pair {
            old: self.old.read(),
            new: self.new.read(),
        }
    }
}

impl Count {
    /// While it is counted, so that one figure may be ahead of the other by what is just going on.
    fn read(&self) -> Figures {
        let of = |number: &AtomicU64| number.load(Ordering::Relaxed);
        Figures {
            failed: of(&self.failed),
            times: Times(self.times.each_ref().map(of)),
            requests: of(&self.requests),
        }
    }
}

impl Default for Count {
    fn default() -> Count {
        Count {
            requests: AtomicU64::default(),
            failed: AtomicU64::default(),
            times: [const { AtomicU64::new(0) }; SLICES],
        }
    }
}

impl Counting<'_> {
    /// The head of an answer is there.
    pub(crate) fn answered(&self, status: u16, took: Duration) {
        self.end(matches!(status, 500..=599), Some(took));
    }

    /// Nobody answered, or the connection was lost before.
    pub(crate) fn unanswered(&self) {
        self.end(true, None);
    }

    /// Another instance was asked the same later and answered first. It would have taken longer still: were it not counted, a
    /// release that is slow would be judged by its quick answers alone.
    pub(crate) fn outpaced(&self, took: Duration) {
        self.end(false, Some(took));
    }

    fn end(&self, failed: bool, took: Option<Duration>) {
        if self.over.swap(true, Ordering::Relaxed) {
            return;
        }
        let count = self.count;
        count.requests.fetch_add(1, Ordering::Relaxed);
        if failed {
            count.failed.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(took) = took {
            count.times[slice_of(took)].fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_counted_once() {
        let counts = Counts::default();
        let answered = counts.begin(Side::New);
        answered.answered(200, Duration::from_millis(3));
        answered.unanswered();
        counts.begin(Side::New).answered(501, Duration::ZERO);
        counts.begin(Side::New).unanswered();
        counts.begin(Side::New).outpaced(Duration::from_secs(1));
        // Nothing came of it that says anything.
        let _ = counts.begin(Side::New);
        counts.begin(Side::Old).answered(404, Duration::ZERO);
        let Pair { old, new } = counts.read();
        assert_eq!((new.requests, new.failed, new.times.count()), (4, 2, 3));
        assert_eq!((old.requests, old.failed, old.times.0[0]), (1, 0, 1));
        assert_eq!(new.times.0[slice_of(Duration::from_millis(3))], 1);
    }
}
