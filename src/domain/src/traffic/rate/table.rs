//! The rate limits' memory: what each key of each rule owes, for a node. Shared by all threads, without locks.
//!
//! A table of fixed size, [`TABLE_BYTES`], in lines of four entries. A key has two lines where it may be, so a
//! request looks at eight entries at most and nothing is ever moved or swept: an entry whose key is at rest
//! means the same as none, and is taken by the next new key that comes by.
//!
//! When all eight owe something, the one that is at rest soonest is forgotten for the new key, and counted
//! ([`RateTable::forgotten`]). That errs towards letting through: the forgotten key gets at most the little that it
//! owed, nobody is refused for want of space, and those furthest over their limit are remembered longest.

use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Gcra, Verdict};
use crate::traffic::Nanos;

/// Keys that may owe something at the same time: a million addresses. Of so many about one in twenty is forgotten early,
/// of three quarters of a million fewer than one in a hundred.
pub const TABLE_KEYS: usize = 1 << 20;
/// The memory that takes, all of it from the table's making on: 16 MiB.
pub const TABLE_BYTES: usize = TABLE_KEYS * size_of::<Entry>();

const LINE_ENTRIES: usize = 4;
/// Two threads may want the same entry; the loser looks again. After so many losses in a row the request passes:
/// there are never as many threads on one line for long.
const CLAIMS: usize = 8;

/// Who is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key<'a> {
    V4([u8; 4]),
    /// The first half of an IPv6 address.
    V6([u8; 8]),
    /// A header field's value.
    Value(&'a [u8]),
    /// All of the deployment.
    Everyone,
}

impl From<IpAddr> for Key<'_> {
    /// An IPv4 address that arrived over an IPv6 socket is one (RFC 4291 section 2.5.5.2); all those would
    /// share a single /64 otherwise.
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Key::V4(v4.octets()),
            IpAddr::V6(v6) => {
                let [a, b, c, d, e, f, g, h, ..] = v6.octets();
                Key::V6([a, b, c, d, e, f, g, h])
            }
        }
    }
}

/// In as few words as tell the kinds apart: this is paid by every request that is limited.
impl Hash for Key<'_> {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        match self {
            Key::V4(octets) => hasher.write_u64(1 << 32 | u64::from(u32::from_be_bytes(*octets))),
            Key::V6(octets) => {
                hasher.write_u64(u64::from_be_bytes(*octets));
                hasher.write_u8(2);
            }
            Key::Value(value) => {
                hasher.write(value);
                hasher.write_u8(3);
            }
            Key::Everyone => hasher.write_u8(4),
        }
    }
}

#[derive(Debug, Default)]
struct Entry {
    /// The keyed hash of rule and key; 0: never used.
    key: AtomicU64,
    /// When the key is at rest.
    rest: AtomicU64,
}

/// One cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Line([Entry; LINE_ENTRIES]);

/// `S` hashes keys with a secret, so that nobody can choose which keys share a line.
#[derive(Debug)]
pub struct RateTable<S = RandomState> {
    hasher: S,
    lines: Box<[Line]>,
    forgotten: AtomicU64,
}

impl<S: BuildHasher> RateTable<S> {
    /// The table of a node, for [`TABLE_KEYS`].
    pub fn new(hasher: S) -> Self {
        Self::with_keys(hasher, TABLE_KEYS)
    }

    /// For at least so many keys, at most twice as many; a power of two.
    pub fn with_keys(hasher: S, keys: usize) -> Self {
        let lines = keys.div_ceil(LINE_ENTRIES).next_power_of_two();
        RateTable {
            hasher,
            lines: (0..lines).map(|_| Line::default()).collect(),
            forgotten: AtomicU64::new(0),
        }
    }

    /// Counts a request of a key against a rule. `rule` is any number that no other rule has.
    pub fn request(&self, rule: u64, key: Key<'_>, limit: &Gcra, now: Nanos) -> Verdict {
        let hash = self.hasher.hash_one((rule, key)).max(1);
        for _ in 0..CLAIMS {
            if let Some(entry) = self.entry(hash, now) {
                return entry.charge(limit, now);
            }
        }
        self.forgotten.fetch_add(1, Ordering::Relaxed);
        Verdict::Pass
    }

    /// Keys that owed something and were forgotten for others: when this grows, the table is too small.
    pub fn forgotten(&self) -> u64 {
        self.forgotten.load(Ordering::Relaxed)
    }

    /// The key's entry, taken for it if it had none. `None`: another thread was quicker, look again.
    ///
    /// Relaxed throughout: an entry's two words need not agree. A thread that meets the key of one and the
    /// debt of another in the moment of a change charges one request wrongly, no more.
    fn entry(&self, hash: u64, now: Nanos) -> Option<&Entry> {
        let seen = self.lines_of(hash).map(Line::look);
        if let Some(own) = seen.iter().flatten().find(|seen| seen.key == hash) {
            return Some(own.entry);
        }
        let at_rest = |seen: &&Seen<'_>| seen.rest <= now;
        let free = |line: &[Seen<'_>]| line.iter().filter(at_rest).count();
        // The emptier of two lines: with one line alone many would be full long before the table is
        // (Azar et al., "Balanced Allocations", 1994).
        let emptier = usize::from(free(&seen[1]) > free(&seen[0]));
        if let Some(taken) = seen[emptier].iter().find(at_rest) {
            return taken.claim(hash);
        }
        let soonest = seen.iter().flatten().min_by_key(|seen| seen.rest)?;
        let entry = soonest.claim(hash)?;
        entry.rest.store(now, Ordering::Relaxed);
        self.forgotten.fetch_add(1, Ordering::Relaxed);
        Some(entry)
    }

    fn lines_of(&self, hash: u64) -> [&Line; 2] {
        let line = |bits: u64| {
            let index = usize::try_from(bits).unwrap_or(usize::MAX);
            &self.lines[index & (self.lines.len() - 1)]
        };
        [line(hash & u64::from(u32::MAX)), line(hash >> 32)]
    }
}

/// An entry as it was when looked at.
struct Seen<'a> {
    entry: &'a Entry,
    key: u64,
    rest: Nanos,
}

impl Line {
    fn look(&self) -> [Seen<'_>; LINE_ENTRIES] {
        self.0.each_ref().map(|entry| Seen {
            entry,
            key: entry.key.load(Ordering::Relaxed),
            rest: entry.rest.load(Ordering::Relaxed),
        })
    }
}

impl<'a> Seen<'a> {
    /// Takes the entry if it still has the key that it was seen with.
    fn claim(&self, hash: u64) -> Option<&'a Entry> {
        let key = &self.entry.key;
        key.compare_exchange(self.key, hash, Ordering::Relaxed, Ordering::Relaxed)
            .ok()?;
        Some(self.entry)
    }
}

impl Entry {
    fn charge(&self, limit: &Gcra, now: Nanos) -> Verdict {
        let mut rest = self.rest.load(Ordering::Relaxed);
        loop {
            let (verdict, next) = limit.decide(rest, now);
            if next == rest {
                return verdict;
            }
            match self
                .rest
                .compare_exchange_weak(rest, next, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return verdict,
                Err(newer) => rest = newer,
            }
        }
    }
}
