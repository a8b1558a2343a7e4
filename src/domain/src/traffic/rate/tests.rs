//! The rule against a plain model of nginx's leaky bucket, and the table against one entry for each key.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use proptest::prelude::*;

use super::table::{Key, RateTable, TABLE_BYTES};
use super::{Gcra, RateLimit, Verdict, cluster::Share};
use crate::traffic::Nanos;

const MS: Nanos = 1_000_000;
const SECOND: Nanos = 1_000 * MS;

/// Hashes without a secret, so that tests repeat themselves.
type Fixed = BuildHasherDefault<DefaultHasher>;

fn gcra(text: &str) -> Gcra {
    Gcra::from(&text.parse::<RateLimit>().unwrap())
}

/// What happens to requests at these times.
fn verdicts(limit: &Gcra, times: impl IntoIterator<Item = Nanos>) -> Vec<Verdict> {
    let table = RateTable::with_keys(Fixed::default(), 64);
    let ask = |now| table.request(1, Key::Everyone, limit, now);
    times.into_iter().map(ask).collect()
}

fn refuse(ms: u64) -> Verdict {
    Verdict::Refuse {
        retry_after: Duration::from_millis(ms),
    }
}

fn wait(ms: u64) -> Verdict {
    Verdict::Wait(Duration::from_millis(ms))
}

#[test]
fn without_a_burst_requests_keep_their_distance() {
    let times = [0, 50, 99, 100, 1_000].map(|ms| ms * MS);
    let expected = [
        Verdict::Pass,
        refuse(50),
        refuse(1),
        Verdict::Pass,
        Verdict::Pass,
    ];
    assert_eq!(verdicts(&gcra("10r/s"), times), expected);
}

#[test]
fn a_burst_is_held_back_to_the_rate() {
    let expected = [
        Verdict::Pass,
        wait(100),
        wait(200),
        refuse(100),
        refuse(100),
    ];
    assert_eq!(verdicts(&gcra("10r/s burst=2"), [0; 5]), expected);
    let minute = [Verdict::Pass, wait(1_000), wait(2_000)];
    assert_eq!(verdicts(&gcra("60r/m burst=5"), [0; 3]), minute);
}

#[test]
fn a_burst_without_delay_goes_on_at_once() {
    let limit = gcra("10r/s burst=20 nodelay");
    let all = verdicts(&limit, [0; 25]);
    assert_eq!(all[..21], [Verdict::Pass; 21]);
    assert_eq!(all[21..], [refuse(100); 4]);
    // One place is free again after a tenth of a second, two after two tenths.
    let later = [0; 21].into_iter().chain([100 * MS, 100 * MS, 300 * MS]);
    let all = verdicts(&limit, later);
    assert_eq!(all[21..], [Verdict::Pass, refuse(100), Verdict::Pass]);
}

#[test]
fn a_share_slows_the_rate_and_shrinks_the_burst() {
    let half = gcra("10r/s burst=20 nodelay").shared(Share::WHOLE);
    assert_eq!(half, gcra("10r/s burst=20 nodelay"));
    let [a, b] = [(10_000, 5_000), (20_000, 20_000)].map(|(here, elsewhere)| {
        let own = [super::cluster::Talker { key: 1, rate: here }];
        let other = super::cluster::Talker {
            key: 1,
            rate: elsewhere,
        };
        super::cluster::shares(&"10r/s".parse().unwrap(), 2, &own, [other])[&1]
    });
    assert!(a > b);
    let passed = |limit: &Gcra| {
        let all = verdicts(limit, (0..100).map(|n| n * SECOND / 10));
        all.iter().filter(|v| **v == Verdict::Pass).count()
    };
    // Half of the rate for ten seconds, and half of the burst.
    assert_eq!(passed(&gcra("10r/s burst=20 nodelay").shared(b)), 60);
}

#[test]
fn addresses_count_by_their_subscriber() {
    let key = |text: &str| Key::from(text.parse::<IpAddr>().unwrap());
    assert_eq!(key("2001:db8:1:2::1"), key("2001:db8:1:2:ffff::9"));
    assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
    assert_eq!(key("::ffff:192.0.2.7"), key("192.0.2.7"));
    assert_ne!(key("192.0.2.7"), key("192.0.2.8"));
    assert_eq!(key("::"), Key::from(IpAddr::V6(Ipv6Addr::UNSPECIFIED)));
}

#[test]
fn rules_and_kinds_of_keys_do_not_mix() {
    let table = RateTable::with_keys(Fixed::default(), 64);
    let limit = gcra("1r/s");
    let four = *b"\0\0\0\0";
    for (rule, key) in [
        (1, Key::V4(four)),
        (2, Key::V4(four)),
        (1, Key::Value(&four)),
        (1, Key::Everyone),
    ] {
        assert_eq!(table.request(rule, key, &limit, 0), Verdict::Pass);
        assert_ne!(table.request(rule, key, &limit, 0), Verdict::Pass);
    }
}

/// A small table in place of a million keys: what counts is keys for each entry.
#[test]
fn a_table_as_full_as_can_be_forgets_few_and_refuses_none_wrongly() {
    const KEYS: u32 = 1 << 14;
    assert_eq!(TABLE_BYTES, 16 << 20);
    let table = RateTable::with_keys(Fixed::default(), KEYS as usize);
    let limit = gcra("1r/s");
    let ask = |n: u32, now| table.request(1, Key::V4(n.to_be_bytes()), &limit, now);
    // Three quarters of the entries owe something at the same time, then 95 of 100: a million of TABLE_KEYS.
    let (most, many) = (KEYS / 4 * 3, KEYS / 100 * 95);
    assert!((0..most).all(|n| ask(n, 0) == Verdict::Pass));
    assert!(
        table.forgotten() < u64::from(most) / 100,
        "{}",
        table.forgotten()
    );
    assert!((most..many).all(|n| ask(n, 0) == Verdict::Pass));
    assert!(
        table.forgotten() < u64::from(many) / 16,
        "{}",
        table.forgotten()
    );
    let remembered = (0..many).filter(|n| ask(*n, MS) != Verdict::Pass).count();
    assert!(remembered > many as usize * 9 / 10, "{remembered}");
    // Ten times as many as it holds: all are let in, and the memory is what it was.
    assert!((KEYS..KEYS * 10).all(|n| ask(n, 2 * MS) == Verdict::Pass));
    assert!(table.forgotten() > 0);
    // Those at rest are forgotten for nothing.
    let before = table.forgotten();
    assert!((0..many / 2).all(|n| ask(n + (1 << 24), 10 * SECOND) == Verdict::Pass));
    assert_eq!(table.forgotten(), before);
}

#[test]
fn who_owes_most_is_remembered_longest() {
    let table = RateTable::with_keys(Fixed::default(), 4);
    let (slow, fast) = (gcra("1r/h"), gcra("1000r/s"));
    assert_eq!(table.request(1, Key::Everyone, &slow, 0), Verdict::Pass);
    for n in 0..10_000u32 {
        let verdict = table.request(2, Key::V4(n.to_be_bytes()), &fast, 0);
        assert_eq!(verdict, Verdict::Pass);
    }
    assert_ne!(table.request(1, Key::Everyone, &slow, 1), Verdict::Pass);
}

#[test]
fn threads_together_get_no_more_than_the_limit() {
    let table = RateTable::with_keys(Fixed::default(), 64);
    let limit = gcra("1r/s burst=99 nodelay");
    let passed = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..100 {
                    if table.request(1, Key::Everyone, &limit, 0) == Verdict::Pass {
                        passed.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert_eq!(passed.into_inner(), 100);
}

/// nginx's bucket: `excess` requests are in it and leak at the rate; what exceeds `burst` is refused.
fn leaky_bucket(interval: f64, burst: f64, times: &[Nanos]) -> Vec<bool> {
    let mut state: Option<(f64, Nanos)> = None;
    let admit = |now: &Nanos| {
        let excess = match state {
            None => 0.0,
            Some((excess, last)) => f64::max(0.0, excess - (now - last) as f64 / interval + 1.0),
        };
        let admitted = excess <= burst + 1e-9;
        if admitted {
            state = Some((excess, *now));
        }
        admitted
    };
    times.iter().map(admit).collect()
}

proptest! {
    #[test]
    fn it_admits_what_nginx_admits(
        mut times in proptest::collection::vec(0u64..3_000, 1..120),
        burst in 0u32..12,
    ) {
        times.sort_unstable();
        let times: Vec<Nanos> = times.into_iter().map(|ms| ms * MS).collect();
        let limit = gcra(&format!("10r/s burst={burst} nodelay"));
        let ours: Vec<bool> = verdicts(&limit, times.clone()).iter().map(|v| *v == Verdict::Pass).collect();
        prop_assert_eq!(ours, leaky_bucket(100.0 * MS as f64, f64::from(burst), &times));
    }

    /// Held back as told, requests are at least an interval apart.
    #[test]
    fn delays_keep_the_rate(mut times in proptest::collection::vec(0u64..3_000, 1..120)) {
        times.sort_unstable();
        let times: Vec<Nanos> = times.into_iter().map(|ms| ms * MS).collect();
        let sent: Vec<u128> = verdicts(&gcra("10r/s burst=8"), times.clone()).iter().zip(&times)
            .filter_map(|(verdict, time)| match verdict {
                Verdict::Pass => Some(u128::from(*time)),
                Verdict::Wait(wait) => Some(u128::from(*time) + wait.as_nanos()),
                Verdict::Refuse { .. } => None,
            }).collect();
        prop_assert!(sent.windows(2).all(|pair| pair[1] - pair[0] >= 100 * u128::from(MS)));
    }

    /// Few keys in a large table: each as if it were alone.
    #[test]
    fn keys_do_not_disturb_each_other(mut asks in proptest::collection::vec((0u64..2_000, 0u8..20), 1..300)) {
        asks.sort_unstable();
        let limit = gcra("10r/s burst=3 nodelay");
        let table = RateTable::with_keys(Fixed::default(), 4_096);
        let mut alone: HashMap<u8, RateTable<Fixed>> = HashMap::new();
        for (ms, key) in asks {
            let together = table.request(1, Key::V4([0, 0, 0, key]), &limit, ms * MS);
            let table = alone.entry(key).or_insert_with(|| RateTable::with_keys(Fixed::default(), 4));
            prop_assert_eq!(together, table.request(1, Key::Everyone, &limit, ms * MS));
        }
    }
}
