//! Numbers that only have to be well spread: a hash that is the same on every node, and draws from one
//! random number. Neither withstands an adversary who aims at collisions; what must, takes a keyed hash.

/// Steele, Lea and Flood's SplitMix64: every bit of the input changes every bit of the result.
pub(super) fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// The odd number next to 2^64 divided by the golden ratio, SplitMix64's step.
pub(super) const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// A hash of some bytes, the same on every node and in every version: instances are chosen by it.
pub fn stable_hash(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let take = |hash: u64, word: [u8; 8]| mix(hash.wrapping_add(GOLDEN) ^ u64::from_le_bytes(word));
    let hash = words
        .iter()
        .fold(GOLDEN ^ bytes.len() as u64, |hash, word| take(hash, *word));
    if rest.is_empty() {
        return mix(hash);
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    take(hash, last)
}

/// A number as a fraction of 2^64, of a whole; always less than it, unless that is 0.
pub(super) fn part(fraction: u64, whole: u64) -> u64 {
    let product = u128::from(fraction) * u128::from(whole);
    u64::try_from(product >> 64).unwrap_or(0)
}

/// As many draws as needed from one random number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(random: u64) -> Dice {
        Dice(random)
    }

    /// Evenly 0 to `count` - 1; 0 when there is nothing to choose from. The bias of multiplying instead of
    /// dividing is below 2^-32 for any count here.
    pub(super) fn below(&mut self, count: u64) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        part(mix(self.0), count)
    }

    pub(super) fn index(&mut self, count: usize) -> usize {
        usize::try_from(self.below(count as u64)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hashes_stay_what_they_are() {
        // A change would send every hashed request to another instance at the next update.
        assert_eq!(stable_hash(b""), 16_294_208_416_658_607_535);
        assert_eq!(stable_hash(b"192.0.2.1"), 14_196_659_741_882_657_543);
        assert_ne!(stable_hash(b"a"), stable_hash(b"a\0"));
    }

    #[test]
    fn draws_are_even() {
        let mut seen = [0; 3];
        for random in 0..30_000 {
            seen[Dice::new(random).index(3)] += 1;
        }
        assert!(seen.iter().all(|n| (9_500..10_500).contains(n)), "{seen:?}");
        assert_eq!(Dice::new(7).below(0), 0);
    }

    proptest! {
        #[test]
        fn draws_are_below_their_count(random: u64, count in 1u64..) {
            let mut dice = Dice::new(random);
            for _ in 0..4 {
                prop_assert!(dice.below(count) < count);
            }
        }
    }
}
