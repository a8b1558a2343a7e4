//! The laboratory's judge is judged: porcupine and a checker that tries all orders agree on small random histories,
//! right ones and broken ones, and both know the textbook cases.

use std::time::Duration;

use nebula_cluster_tests::lab::checker::exhaustive::is_linearizable;
use nebula_cluster_tests::lab::checker::{Event, NEVER, UNSET, Verdict, check, settle};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const SEARCH: Duration = Duration::from_secs(10);
const HISTORIES: u64 = 3000;

fn write(value: u64, invoked: u64, returned: u64) -> Event {
    Event {
        write: true,
        value,
        invoked,
        returned,
    }
}

fn read(value: u64, invoked: u64, returned: u64) -> Event {
    Event {
        write: false,
        ..write(value, invoked, returned)
    }
}

/// Both checkers' word, which must be the same; the exhaustive one also without what `settle` does.
fn verdict(events: &[Event]) -> bool {
    let porcupine = check(events, SEARCH);
    assert_ne!(porcupine, Verdict::Unknown, "{events:?}");
    let said = porcupine == Verdict::Linearizable;
    assert_eq!(said, is_linearizable(events), "{events:?}");
    said
}

#[test]
fn textbook_cases() {
    let (w1, w2) = (write(1, 1, 10), write(2, 20, 30));
    assert!(verdict(&[]));
    assert!(verdict(&[read(UNSET, 1, 2), write(1, 3, 4), read(1, 5, 6)]));
    // While a write is under way both values may be seen, and then only the new one.
    assert!(verdict(&[w1, w2, read(1, 21, 22), read(2, 23, 24)]));
    assert!(!verdict(&[w1, w2, read(2, 21, 22), read(1, 23, 24)]));
    // A stale read.
    assert!(!verdict(&[w1, w2, read(1, 31, 32)]));
    // A lost write.
    assert!(!verdict(&[w1, read(UNSET, 11, 12)]));
    // A write from nowhere.
    assert!(!verdict(&[w1, read(7, 11, 12)]));
    // A request that was applied twice: 1, then 2, then 1 again.
    assert!(!verdict(&[w1, w2, read(2, 31, 32), read(1, 33, 34)]));
    // An unknown write may happen late, or never, but not before it began and not twice.
    let open = write(3, 15, NEVER);
    assert!(verdict(&[w1, w2, open, read(2, 31, 32), read(3, 33, 34)]));
    assert!(verdict(&[w1, w2, open, read(2, 31, 32)]));
    assert!(!verdict(&[w1, w2, open, read(3, 11, 12)]));
    assert!(!verdict(&[
        w1,
        w2,
        open,
        read(3, 16, 17),
        read(2, 31, 32),
        read(3, 33, 34)
    ]));
}

/// What clients of a real register would record: each operation takes effect at one moment within its time.
fn random_history(rng: &mut StdRng) -> Vec<Event> {
    let count = rng.random_range(3..=11);
    // (effect, invoked, returned, write, unknown)
    let mut plans: Vec<(u64, u64, u64, bool, bool)> = (0..count)
        .map(|_| {
            let invoked = rng.random_range(0..60);
            let effect = invoked + rng.random_range(0..20);
            let returned = effect + rng.random_range(0..20);
            let write = rng.random_bool(0.5);
            (
                effect,
                invoked,
                returned,
                write,
                write && rng.random_bool(0.3),
            )
        })
        .collect();
    plans.sort_unstable();
    let mut state = UNSET;
    let mut next = 1;
    let mut events = Vec::new();
    for (_, invoked, returned, is_write, unknown) in plans {
        if !is_write {
            events.push(read(state, invoked, returned));
            continue;
        }
        // An unknown one may never have happened.
        if !unknown || rng.random_bool(0.5) {
            state = next;
        }
        events.push(write(next, invoked, if unknown { NEVER } else { returned }));
        next += 1;
    }
    events
}

/// One read returns another value, or one operation's end moves: often no longer explicable.
fn broken(events: &[Event], rng: &mut StdRng) -> Vec<Event> {
    let mut events = events.to_vec();
    let writes = events.iter().filter(|e| e.write).count() as u64;
    let index = rng.random_range(0..events.len());
    let event = &mut events[index];
    if event.write {
        if event.returned != NEVER {
            event.returned = event.invoked + rng.random_range(0..3);
        }
    } else {
        event.value = rng.random_range(0..=writes);
    }
    events
}

#[test]
fn two_checkers_agree_on_random_histories() {
    let seed = std::env::var("NEBULA_LAB_SEED")
        .map_or_else(|_| rand::rng().random(), |s| s.parse().expect("a number"));
    println!("NEBULA_LAB_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut violated = 0;
    for _ in 0..HISTORIES {
        let valid = random_history(&mut rng);
        assert!(verdict(&valid), "seed {seed}: {valid:?}");
        let mutant = broken(&valid, &mut rng);
        violated += u64::from(!verdict(&mutant));
        // Settling changes no verdict.
        assert_eq!(
            is_linearizable(&settle(&mutant)),
            is_linearizable(&mutant),
            "seed {seed}: {mutant:?}"
        );
    }
    assert!(
        (HISTORIES / 10..HISTORIES * 9 / 10).contains(&violated),
        "seed {seed}: {violated} of {HISTORIES} broken histories were found broken: too few of one kind to mean much"
    );
}

#[test]
fn a_long_history_is_judged_in_time() {
    let mut rng = StdRng::seed_from_u64(7);
    let (mut events, mut state) = (Vec::new(), UNSET);
    for i in 1..=4000_u64 {
        let at = i * 10;
        if rng.random_bool(0.5) {
            // One in ten is unknown and never seen, as clients of a node that was killed record them.
            let unknown = rng.random_bool(0.1);
            events.push(write(i, at - 8, if unknown { NEVER } else { at + 12 }));
            state = if unknown { state } else { i };
        } else {
            events.push(read(state, at, at + 5));
        }
    }
    assert_eq!(check(&events, SEARCH), Verdict::Linearizable);
    events.push(read(u64::MAX, 50_000, 50_001));
    assert_eq!(check(&events, SEARCH), Verdict::Violated);
}
