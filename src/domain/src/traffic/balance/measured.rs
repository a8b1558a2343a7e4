//! Balancing by what is measured: power of two choices, and least connections.

use super::Draw;
use crate::traffic::hash::Dice;

/// A local target is taken unless another costs less by more than this part: what is measured is noisy, and each hop
/// saved is work saved on two nodes.
const LOCAL_MARGIN: u64 = 4;
/// At so many targets least connections looks; the best of so many taken from a random place on is nearly the best of
/// all, and a look at 500 would cost more than it gains.
const LOOKS: usize = 64;

impl<U: Fn(usize) -> bool> Draw<'_, U> {
    /// Of two the cheaper one (Mitzenmacher, "The Power of Two Choices", 2001): nearly as even as looking at all,
    /// without all threads running to the same one.
    ///
    /// With equal weights the two are different, and one of them is local if any is. With different weights both are drawn
    /// by weight and may be the same, which gives a target of little weight little; local ones are preferred
    /// only between the two then, since otherwise a release here would get more than its share.
    pub(super) fn power_of_two(&self, mut dice: Dice) -> Option<usize> {
        if self.targets.sums.is_some() {
            let one = self.any(&mut dice)?;
            let other = self.any(&mut dice)?;
            return Some(self.cheaper(one, other));
        }
        let one = match self.any_local(&mut dice) {
            Some(local) => local,
            None => self.any(&mut dice)?,
        };
        // Any but the first: its place is given to the last.
        let last = self.targets.targets.len() - 1;
        let other = match dice.index(last) {
            index if index == one => last,
            index => index,
        };
        let other = match (self.usable)(other) {
            true => Some(other),
            false => self
                .around(&mut dice)
                .find(|index| *index != one && (self.usable)(*index)),
        };
        match other {
            Some(other) if self.is_warm(other, &mut dice) => Some(self.cheaper(one, other)),
            _ => Some(one),
        }
    }

    fn any_local(&self, dice: &mut Dice) -> Option<usize> {
        let locals = &self.targets.locals;
        let index = *locals.get(dice.index(locals.len()))?;
        ((self.usable)(index) && self.is_warm(index, dice)).then_some(index)
    }

    fn cheaper(&self, one: usize, other: usize) -> usize {
        let targets = &self.targets.targets;
        let cost = |index: usize| targets[index].instance.load.cost(self.now);
        let (a, b) = (cost(one), cost(other));
        let other_wins = match (targets[one].local, targets[other].local) {
            (true, false) => b.saturating_add(b / LOCAL_MARGIN) < a,
            (false, true) => b <= a.saturating_add(a / LOCAL_MARGIN),
            _ => b < a,
        };
        if other_wins { other } else { one }
    }

    /// The fewest requests under way for its weight; of equals a local one, and of these any.
    pub(super) fn least_connections(&self, mut dice: Dice) -> Option<usize> {
        if self.targets.sums.is_none() && self.ramp.is_none() {
            return self.least_of_some(&mut dice, |index| u64::from(self.under_way(index)) << 1);
        }
        let busy = |index: usize| {
            let weight = self.targets.targets[index].weight;
            let weight = f64::from(weight) * f64::from(self.share(index));
            // One more than there are: of two without any the heavier is to be taken. It is not negative: its
            // bits are in the order of its values.
            let busy = (f64::from(self.under_way(index)) + 1.0) / weight;
            busy.to_bits() & !1
        };
        self.least_of_some(&mut dice, busy)
    }

    fn under_way(&self, index: usize) -> u32 {
        self.targets.targets[index].instance.load.in_flight()
    }

    /// The usable target of the least value, an even number, among [`LOOKS`] of them. Whether it is usable is asked
    /// only of one that is better than those before.
    fn least_of_some(&self, dice: &mut Dice, value: impl Fn(usize) -> u64) -> Option<usize> {
        let count = self.targets.targets.len();
        let mut index = dice.index(count);
        let mut least: Option<(u64, usize)> = None;
        for _ in 0..count.min(LOOKS) {
            let value = value(index) | u64::from(!self.targets.targets[index].local);
            if least.is_none_or(|(least, _)| value < least) && (self.usable)(index) {
                least = Some((value, index));
            }
            index += 1;
            if index == count {
                index = 0;
            }
        }
        match least {
            Some((_, index)) => Some(index),
            None => self.any(dice),
        }
    }
}
