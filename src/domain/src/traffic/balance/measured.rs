//! Balancing by what is measured: power of two choices, and least connections.

use super::{Ask, FULL, Targets};
use crate::traffic::hash::Dice;

/// A local target is taken unless another costs less by more than this part: what is measured is noisy, and each hop
/// saved is work saved on two nodes.
const LOCAL_MARGIN: u64 = 4;

impl Targets {
    /// Of two the cheaper one (Mitzenmacher, "The Power of Two Choices", 2001): nearly as even as looking at all,
    /// without all threads running to the same one.
    ///
    /// With equal weights the two are different, and one of them is local if any is. With different weights both are drawn
    /// by weight and may be the same, which gives a target of little weight little; local ones are preferred
    /// only between the two then, since otherwise a release here would get more than its share.
    pub(super) fn power_of_two(
        &self,
        ask: &Ask<'_>,
        usable: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let mut dice = Dice::new(ask.random);
        if self.sums.is_some() {
            let one = self.draw(ask, &mut dice, &usable)?;
            let other = self.draw(ask, &mut dice, &usable)?;
            return Some(self.cheaper(ask, one, other));
        }
        let one = match self.draw_local(ask, &mut dice, &usable) {
            Some(local) => local,
            None => self.draw(ask, &mut dice, &usable)?,
        };
        // Any but the first: its place is given to the last.
        let last = self.targets.len() - 1;
        let other = match dice.index(last) {
            index if index == one => last,
            index => index,
        };
        let other = match usable(other) {
            true => Some(other),
            false => self.from(other, |index| index != one && usable(index)),
        };
        match other {
            Some(other) if self.warm(ask, other, &mut dice) => Some(self.cheaper(ask, one, other)),
            _ => Some(one),
        }
    }

    fn draw_local(
        &self,
        ask: &Ask<'_>,
        dice: &mut Dice,
        usable: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let count = self.locals.len();
        if count == 0 {
            return None;
        }
        let index = self.locals[dice.index(count)];
        (usable(index) && self.warm(ask, index, dice)).then_some(index)
    }

    fn cheaper(&self, ask: &Ask<'_>, one: usize, other: usize) -> usize {
        let cost = |index: usize| self.targets[index].instance.load.cost(ask.now);
        let (a, b) = (cost(one), cost(other));
        let other_wins = match (self.targets[one].local, self.targets[other].local) {
            (true, false) => b.saturating_add(b / LOCAL_MARGIN) < a,
            (false, true) => b <= a.saturating_add(a / LOCAL_MARGIN),
            _ => b < a,
        };
        if other_wins { other } else { one }
    }

    /// The fewest requests under way for its weight; of equals a local one, and of these any.
    pub(super) fn least_connections(
        &self,
        ask: &Ask<'_>,
        usable: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let count = self.targets.len();
        let start = Dice::new(ask.random).index(count);
        let around = (start..count).chain(0..start);
        let busy = |index: usize| {
            let target = &self.targets[index];
            // One more than there are: of two without any the heavier is to be taken.
            let after = u128::from(target.instance.load.in_flight()) + 1;
            // Weights times shares fit into 48 bits: nothing that is counted is lost.
            let weight = u128::from(target.weight) * u128::from(ask.ramp(target));
            let full = u128::from(u32::MAX) * u128::from(FULL);
            (after * full / weight.max(1), !target.local)
        };
        around
            .filter(|index| usable(*index))
            .min_by_key(|index| busy(*index))
    }
}
