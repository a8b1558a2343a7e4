//! Two counts over the latest while, in ten parts of it. Shared by all threads: each part is one atomic
//! word, so that counting and beginning a new part are one step.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{Nanos, nanos};

/// Finer parts forget more evenly and cost more to add up.
const PARTS: u64 = 10;
/// Bits of each count; a part whose count would not fit has both halved, which keeps their ratio.
const COUNT_BITS: u32 = 20;
const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;
/// Bits of a part's number. With the shortest window it comes again after half an hour, and must then meet
/// the one part of that number that nothing has touched since.
const NUMBER_MASK: u64 = (1 << (64 - 2 * COUNT_BITS)) - 1;

/// What was counted in a window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) all: u64,
    /// Those of a kind: failures, retries.
    pub(super) of_kind: u64,
}

/// In cache lines of its own, because all threads write here.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct Window {
    parts: [AtomicU64; PARTS as usize],
}

/// A part's word: its number, then the two counts.
#[derive(Clone, Copy)]
struct Part {
    number: u64,
    counts: Counts,
}

impl Part {
    fn read(word: u64) -> Part {
        Part {
            number: word >> (2 * COUNT_BITS),
            counts: Counts {
                all: (word >> COUNT_BITS) & COUNT_MAX,
                of_kind: word & COUNT_MAX,
            },
        }
    }

    fn word(self) -> u64 {
        let Counts {
            mut all,
            mut of_kind,
        } = self.counts;
        while all.max(of_kind) > COUNT_MAX {
            (all, of_kind) = (all / 2, of_kind / 2);
        }
        self.number << (2 * COUNT_BITS) | all << COUNT_BITS | of_kind
    }
}

impl Window {
    /// Adds to the part of now. `length` is the window's; another length than before begins anew.
    pub(super) fn add(&self, length: Duration, now: Nanos, add: Counts) {
        let number = number(length, now);
        let part = &self.parts[slot(number)];
        let number = number & NUMBER_MASK;
        let mut word = part.load(Ordering::Relaxed);
        loop {
            let mut next = Part::read(word);
            if next.number != number {
                next = Part {
                    number,
                    counts: Counts::default(),
                };
            }
            next.counts.all += add.all;
            next.counts.of_kind += add.of_kind;
            // Relaxed: a word says all there is to say, nothing else is ordered by it.
            match part.compare_exchange_weak(
                word,
                next.word(),
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(newer) => word = newer,
            }
        }
    }

    /// What was counted within `length` before now; the oldest part is left out as a whole when it is over.
    pub(super) fn sum(&self, length: Duration, now: Nanos) -> Counts {
        let newest = number(length, now);
        let mut sum = Counts::default();
        for number in newest.saturating_sub(PARTS - 1)..=newest {
            let part = Part::read(self.parts[slot(number)].load(Ordering::Relaxed));
            if part.number == number & NUMBER_MASK {
                sum.all += part.counts.all;
                sum.of_kind += part.counts.of_kind;
            }
        }
        sum
    }

    pub(super) fn clear(&self) {
        for part in &self.parts {
            part.store(0, Ordering::Relaxed);
        }
    }
}

/// Parts are numbered from 1, so that an empty word belongs to none.
fn number(length: Duration, now: Nanos) -> u64 {
    now / (nanos(length) / PARTS).max(1) + 1
}

fn slot(number: u64) -> usize {
    usize::try_from(number % PARTS).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LENGTH: Duration = Duration::from_secs(10);
    const SECOND: Nanos = 1_000_000_000;
    const ONE: Counts = Counts { all: 1, of_kind: 0 };

    #[test]
    fn what_is_older_than_the_window_is_forgotten() {
        let window = Window::default();
        assert_eq!(window.sum(LENGTH, 0), Counts::default());
        window.add(LENGTH, 0, ONE);
        window.add(LENGTH, 5 * SECOND, Counts { all: 2, of_kind: 1 });
        assert_eq!(
            window.sum(LENGTH, 9 * SECOND),
            Counts { all: 3, of_kind: 1 }
        );
        assert_eq!(
            window.sum(LENGTH, 10 * SECOND),
            Counts { all: 2, of_kind: 1 }
        );
        assert_eq!(window.sum(LENGTH, 15 * SECOND), Counts::default());
        window.add(LENGTH, 15 * SECOND, ONE);
        assert_eq!(window.sum(LENGTH, 15 * SECOND), ONE);
        window.clear();
        assert_eq!(window.sum(LENGTH, 15 * SECOND), Counts::default());
    }

    #[test]
    fn a_count_that_does_not_fit_keeps_its_ratio() {
        let window = Window::default();
        let many = Counts {
            all: 1_000_000,
            of_kind: 500_000,
        };
        window.add(LENGTH, 0, many);
        window.add(LENGTH, 0, many);
        let sum = window.sum(LENGTH, 0);
        assert_eq!(sum.all, sum.of_kind * 2);
        assert!(sum.all >= COUNT_MAX / 2);
    }

    #[test]
    fn threads_lose_nothing() {
        let window = Window::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1_000).for_each(|n| window.add(LENGTH, n, ONE)));
            }
        });
        assert_eq!(window.sum(LENGTH, 0).all, 4_000);
    }

    proptest! {
        /// Everything younger than nine tenths of the window counts, nothing older than the window does.
        #[test]
        fn sums_lie_between_the_bounds(mut times in proptest::collection::vec(0u64..60 * SECOND, 1..50)) {
            times.sort_unstable();
            let window = Window::default();
            times.iter().for_each(|time| window.add(LENGTH, *time, ONE));
            let now = *times.last().unwrap();
            let younger = |than: u64| times.iter().filter(|time| now - **time < than).count() as u64;
            let sum = window.sum(LENGTH, now).all;
            prop_assert!(younger(9 * SECOND) <= sum && sum <= younger(10 * SECOND));
        }
    }
}
