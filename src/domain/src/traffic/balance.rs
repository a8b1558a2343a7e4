//! Which of a deployment's instances gets a request. Shared by all threads: the targets do not change, what they
//! know of their load is atomic. A pick allocates nothing.
//!
//! A pick asks `usable` of few targets, not of all: that is where the caller leaves out what was tried, what
//! [`Instance::may_begin`] refuses, and what belongs to another release. If nothing is usable the caller asks again with less
//! strict a condition.

mod hashed;
mod measured;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::fields::Form;
use super::hash::{Dice, GOLDEN, mix, part};
use super::instance::Instance;
use super::slow_start::{FULL, Ramp, SlowStart};
use super::{Nanos, TrafficError, check_token};
use crate::ids::InstanceId;

/// How an instance is chosen. Text: `power-of-two`, `round-robin`, `least-connections`, `hash address`,
/// `hash header x-user`, `hash cookie sid`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Balance {
    /// Of two taken at random the one with the lower cost: what a request lately took there (a peak-sensitive
    /// moving average) times the requests that are under way. Finagle's and Linkerd's choice.
    #[default]
    PowerOfTwo,
    /// One after the other, by weight.
    RoundRobin,
    /// The one with the fewest requests under way for its weight.
    LeastConnections,
    /// The same key goes to the same instance while that is there.
    Hash(HashKey),
}

/// What a consistent hash is made of. A request without it is balanced by its address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HashKey {
    /// The client's address, of IPv6 its /64.
    Address,
    /// A header field's value; the name is in lower case.
    Header(String),
    Cookie(String),
}

impl Balance {
    pub fn check(&self) -> Result<(), TrafficError> {
        match self {
            Balance::Hash(HashKey::Header(name)) => check_token("a header's name", name),
            Balance::Hash(HashKey::Cookie(name)) => check_token("a cookie's name", name),
            _ => Ok(()),
        }
    }
}

const FORM: Form = Form {
    what: "a balancing policy",
    example: "power-of-two', 'round-robin', 'least-connections', 'hash address', 'hash header NAME' or 'hash cookie NAME",
    words: &[
        "power-of-two",
        "round-robin",
        "least-connections",
        "hash",
        "address",
        "header",
        "cookie",
    ],
};

impl FromStr for Balance {
    type Err = TrafficError;

    fn from_str(text: &str) -> Result<Self, TrafficError> {
        let words: Vec<&str> = text.split_ascii_whitespace().take(4).collect();
        let balance = match words[..] {
            ["power-of-two"] => Balance::PowerOfTwo,
            ["round-robin"] => Balance::RoundRobin,
            ["least-connections"] => Balance::LeastConnections,
            ["hash", "address"] => Balance::Hash(HashKey::Address),
            ["hash", "header", name] => Balance::Hash(HashKey::Header(name.to_ascii_lowercase())),
            ["hash", "cookie", name] => Balance::Hash(HashKey::Cookie(name.to_owned())),
            [word] | ["hash", word] | ["hash", word, _] if !FORM.words.contains(&word) => {
                return Err(FORM.unknown(word));
            }
            _ => return Err(FORM.malformed(text)),
        };
        balance.check()?;
        Ok(balance)
    }
}

impl fmt::Display for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Balance::PowerOfTwo => f.write_str("power-of-two"),
            Balance::RoundRobin => f.write_str("round-robin"),
            Balance::LeastConnections => f.write_str("least-connections"),
            Balance::Hash(HashKey::Address) => f.write_str("hash address"),
            Balance::Hash(HashKey::Header(name)) => write!(f, "hash header {name}"),
            Balance::Hash(HashKey::Cookie(name)) => write!(f, "hash cookie {name}"),
        }
    }
}

/// One endpoint of a route, as a balancer sees it.
#[derive(Debug, Clone)]
pub struct Target {
    pub id: InstanceId,
    pub instance: Arc<Instance>,
    /// Its part of the requests, against the others'; 0: none. See [`weight_of_each`].
    pub weight: u32,
    /// It runs on this node.
    pub local: bool,
}

/// A release's weight divided among its instances, so that releases get their shares whatever their numbers
/// of instances. Give it release weights of at most 1,000 (percents, thousandths).
pub fn weight_of_each(release_weight: u32, instances: usize) -> u32 {
    /// Finer than a 500th of a thousandth.
    const FINE: u64 = 1_000_000;
    let each = u64::from(release_weight) * FINE / (instances.max(1) as u64);
    u32::try_from(each)
        .unwrap_or(u32::MAX)
        .max(u32::from(release_weight > 0))
}

/// A request, as a balancer sees it.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    pub now: Nanos,
    pub random: u64,
    /// [`super::hash::stable_hash`] of what [`Balance::Hash`] names; other policies do not look at it.
    pub key: u64,
    pub slow_start: Option<&'a SlowStart>,
}

/// The endpoints of a route, prepared for picking: once for each table, not for each request.
#[derive(Debug, Default)]
pub struct Targets {
    targets: Vec<Target>,
    /// Each target's seed for [`Balance::Hash`]: of its id, so the same on every node.
    seeds: Vec<u64>,
    /// Running sums of the weights, when they differ.
    sums: Option<Vec<u64>>,
    /// Where local targets are, when the others are elsewhere.
    locals: Vec<usize>,
    /// Since when the one that is ready for longest takes requests, and the latest one.
    ready: (Nanos, Nanos),
    turn: Turn,
}

/// In a cache line of its own: round robin writes it, and all else here is only read.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Turn(AtomicU64);

impl Targets {
    /// `turn` is where round robin begins: any number, or [`Targets::turn`] of the table before.
    pub fn new(targets: Vec<Target>, turn: u64) -> Targets {
        let first = targets.first().map_or(0, |target| target.weight);
        let equal = first > 0 && targets.iter().all(|target| target.weight == first);
        let sums = (!equal).then(|| {
            let weights = targets.iter().map(|target| u64::from(target.weight));
            let sum = |sum: &mut u64, weight: u64| {
                *sum += weight;
                Some(*sum)
            };
            weights.scan(0, sum).collect()
        });
        let local = |index: &usize| targets[*index].local;
        let locals: Vec<usize> = (0..targets.len()).filter(local).collect();
        let ready = || targets.iter().map(|target| target.instance.ready_since);
        Targets {
            ready: (ready().min().unwrap_or(0), ready().max().unwrap_or(0)),
            seeds: targets.iter().map(|t| mix(t.id.0 ^ GOLDEN)).collect(),
            locals: match locals.len() == targets.len() {
                true => Vec::new(),
                false => locals,
            },
            targets,
            sums,
            turn: Turn(AtomicU64::new(turn)),
        }
    }

    pub fn turn(&self) -> u64 {
        self.turn.0.load(Ordering::Relaxed)
    }

    pub fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// The index of the target for a request.
    pub fn pick(
        &self,
        policy: &Balance,
        ask: &Ask<'_>,
        usable: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let usable = |index: usize| self.targets[index].weight > 0 && usable(index);
        let (oldest, newest) = self.ready;
        let ramp = ask.slow_start;
        let draw = Draw {
            targets: self,
            now: ask.now,
            ramp: ramp.and_then(|start| start.ramp(oldest, newest, ask.now)),
            usable,
        };
        let dice = Dice::new(ask.random);
        match (policy, self.targets.len()) {
            (_, 0) => None,
            (_, 1) => (draw.usable)(0).then_some(0),
            (Balance::PowerOfTwo, _) => draw.power_of_two(dice),
            (Balance::LeastConnections, _) => draw.least_connections(dice),
            (Balance::RoundRobin, _) => draw.in_turn(dice),
            (Balance::Hash(_), _) => draw.hashed(ask.key),
        }
    }

    /// The target at a point of the weights laid end to end.
    fn at(&self, point: u64) -> usize {
        match &self.sums {
            Some(sums) => sums.partition_point(|sum| *sum <= point),
            None => usize::try_from(point).unwrap_or(usize::MAX),
        }
    }

    /// How long the weights are, laid end to end.
    fn length(&self) -> u64 {
        match &self.sums {
            Some(sums) => sums.last().copied().unwrap_or(0),
            None => self.targets.len() as u64,
        }
    }
}

/// One pick.
struct Draw<'a, U> {
    targets: &'a Targets,
    now: Nanos,
    /// Of those that start slowly; `None`: none does.
    ramp: Option<Ramp<'a>>,
    usable: U,
}

impl<U: Fn(usize) -> bool> Draw<'_, U> {
    /// The next in turn. With equal weights each in its place; otherwise points that a step of the golden ratio lays
    /// evenly over the weights, so that any run of turns is close to the shares (Weyl's sequence).
    fn in_turn(&self, mut dice: Dice) -> Option<usize> {
        // Relaxed: turns only have to be spread, nothing else is ordered by them.
        let turn = self.targets.turn.0.fetch_add(1, Ordering::Relaxed);
        let length = self.targets.length();
        if length == 0 {
            return None;
        }
        let point = match self.targets.sums {
            None => turn % length,
            Some(_) => part(turn.wrapping_mul(GOLDEN), length),
        };
        let in_turn = self.targets.at(point);
        if (self.usable)(in_turn) && self.is_warm(in_turn, &mut dice) {
            return Some(in_turn);
        }
        // The turn of one that is not usable goes to any other: always its neighbour would give that one twice
        // the load.
        self.any(&mut dice)
    }

    /// Whether a target that is starting slowly takes this request.
    fn is_warm(&self, index: usize, dice: &mut Dice) -> bool {
        match self.share(index) {
            FULL => true,
            share => dice.below(u64::from(FULL)) < u64::from(share),
        }
    }

    /// The share of its weight that a target gets now, of [`FULL`].
    fn share(&self, index: usize) -> u32 {
        match &self.ramp {
            None => FULL,
            Some(ramp) => ramp.share(self.targets.targets[index].instance.ready_since),
        }
    }

    /// A usable target at random, by weight.
    fn any(&self, dice: &mut Dice) -> Option<usize> {
        /// Then the first usable one from a random place on is taken, whatever its weight: it is rare that
        /// nearly none is usable, and then any is welcome.
        const DRAWS: usize = 6;
        let length = self.targets.length();
        if length == 0 {
            return None;
        }
        for _ in 0..DRAWS {
            let index = self.targets.at(dice.below(length));
            if (self.usable)(index) && self.is_warm(index, dice) {
                return Some(index);
            }
        }
        self.around(dice).find(|index| (self.usable)(*index))
    }

    /// All targets, from a random place on.
    fn around(&self, dice: &mut Dice) -> impl Iterator<Item = usize> + use<U> {
        let count = self.targets.targets.len();
        let start = dice.index(count);
        (start..count).chain(0..start)
    }
}

#[cfg(test)]
mod tests;
