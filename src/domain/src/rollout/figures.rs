//! What the proxies count of a release's requests while it is on its way.

use std::time::Duration;

/// Parts in which the times of answers are counted: up to 1 ms, then each ends at 1.26 times the one before (three to a
/// doubling), and what took longer than 65 s. As fine as that, a release that takes twice as long is told from one
/// that does not.
pub const SLICES: usize = 50;

/// Where each part but the last ends, in microseconds.
const ENDS_US: [u64; SLICES - 1] = {
    // The cube roots of 1, 2 and 4.
    let steps = [1_000_000, 1_259_921, 1_587_401];
    let mut ends = [0; SLICES - 1];
    let mut part = 0;
    while part < ends.len() {
        ends[part] = (steps[part % 3] << (part / 3)) / 1_000;
        part += 1;
    }
    ends
};

/// The part in which an answer is counted whose head came after `took`.
pub fn slice_of(took: Duration) -> usize {
    let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    ENDS_US.partition_point(|end| *end < took_us)
}

/// Of one release in one rollout.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Figures {
    /// Those that an instance was asked and that came to an end.
    pub requests: u64,
    /// Of these, answered with 500 to 599 or not at all.
    pub failed: u64,
    /// Of these, how long the heads of answers took.
    pub times: Times,
}

/// How many answers took how long, by [`slice_of`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times(pub [u64; SLICES]);

/// What was counted of the two releases of a rollout.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pair {
    /// The release before.
    pub old: Figures,
    /// The one on its way.
    pub new: Figures,
}

impl Default for Times {
    fn default() -> Times {
        Times([0; SLICES])
    }
}

impl Figures {
    /// Adds what another node has counted.
    pub fn merge(&mut self, other: &Figures) {
        self.requests = self.requests.saturating_add(other.requests);
        self.failed = self.failed.saturating_add(other.failed);
        for (sum, more) in self.times.0.iter_mut().zip(other.times.0) {
            *sum = sum.saturating_add(more);
        }
    }

    /// What was counted after `earlier`; `None` when some of that is not counted any more.
    pub(super) fn since(&self, earlier: &Figures) -> Option<Figures> {
        let mut times = self.times;
        for (count, before) in times.0.iter_mut().zip(earlier.times.0) {
            *count = count.checked_sub(before)?;
        }
        Some(Figures {
            requests: self.requests.checked_sub(earlier.requests)?,
            failed: self.failed.checked_sub(earlier.failed)?,
            times,
        })
    }

    /// In which time 95 % of the answers began, rounded up to the end of its part; of more than 65 s, that. `None`
    /// without answers.
    pub fn p95(&self) -> Option<Duration> {
        let answers = self.times.count();
        if answers == 0 {
            return None;
        }
        // The last of the 95 %.
        let rank = u128::from(answers) * 95;
        let mut passed = 0;
        let found = self.times.0.iter().position(|count| {
            passed += u128::from(*count) * 100;
            passed >= rank
        })?;
        let end = ENDS_US.get(found).or(ENDS_US.last())?;
        Some(Duration::from_micros(*end))
    }
}

impl Times {
    pub fn count(&self) -> u64 {
        self.0.iter().fold(0, |sum, more| sum.saturating_add(*more))
    }

    /// Answers that certainly took longer: what shares a part with the bound is not among them.
    pub(super) fn slower_than(&self, bound: Duration) -> u64 {
        let bound_us = u64::try_from(bound.as_micros()).unwrap_or(u64::MAX);
        let begins = ENDS_US.iter().zip(&self.0[1..]);
        let slower = begins.filter(|(begin, _)| **begin >= bound_us);
        slower.fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }
}

impl Pair {
    pub fn merge(&mut self, other: &Pair) {
        self.old.merge(&other.old);
        self.new.merge(&other.new);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(times_ms: &[(u64, u64)]) -> Figures {
        let mut figures = Figures::default();
        for (took, count) in times_ms {
            figures.times.0[slice_of(Duration::from_millis(*took))] += count;
            figures.requests += count;
        }
        figures
    }

    #[test]
    fn parts_grow_by_a_third_of_a_doubling() {
        assert_eq!(slice_of(Duration::ZERO), 0);
        assert_eq!(slice_of(Duration::from_millis(1)), 0);
        assert_eq!(slice_of(Duration::from_micros(1_001)), 1);
        assert_eq!(slice_of(Duration::from_millis(2)), 3);
        assert_eq!(ENDS_US[48], 65_536_000);
        assert_eq!(slice_of(Duration::from_micros(65_536_000)), 48);
        assert_eq!(slice_of(Duration::MAX), SLICES - 1);
        let ratio = |two: &[u64]| two[1] as f64 / two[0] as f64;
        assert!(
            ENDS_US
                .windows(2)
                .all(|two| (1.25..1.27).contains(&ratio(two)))
        );
    }

    #[test]
    fn the_95th_percentile_is_the_end_of_its_part() {
        assert_eq!(Figures::default().p95(), None);
        let p95 = |times: &[(u64, u64)]| of(times).p95().unwrap().as_millis();
        assert_eq!(p95(&[(2, 95), (500, 5)]), 2);
        assert_eq!(p95(&[(2, 94), (500, 6)]), 512);
        assert_eq!(p95(&[(500, 1)]), 512);
        assert_eq!(p95(&[(100_000, 7)]), 65_536);
    }

    #[test]
    fn slower_is_what_is_so_for_certain() {
        let times = of(&[(2, 3), (3, 5), (100_000, 7)]).times;
        let slower = |ms| times.slower_than(Duration::from_millis(ms));
        assert_eq!((slower(1), slower(2), slower(3)), (15, 12, 7));
        assert_eq!((slower(65_536), slower(65_537)), (7, 0));
    }

    fn any_figures() -> impl Strategy<Value = Figures> {
        let counts = prop::collection::vec(any::<u64>(), SLICES);
        (any::<u64>(), any::<u64>(), counts).prop_map(|(requests, failed, counts)| Figures {
            requests,
            failed,
            times: Times(counts.try_into().unwrap()),
        })
    }

    proptest! {
        #[test]
        fn whoever_is_added_first(a in any_figures(), b in any_figures(), c in any_figures()) {
            let sum = |of: [&Figures; 3]| {
                let mut sum = Figures::default();
                of.into_iter().for_each(|figures| sum.merge(figures));
                sum
            };
            prop_assert_eq!(sum([&a, &b, &c]), sum([&c, &a, &b]));
            prop_assert_eq!(sum([&a, &b, &c]), sum([&b, &a, &c]));
            let (mut left, mut right) = (b.clone(), a.clone());
            right.merge(&b);
            right.merge(&c);
            left.merge(&c);
            let mut whole = a.clone();
            whole.merge(&left);
            prop_assert_eq!(whole, right);
        }

        #[test]
        fn an_answer_is_in_one_part_and_the_slower_ones_in_later_ones(a in 0..100_000_000u64, b in 0..100_000_000u64) {
            let part = |us| slice_of(Duration::from_micros(us));
            prop_assert!(part(a) < SLICES);
            prop_assert!(a > b || part(a) <= part(b));
        }
    }
}
