//! How much an instance and a deployment may have under way at one node, and what happens beyond it: a short
//! queue, then 503 with `Retry-After`. Better a quick answer to some than a slow one to all. Shared by all threads
//! (atomics).
//!
//! An instance's own limit is kept by [`super::load::Load::begin`]; the gate of the deployment counts what is under way and
//! waits at all of them. Who waits, and how it is woken, is the caller's: the gate says only whether it may.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::fields::Form;
use super::{Longest, Nanos, TrafficError, check_count, nanos};
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

/// What becomes of a request that arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Arrival {
    /// Send it. [`Gate::leave`] tells its end.
    Admitted,
    /// Let it wait, until then at the latest. [`Gate::admit_waiting`] or [`Gate::give_up`] tells the wait's end. Once
    /// it can be woken, ask [`Gate::admit_waiting`] a first time: the last one under way may have left in between.
    Queued { until: Nanos },
    /// Answer 503 (RFC 9110 section 15.6.4) with `Retry-After`: [`super::retry_after_seconds`].
    Shed { retry_after: Duration },
}

/// The requests of one deployment at this node.
#[derive(Debug, Default)]
pub struct Gate {
    under_way: AtomicU32,
    waiting: AtomicU32,
}

impl Gate {
    /// A request arrives. `room` says whether an instance can take one more; the caller takes its place there after it was
    /// admitted. Whoever waits is not overtaken: while somebody does, newcomers wait too.
    pub fn arrive(&self, capacity: &Capacity, room: bool, now: Nanos) -> Arrival {
        let overtakes = self.waiting.load(Ordering::Relaxed) > 0;
        if room && !overtakes && enter(&self.under_way, capacity.total) {
            return Arrival::Admitted;
        }
        self.queue(capacity, now)
    }

    /// A request that was admitted found no place at an instance after all, because another thread was quicker: it
    /// waits like others, or is shed.
    pub fn return_to_queue(&self, capacity: &Capacity, now: Nanos) -> Arrival {
        self.under_way.fetch_sub(1, Ordering::Relaxed);
        self.queue(capacity, now)
    }

    /// One that waits was woken: whether it may go on now. If not it goes on waiting.
    #[must_use]
    pub fn admit_waiting(&self, capacity: &Capacity, room: bool) -> bool {
        let admitted = room && enter(&self.under_way, capacity.total);
        if admitted {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        admitted
    }

    /// One that waited does so no more: its time was over, for which the answer is [`Gate::shed`], or its client left.
    pub fn give_up(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    /// A request that was admitted is over, and has left its place at the instance ([`super::load::Load::end`]). Whether
    /// somebody waits, of whom one is to be woken.
    #[must_use]
    pub fn leave(&self) -> bool {
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        self.waiting.load(Ordering::SeqCst) > 0
    }

    /// A request has left a place at an instance ([`super::load::Load::end`]) and goes on: it was tried there, or another one has
    /// answered it. Whether somebody waits, of whom one is to be woken.
    #[must_use]
    pub fn place_left(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    /// Sent away: a wait later the queue that was full is another one.
    pub fn shed(capacity: &Capacity) -> Arrival {
        Arrival::Shed {
            retry_after: capacity.wait,
        }
    }

    pub fn under_way(&self) -> u32 {
        self.under_way.load(Ordering::Relaxed)
    }

    pub fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    fn queue(&self, capacity: &Capacity, now: Nanos) -> Arrival {
        if capacity.wait.is_zero() || !enter(&self.waiting, capacity.queue) {
            return Gate::shed(capacity);
        }
        Arrival::Queued {
            until: now.saturating_add(nanos(capacity.wait)),
        }
    }
}

/// One more, unless there are `limit`.
fn enter(count: &AtomicU32, limit: u32) -> bool {
    let next = |before: u32| (before < limit).then(|| before + 1);
    count
        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, next)
        .is_ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn capacity() -> Capacity {
        "total=2 queue=1 wait=1500ms".parse().unwrap()
    }

    fn arrive(gate: &Gate) -> Arrival {
        gate.arrive(&capacity(), true, 0)
    }

    const QUEUED: Arrival = Arrival::Queued {
        until: 1_500_000_000,
    };
    const SHED: Arrival = Arrival::Shed {
        retry_after: Duration::from_millis(1_500),
    };

    #[test]
    fn admits_then_queues_then_sheds() {
        let gate = Gate::default();
        let four = [0; 4].map(|_| arrive(&gate));
        assert_eq!(four, [Arrival::Admitted, Arrival::Admitted, QUEUED, SHED]);
        assert!(!gate.admit_waiting(&capacity(), true), "nobody has left");
        assert!(gate.leave(), "one is to be woken");
        assert_eq!(arrive(&gate), SHED, "the one who waits is not overtaken");
        assert!(gate.admit_waiting(&capacity(), true));
        assert!(!gate.leave() && !gate.leave());
        assert_eq!((gate.under_way(), gate.waiting()), (0, 0));
    }

    #[test]
    fn without_room_it_waits_or_is_shed() {
        let gate = Gate::default();
        assert_eq!(gate.arrive(&capacity(), false, 0), QUEUED);
        assert!(!gate.admit_waiting(&capacity(), false));
        gate.give_up();
        assert_eq!(arrive(&gate), Arrival::Admitted);
        assert_eq!(gate.return_to_queue(&capacity(), 0), QUEUED);
        assert_eq!((gate.under_way(), gate.waiting()), (0, 1));
    }

    #[test]
    fn without_a_queue_nobody_waits() {
        for text in ["total=1 queue=0", "total=1 wait=0"] {
            let capacity: Capacity = text.parse().unwrap();
            let gate = Gate::default();
            let arrive = || gate.arrive(&capacity, true, 0);
            assert_eq!(arrive(), Arrival::Admitted);
            assert_eq!(arrive(), Gate::shed(&capacity));
        }
    }

    #[test]
    fn threads_keep_the_limits_and_lose_no_place() {
        let gate = Gate::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for n in 0..2_000 {
                        match gate.arrive(&capacity(), n % 7 != 0, 0) {
                            Arrival::Admitted => {
                                assert!(gate.under_way() <= 2);
                                let _ = gate.leave();
                            }
                            Arrival::Queued { .. } => {
                                assert!(gate.waiting() <= 1);
                                match gate.admit_waiting(&capacity(), n % 3 != 0) {
                                    true => drop(gate.leave()),
                                    false => gate.give_up(),
                                }
                            }
                            Arrival::Shed { .. } => {}
                        }
                    }
                });
            }
        });
        assert_eq!((gate.under_way(), gate.waiting()), (0, 0));
    }

    proptest! {
        /// As a plain counter of those under way and those who wait would have it.
        #[test]
        fn it_counts_right(steps in proptest::collection::vec((0u8..5, any::<bool>()), 0..200)) {
            let capacity: Capacity = "total=3 queue=2".parse().unwrap();
            let gate = Gate::default();
            let (mut under_way, mut waiting) = (0u32, 0u32);
            for (step, room) in steps {
                match step {
                    0 | 1 => match gate.arrive(&capacity, room, 0) {
                        Arrival::Admitted => {
                            prop_assert!(room && under_way < 3 && waiting == 0);
                            under_way += 1;
                        }
                        Arrival::Queued { .. } => {
                            prop_assert!(waiting < 2 && (!room || under_way == 3 || waiting > 0));
                            waiting += 1;
                        }
                        Arrival::Shed { .. } => prop_assert_eq!(waiting, 2),
                    },
                    2 if under_way > 0 => {
                        under_way -= 1;
                        prop_assert_eq!(gate.leave(), waiting > 0);
                    }
                    3 if waiting > 0 && gate.admit_waiting(&capacity, room) => {
                        prop_assert!(room && under_way < 3);
                        (under_way, waiting) = (under_way + 1, waiting - 1);
                    }
                    4 if waiting > 0 => {
                        waiting -= 1;
                        gate.give_up();
                    }
                    _ => {}
                }
                prop_assert_eq!((gate.under_way(), gate.waiting()), (under_way, waiting));
            }
        }
    }
}
