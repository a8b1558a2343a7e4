//! Randomness as a value: the system's, or a seeded generator that repeats itself in tests.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nebula_domain::RequestId;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

/// A source of random values. [`Random::system`] is fit for secrets, a seeded one is for tests.
#[derive(Clone)]
pub struct Random(Source);

#[derive(Clone)]
enum Source {
    System,
    Seeded(Arc<Mutex<StdRng>>),
}

/// Hides the generator's state: what it will say next may become a secret.
impl std::fmt::Debug for Random {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            Source::System => "Random(system)",
            Source::Seeded(_) => "Random(seeded)",
        })
    }
}

impl Random {
    pub fn system() -> Random {
        Random(Source::System)
    }

    /// The same seed gives the same values in the same order. Clones share one sequence.
    pub fn seeded(seed: u64) -> Random {
        Random(Source::Seeded(Arc::new(Mutex::new(StdRng::seed_from_u64(
            seed,
        )))))
    }

    pub fn fill(&self, bytes: &mut [u8]) {
        match &self.0 {
            Source::System => rand::rng().fill_bytes(bytes),
            Source::Seeded(rng) => rng
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .fill_bytes(bytes),
        }
    }

    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.fill(&mut bytes);
        bytes
    }

    pub fn u64(&self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }

    pub fn u128(&self) -> u128 {
        u128::from_le_bytes(self.bytes())
    }

    /// A number below `bound`, or 0 when `bound` is 0. The bias is below `bound / 2^64`.
    pub fn below(&self, bound: u64) -> u64 {
        let wide = u128::from(self.u64()) * u128::from(bound);
        // The high half of a 64 by 64 bit product is below `bound`.
        (wide >> 64) as u64
    }

    /// Between half of `duration` and all of it, to keep peers from acting in step.
    pub fn jitter(&self, duration: Duration) -> Duration {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(nanos / 2 + self.below(nanos - nanos / 2 + 1))
    }

    pub fn request_id(&self) -> RequestId {
        RequestId(self.u128())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_and_the_system_does_not() {
        assert_eq!(Random::seeded(7).u128(), Random::seeded(7).u128());
        assert_ne!(Random::seeded(7).u128(), Random::seeded(8).u128());
        assert_ne!(Random::system().u128(), Random::system().u128());
    }

    #[test]
    fn bounds_hold() {
        let random = Random::seeded(1);
        assert_eq!(random.below(0), 0);
        for _ in 0..1000 {
            assert!(random.below(7) < 7);
            let jittered = random.jitter(Duration::from_millis(100));
            assert!((50..=100).contains(&jittered.as_millis()), "{jittered:?}");
        }
    }
}
