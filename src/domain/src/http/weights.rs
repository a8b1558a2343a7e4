//! Shares of the requests between releases. What is given to a release that nobody runs goes to the others.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::error::{HttpError, within};
use super::limits::{WEIGHT, WEIGHTS};
use crate::ids::ReleaseNumber;

/// Weights by release. Empty: all instances alike, whatever they run. Otherwise a release that is not named
/// gets nothing, unless no named one can answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Weights(pub BTreeMap<ReleaseNumber, u32>);

impl Weights {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn check(&self) -> Result<(), HttpError> {
        within("weights", WEIGHTS, "the number of weights", self.0.len())?;
        for (release, weight) in &self.0 {
            let field = format!("weights.{release}");
            within(&field, WEIGHT, "the weight", *weight as usize)?;
        }
        if !self.0.is_empty() && self.0.values().all(|weight| *weight == 0) {
            return Err(HttpError::new("weights", "no release has a weight above 0"));
        }
        Ok(())
    }

    /// The shares of those of these releases that have one. None: no difference is made.
    pub fn among(&self, releases: impl IntoIterator<Item = ReleaseNumber>) -> Shares {
        let mut end = 0;
        let mut ends = Vec::new();
        let mut releases: Vec<_> = releases.into_iter().collect();
        releases.sort_unstable();
        releases.dedup();
        for release in releases {
            let weight = self.0.get(&release).copied().unwrap_or(0);
            if weight > 0 {
                end += u64::from(weight);
                ends.push((release, end));
            }
        }
        Shares { ends }
    }
}

/// Shares that add up: each release has the part of a line from the one before it to its own end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shares {
    ends: Vec<(ReleaseNumber, u64)>,
}

impl Shares {
    /// No difference is made.
    pub fn is_none(&self) -> bool {
        self.ends.is_empty()
    }

    /// More than one release has one.
    pub fn is_divided(&self) -> bool {
        self.ends.len() > 1
    }

    pub fn has(&self, release: ReleaseNumber) -> bool {
        self.ends.iter().any(|(other, _)| *other == release)
    }

    /// The release for a random number, or for the hash of whatever is to stay with one release. As a newer
    /// release's weight grows at an older one's cost, those who have the newer one keep it.
    pub fn pick(&self, draw: u64) -> Option<ReleaseNumber> {
        let (_, total) = *self.ends.last()?;
        let point = (u128::from(draw) * u128::from(total)) >> 64;
        let found = self.ends.iter().find(|(_, end)| point < u128::from(*end));
        found.map(|(release, _)| *release)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn weights(of: &[(u32, u32)]) -> Weights {
        Weights(of.iter().map(|(r, w)| (ReleaseNumber(*r), *w)).collect())
    }

    fn shares(of: &[(u32, u32)]) -> Shares {
        weights(of).among(of.iter().map(|(r, _)| ReleaseNumber(*r)))
    }

    #[test]
    fn shares_follow_the_weights_of_those_who_are_there() {
        let both = shares(&[(1, 90), (2, 10)]);
        let step = u64::MAX / 1000;
        let second = (0..1000).filter(|i| both.pick(i * step) == Some(ReleaseNumber(2)));
        assert!((99..=101).contains(&second.count()));
        let weights = weights(&[(1, 90), (2, 10)]);
        let alone = weights.among([ReleaseNumber(2), ReleaseNumber(3)]);
        assert_eq!(alone.pick(0), Some(ReleaseNumber(2)));
        assert_eq!(alone.pick(u64::MAX), Some(ReleaseNumber(2)));
        assert_eq!(weights.among([ReleaseNumber(3)]).pick(5), None);
        assert_eq!(Weights::default().among([ReleaseNumber(1)]).pick(5), None);
    }

    #[test]
    fn weights_are_bounded() {
        assert!(weights(&[(1, 0)]).check().is_err());
        assert!(weights(&[(1, 10_001)]).check().is_err());
        assert!(weights(&[(1, 0), (2, 1)]).check().is_ok());
        let many: Vec<_> = (1..=11).map(|r| (r, 1)).collect();
        assert!(weights(&many).check().is_err());
    }

    proptest! {
        #[test]
        fn who_has_the_newer_release_keeps_it_while_it_grows(draw: u64, less in 0..=100u32, more in 0..=100u32) {
            let (less, more) = (less.min(more), less.max(more));
            let newer = |share| shares(&[(1, 100 - share), (2, share)]).pick(draw) == Some(ReleaseNumber(2));
            prop_assert!(!newer(less) || newer(more));
        }

        #[test]
        fn a_release_without_weight_is_never_picked(draw: u64, a in 0..10u32, b in 0..10u32) {
            let picked = shares(&[(1, a), (2, b)]).pick(draw);
            prop_assert_eq!(picked.is_some(), a + b > 0);
            if let Some(ReleaseNumber(release)) = picked {
                prop_assert!([a, b][release as usize - 1] > 0);
            }
        }
    }
}
