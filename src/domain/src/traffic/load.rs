//! How busy and how quick an instance is, as this node's proxy sees it. Shared by all threads (atomics).
//!
//! The time a request takes is a moving average that follows a rise at once and a fall slowly: "peak EWMA", as
//! Finagle and Linkerd balance by it. A rise may be the beginning of an illness, and waiting to be sure of it
//! costs requests; a fall costs nothing if it is noticed late.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::{Nanos, nanos};
use crate::observed::Busy;

/// In this time an average falls to 38% of a peak; Finagle's falls to 37% in its ten seconds.
const DECAY: Duration = Duration::from_secs(10);
/// A time taken is kept in units of 2^8 ns: up to 18 minutes in 32 bits.
const TAKEN_SHIFT: u32 = 8;
/// When, in units of 2^20 ns, about a millisecond: 52 days until it comes round, and then a long
/// idle instance only looks as slow as it last was.
const WHEN_SHIFT: u32 = 20;

/// In a cache line of its own: all threads write here, and what lies beside it they only read.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Load {
    /// Requests sent to the instance whose responses have not ended.
    in_flight: AtomicU32,
    /// Of those the ones that became connections of another protocol, such as WebSocket.
    upgraded: AtomicU32,
    /// The average, and when it was that, in one word.
    average: AtomicU64,
}

impl Load {
    /// A request is about to be sent to the instance; with `limit` or more under way it may not be. Each success
    /// is paired with one [`Load::end`].
    #[must_use]
    pub fn begin(&self, limit: u32) -> bool {
        let before = self.in_flight.fetch_add(1, Ordering::Relaxed);
        if before < limit {
            return true;
        }
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        false
    }

    /// A request that began is over, however it ended. Sequentially consistent with [`super::shed::Gate::place_left`]: of one who
    /// leaves and one who begins to wait at the same time, at least one sees the other.
    pub fn end(&self) {
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
    }

    /// A request that began became a connection of another protocol; paired with one [`Load::end_upgraded`].
    pub fn upgrade(&self) {
        self.upgraded.fetch_add(1, Ordering::Relaxed);
    }

    pub fn end_upgraded(&self) {
        self.upgraded.fetch_sub(1, Ordering::Relaxed);
    }

    /// What the instance still has to do for this proxy's clients.
    pub fn busy(&self) -> Option<Busy> {
        match (self.in_flight(), self.upgraded.load(Ordering::Relaxed)) {
            (0, _) => None,
            (all, upgraded) if upgraded >= all => Some(Busy::Sockets),
            _ => Some(Busy::Requests),
        }
    }

    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::SeqCst)
    }

    /// The head of a response came, or no more can come, after so long. A failure only ever makes the average rise, or an
    /// instance that is quick to say 500 would draw all requests to itself. (It still draws some, since it has fewer under
    /// way than others: leaving it out is for [`super::breaker`].)
    pub fn observe(&self, taken: Duration, failed: bool, now: Nanos) {
        let taken = nanos(taken);
        let mut word = self.average.load(Ordering::Relaxed);
        loop {
            let (before, age) = unpack(word, now);
            let next = match (failed, taken >= before) {
                (_, true) => taken,
                (true, false) => before,
                (false, false) => {
                    let kept = kept(age);
                    blend(before, kept) + blend(taken, 1.0 - kept)
                }
            };
            // Relaxed: the word is all there is.
            match self.average.compare_exchange_weak(
                word,
                pack(next, now),
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(newer) => word = newer,
            }
        }
    }

    /// What a request is expected to take, in nanoseconds; less the longer nothing was heard, so that an instance that
    /// was slow once is tried again. 0: nothing is known.
    pub fn expected(&self, now: Nanos) -> Nanos {
        match unpack(self.average.load(Ordering::Relaxed), now) {
            (average, 0) => average,
            (average, age) => blend(average, kept(age)),
        }
    }

    /// What one more request costs here: what it is expected to take, for each that is under way and itself. Of an
    /// instance that nothing is known of only the number under way counts, as if each took long, so that it
    /// gets one request to begin with and not all of them.
    pub fn cost(&self, now: Nanos) -> u64 {
        /// A second for each request, when none has been answered yet.
        const UNKNOWN: Nanos = 1_000_000_000;
        let waiting = u64::from(self.in_flight());
        match self.expected(now) {
            0 => waiting * UNKNOWN,
            expected => expected.saturating_mul(waiting + 1),
        }
    }
}

fn pack(average: Nanos, now: Nanos) -> u64 {
    let average = (average >> TAKEN_SHIFT).min(u64::from(u32::MAX));
    average << 32 | (now >> WHEN_SHIFT) & u64::from(u32::MAX)
}

/// The average, and how long ago it was that.
fn unpack(word: u64, now: Nanos) -> (Nanos, Nanos) {
    let average = (word >> 32) << TAKEN_SHIFT;
    let now = (now >> WHEN_SHIFT) & u64::from(u32::MAX);
    let when = word & u64::from(u32::MAX);
    // Another thread may have been here with a later moment.
    let age = now.saturating_sub(when);
    (average, age << WHEN_SHIFT)
}

/// How much of an average is left after a time: (1 + t/16d)^-16, which is close to e^(-t/d), costs one division, and
/// is the same on every machine.
#[allow(clippy::cast_precision_loss)]
fn kept(age: Nanos) -> f64 {
    const PER_NANO: f64 = 1.0 / (16.0 * DECAY.as_nanos() as f64);
    let mut power = 1.0 + age as f64 * PER_NANO;
    for _ in 0..4 {
        power *= power;
    }
    1.0 / power
}

#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]
fn blend(value: Nanos, part: f64) -> Nanos {
    (value as f64 * part) as Nanos
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Nanos = 1_000_000_000;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn near(actual: Nanos, expected: Duration) {
        let expected = nanos(expected);
        assert!(
            actual.abs_diff(expected) <= expected / 20,
            "{actual} {expected}"
        );
    }

    #[test]
    fn peaks_show_at_once_and_fade() {
        let load = Load::default();
        assert_eq!(load.expected(0), 0);
        load.observe(ms(10), false, 0);
        near(load.expected(0), ms(10));
        load.observe(ms(500), false, SECOND);
        near(load.expected(SECOND), ms(500));
        load.observe(ms(10), false, 2 * SECOND);
        assert!(load.expected(2 * SECOND) > nanos(ms(400)));
        (3..120).for_each(|s| load.observe(ms(10), false, s * SECOND));
        assert!(load.expected(120 * SECOND) < nanos(ms(20)));
    }

    #[test]
    fn silence_forgives() {
        let load = Load::default();
        load.observe(ms(1_000), false, 0);
        assert!(load.expected(120 * SECOND) < nanos(ms(10)));
    }

    #[test]
    fn quick_failures_do_not_attract() {
        let load = Load::default();
        load.observe(ms(20), false, 0);
        (1..100).for_each(|n| load.observe(Duration::from_micros(50), true, n * SECOND / 10));
        near(load.expected(99 * SECOND / 10), ms(20));
        load.observe(ms(900), true, 10 * SECOND);
        near(load.expected(10 * SECOND), ms(900));
    }

    #[test]
    fn requests_under_way_are_counted_and_limited() {
        let load = Load::default();
        assert!(load.begin(2) && load.begin(2) && !load.begin(2));
        assert_eq!(load.in_flight(), 2);
        assert!(load.cost(0) > 0, "unknown, and busy");
        load.end();
        assert!(load.begin(2));
        load.observe(ms(10), false, 0);
        near(load.cost(0), ms(30));
    }

    proptest! {
        /// An average lies between the least and the most that was seen, and reading never makes it rise.
        #[test]
        fn averages_lie_between(taken in proptest::collection::vec((1u64..10_000, 0u64..5_000), 1..60), idle in 0u64..100) {
            let load = Load::default();
            let mut now = 0;
            for (taken, pause) in &taken {
                now += pause * 1_000_000;
                load.observe(ms(*taken), false, now);
            }
            let most = taken.iter().map(|(taken, _)| *taken).max().unwrap();
            let expected = load.expected(now);
            prop_assert!(expected <= nanos(ms(most)));
            prop_assert!(load.expected(now + idle * SECOND) <= expected);
        }
    }
}
