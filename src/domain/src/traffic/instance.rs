//! What a node's proxy knows of one instance beyond the route table. Shared by all threads (atomics; a lock only while
//! its breaker is not closed).
//!
//! It is made when the instance first appears in a table and lives as long as it is in one, across tables: an instance
//! that was not ready for a while begins anew, with a slow start. After a restart of the proxy all are new, and equal.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::breaker::{Admission, Breaker, BreakerPolicy, BreakerState, Entry};
use super::ejection::{Ejected, EjectionPolicy, Outlier, Standing};
use super::load::Load;
use super::{Nanos, nanos};

#[derive(Debug, Default)]
pub struct Instance {
    pub load: Load,
    pub outlier: Outlier,
    pub breaker: Breaker,
    /// Since when it takes requests.
    pub ready_since: Nanos,
    /// When the first of the requests began that others have answered in its place since it last answered itself; 0: there is none.
    unheard_since: AtomicU64,
}

/// What a deployment says about its instances' health. `None`: off.
#[derive(Debug, Clone, Copy)]
pub struct HealthPolicy<'a> {
    pub ejection: Option<&'a EjectionPolicy>,
    pub breaker: Option<&'a BreakerPolicy>,
    /// Requests under way at one instance: [`super::shed::Capacity::per_instance`].
    pub per_instance: u32,
}

/// A request's place at an instance.
#[derive(Debug, Clone, Copy)]
#[must_use]
pub struct Place {
    began: Nanos,
    /// It decides whether the instance is well again.
    probe: bool,
    admission: Option<Admission>,
}

impl Place {
    /// With it the instance's breaker became half-open.
    pub fn is_first_probe(&self) -> bool {
        matches!(self.admission, Some(Admission::Probe { first: true, .. }))
    }
}

/// What was heard of a request. Ejection goes by requests that got no answer (nginx's "error" and "timeout"), a breaker
/// by errors too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// The head of a response, whatever it says of the request.
    Answer,
    /// The head of a response that says that the instance cannot: 500, 502, 503, 504.
    Error,
    /// It could not be reached, the connection ended, or the time was over.
    Nothing,
    /// The client left before: that says nothing of the instance.
    Unknown,
    /// Another instance was asked the same later and answered first. It is at least so slow, and has not failed, unless it has not
    /// answered anything for so long ([`super::retry::Hedge::unheard_max`]): then it hangs, and this is as good as no answer.
    Outpaced { unheard_max: Duration },
}

/// What changed by it, for the figures and the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changed {
    pub ejected: Option<Ejected>,
    pub breaker: Option<BreakerState>,
}

impl Instance {
    pub fn new(ready_since: Nanos) -> Instance {
        Instance {
            ready_since,
            ..Instance::default()
        }
    }

    /// Whether the instance may be chosen now; [`Instance::begin`] then decides.
    pub fn may_begin(&self, health: &HealthPolicy<'_>, now: Nanos) -> bool {
        self.load.in_flight() < health.per_instance
            && (health.ejection.is_none() || self.outlier.standing(now) != Standing::Ejected)
            && (health.breaker.is_none() || self.breaker.may_enter(now))
    }

    /// Takes a place for one request. `None`: another thread was quicker, choose again. What began is told once of by
    /// [`Instance::heard`] and ends with [`Instance::end`].
    pub fn begin(&self, health: &HealthPolicy<'_>, now: Nanos) -> Option<Place> {
        self.enter(health, now, false)
    }

    /// As [`Instance::begin`] for a request that has nowhere else to go: only the number of requests holds it back.
    pub fn begin_anyway(&self, health: &HealthPolicy<'_>, now: Nanos) -> Option<Place> {
        self.enter(health, now, true)
    }

    fn enter(&self, health: &HealthPolicy<'_>, now: Nanos, anyway: bool) -> Option<Place> {
        if !self.load.begin(health.per_instance) {
            return None;
        }
        let standing = health
            .ejection
            .map(|policy| (policy, self.outlier.standing(now)));
        let probe = match standing {
            Some((policy, Standing::OnProbation)) => self.outlier.probe(policy, now),
            _ => false,
        };
        let left_out = matches!(
            standing,
            Some((_, Standing::Ejected | Standing::OnProbation))
        );
        let admission = match health.breaker.map(|policy| self.breaker.enter(policy, now)) {
            Some(Entry::Admitted(admission)) => Some(admission),
            Some(Entry::Refused) | None => None,
        };
        let refused = health.breaker.is_some() && admission.is_none();
        let place = Place {
            began: now,
            probe,
            admission,
        };
        if !anyway && (refused || (left_out && !probe)) {
            self.give_back(&place, now);
            self.load.end();
            return None;
        }
        Some(place)
    }

    /// The head of the response came, or none will. `all` are the instances of the deployment's endpoints, this one
    /// among them.
    pub fn heard<'a>(
        &'a self,
        health: &HealthPolicy<'_>,
        place: &Place,
        heard: Heard,
        all: impl IntoIterator<Item = &'a Instance>,
        now: Nanos,
    ) -> Changed {
        let taken = Duration::from_nanos(now.saturating_sub(place.began));
        let heard = match heard {
            Heard::Outpaced { unheard_max } if self.outpaced(place, unheard_max, now) => {
                Heard::Nothing
            }
            heard => heard,
        };
        if matches!(heard, Heard::Unknown | Heard::Outpaced { .. }) {
            if heard != Heard::Unknown {
                self.load.observe(taken, false, now);
            }
            self.give_back(place, now);
            return Changed::default();
        }
        if heard != Heard::Nothing && self.unheard_since.load(Ordering::Relaxed) != 0 {
            self.unheard_since.store(0, Ordering::Relaxed);
        }
        let good = heard == Heard::Answer;
        self.load.observe(taken, !good, now);
        let breaker = health.breaker.zip(place.admission);
        let breaker = breaker
            .and_then(|(policy, admission)| self.breaker.ended(policy, admission, good, now));
        let answered = heard != Heard::Nothing;
        let ejected = match (health.ejection, place.probe) {
            (Some(policy), true) => {
                self.outlier.probed(policy, answered, now);
                None
            }
            (Some(policy), false) if !answered => {
                let all = all.into_iter().map(|instance| &instance.outlier);
                self.outlier.failed(policy, all, now)
            }
            _ => None,
        };
        Changed { ejected, breaker }
    }

    /// Another one was quicker; whether nothing has been heard of this one for so long.
    fn outpaced(&self, place: &Place, unheard_max: Duration, now: Nanos) -> bool {
        let began = place.began.max(1);
        // Relaxed: of several threads any may be the first, and an answer that comes at the same time counts with the next.
        let before =
            self.unheard_since
                .compare_exchange(0, began, Ordering::Relaxed, Ordering::Relaxed);
        let since = before.err().unwrap_or(began);
        now.saturating_sub(since) >= nanos(unheard_max)
    }

    /// The response is over, to its last byte or not, or there was none.
    pub fn end(&self) {
        self.load.end();
    }

    /// A place that was not used to find anything out.
    fn give_back(&self, place: &Place, now: Nanos) {
        if place.probe {
            self.outlier.not_probed(now);
        }
        if let Some(admission) = place.admission {
            self.breaker.not_used(admission, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Nanos = 1_000_000_000;

    struct Policies(EjectionPolicy, BreakerPolicy);

    impl Policies {
        fn new() -> Self {
            let ejection = "max_fails=1 fail_timeout=10s".parse().unwrap();
            let breaker = "min_requests=1 open=5s probes=1".parse().unwrap();
            Policies(ejection, breaker)
        }

        fn ejection(&self) -> HealthPolicy<'_> {
            HealthPolicy {
                ejection: Some(&self.0),
                breaker: None,
                per_instance: 2,
            }
        }

        fn breaker(&self) -> HealthPolicy<'_> {
            HealthPolicy {
                ejection: None,
                breaker: Some(&self.1),
                per_instance: 2,
            }
        }
    }

    fn one(all: &[Instance], health: &HealthPolicy<'_>, heard: Heard, now: Nanos) -> Changed {
        let place = all[0].begin(health, now).unwrap();
        let changed = all[0].heard(health, &place, heard, all, now);
        all[0].end();
        changed
    }

    fn two() -> [Instance; 2] {
        [Instance::new(0), Instance::new(0)]
    }

    #[test]
    fn an_instance_has_so_many_places() {
        let (policies, instance) = (Policies::new(), Instance::new(0));
        let health = policies.ejection();
        let places = [0; 3].map(|_| instance.begin(&health, 0));
        assert!(places[1].is_some() && places[2].is_none());
        assert!(!instance.may_begin(&health, 0));
        assert!(instance.begin_anyway(&health, 0).is_none());
        instance.end();
        assert!(instance.may_begin(&health, 0));
    }

    #[test]
    fn no_answer_ejects_and_an_error_does_not() {
        let (policies, all) = (Policies::new(), two());
        let health = policies.ejection();
        assert_eq!(one(&all, &health, Heard::Error, 0), Changed::default());
        let changed = one(&all, &health, Heard::Nothing, 0);
        assert_eq!(changed.ejected, Some(Ejected::Now));
        assert!(!all[0].may_begin(&health, 0) && all[0].begin(&health, 0).is_none());
        assert_eq!(all[0].load.in_flight(), 0, "what is refused has no place");
        let last_resort = all[0].begin_anyway(&health, 0);
        assert!(last_resort.is_some());
    }

    #[test]
    fn a_probe_whose_client_left_is_for_another() {
        let (policies, all) = (Policies::new(), two());
        let health = policies.ejection();
        one(&all, &health, Heard::Nothing, 0);
        let probe = all[0].begin(&health, 10 * SECOND).unwrap();
        assert!(all[0].begin(&health, 10 * SECOND).is_none());
        let _ = all[0].heard(&health, &probe, Heard::Unknown, &all, 11 * SECOND);
        all[0].end();
        assert_eq!(
            one(&all, &health, Heard::Answer, 11 * SECOND),
            Changed::default()
        );
        assert_eq!(all[0].outlier.standing(11 * SECOND), Standing::Well);

        let health = policies.breaker();
        let opened = one(&all, &health, Heard::Error, 20 * SECOND);
        assert_eq!(opened.breaker, Some(BreakerState::Open));
        let probe = all[0].begin(&health, 25 * SECOND).unwrap();
        assert!(all[0].begin(&health, 25 * SECOND).is_none());
        let _ = all[0].heard(&health, &probe, Heard::Unknown, &all, 26 * SECOND);
        all[0].end();
        let closed = one(&all, &health, Heard::Answer, 26 * SECOND);
        assert_eq!(closed.breaker, Some(BreakerState::Closed));
        assert_eq!(all[0].load.in_flight(), 0);
    }

    const OUTPACED: Heard = Heard::Outpaced {
        unheard_max: Duration::from_secs(2),
    };

    #[test]
    fn who_is_outpaced_now_and_then_is_slow_and_who_never_answers_hangs() {
        let (policies, all) = (Policies::new(), two());
        let health = policies.ejection();
        for second in [1, 2] {
            assert_eq!(one(&all, &health, OUTPACED, second * SECOND).ejected, None);
        }
        // It has answered, if only that it cannot.
        one(&all, &health, Heard::Error, 2 * SECOND);
        for second in [100, 101] {
            assert_eq!(one(&all, &health, OUTPACED, second * SECOND).ejected, None);
        }
        let hangs = one(&all, &health, OUTPACED, 102 * SECOND);
        assert_eq!(hangs.ejected, Some(Ejected::Now));
        // What finds out whether it is well again finds that it still hangs.
        assert_eq!(one(&all, &health, OUTPACED, 112 * SECOND).ejected, None);
        assert_eq!(all[0].outlier.standing(113 * SECOND), Standing::Ejected);
        one(&all, &health, Heard::Answer, 122 * SECOND);
        assert_eq!(all[0].outlier.standing(122 * SECOND), Standing::Well);
        assert_eq!(one(&all, &health, OUTPACED, 123 * SECOND).ejected, None);
    }

    #[test]
    fn a_single_request_that_is_outpaced_late_enough_is_no_answer() {
        let (policies, all) = (Policies::new(), two());
        let health = policies.breaker();
        let place = all[0].begin(&health, SECOND).unwrap();
        let late = all[0].heard(&health, &place, OUTPACED, &all, 3 * SECOND);
        assert_eq!(late.breaker, Some(BreakerState::Open));
        all[0].end();
    }

    #[test]
    fn with_both_a_refusal_of_one_gives_back_the_others_probe() {
        let (policies, all) = (Policies::new(), two());
        let health = HealthPolicy {
            ejection: Some(&policies.0),
            ..policies.breaker()
        };
        let changed = one(&all, &health, Heard::Nothing, 0);
        assert_eq!(changed.ejected, Some(Ejected::Now));
        assert_eq!(changed.breaker, Some(BreakerState::Open));
        // The breaker would let a probe in, the ejection lasts.
        assert!(all[0].begin(&health, 6 * SECOND).is_none());
        // Both would, and one request is the probe of both.
        assert!(all[0].may_begin(&health, 10 * SECOND));
        let changed = one(&all, &health, Heard::Answer, 10 * SECOND);
        assert_eq!(changed.breaker, Some(BreakerState::Closed));
        assert_eq!(all[0].outlier.standing(10 * SECOND), Standing::Well);
    }
}
