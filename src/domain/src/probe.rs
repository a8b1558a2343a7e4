//! What a run of probe results says about an instance's health, and when to probe next. This file has the readiness
//! probe's rule; [`Trio`] is the three together.
//!
//! Failures while an instance starts are expected and change nothing until the first success: the
//! instance is not ready then anyway, and a slow start must not look like an illness. It does turn
//! [`Health::Unhealthy`] after [`START_FAILURES`] so that an operator sees that it does not come up.

mod trio;

use std::time::Duration;

use crate::observed::Health;
use crate::spec::ProbeSpec;

pub use trio::{Standing, TOLD_FAILURES, Tally, Trio, Verdict};

/// Between probes until the first success: how soon a started instance takes requests depends on it.
pub const STARTING_PERIOD: Duration = Duration::from_millis(200);
/// Failed probes before a start that never succeeded counts as unhealthy: 10 s of probing at [`STARTING_PERIOD`], longer
/// than most programs need and shorter than a person's patience. One that hung stands for as many as fit into its time.
pub const START_FAILURES: u32 = 50;

/// Where the probes of one run of an instance stand. A new run begins with the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeState {
    health: Health,
    /// A probe of this run has succeeded.
    started: bool,
    /// Results in a row of the kind that speaks against `health`.
    streak: u32,
}

impl Default for ProbeState {
    fn default() -> Self {
        ProbeState {
            health: Health::Unknown,
            started: false,
            streak: 0,
        }
    }
}

/// The result of one probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Success,
    Failure,
    /// No answer within the timeout: a failure, too.
    Hung,
}

impl Event {
    pub fn is_failure(self) -> bool {
        self != Event::Success
    }

    /// Questions of a start that it stands for.
    fn weight(self, spec: &ProbeSpec) -> u32 {
        let turn = STARTING_PERIOD.as_millis();
        match self {
            Event::Success | Event::Failure => 1,
            Event::Hung => u32::try_from(spec.timeout.as_millis() / turn + 1).unwrap_or(u32::MAX),
        }
    }
}

impl ProbeState {
    pub fn health(&self) -> Health {
        self.health
    }

    /// From the end of one probe to the beginning of the next.
    pub fn next_delay(&self, spec: &ProbeSpec) -> Duration {
        if self.started {
            spec.period
        } else {
            STARTING_PERIOD.min(spec.period)
        }
    }
}

/// Takes one result in. Returns the new health when it changed.
pub fn step(state: ProbeState, spec: &ProbeSpec, event: Event) -> (ProbeState, Option<Health>) {
    let mut weight = 1;
    let (against, threshold, turned) = match (state.health, event.is_failure()) {
        // A settled instance that goes on as it is.
        (Health::Healthy, false) | (Health::Unhealthy, true) => (false, 0, state.health),
        (Health::Healthy, true) => (true, spec.failure_threshold, Health::Unhealthy),
        // The first success of a run is enough: thresholds damp flapping, and nothing flapped yet.
        (_, false) if !state.started => (true, 1, Health::Healthy),
        (_, false) => (true, spec.success_threshold, Health::Healthy),
        (Health::Unknown, true) => {
            weight = event.weight(spec);
            (true, START_FAILURES, Health::Unhealthy)
        }
    };
    let mut next = ProbeState {
        started: state.started || !event.is_failure(),
        streak: if against {
            state.streak.saturating_add(weight)
        } else {
            0
        },
        ..state
    };
    // A threshold of zero means the same as one.
    if !against || next.streak < threshold.max(1) {
        return (next, None);
    }
    next.health = turned;
    next.streak = 0;
    (next, Some(turned))
}

#[cfg(test)]
mod tests {
    use super::*;
    use Event::{Failure, Success};

    fn spec() -> ProbeSpec {
        ProbeSpec {
            failure_threshold: 3,
            success_threshold: 2,
            ..ProbeSpec::default()
        }
    }

    /// Every change of health, with the number of the event that made it.
    fn changes(events: impl IntoIterator<Item = Event>) -> Vec<(usize, Health)> {
        let mut state = ProbeState::default();
        let mut seen = Vec::new();
        for (n, event) in events.into_iter().enumerate() {
            let (next, change) = step(state, &spec(), event);
            state = next;
            if let Some(health) = change {
                assert_eq!(health, state.health());
                seen.push((n, health));
            }
        }
        seen
    }

    #[test]
    fn the_first_success_makes_it_healthy() {
        assert_eq!(
            changes([Failure, Failure, Failure, Failure, Success, Success]),
            [(4, Health::Healthy)]
        );
    }

    #[test]
    fn only_failures_in_a_row_make_it_unhealthy() {
        assert_eq!(
            changes([
                Success, Failure, Failure, Success, Failure, Failure, Failure
            ]),
            [(0, Health::Healthy), (6, Health::Unhealthy)]
        );
    }

    #[test]
    fn it_recovers_after_enough_successes_in_a_row() {
        let fall = [Success, Failure, Failure, Failure];
        let rise = [Success, Failure, Success, Success, Success];
        assert_eq!(
            changes(fall.into_iter().chain(rise)),
            [
                (0, Health::Healthy),
                (3, Health::Unhealthy),
                (7, Health::Healthy)
            ]
        );
    }

    #[test]
    fn a_start_that_hangs_shows_as_soon_as_one_that_fails() {
        let turns =
            u32::try_from(spec().timeout.as_millis() / STARTING_PERIOD.as_millis()).unwrap();
        let enough = START_FAILURES.div_ceil(turns + 1) as usize;
        let hung = vec![Event::Hung; enough * 2];
        assert_eq!(changes(hung), [(enough - 1, Health::Unhealthy)]);
        // Later a failure is a failure.
        let later = [Success, Event::Hung, Event::Hung, Failure];
        assert_eq!(
            changes(later),
            [(0, Health::Healthy), (3, Health::Unhealthy)]
        );
    }

    #[test]
    fn a_start_that_never_succeeds_shows() {
        let never = vec![Failure; START_FAILURES as usize * 2];
        assert_eq!(
            changes(never),
            [(START_FAILURES as usize - 1, Health::Unhealthy)]
        );
        let late = std::iter::repeat_n(Failure, START_FAILURES as usize).chain([Success]);
        assert_eq!(
            changes(late).last(),
            Some(&(START_FAILURES as usize, Health::Healthy))
        );
    }

    #[test]
    fn probes_often_until_the_first_success() {
        let fresh = ProbeState::default();
        assert_eq!(fresh.next_delay(&spec()), STARTING_PERIOD);
        let (failing, _) = step(fresh, &spec(), Failure);
        assert_eq!(failing.next_delay(&spec()), STARTING_PERIOD);
        let (settled, _) = step(failing, &spec(), Success);
        assert_eq!(settled.next_delay(&spec()), spec().period);
        let eager = ProbeSpec {
            period: Duration::from_millis(50),
            ..spec()
        };
        assert_eq!(fresh.next_delay(&eager), eager.period);
    }

    #[test]
    fn zero_thresholds_mean_one() {
        let spec = ProbeSpec {
            failure_threshold: 0,
            success_threshold: 0,
            ..ProbeSpec::default()
        };
        let (state, change) = step(ProbeState::default(), &spec, Success);
        assert_eq!(change, Some(Health::Healthy));
        assert_eq!(step(state, &spec, Failure).1, Some(Health::Unhealthy));
    }
}
