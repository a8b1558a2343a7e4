//! Verdicts on figures that are clear, on figures that are chance, and on those that are missing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use super::figures::{Figures, slice_of};
use super::judge::{Finding, HELD_MAX, LOOKS_AGAIN_AFTER, LOOKS_FOR, Suspicions, judge};
use super::{Seen, Stage, Step, step};
use crate::ids::ReleaseNumber;
use crate::spec::Judge;
use crate::state::Deployment;
use crate::testing::{Sim, name, service_spec};
use crate::time::Millis;

const LIMITS: Judge = Judge {
    requests: 50,
    errors_percent: 5,
    p95_percent: 200,
};

fn counted(requests: u64, failed: u64, took_ms: u64) -> Figures {
    let mut figures = Figures {
        requests,
        failed,
        ..Figures::default()
    };
    figures.times.0[slice_of(Duration::from_millis(took_ms))] = requests;
    figures
}

/// SplitMix64, so that a failure is the same each time.
struct Random(u64);

impl Random {
    /// Evenly from 0 to 1.
    fn part(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// How requests of one release end.
#[derive(Debug, Clone, Copy)]
struct Kind {
    fails: f64,
    /// So many take so much longer than the others.
    slow: (f64, u64),
    took_ms: u64,
}

impl Kind {
    fn count(self, figures: &mut Figures, random: &mut Random) {
        figures.requests += 1;
        figures.failed += u64::from(random.part() < self.fails);
        // Twice as long or half as long, evenly on a scale of ratios.
        let spread = 4f64.powf(random.part() - 0.5);
        let slow = if random.part() < self.slow.0 {
            self.slow.1
        } else {
            1
        };
        let took = self.took_ms as f64 * spread * slow as f64;
        figures.times.0[slice_of(Duration::from_secs_f64(took / 1000.0))] += 1;
    }
}

/// A rollout of 2,000 requests, looked at after every 20: after how many the new release is found bad.
fn run(seed: u64, share: f64, old: Kind, new: Kind) -> Option<u64> {
    let (mut before, mut after) = (Figures::default(), Figures::default());
    let mut random = Random(seed);
    for request in 1..=2_000 {
        match random.part() < share {
            true => new.count(&mut after, &mut random),
            false => old.count(&mut before, &mut random),
        }
        if request % 20 == 0 && judge(&LIMITS, &before, &after).is_some() {
            return Some(request);
        }
    }
    None
}

#[test]
fn it_says_both_figures() {
    let bad = judge(&LIMITS, &counted(1_000, 1, 10), &counted(240, 30, 10));
    let said = "12.5 % of 240 requests failed, 0.1 % of the release before";
    assert_eq!(bad, Some(Finding::Errors(said.to_owned())));
    let slow = judge(&LIMITS, &counted(1_000, 0, 300), &counted(240, 0, 1_200));
    let said = "95 % of its answers took up to 1.3 s, 322 ms those of the release before";
    assert_eq!(slow, Some(Finding::Slow(said.to_owned())));
}

#[test]
fn without_a_release_to_compare_with_errors_are_held_against_the_limit() {
    let none = Figures::default();
    let found = judge(&LIMITS, &none, &counted(100, 30, 10));
    let said = "30.0 % of 100 requests failed";
    assert_eq!(found, Some(Finding::Errors(said.to_owned())));
    assert_eq!(judge(&LIMITS, &none, &counted(100, 6, 60_000)), None);
}

#[test]
fn nothing_is_said_of_few_requests_and_little_time() {
    let old = counted(1_000, 0, 1);
    assert_eq!(judge(&LIMITS, &old, &counted(49, 49, 1_000)), None);
    assert_eq!(judge(&LIMITS, &old, &counted(1_000, 0, 16)), None);
    assert!(judge(&LIMITS, &old, &counted(1_000, 0, 50)).is_some());
    // Too few of the old one to compare times with, and none wanted.
    assert_eq!(
        judge(&LIMITS, &counted(49, 0, 1), &counted(1_000, 0, 50)),
        None
    );
    let errors_only = Judge {
        p95_percent: 0,
        ..LIMITS
    };
    assert_eq!(judge(&errors_only, &old, &counted(1_000, 0, 50)), None);
    // More than the release before, and less than is allowed.
    assert_eq!(
        judge(
            &LIMITS,
            &counted(100_000, 0, 1),
            &counted(100_000, 4_900, 1)
        ),
        None
    );
    // More than is allowed, of so few that it may be chance.
    assert_eq!(judge(&LIMITS, &counted(50, 0, 1), &counted(50, 4, 1)), None);
}

#[test]
fn a_release_that_was_as_bad_is_no_measure_for_another() {
    assert_eq!(
        judge(&LIMITS, &counted(500, 100, 10), &counted(500, 110, 10)),
        None
    );
    assert!(judge(&LIMITS, &counted(500, 100, 10), &counted(500, 200, 10)).is_some());
}

/// Looked at a hundred times each: no more than one false alarm in a hundred rollouts, whatever the two are like.
#[test]
fn equal_releases_are_hardly_ever_told_apart() {
    let calm = Kind {
        fails: 0.001,
        slow: (0.0, 1),
        took_ms: 40,
    };
    let kinds = [
        calm,
        Kind {
            fails: 0.03,
            ..calm
        },
        Kind { fails: 0.3, ..calm },
        // Near the 95th percentile, where one slow answer more moves it.
        Kind {
            slow: (0.05, 30),
            ..calm
        },
        Kind {
            slow: (0.5, 30),
            ..calm
        },
    ];
    for kind in kinds {
        for share in [0.1, 0.5, 0.9] {
            let alarms = (0..200).filter(|seed| run(*seed, share, kind, kind).is_some());
            let alarms = alarms.count();
            assert!(alarms <= 2, "{alarms} of 200 for {kind:?}, share {share}");
        }
    }
}

#[test]
fn releases_that_are_clearly_worse_are_found() {
    let calm = Kind {
        fails: 0.001,
        slow: (0.0, 1),
        took_ms: 40,
    };
    let kinds = [
        (Kind { fails: 1.0, ..calm }, 900),
        (Kind { fails: 0.2, ..calm }, 1_500),
        (
            Kind {
                took_ms: 400,
                ..calm
            },
            900,
        ),
        (
            Kind {
                slow: (0.2, 30),
                ..calm
            },
            1_500,
        ),
    ];
    for (bad, within) in kinds {
        for seed in 0..100 {
            let found = run(seed, 0.1, calm, bad);
            assert!(
                found.is_some_and(|found| found <= within),
                "{bad:?}, seed {seed}: {found:?}"
            );
        }
    }
}

/// A deployment whose second release is on its way.
fn on_its_way() -> Deployment {
    let mut sim = Sim::new(3, 100);
    sim.create("app", service_spec(), 3);
    sim.settle();
    sim.update("app", 2);
    sim.state.deployments[&name("app")].clone()
}

#[test]
fn a_deployment_is_judged_by_its_strategy() {
    let app = on_its_way();
    let (from, to) = (ReleaseNumber(1), ReleaseNumber(2));
    let bad = BTreeMap::from([(from, counted(100, 0, 1)), (to, counted(100, 90, 1))]);
    let none = BTreeMap::new();
    let verdict =
        |app, figures| Suspicions::default().verdict(app, figures, Duration::from_secs(1));
    assert!(verdict(&app, &bad).is_some());
    assert_eq!(verdict(&app, &none), None);
    let swapped = BTreeMap::from([(to, counted(100, 0, 1)), (from, counted(100, 90, 1))]);
    assert_eq!(verdict(&app, &swapped), None);
    let mut over = app.clone();
    over.rollout = None;
    assert_eq!(verdict(&over, &bad), None);
}

/// Looked at each second: when a release is found bad whose answers, 60 a second, take so long.
fn found(took_ms: impl Fn(u64) -> u64) -> Option<u64> {
    let app = on_its_way();
    assert_eq!(app.current().spec.strategy.judge, Some(LIMITS));
    let (from, to) = (ReleaseNumber(1), ReleaseNumber(2));
    let (mut old, mut new) = (Figures::default(), Figures::default());
    let mut suspicions = Suspicions::default();
    (1..=60).find(|second| {
        old.merge(&counted(60, 0, 10));
        new.merge(&counted(60, 0, took_ms(*second)));
        let figures = BTreeMap::from([(from, old.clone()), (to, new.clone())]);
        let now = Duration::from_secs(*second);
        suspicions.verdict(&app, &figures, now).is_some()
    })
}

#[test]
fn a_release_is_slow_when_it_is_so_for_longer_than_a_pause() {
    let again = LOOKS_AGAIN_AFTER.as_secs();
    let soon = 1 + again + LOOKS_FOR.as_secs();
    assert_eq!(found(|_| 400), Some(soon), "found, and found again");
    for pause in 1..=again {
        let slow = |second| if second <= pause { 400 } else { 10 };
        assert_eq!(found(slow), None, "{pause} s");
    }
    let late = |second| if second > 30 { 400 } else { 10 };
    assert!(found(late).is_some(), "it became slow");
    assert_eq!(found(|_| 10), None);
}

/// The same, and figures of so many requests to both releases, those to the second slow.
fn suspect() -> (Deployment, impl Fn(u64) -> BTreeMap<ReleaseNumber, Figures>) {
    let app = on_its_way();
    let (from, to) = (ReleaseNumber(1), ReleaseNumber(2));
    let counts = move |n| BTreeMap::from([(from, counted(n, 0, 10)), (to, counted(n, 0, 400))]);
    (app, counts)
}

#[test]
fn what_was_suspected_of_one_release_is_not_held_against_the_next() {
    let (mut app, counts) = suspect();
    let at = Duration::from_secs;
    let mut suspicions = Suspicions::default();
    let mut says = |app: &Deployment, n, second, kept: bool| {
        if !kept {
            suspicions.retain(&BTreeSet::new());
        }
        suspicions.retain(&[&app.name].into());
        suspicions.verdict(app, &counts(n), at(second)).is_some()
    };
    assert!(!says(&app, 100, 1, true));
    app.rollout.as_mut().unwrap().since_revision += 1;
    for (requests, second, kept, bad) in [
        (200, 9, true, false),
        (300, 19, true, false),
        // Few since the second look began, many, but within a moment, and at last both.
        (349, 30, true, false),
        (350, 31, true, true),
        (400, 32, true, false),
        (500, 40, true, false),
        (600, 41, false, false),
        (700, 50, true, false),
        (800, 50, true, false),
        (800, 51, true, true),
    ] {
        assert_eq!(says(&app, requests, second, kept), bad, "at {second} s");
    }
}

#[test]
fn a_second_look_begins_anew_when_a_node_takes_its_figures_along() {
    let (app, counts) = suspect();
    let at = Duration::from_secs;
    let mut suspicions = Suspicions::default();
    for (requests, second, bad) in [
        (1_000, 1, false),
        (1_100, 6, false),
        (200, 8, false),
        (300, 12, false),
        (400, 13, false),
        (500, 14, true),
    ] {
        let said = suspicions.verdict(&app, &counts(requests), at(second));
        assert_eq!(said.is_some(), bad, "at {second} s: {said:?}");
    }
}

#[test]
fn what_slows_both_later_confirms_nothing() {
    let (app, _) = suspect();
    let (from, to) = (ReleaseNumber(1), ReleaseNumber(2));
    let mut suspicions = Suspicions::default();
    let (mut old, mut new) = (Figures::default(), Figures::default());
    for second in 1..=60 {
        // A pause of the new one, and from then on a slow database behind both.
        let (before, after) = if second <= 3 { (10, 400) } else { (400, 400) };
        old.merge(&counted(60, 0, before));
        new.merge(&counted(60, 0, after));
        let figures = BTreeMap::from([(from, old.clone()), (to, new.clone())]);
        let said = suspicions.verdict(&app, &figures, Duration::from_secs(second));
        assert_eq!(said, None, "at {second} s");
    }
}

#[test]
fn a_release_that_is_not_judged_waits_for_nothing() {
    let (mut app, counts) = suspect();
    let at = Duration::from_secs;
    let mut suspicions = Suspicions::default();
    assert_eq!(suspicions.verdict(&app, &counts(100), at(1)), None);
    assert!(suspicions.holds(&app.name, at(2)));
    app.rollout.as_mut().unwrap().from = None;
    assert_eq!(suspicions.verdict(&app, &counts(100), at(2)), None);
    assert!(!suspicions.holds(&app.name, at(2)));
}

#[test]
fn a_release_waits_for_the_second_look_but_not_for_ever() {
    let (app, counts) = suspect();
    let at = Duration::from_secs;
    let mut suspicions = Suspicions::default();
    assert!(!suspicions.holds(&app.name, at(1)));
    assert_eq!(suspicions.verdict(&app, &counts(100), at(1)), None);
    for second in 1..60 {
        // No more requests come.
        assert_eq!(suspicions.verdict(&app, &counts(100), at(second)), None);
        let holds = suspicions.holds(&app.name, at(second));
        assert_eq!(holds, second < 1 + HELD_MAX.as_secs(), "{second} s");
    }
    let mut app = app;
    let began = Millis(1_000_000);
    app.rollout.as_mut().unwrap().stage = Stage::Watching { since: began };
    // Long over, and its deadline too.
    let over = began.plus(at(3_600));
    let mut seen = Seen {
        wanted: 3,
        ready: 3,
        ..Seen::default()
    };
    assert!(matches!(
        step(&app, &seen, None, over),
        Some(Step::Next { .. })
    ));
    seen.is_suspected = true;
    seen.ready = app.rollout.as_ref().unwrap().ready;
    seen.wanted = seen.ready;
    assert_eq!(step(&app, &seen, None, over), None);
}

proptest! {
    #[test]
    fn any_figures_may_come(a: [u64; 4], b: [u64; 4], requests in 1..1_000u32, errors_percent in 0..=100u32, p95_percent: u32) {
        let limits = Judge { requests, errors_percent, p95_percent };
        let of = |[requests, failed, few, many]: [u64; 4]| {
            let mut figures = Figures { requests, failed, ..Figures::default() };
            figures.times.0[0] = few;
            figures.times.0[40] = many;
            figures
        };
        let _ = judge(&limits, &of(a), &of(b));
    }

    /// The more fail, the more speaks against it.
    #[test]
    fn one_more_failure_never_helps(requests in 50..2_000u64, failed in 0..2_000u64, old in 0..2_000u64, old_failed in 0..2_000u64) {
        let failed = failed.min(requests - 1);
        let old = counted(old, old_failed.min(old), 10);
        let bad = |failed| judge(&LIMITS, &old, &counted(requests, failed, 10)).is_some();
        prop_assert!(!bad(failed) || bad(failed + 1));
    }
}
