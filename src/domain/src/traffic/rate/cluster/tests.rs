//! Shares by themselves, and three nodes that tell each other late.

use proptest::prelude::*;

use std::hash::{BuildHasherDefault, DefaultHasher};

use super::super::table::RateTable;
use super::super::{Gcra, Verdict};
use super::*;

fn limit() -> RateLimit {
    "10r/s".parse().unwrap()
}

#[test]
fn who_keeps_to_one_node_has_the_whole_limit() {
    let own = told(&limit(), 3, [(1, 500)], Duration::from_secs(1));
    assert_eq!(
        own,
        [Talker {
            key: 1,
            rate: 500_000
        }]
    );
    assert!(shares(&limit(), 3, &own, []).is_empty());
    assert_eq!(share(10_000, 3, 500_000, 0), Share::WHOLE);
    assert_eq!(share(10_000, 1, 0, 0), Share::WHOLE);
}

#[test]
fn a_limit_is_divided_as_it_is_asked_for() {
    assert_eq!(share(10_000, 2, 30_000, 10_000).as_ratio(), 0.75);
    assert_eq!(share(10_000, 2, 3_000, 5_000).as_ratio(), 0.5);
    assert_eq!(share(10_000, 10, 0, 1_000_000).as_ratio(), 655.0 / 65_536.0);
}

#[test]
fn few_are_told_of_and_the_largest_first() {
    let counts = (0..1_000u64).map(|key| (key, key));
    let told = told(&limit(), 3, counts, Duration::from_secs(1));
    assert_eq!(told.len() as u64, TALKERS.max);
    assert_eq!(
        told[0],
        Talker {
            key: 999,
            rate: 999_000
        }
    );
    let quiet = super::told(&limit(), 3, [(1, 1)], Duration::from_secs(1));
    assert!(quiet.is_empty());
}

#[test]
fn the_largest_are_found_among_many() {
    let mut talkers = Talkers::default();
    for n in 0..100_000u64 {
        talkers.count(1_000 + n % 5_000);
        if n % 10 == 0 {
            talkers.count(7);
        }
    }
    let found: BTreeMap<u64, u64> = talkers.take().collect();
    assert!(found.len() as u64 <= TALKERS.max);
    assert!((9_000..=10_000).contains(&found[&7]), "{:?}", found.get(&7));
    assert!(found.iter().all(|(key, count)| *key == 7 || *count <= 20));
    assert_eq!(talkers.take().count(), 0);
}

#[test]
fn keys_differ_by_kind_rule_and_secret() {
    let keys = [
        shared_key(1, 1, &Key::V4([0; 4])),
        shared_key(1, 1, &Key::Value(&[0; 4])),
        shared_key(1, 1, &Key::Everyone),
        shared_key(1, 2, &Key::Everyone),
        shared_key(2, 1, &Key::Everyone),
    ];
    let distinct: std::collections::BTreeSet<u64> = keys.into_iter().collect();
    assert_eq!(distinct.len(), keys.len());
}

proptest! {
    /// Nodes that know the same give together at most the limit and a tenth of it, once more is asked for.
    #[test]
    fn shares_add_up(asked in proptest::collection::vec(0u64..1_000_000, 1..20)) {
        let limit = 100_000;
        let total: u64 = asked.iter().sum();
        let share = |here: &u64| share(limit, asked.len(), *here, total - here).as_ratio();
        let sum: f64 = asked.iter().map(share).sum();
        if total > limit {
            prop_assert!(sum <= 1.101, "{sum}");
            prop_assert!(sum >= 0.99, "{sum}");
        } else {
            // Nobody is refused what it asked for so far.
            let fits = |here: &u64| share(here) * limit as f64 + 2.0 >= *here as f64;
            prop_assert!(asked.iter().all(fits));
        }
    }
}

/// A node that limits, counts, and hears of the others when it is told.
struct Node {
    table: RateTable<BuildHasherDefault<DefaultHasher>>,
    talkers: Talkers,
    told: Vec<Talker>,
    shares: HashMap<u64, Share>,
}

impl Node {
    fn new() -> Node {
        Node {
            table: RateTable::with_keys(BuildHasherDefault::default(), 64),
            talkers: Talkers::default(),
            told: Vec::new(),
            shares: HashMap::new(),
        }
    }

    fn request(&mut self, key: &Key<'static>, now_ms: u64) -> bool {
        let shared = shared_key(7, 1, key);
        self.talkers.count(shared);
        let gcra = Gcra::from(&limit());
        let gcra = match self.shares.get(&shared) {
            Some(share) => gcra.shared(*share),
            None => gcra,
        };
        self.table.request(1, *key, &gcra, now_ms * 1_000_000) == Verdict::Pass
    }
}

/// What each node lets through in each second of 20, of so many requests a second there. Nodes tell every second
/// and hear of it half a second later.
fn seconds(rates: [u64; 3]) -> Vec<[u64; 3]> {
    let mut nodes = [Node::new(), Node::new(), Node::new()];
    let mut passed = vec![[0; 3]; 20];
    for now_ms in 0..20_000u64 {
        if now_ms % 1_000 == 0 {
            for node in &mut nodes {
                let counts: Vec<_> = node.talkers.take().collect();
                node.told = told(&limit(), 3, counts, Duration::from_secs(1));
            }
        }
        if now_ms % 1_000 == 500 {
            let all: Vec<Vec<Talker>> = nodes.iter().map(|node| node.told.clone()).collect();
            for (index, node) in nodes.iter_mut().enumerate() {
                let others = all.iter().enumerate().filter(|(other, _)| *other != index);
                let others = others.flat_map(|(_, told)| told.iter().copied());
                node.shares = shares(&limit(), 3, &node.told, others);
            }
        }
        for (index, node) in nodes.iter_mut().enumerate() {
            // Spread over the second.
            let due = (now_ms + 1) * rates[index] / 1_000 - now_ms * rates[index] / 1_000;
            for _ in 0..due {
                let second = usize::try_from(now_ms / 1_000).unwrap();
                passed[second][index] += u64::from(node.request(&Key::Everyone, now_ms));
            }
        }
    }
    passed
}

fn average(seconds: &[[u64; 3]], of: impl Fn(&[u64; 3]) -> u64) -> f64 {
    seconds.iter().map(of).sum::<u64>() as f64 / seconds.len() as f64
}

#[test]
fn three_nodes_together_keep_to_a_limit_once_they_have_heard() {
    // The limit is 10 a second.
    let even = seconds([100, 100, 100]);
    let first = even[0].iter().sum::<u64>();
    assert!(
        (27..=33).contains(&first),
        "each gives all of it at first: {first}"
    );
    let later = average(&even[3..], |second| second.iter().sum());
    assert!((9.0..=11.5).contains(&later), "{later}");

    let uneven = seconds([200, 20, 0]);
    let later = average(&uneven[3..], |second| second.iter().sum());
    assert!((9.0..=11.5).contains(&later), "{later}");
    let large = average(&uneven[3..], |second| second[0]);
    assert!(large > 8.0, "most of it where most is asked: {large}");
}

#[test]
fn who_asks_one_node_or_little_of_each_is_not_slowed() {
    let one = seconds([0, 100, 0]);
    let later = average(&one[3..], |second| second[1]);
    assert!((9.5..=10.5).contains(&later), "{later}");
    let little = seconds([2, 2, 2]);
    let all = average(&little, |second| second.iter().sum());
    assert!(all > 5.9, "{all}");
}

#[test]
fn a_slow_limit_is_not_locked_by_one_request_elsewhere() {
    for (text, nodes) in [
        ("1r/m burst=5 nodelay", 2),
        ("10r/h", 3),
        ("1r/h", 100),
        ("1r/s", 10),
    ] {
        let limit: RateLimit = text.parse().unwrap();
        let elsewhere = Talker {
            key: 1,
            rate: 1_000_000,
        };
        let share = shares(&limit, nodes, &[], [elsewhere])[&1];
        let table = RateTable::with_keys(BuildHasherDefault::<DefaultHasher>::new(), 64);
        let whole = Gcra::from(&limit);
        assert_eq!(
            table.request(1, Key::Everyone, &whole.shared(share), 0),
            Verdict::Pass
        );
        // What was paid at the worst price is over soon after it has fallen.
        let soon = limit.interval().max(STRETCH_FREE) * 5;
        let later = u64::try_from(soon.as_nanos()).unwrap();
        assert_eq!(
            table.request(1, Key::Everyone, &whole, later),
            Verdict::Pass,
            "{text}"
        );
    }
}

#[test]
fn a_slow_limit_is_counted_for_longer() {
    let least = Duration::from_secs(1);
    assert_eq!(period(&limit(), least), least);
    let slow: RateLimit = "10r/m".parse().unwrap();
    assert_eq!(period(&slow, least), Duration::from_secs(12));
    // Keeping to it looks like that, and not like sixty times as much.
    let told = told(&slow, 1, [(1, 2)], period(&slow, least));
    assert_eq!(told[0].rate, 166);
}
