//! Consistent hashing: each key has its instance, and keeps it as long as that is there.
//!
//! By weighted rendezvous ("highest random weight", Thaler and Ravishankar, 1998): each target draws a number from
//! the key and its own id, and the best draw wins. Against a ring and Maglev's table: exactly the keys of a lost target
//! move, and to all others evenly; weights are exact; nothing has to be built or stored for a
//! table that changes many times a second with 10,000 routes in it; and who is left out is simply passed over.
//! The price is a look at every target, some 2 ns each, where a ring costs a search and Maglev a load: at the 3 to
//! 20 instances that most deployments have it is the cheapest, at 500 it is a microsecond.

use super::{Ask, Targets};
use crate::traffic::hash::mix;

impl Targets {
    pub(super) fn hashed(&self, ask: &Ask<'_>, usable: impl Fn(usize) -> bool) -> Option<usize> {
        let draw = |index: usize| mix(ask.key ^ self.seeds[index]);
        let candidates = (0..self.targets.len()).filter(|index| usable(*index));
        if self.sums.is_none() && ask.slow_start.is_none() {
            return candidates.max_by_key(|index| draw(*index));
        }
        // The times until a first event at the rates of the weights: the least is each one's with a
        // probability in proportion to its weight.
        let time = |index: usize| {
            let target = &self.targets[index];
            let rate = f64::from(target.weight) * f64::from(ask.ramp(target));
            minus_log2(draw(index)) / rate.max(1.0)
        };
        candidates
            .map(|index| (index, time(index)))
            .min_by(|(_, a), (_, b)| a.total_cmp(b))
            .map(|(index, _)| index)
    }
}

/// -log2 of a number as a fraction of 2^64. In plain arithmetic and not by the platform's `log2`, whose last
/// bits differ, so that all nodes choose alike.
#[allow(clippy::cast_precision_loss)]
fn minus_log2(number: u64) -> f64 {
    let number = number.max(1);
    let zeros = number.leading_zeros();
    // The number is 2^(63 - zeros) times this, which is from 1 to 2.
    let mantissa = (number << zeros) as f64 / (1u64 << 63) as f64;
    // log2(m) = 2/ln 2 * (y + y^3/3 + y^5/5 + ...) with y = (m - 1)/(m + 1); y is at most 1/3, so what is
    // left out is below 1e-6.
    let y = (mantissa - 1.0) / (mantissa + 1.0);
    let square = y * y;
    let series =
        y * (1.0 + square * (1.0 / 3.0 + square * (0.2 + square * (1.0 / 7.0 + square / 9.0))));
    1.0 + f64::from(zeros) - series * 2.0 * std::f64::consts::LOG2_E
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
                assert!(error < 1e-5, "{number}: {} {exact}", minus_log2(number));
            }
        }
        assert!(minus_log2(u64::MAX) >= 0.0 && minus_log2(0) <= 64.0);
    }
}
