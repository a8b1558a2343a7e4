//! Who gets how many requests, and who none.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::traffic::hash::stable_hash;

const SECOND: Nanos = 1_000_000_000;

/// Targets with these weights, none of them local.
fn targets(weights: &[u32]) -> Targets {
    placed(weights, &[])
}

fn placed(weights: &[u32], locals: &[usize]) -> Targets {
    let target = |(index, weight): (usize, &u32)| Target {
        id: InstanceId(100 + index as u64),
        instance: Arc::new(Instance::new(0)),
        weight: *weight,
        local: locals.contains(&index),
    };
    Targets::new(weights.iter().enumerate().map(target).collect(), 0)
}

fn ask(random: u64) -> Ask<'static> {
    Ask {
        now: 0,
        random: mix(random),
        key: stable_hash(&random.to_le_bytes()),
        slow_start: None,
    }
}

fn policies() -> [Balance; 4] {
    [
        Balance::PowerOfTwo,
        Balance::RoundRobin,
        Balance::LeastConnections,
        Balance::Hash(HashKey::Address),
    ]
}

/// How many of so many requests each target gets.
fn shares(targets: &Targets, policy: &Balance, count: u64) -> Vec<u64> {
    let mut shares = vec![0; targets.targets().len()];
    for n in 0..count {
        shares[targets.pick(policy, &ask(n), |_| true).unwrap()] += 1;
    }
    shares
}

#[track_caller]
fn close(shares: &[u64], expected: &[u64], off_by: u64) {
    let close = shares
        .iter()
        .zip(expected)
        .all(|(a, b)| a.abs_diff(*b) <= off_by);
    assert!(close, "{shares:?}, not {expected:?}");
}

#[test]
fn equal_targets_get_equal_shares() {
    for policy in policies() {
        let shares = shares(&targets(&[1, 1, 1]), &policy, 9_000);
        close(&shares, &[3_000; 3], 300);
    }
    let in_turn = shares(&targets(&[7, 7, 7]), &Balance::RoundRobin, 9_000);
    assert_eq!(in_turn, [3_000; 3]);
}

#[test]
fn weights_are_shares() {
    for policy in [
        Balance::PowerOfTwo,
        Balance::RoundRobin,
        Balance::Hash(HashKey::Address),
    ] {
        let shares = shares(&targets(&[90, 9, 0, 1]), &policy, 10_000);
        close(&shares, &[9_000, 900, 0, 100], 150);
    }
    // Any run of turns, not only a long one.
    let turns = targets(&[5, 3, 2]);
    for _ in 0..50 {
        close(&shares(&turns, &Balance::RoundRobin, 20), &[10, 6, 4], 2);
    }
}

#[test]
fn releases_get_their_shares_whatever_their_instances() {
    let (old, new) = (weight_of_each(95, 3), weight_of_each(5, 1));
    let shares = shares(
        &targets(&[old, old, old, new]),
        &Balance::RoundRobin,
        10_000,
    );
    close(&[shares[3]], &[500], 10);
    assert_eq!(weight_of_each(0, 3), 0);
    assert!(weight_of_each(1, 500) > 0 && weight_of_each(1_000, 1) > 0);
}

#[test]
fn nobody_is_picked_of_nobody() {
    for policy in policies() {
        assert_eq!(targets(&[]).pick(&policy, &ask(1), |_| true), None);
        assert_eq!(targets(&[0]).pick(&policy, &ask(1), |_| true), None);
        assert_eq!(targets(&[0, 0]).pick(&policy, &ask(1), |_| true), None);
        assert_eq!(targets(&[1, 1]).pick(&policy, &ask(1), |_| false), None);
    }
}

#[test]
fn the_slower_and_busier_get_less() {
    let targets = targets(&[1, 1, 1]);
    let load = |index: usize| &targets.targets()[index].instance.load;
    for index in 0..3 {
        load(index).observe(Duration::from_millis(10), false, 0);
    }
    load(0).observe(Duration::from_millis(200), false, 0);
    let slow = shares(&targets, &Balance::PowerOfTwo, 1_000);
    assert_eq!(slow[0], 0, "always one of two is quicker");
    assert!((0..40).all(|_| load(1).begin(100) && load(2).begin(100)));
    let busy = shares(&targets, &Balance::PowerOfTwo, 1_000);
    assert!(busy[0] > 600, "{busy:?}: in two of three pairs");
    let fewest = shares(&targets, &Balance::LeastConnections, 100);
    assert_eq!(fewest, [100, 0, 0]);
}

#[test]
fn requests_under_way_stay_even_when_all_are_equal() {
    for policy in [Balance::PowerOfTwo, Balance::LeastConnections] {
        let targets = targets(&[1; 10]);
        for n in 0..1_000 {
            let picked = targets.pick(&policy, &ask(n), |_| true).unwrap();
            assert!(targets.targets()[picked].instance.load.begin(u32::MAX));
        }
        let under_way = targets
            .targets()
            .iter()
            .map(|t| t.instance.load.in_flight());
        assert!(
            under_way.clone().all(|n| (95..=105).contains(&n)),
            "{policy}"
        );
    }
}

#[test]
fn local_ones_are_preferred_when_equally_good() {
    let near = placed(&[1, 1, 1], &[1]);
    for policy in [Balance::PowerOfTwo, Balance::LeastConnections] {
        assert_eq!(shares(&near, &policy, 300)[1], 300, "{policy}");
    }
    let load = |index: usize| &near.targets()[index].instance.load;
    for (index, taken) in [(0, 10), (1, 12), (2, 10)] {
        load(index).observe(Duration::from_millis(taken), false, 0);
    }
    assert_eq!(shares(&near, &Balance::PowerOfTwo, 300)[1], 300);
    assert!(load(1).begin(9));
    let shares = shares(&near, &Balance::PowerOfTwo, 300);
    assert_eq!(shares[1], 0, "twice the cost is not equally good");
}

#[test]
fn who_becomes_ready_starts_slowly() {
    let start: SlowStart = "window=100s from=10%".parse().unwrap();
    for policy in [
        Balance::PowerOfTwo,
        Balance::RoundRobin,
        Balance::Hash(HashKey::Address),
    ] {
        let mut all = targets(&[1; 4]).targets().to_vec();
        all[0].instance = Arc::new(Instance::new(1_000 * SECOND));
        let targets = Targets::new(all, 0);
        let share = |now: Nanos| {
            let ask = |n| Ask {
                now,
                slow_start: Some(&start),
                ..ask(n)
            };
            let first = |n: &u64| targets.pick(&policy, &ask(*n), |_| true) == Some(0);
            (0..8_000).filter(first).count()
        };
        let (early, half, late) = (
            share(1_000 * SECOND),
            share(1_044 * SECOND),
            share(1_100 * SECOND),
        );
        assert!((100..450).contains(&early), "{policy} {early}");
        assert!((700..1_500).contains(&half), "{policy} {half}");
        assert!((1_800..2_200).contains(&late), "{policy} {late}");
    }
}

#[test]
fn a_lost_target_moves_only_its_own_keys() {
    for weights in [[1, 1, 1, 1, 1], [1, 2, 3, 4, 5]] {
        let targets = targets(&weights);
        let policy = Balance::Hash(HashKey::Address);
        let mut moved_to = [0; 5];
        for n in 0..20_000 {
            let before = targets.pick(&policy, &ask(n), |_| true).unwrap();
            let after = targets.pick(&policy, &ask(n), |index| index != 2).unwrap();
            match before {
                2 => moved_to[after] += 1,
                _ => assert_eq!(before, after),
            }
        }
        let others = || [0, 1, 3, 4].into_iter();
        let moved: u32 = others().map(|index| moved_to[index]).sum();
        let sum: u32 = others().map(|index| weights[index]).sum();
        for index in others() {
            let even = moved * weights[index] / sum;
            assert!(moved_to[index].abs_diff(even) < 200, "{moved_to:?}");
        }
    }
}

#[test]
fn a_key_goes_to_the_same_instance_on_every_node() {
    let policy = Balance::Hash(HashKey::Address);
    let here = targets(&[1, 1, 1]);
    let mut order = here.targets().to_vec();
    order.reverse();
    let there = Targets::new(order, 77);
    for n in 0..1_000 {
        let id = |targets: &Targets| {
            targets
                .pick(&policy, &ask(n), |_| true)
                .map(|i| targets.targets()[i].id)
        };
        assert_eq!(id(&here), id(&there));
    }
}

#[test]
fn the_turn_of_one_that_is_not_usable_is_spread() {
    let targets = targets(&[1; 4]);
    let mut shares = [0; 4];
    for n in 0..8_000 {
        shares[targets
            .pick(&Balance::RoundRobin, &ask(n), |i| i != 1)
            .unwrap()] += 1;
    }
    close(&shares, &[2_667, 0, 2_667, 2_667], 200);
}

proptest! {
    /// Whoever is picked may be, and if anybody may be then somebody is.
    #[test]
    fn picks_are_usable(
        weights in proptest::collection::vec(0u32..5, 1..40),
        locals in proptest::collection::vec(0usize..40, 0..5),
        mask: u64,
        random: u64,
        slow: bool,
    ) {
        let targets = placed(&weights, &locals);
        let start = SlowStart::default();
        let ask = Ask { slow_start: slow.then_some(&start), ..ask(random) };
        let usable = |index: usize| mask >> index & 1 == 1;
        let any = (0..weights.len()).any(|index| usable(index) && weights[index] > 0);
        for policy in policies() {
            let picked = targets.pick(&policy, &ask, usable);
            prop_assert_eq!(picked.is_some(), any, "{}", policy);
            if let Some(index) = picked {
                prop_assert!(usable(index) && weights[index] > 0);
            }
        }
    }
}
