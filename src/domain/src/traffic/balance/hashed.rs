//! Consistent hashing: each key has its instance, and keeps it as long as that is there.
//!
//! By weighted rendezvous ("highest random weight", Thaler and Ravishankar, 1998): each target draws a number from
//! the key and its own id, and the best draw wins. Against a ring and Maglev's table: exactly the keys of a lost target
//! move, and to all others evenly; weights are exact; nothing has to be built or stored for a
//! table that changes many times a second with 10,000 routes in it; and who is left out is simply passed over.
//! The price is a look at every target, where a ring costs a search and Maglev a load: at the 3 to 20 instances that
//! most deployments have it is the cheapest, at 500 it is some microseconds.

use super::Draw;
use crate::traffic::hash::mix;

impl<U: Fn(usize) -> bool> Draw<'_, U> {
    pub(super) fn hashed(&self, key: u64) -> Option<usize> {
        let draw = |index: usize| mix(key ^ self.targets.seeds[index]);
        if self.targets.sums.is_none() && self.ramp.is_none() {
            return self.least(|index| u64::MAX - draw(index));
        }
        // The times until a first event at the rates of the weights: the least is each one's with a
        // probability in proportion to its weight.
        let time = |index: usize| {
            let weight = self.targets.targets[index].weight;
            let rate = f64::from(weight) * f64::from(self.share(index));
            // Times are not negative: their bits are in the order of their values.
            (minus_log2(draw(index)) / rate.max(1.0)).to_bits()
        };
        self.least(time)
    }

    /// The usable target with the least value. Whether one is usable costs more to know than its value, so only the
    /// best is asked, and then the next best: nearly always the first is it.
    fn least(&self, value: impl Fn(usize) -> u64) -> Option<usize> {
        /// After so many that are not usable all are asked, so that an outage of most costs one more round only.
        const ROUNDS: usize = 4;
        let count = self.targets.targets.len();
        let places = || (0..count).map(|index| (value(index), index));
        let mut passed: Option<(u64, usize)> = None;
        for _ in 0..ROUNDS {
            let after = |place: &(u64, usize)| passed.is_none_or(|passed| *place > passed);
            let next = places().filter(after).min()?;
            if (self.usable)(next.1) {
                return Some(next.1);
            }
            passed = Some(next);
        }
        let usable = places().filter(|(_, index)| (self.usable)(*index));
        usable.min().map(|(_, index)| index)
    }
}

/// -log2 of a number as a fraction of 2^64, to four digits. In plain arithmetic and not by the platform's `log2`,
/// whose last bits differ, so that all nodes choose alike.
#[allow(clippy::cast_precision_loss)]
fn minus_log2(number: u64) -> f64 {
    let number = number.max(1);
    let zeros = number.leading_zeros();
    // The number is 2^(63 - zeros) times this and 1.
    let t = ((number << zeros) << 1) as f64 / (1u64 << 32) as f64 / (1u64 << 32) as f64;
    // log2(1 + t) as t + t(1 - t) times a polynomial that meets it at four of Chebyshev's points: exact at both
    // ends, at most 5e-5 off between them.
    let curve = 0.442_418_58 + t * (-0.269_578_01 + t * (0.150_533_2 - t * 0.044_873_96));
    let log = t + t * (1.0 - t) * curve;
    (1.0 + f64::from(zeros) - log).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::minus_log2;

    #[test]
    fn logarithms_are_right() {
        for shift in 0..64 {
            for number in [
                1u64 << shift,
                (1u64 << shift) | 1 << (shift / 2),
                u64::MAX >> shift,
            ] {
                let exact = 64.0 - (number as f64).log2();
                let error = (minus_log2(number) - exact).abs();
                assert!(error < 1e-4, "{number}: {} {exact}", minus_log2(number));
            }
        }
        assert!(minus_log2(u64::MAX) >= 0.0 && minus_log2(0) <= 64.0);
    }
}
