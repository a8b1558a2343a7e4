//! Each key is a register whose reads and writes could have happened one after the other, in an order
//! that keeps real time. Since every write has a value of its own, this can be decided without a search
//! (Gibbons and Korach, "Testing Shared Memories", 1997); the laboratory's checker answers the same by
//! other means, and both have to agree.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::lab::checker::{self, Event, NEVER, UNSET, Verdict};

/// The search of the laboratory's checker may take so long for one key.
const SEARCH: Duration = Duration::from_secs(20);

/// What came of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// It did not happen.
    Failed,
    /// It may have happened, may still happen, or never.
    Unknown,
}

/// Every operation of a run.
#[derive(Default)]
pub struct Registers {
    events: BTreeMap<String, Vec<Event>>,
    now: u64,
    written: u64,
    acknowledged: u64,
}

impl Registers {
    /// The next moment.
    pub fn now(&mut self) -> u64 {
        self.now += 1;
        self.now
    }

    /// A value that nobody else writes.
    pub fn value(&mut self) -> u64 {
        self.written += 1;
        self.written
    }

    pub fn wrote(&mut self, key: &str, value: u64, invoked: u64, outcome: Outcome) {
        let now = self.now();
        let returned = match outcome {
            Outcome::Done => now,
            Outcome::Unknown => NEVER,
            Outcome::Failed => return,
        };
        self.acknowledged += u64::from(outcome == Outcome::Done);
        self.push(key, true, value, invoked, returned);
    }

    pub fn read(&mut self, key: &str, value: Option<u64>, invoked: u64) {
        let returned = self.now();
        self.push(key, false, value.unwrap_or(UNSET), invoked, returned);
    }

    fn push(&mut self, key: &str, write: bool, value: u64, invoked: u64, returned: u64) {
        self.events.entry(key.to_owned()).or_default().push(Event {
            write,
            value,
            invoked,
            returned,
        });
    }

    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// The first key whose history has no order.
    pub fn violation(&self) -> Option<String> {
        for (key, events) in &self.events {
            let short = is_linearizable(events);
            let long = checker::check(events, SEARCH);
            if (short, long) != (true, Verdict::Linearizable) {
                return Some(format!(
                    "'{key}': by zones {short}, by search {long:?}, of {} operations",
                    events.len()
                ));
            }
        }
        None
    }
}

/// A write with all reads of its value.
struct Cluster {
    write: Option<Event>,
    first_end: u64,
    last_begin: u64,
}

/// Whether some order explains all reads.
pub fn is_linearizable(events: &[Event]) -> bool {
    let mut clusters: BTreeMap<u64, Cluster> = BTreeMap::new();
    // Unset is the value of a write before everything.
    let begin = Event {
        write: true,
        value: UNSET,
        invoked: 0,
        returned: 0,
    };
    for event in std::iter::once(&begin).chain(events) {
        let cluster = clusters.entry(event.value).or_insert(Cluster {
            write: None,
            first_end: NEVER,
            last_begin: 0,
        });
        cluster.first_end = cluster.first_end.min(event.returned);
        cluster.last_begin = cluster.last_begin.max(event.invoked);
        if event.write {
            cluster.write = Some(*event);
        }
    }
    // An unknown write that nobody saw may as well not have happened.
    clusters.retain(|_, c| c.first_end != NEVER);
    // A value from nowhere, or read before its write began.
    let explained = |c: &Cluster| c.write.is_some_and(|w| w.invoked <= c.first_end);
    if !clusters.values().all(explained) {
        return false;
    }
    // The value was in place at least from the end of its first operation to the beginning of its last
    // (forward), or its operations share a stretch of time in which it may have been so at any moment
    // (backward).
    let zone = |c: &Cluster| (c.first_end.min(c.last_begin), c.first_end.max(c.last_begin));
    let (forward, backward): (Vec<_>, Vec<_>) =
        clusters.values().partition(|c| c.first_end < c.last_begin);
    let mut forward: Vec<(u64, u64)> = forward.into_iter().map(zone).collect();
    forward.sort_unstable();
    let apart = forward.windows(2).all(|pair| pair[0].1 < pair[1].0);
    let free = |(low, high): (u64, u64)| {
        let inside = |(from, to): &(u64, u64)| *from < low && high < *to;
        !forward.iter().any(inside)
    };
    apart && backward.into_iter().map(zone).all(free)
}

#[cfg(test)]
mod tests {
    use nebula_telemetry::Random;

    use super::*;
    use crate::lab::checker::exhaustive;

    /// Random small histories, most of them impossible or nearly so: all three answers agree.
    #[test]
    fn the_checkers_agree() {
        let random = Random::seeded(1);
        let mut possible = 0;
        for round in 0..4000 {
            let mut moments: Vec<u64> = (1..=16).collect();
            let mut events = Vec::new();
            let mut written = 0;
            for _ in 0..2 + random.below(6) {
                let mut take = || moments.remove(random.below(moments.len() as u64) as usize);
                let (a, b) = (take(), take());
                let write = written == 0 || random.below(2) == 0;
                written += u64::from(write);
                let open = write && random.below(5) == 0;
                events.push(Event {
                    write,
                    value: if write {
                        written
                    } else {
                        random.below(written + 1)
                    },
                    invoked: a.min(b),
                    returned: if open { NEVER } else { a.max(b) },
                });
            }
            let expected = exhaustive::is_linearizable(&events);
            possible += u64::from(expected);
            assert_eq!(is_linearizable(&events), expected, "{round}: {events:?}");
            let searched = checker::check(&events, SEARCH) == Verdict::Linearizable;
            assert_eq!(searched, expected, "{round}: {events:?}");
        }
        assert!((400..3600).contains(&possible), "{possible}");
    }
}
