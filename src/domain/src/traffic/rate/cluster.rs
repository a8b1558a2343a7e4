//! One limit for a cluster: each node tells which keys ask much of it, and takes a share of their limit.
//!
//! Approximate, on purpose: no request waits for another node. Nodes tell of a period when it is over, so a share
//! follows the demand by a period and the way of the news. Until then a key that starts at all nodes at once may get
//! its limit at each; after that, the nodes together give at most the limit and [`FLOOR`] of it, as far as they
//! have heard of each other. A key that keeps to one node always has the whole limit there. Who is cut
//! off from the others counts alone.
//!
//! [`Talkers`] belongs to one thread. The rest are functions for the task that publishes and reads.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::RateLimit;
use super::table::Key;
use crate::limits::Limit;
use crate::traffic::hash::{mix, stable_hash};
use crate::traffic::nanos;

/// Keys of one rule that a node tells of. More keys than this, each at a good part of its limit at
/// several nodes, are limited at each node alone.
pub const TALKERS: Limit = Limit {
    name: "rate_talkers",
    max: 64,
};
/// What a node may give in any case, of the limit divided by the nodes: a tenth. Without it a node where a key
/// appears would refuse it until the others have heard.
pub const FLOOR: u64 = 10;

/// Requests each thousand seconds: rates far below one a second are rates too.
pub type PerKilosecond = u64;

/// How many times the limit's own interval a share may make of it, where that is more than [`STRETCH_FREE`]: with more nodes than
/// that, slow limits are exceeded by what the others give.
pub const STRETCH_MAX: u64 = 4;
/// An interval that is forgotten soon enough, whatever share it came from.
pub const STRETCH_FREE: Duration = Duration::from_secs(10);

/// Over how long a rule's keys are counted before they are told of: one request of a slow limit, looked at for a
/// second, would seem to be much.
pub fn period(limit: &RateLimit, least: Duration) -> Duration {
    least.max(limit.interval().saturating_mul(2))
}

/// How much of one key is asked for at one node, refused requests included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Talker {
    /// [`shared_key`].
    pub key: u64,
    pub rate: PerKilosecond,
}

/// What a node tells of all its rules, by their numbers; rules of which there is nothing to tell are not in it.
pub type Demand = BTreeMap<u64, Vec<Talker>>;

/// Rules that a node tells of at the same time. Those that are left out are limited at each node alone.
pub const TOLD_RULES: Limit = Limit {
    name: "rate_rules_told",
    max: 64,
};

/// The part of a limit that a node may use, in 65,536ths; at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u32);

impl Share {
    const ONE: u64 = 1 << 16;
    pub const WHOLE: Share = Share(1 << 16);

    fn new(part: PerKilosecond, whole: PerKilosecond) -> Share {
        let parts = u128::from(part) * u128::from(Self::ONE) / u128::from(whole.max(1));
        let parts = parts.clamp(1, u128::from(Self::ONE));
        Share(u32::try_from(parts).unwrap_or(1))
    }

    /// An interval between requests as long as this share of the rate makes it.
    pub(super) fn stretch(self, interval: u64) -> u64 {
        let stretched = u128::from(interval) * u128::from(Self::ONE) / u128::from(self.0);
        u64::try_from(stretched).unwrap_or(u64::MAX)
    }

    pub fn as_ratio(self) -> f64 {
        f64::from(self.0) / 65_536.0
    }
}

/// A key as nodes name it to each other: the same everywhere in a cluster, and with the cluster's `secret` no
/// address to anybody else. `rule` is the same number at all nodes.
pub fn shared_key(secret: u64, rule: u64, key: &Key<'_>) -> u64 {
    let (kind, hash) = match key {
        Key::V4(octets) => (1, stable_hash(octets)),
        Key::V6(octets) => (2, stable_hash(octets)),
        Key::Value(value) => (3, stable_hash(value)),
        Key::Everyone => (4, 0),
    };
    mix(mix(secret ^ mix(rule).wrapping_add(kind)) ^ hash)
}

/// Counts the keys that ask most in little memory: when it is full, the key with the least gives its place, and its
/// count is the newcomer's possible error ("Space-Saving", Metwally et al., 2005).
#[derive(Debug, Default)]
pub struct Talkers {
    /// At most [`TALKERS`].
    counted: Vec<Counted>,
}

#[derive(Debug, Clone, Copy)]
struct Counted {
    key: u64,
    count: u64,
    error: u64,
}

impl Talkers {
    pub fn count(&mut self, key: u64) {
        if let Some(found) = self.counted.iter_mut().find(|counted| counted.key == key) {
            found.count += 1;
            return;
        }
        if TALKERS.check("talkers", self.counted.len() + 1).is_ok() {
            self.counted.push(Counted {
                key,
                count: 1,
                error: 0,
            });
            return;
        }
        if let Some(least) = self.counted.iter_mut().min_by_key(|counted| counted.count) {
            *least = Counted {
                key,
                count: least.count + 1,
                error: least.count,
            };
        }
    }

    /// The keys with how often each came at least, since the last time; counting begins anew.
    pub fn take(&mut self) -> impl Iterator<Item = (u64, u64)> {
        let counted = std::mem::take(&mut self.counted);
        counted.into_iter().map(|c| (c.key, c.count - c.error))
    }
}

/// What a node tells of a rule after a period: the keys of all its threads whose rate matters, the largest
/// first. A key below half of its limit's equal part cannot exceed the limit at all nodes together.
pub fn told(
    limit: &RateLimit,
    nodes: usize,
    counts: impl IntoIterator<Item = (u64, u64)>,
    period: Duration,
) -> Vec<Talker> {
    let mut sums: BTreeMap<u64, u64> = BTreeMap::new();
    for (key, count) in counts {
        *sums.entry(key).or_default() += count;
    }
    let least = rate_of(limit) / (2 * nodes.max(1) as u64);
    let period_ns = u128::from(nanos(period).max(1));
    let rate = |count: u64| {
        let rate = u128::from(count) * 1_000_000_000_000 / period_ns;
        u64::try_from(rate).unwrap_or(u64::MAX)
    };
    let talkers = sums.into_iter().map(|(key, count)| Talker {
        key,
        rate: rate(count),
    });
    let mut talkers: Vec<Talker> = talkers.filter(|t| t.rate >= least.max(1)).collect();
    talkers.sort_by_key(|talker| (std::cmp::Reverse(talker.rate), talker.key));
    talkers.truncate(usize::try_from(TALKERS.max).unwrap_or(usize::MAX));
    talkers
}

/// This node's shares of a rule's limit, from what it told itself and what the others told. A key that is not in it
/// has the whole limit.
pub fn shares(
    limit: &RateLimit,
    nodes: usize,
    own: &[Talker],
    others: impl IntoIterator<Item = Talker>,
) -> HashMap<u64, Share> {
    let mut asked_elsewhere: HashMap<u64, PerKilosecond> = HashMap::new();
    for talker in others {
        let sum = asked_elsewhere.entry(talker.key).or_default();
        *sum = sum.saturating_add(talker.rate);
    }
    let own: HashMap<u64, PerKilosecond> = own.iter().map(|t| (t.key, t.rate)).collect();
    let share = |(key, elsewhere)| {
        let here = own.get(&key).copied().unwrap_or(0);
        (key, share(rate_of(limit), nodes, here, elsewhere))
    };
    asked_elsewhere.into_iter().map(share).collect()
}

/// While all ask less than the limit, each node may give what the others leave; beyond it, what is asked there
/// of all that is asked.
fn share(
    limit: PerKilosecond,
    nodes: usize,
    here: PerKilosecond,
    elsewhere: PerKilosecond,
) -> Share {
    let asked = here.saturating_add(elsewhere);
    let granted = match asked <= limit {
        true => limit - elsewhere,
        false => {
            let part = u128::from(limit) * u128::from(here) / u128::from(asked.max(1));
            u64::try_from(part).unwrap_or(limit)
        }
    };
    let floor = Share::ONE / (FLOOR * nodes.max(1) as u64);
    let floor = Share(u32::try_from(floor.max(1)).unwrap_or(1));
    Share::new(granted, limit).max(floor)
}

fn rate_of(limit: &RateLimit) -> PerKilosecond {
    (1_000_000_000_000 / nanos(limit.interval()).max(1)).max(1)
}

#[cfg(test)]
mod tests;
