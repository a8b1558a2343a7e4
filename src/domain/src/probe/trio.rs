//! The three probes of one run together: which of them is asked, and what follows from a result.
//!
//! Until the startup probe has succeeded neither other is asked. A startup or liveness probe that has failed often
//! enough gives the run up, once; after that nothing counts, because the run is about to be ended.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Event, ProbeState, step};
use crate::observed::Health;
use crate::spec::{ProbeRole, ProbeSpec, Probes};

/// Failures in a row, before a first success, from which on they are worth telling: every start meets a few.
pub const TOLD_FAILURES: u32 = 5;

/// Where the probes of one run stand. A new run begins with a new one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trio {
    started: bool,
    given_up: Option<ProbeRole>,
    readiness: ProbeState,
    tallies: [Tally; 3],
}

/// The results of one probe, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// The latest.
    pub last: Option<Event>,
    /// Results in a row that were like it.
    pub streak: u32,
    /// It has succeeded in this run.
    succeeded: bool,
}

impl Tally {
    fn add(&mut self, event: Event) {
        let alike = self.last.map(Event::is_failure) == Some(event.is_failure());
        self.streak = match alike {
            true => self.streak.saturating_add(1),
            false => 1,
        };
        self.last = Some(event);
        self.succeeded |= event == Event::Success;
    }

    fn failures(&self) -> u32 {
        match self.last {
            Some(event) if event.is_failure() => self.streak,
            _ => 0,
        }
    }
}

/// What one result changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The startup probe has succeeded: the others begin.
    Started,
    Health(Health),
    /// The run is to be ended and the program started again.
    GiveUp,
}

/// How one probe stands, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// Not asked before the startup probe has succeeded.
    Waiting,
    /// Nothing is settled yet.
    Pending,
    Passing,
    Failing,
}

impl Standing {
    pub fn as_str(self) -> &'static str {
        match self {
            Standing::Waiting => "waiting",
            Standing::Pending => "pending",
            Standing::Passing => "passing",
            Standing::Failing => "failing",
        }
    }
}

impl Trio {
    pub fn new(probes: &Probes) -> Trio {
        Trio {
            started: probes.startup.is_none(),
            given_up: None,
            readiness: ProbeState::default(),
            tallies: [Tally::default(); 3],
        }
    }

    /// Whether this probe is asked now.
    pub fn asks(&self, probes: &Probes, role: ProbeRole) -> bool {
        let turn = match role {
            ProbeRole::Startup => !self.started,
            ProbeRole::Readiness | ProbeRole::Liveness => self.started,
        };
        turn && self.given_up.is_none() && probes.get(role).is_some()
    }

    /// Takes one result in. What comes of a probe that is no longer asked says nothing.
    pub fn take(&mut self, probes: &Probes, role: ProbeRole, event: Event) -> Option<Verdict> {
        let spec = probes.get(role).filter(|_| self.asks(probes, role))?;
        let tally = &mut self.tallies[index(role)];
        tally.add(event);
        let over = tally.failures() >= spec.failure_threshold.max(1);
        match role {
            ProbeRole::Readiness => {
                let (next, health) = step(self.readiness, spec, event);
                self.readiness = next;
                health.map(Verdict::Health)
            }
            ProbeRole::Startup if event == Event::Success => {
                self.started = true;
                Some(Verdict::Started)
            }
            ProbeRole::Startup | ProbeRole::Liveness if over => {
                self.given_up = Some(role);
                Some(Verdict::GiveUp)
            }
            ProbeRole::Startup | ProbeRole::Liveness => None,
        }
    }

    /// A run that was given up takes no more requests, whatever it said of its readiness.
    pub fn health(&self) -> Health {
        match self.given_up {
            Some(_) => Health::Unhealthy,
            None => self.readiness.health(),
        }
    }

    /// The probe that stands in the way of being ready, when that has lasted long enough to be told.
    pub fn complains(&self) -> Option<ProbeRole> {
        if self.given_up.is_some() || self.health() == Health::Healthy {
            return self.given_up;
        }
        let role = match self.started {
            true => ProbeRole::Readiness,
            false => ProbeRole::Startup,
        };
        let lasting = self.tally(role).failures() >= TOLD_FAILURES;
        (lasting || self.health() == Health::Unhealthy).then_some(role)
    }

    pub fn tally(&self, role: ProbeRole) -> Tally {
        self.tallies[index(role)]
    }

    pub fn standing(&self, role: ProbeRole) -> Standing {
        if self.given_up == Some(role) {
            return Standing::Failing;
        }
        match role {
            ProbeRole::Startup if self.started => Standing::Passing,
            ProbeRole::Startup => Standing::Pending,
            _ if !self.started => Standing::Waiting,
            ProbeRole::Readiness => match self.readiness.health() {
                Health::Unknown => Standing::Pending,
                Health::Healthy => Standing::Passing,
                Health::Unhealthy => Standing::Failing,
            },
            ProbeRole::Liveness if self.tally(role).succeeded => Standing::Passing,
            ProbeRole::Liveness => Standing::Pending,
        }
    }

    /// From the end of one probe to the beginning of the next.
    pub fn next_delay(&self, role: ProbeRole, spec: &ProbeSpec) -> Duration {
        match role {
            ProbeRole::Readiness => self.readiness.next_delay(spec),
            ProbeRole::Startup | ProbeRole::Liveness => spec.period,
        }
    }
}

fn index(role: ProbeRole) -> usize {
    match role {
        ProbeRole::Startup => 0,
        ProbeRole::Readiness => 1,
        ProbeRole::Liveness => 2,
    }
}

#[cfg(test)]
mod tests {
    use Event::{Failure, Success};
    use ProbeRole::{Liveness, Readiness, Startup};
    use proptest::prelude::*;

    use super::*;

    fn probes(startup: Option<u32>, liveness: Option<u32>) -> Probes {
        let of = |role, failure_threshold| ProbeSpec {
            failure_threshold,
            ..ProbeSpec::of(role)
        };
        Probes {
            startup: startup.map(|n| of(Startup, n)),
            readiness: ProbeSpec::default(),
            liveness: liveness.map(|n| of(Liveness, n)),
        }
    }

    #[test]
    fn neither_other_counts_until_the_startup_probe_has_succeeded() {
        let probes = probes(Some(30), Some(1));
        let mut trio = Trio::new(&probes);
        assert_eq!(trio.take(&probes, Readiness, Success), None);
        assert_eq!(trio.take(&probes, Liveness, Failure), None);
        assert_eq!(
            (trio.health(), trio.standing(Readiness)),
            (Health::Unknown, Standing::Waiting)
        );
        assert_eq!(trio.take(&probes, Startup, Failure), None);
        assert_eq!(trio.take(&probes, Startup, Success), Some(Verdict::Started));
        assert!(!trio.asks(&probes, Startup));
        assert_eq!(
            trio.take(&probes, Readiness, Success),
            Some(Verdict::Health(Health::Healthy))
        );
        assert_eq!(trio.standing(Liveness), Standing::Pending);
        assert_eq!(trio.take(&probes, Liveness, Failure), Some(Verdict::GiveUp));
        assert_eq!(trio.health(), Health::Unhealthy);
        assert_eq!(trio.complains(), Some(Liveness));
    }

    #[test]
    fn a_start_that_fails_is_told_and_then_given_up() {
        let probes = probes(Some(TOLD_FAILURES + 1), None);
        let mut trio = Trio::new(&probes);
        for _ in 1..TOLD_FAILURES {
            trio.take(&probes, Startup, Failure);
            assert_eq!(trio.complains(), None);
        }
        trio.take(&probes, Startup, Failure);
        assert_eq!(trio.complains(), Some(Startup));
        assert_eq!(trio.take(&probes, Startup, Failure), Some(Verdict::GiveUp));
        assert_eq!(trio.take(&probes, Startup, Success), None, "too late");
        assert_eq!(trio.standing(Startup), Standing::Failing);
    }

    fn roles() -> impl Strategy<Value = ProbeRole> {
        prop_oneof![Just(Startup), Just(Readiness), Just(Liveness)]
    }

    proptest! {
        /// Against a plain reading of the rules: count failures in a row by hand.
        #[test]
        fn a_run_is_given_up_exactly_when_the_rules_say(
            startup in proptest::option::of(1_u32..5),
            liveness in proptest::option::of(1_u32..5),
            results in proptest::collection::vec((roles(), any::<bool>()), 0..200),
        ) {
            let probes = probes(startup, liveness);
            let mut trio = Trio::new(&probes);
            let (mut started, mut given_up, mut row) = (startup.is_none(), false, [0_u32; 2]);
            for (role, good) in results {
                let event = if good { Success } else { Failure };
                let verdict = trio.take(&probes, role, event);
                let (threshold, row) = match role {
                    Startup => (startup.filter(|_| !started), &mut row[0]),
                    Liveness => (liveness.filter(|_| started), &mut row[1]),
                    Readiness => (None, &mut row[0]),
                };
                let mut expected = false;
                if let Some(threshold) = threshold.filter(|_| !given_up) {
                    *row = if good { 0 } else { *row + 1 };
                    expected = *row >= threshold;
                    given_up |= expected;
                    started |= role == Startup && good;
                }
                prop_assert_eq!(verdict == Some(Verdict::GiveUp), expected);
                if given_up || !started {
                    prop_assert_ne!(trio.health(), Health::Healthy);
                }
                if !started {
                    prop_assert_eq!(trio.health() == Health::Unhealthy, given_up);
                }
                if trio.health() == Health::Healthy {
                    prop_assert_eq!(trio.complains(), None);
                }
            }
        }

        /// Without the two new probes, readiness is what it always was.
        #[test]
        fn readiness_alone_is_its_own_machine(results in proptest::collection::vec(any::<bool>(), 0..200)) {
            let probes = Probes::default();
            let (mut trio, mut alone) = (Trio::new(&probes), ProbeState::default());
            for good in results {
                let event = if good { Success } else { Failure };
                let (next, health) = step(alone, &probes.readiness, event);
                alone = next;
                prop_assert_eq!(trio.take(&probes, Readiness, event), health.map(Verdict::Health));
                prop_assert_eq!(trio.health(), alone.health());
            }
        }
    }
}
