//! Which requests are evidence in a rollout: those of the release before and of the one on its way, from the rollout's
//! beginning to its end.

use std::collections::BTreeMap;

use super::figures::Pair;
use crate::ids::ReleaseNumber;
use crate::limits::Limit;
use crate::state::Deployment;

/// Rollouts of which a node counts requests, and tells the others, at the same time. What is beyond that goes by its
/// probes and by what other nodes count. One takes 1 KiB here and at most as much of gossip each second.
pub const TRIALS: Limit = Limit {
    name: "trials",
    max: 64,
};

/// Two releases between which requests are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trial {
    pub from: ReleaseNumber,
    pub to: ReleaseNumber,
    /// The rollout's among all: what nodes count and tell goes by it, and begins anew with each.
    pub number: u64,
}

/// Whose request it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Old,
    New,
}

/// What is counted of trials, by their numbers.
pub type Tally = BTreeMap<u64, Pair>;

impl Trial {
    /// Of a deployment whose release is on its way. `None` without one to go back to, for static sites, and where the two
    /// differ in their policy alone: then the same instances answer for both.
    pub fn of(deployment: &Deployment) -> Option<Trial> {
        let rollout = deployment.rollout.as_ref()?;
        let (from, to) = (deployment.fallback()?, deployment.current());
        let programs = !from.spec.is_static() && !to.spec.is_static();
        (programs && !from.runs_as(to)).then(|| {
            // All nodes have to come to the same number, also those of other versions. It is no secret, but a name that
            // shares its number with another's must not be easy to find.
            let mut hash = blake3::Hasher::new_derive_key("nebula 2026 a rollout's number");
            hash.update(&from.number.0.to_le_bytes());
            hash.update(&to.number.0.to_le_bytes());
            hash.update(&rollout.began_at.0.to_le_bytes());
            hash.update(deployment.name.as_str().as_bytes());
            let [a, b, c, d, e, f, g, h, ..] = *hash.finalize().as_bytes();
            Trial {
                from: from.number,
                to: to.number,
                number: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            }
        })
    }

    /// The release of an instance that runs what `runs` says of a release.
    pub(crate) fn side(&self, runs: impl Fn(ReleaseNumber) -> bool) -> Option<Side> {
        match (runs(self.to), runs(self.from)) {
            (true, _) => Some(Side::New),
            (false, true) => Some(Side::Old),
            (false, false) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;

    fn trial(sim: &Sim) -> Option<Trial> {
        Trial::of(&sim.state.deployments[&name("app")])
    }

    #[test]
    fn a_rollout_has_a_number_of_its_own() {
        let mut sim = Sim::new(3, 100);
        sim.create("app", service_spec(), 3);
        assert_eq!(trial(&sim), None, "nothing to go back to");
        sim.settle();
        sim.update("app", 2);
        let first = trial(&sim).unwrap();
        assert_eq!((first.from.0, first.to.0), (1, 2));
        let mut app = sim.state.deployments[&name("app")].clone();
        app.rollout.as_mut().unwrap().began_at.0 += 1;
        let again = Trial::of(&app).unwrap();
        assert_ne!(again.number, first.number);
        app.name = name("other");
        assert_ne!(Trial::of(&app).unwrap().number, again.number);
        sim.settle();
        assert_eq!(trial(&sim), None, "over");
    }

    #[test]
    fn the_number_stays_what_it_is() {
        // Nodes of two versions count together while one takes over from the other.
        let mut sim = Sim::new(1, 100);
        sim.create("app", service_spec(), 1);
        sim.settle();
        sim.update("app", 2);
        assert_eq!(trial(&sim).unwrap().number, 1_539_655_036_205_153_493);
    }

    #[test]
    fn sites_and_changes_of_policy_are_not_tried() {
        let mut sim = Sim::new(3, 100);
        sim.create("app", static_spec(), 1);
        sim.settle();
        sim.update("app", 2);
        assert_eq!(trial(&sim), None);
        let mut sim = Sim::new(3, 100);
        sim.create("app", service_spec(), 3);
        sim.settle();
        // The same artifact and program.
        sim.update("app", 1);
        assert_eq!(trial(&sim), None);
    }

    #[test]
    fn whoever_runs_as_both_is_of_the_newer() {
        let trial = Trial {
            from: ReleaseNumber(1),
            to: ReleaseNumber(2),
            number: 3,
        };
        assert_eq!(trial.side(|_| true), Some(Side::New));
        assert_eq!(trial.side(|release| release.0 == 1), Some(Side::Old));
        assert_eq!(trial.side(|release| release.0 == 3), None);
    }
}
