//! The breaker through its states, and what holds in all of them.

use proptest::prelude::*;

use super::*;

const SECOND: Nanos = 1_000_000_000;

fn policy() -> BreakerPolicy {
    "failures=50% window=10s min_requests=10 open=5s probes=3"
        .parse()
        .unwrap()
}

fn normal(breaker: &Breaker, succeeded: bool, now: Nanos) -> Option<BreakerState> {
    assert_eq!(
        breaker.enter(&policy(), now),
        Entry::Admitted(Admission::Normal)
    );
    breaker.ended(&policy(), Admission::Normal, succeeded, now)
}

/// Opened at `now` by ten failures.
fn opened(now: Nanos) -> Breaker {
    let breaker = Breaker::default();
    let changes: Vec<_> = (0..10).map(|_| normal(&breaker, false, now)).collect();
    assert_eq!(changes.last(), Some(&Some(BreakerState::Open)));
    breaker
}

#[track_caller]
fn probe(breaker: &Breaker, now: Nanos) -> Admission {
    match breaker.enter(&policy(), now) {
        Entry::Admitted(probe @ Admission::Probe { .. }) => probe,
        other => panic!("{other:?}"),
    }
}

#[test]
fn opens_at_its_share_of_enough_requests() {
    let breaker = Breaker::default();
    for _ in 0..9 {
        assert_eq!(normal(&breaker, false, 0), None, "too few to judge");
    }
    let mixed = Breaker::default();
    for _ in 0..20 {
        assert_eq!(normal(&mixed, true, 0), None);
    }
    for _ in 0..19 {
        assert_eq!(normal(&mixed, false, 0), None, "less than half");
    }
    assert_eq!(normal(&mixed, false, 0), Some(BreakerState::Open));
    assert_eq!(mixed.state(), BreakerState::Open);
    assert!(!mixed.may_enter(SECOND));
    assert_eq!(mixed.enter(&policy(), SECOND), Entry::Refused);
}

#[test]
fn old_failures_are_forgotten() {
    let breaker = Breaker::default();
    (0..9).for_each(|_| assert_eq!(normal(&breaker, false, 0), None));
    assert_eq!(normal(&breaker, false, 20 * SECOND), None);
}

#[test]
fn closes_when_all_probes_succeed() {
    let breaker = opened(0);
    let now = 5 * SECOND;
    assert!(breaker.may_enter(now));
    let probes = [0; 3].map(|_| probe(&breaker, now));
    assert_eq!(breaker.state(), BreakerState::HalfOpen);
    assert_eq!(breaker.enter(&policy(), now), Entry::Refused, "no fourth");
    assert_eq!(breaker.ended(&policy(), probes[0], true, now), None);
    assert_eq!(breaker.ended(&policy(), probes[1], true, now), None);
    let last = breaker.ended(&policy(), probes[2], true, now);
    assert_eq!(last, Some(BreakerState::Closed));
    assert_eq!(normal(&breaker, false, now), None, "it begins anew");
}

#[test]
fn opens_again_when_one_probe_fails() {
    let breaker = opened(0);
    let (first, second) = (probe(&breaker, 5 * SECOND), probe(&breaker, 5 * SECOND));
    let failed = breaker.ended(&policy(), first, false, 6 * SECOND);
    assert_eq!(failed, Some(BreakerState::Open));
    assert_eq!(breaker.enter(&policy(), 10 * SECOND), Entry::Refused);
    // The other one's success is of a period that is over.
    assert_eq!(breaker.ended(&policy(), second, true, 7 * SECOND), None);
    let again = probe(&breaker, 11 * SECOND);
    assert_eq!(breaker.ended(&policy(), second, true, 11 * SECOND), None);
    assert_eq!(breaker.ended(&policy(), again, true, 11 * SECOND), None);
}

#[test]
fn probes_that_nobody_tells_of_do_not_keep_it_open() {
    let breaker = opened(0);
    let lost = [0; 3].map(|_| probe(&breaker, 5 * SECOND));
    assert_eq!(breaker.enter(&policy(), 9 * SECOND), Entry::Refused);
    let probes = [0; 3].map(|_| probe(&breaker, 10 * SECOND));
    assert_eq!(breaker.ended(&policy(), lost[0], false, 10 * SECOND), None);
    for probe in probes {
        let _ = breaker.ended(&policy(), probe, true, 10 * SECOND);
    }
    assert_eq!(breaker.state(), BreakerState::Closed);
}

#[test]
fn late_results_of_the_closed_time_change_nothing() {
    let breaker = opened(0);
    let late = breaker.ended(&policy(), Admission::Normal, false, 4 * SECOND);
    assert_eq!(late, None);
    assert!(breaker.may_enter(5 * SECOND), "not opened for longer");
}

proptest! {
    /// Whatever happens: open for its time once opened, no more probes at a time than allowed, and a
    /// breaker whose instance is well again closes.
    #[test]
    fn holds_back_and_lets_go(steps in proptest::collection::vec((0u64..3_000, 0u8..4), 1..400)) {
        let policy = policy();
        let breaker = Breaker::default();
        let (mut now, mut opened_at) = (0, None::<Nanos>);
        let mut under_way: Vec<Admission> = Vec::new();
        for (pause_ms, step) in steps {
            now += pause_ms * 1_000_000;
            if step < 2 {
                if let Entry::Admitted(admission) = breaker.enter(&policy, now) {
                    if let Some(opened_at) = opened_at {
                        prop_assert!(now - opened_at >= 5 * SECOND);
                        prop_assert!(admission != Admission::Normal);
                    }
                    under_way.push(admission);
                }
            } else if let Some(admission) = under_way.pop() {
                match breaker.ended(&policy, admission, step == 3, now) {
                    Some(BreakerState::Open) => opened_at = Some(now),
                    Some(BreakerState::Closed) => opened_at = None,
                    _ => {}
                }
            }
            let newest = under_way.iter().filter_map(|a| match a {
                Admission::Probe { period, .. } => Some(*period),
                Admission::Normal => None,
            });
            let newest: Vec<u64> = newest.collect();
            let last = newest.iter().max();
            prop_assert!(newest.iter().filter(|p| Some(*p) == last).count() <= 3);
        }
        for _ in 0..10 {
            now += 6 * SECOND;
            while let Entry::Admitted(admission @ Admission::Probe { .. }) = breaker.enter(&policy, now) {
                let _ = breaker.ended(&policy, admission, true, now);
            }
        }
        prop_assert_eq!(breaker.state(), BreakerState::Closed);
    }
}
