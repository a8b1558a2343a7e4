//! The wall clock as a value.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nebula_domain::time::Millis;

/// Tells the wall-clock time. For measuring how long something takes use `std::time::Instant`.
#[derive(Debug, Clone)]
pub struct Clock(Source);

#[derive(Debug, Clone)]
enum Source {
    System,
    Manual(Arc<AtomicU64>),
}

/// Moves the time of the [`Clock`] it was made with.
#[derive(Debug, Clone)]
pub struct ManualClock(Arc<AtomicU64>);

impl Clock {
    pub fn system() -> Clock {
        Clock(Source::System)
    }

    /// A clock that stands still until its [`ManualClock`] moves it.
    pub fn manual(start: Millis) -> (Clock, ManualClock) {
        let now = Arc::new(AtomicU64::new(start.0));
        (Clock(Source::Manual(now.clone())), ManualClock(now))
    }

    pub fn now(&self) -> Millis {
        match &self.0 {
            // A machine whose clock is before 1970 is treated as being at 1970.
            Source::System => Millis(
                SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
            ),
            Source::Manual(now) => Millis(now.load(Ordering::SeqCst)),
        }
    }
}

impl ManualClock {
    pub fn set(&self, now: Millis) {
        self.0.store(now.0, Ordering::SeqCst);
    }

    pub fn advance(&self, by: Duration) {
        let by = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.0.fetch_add(by, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manual_time_moves_only_by_hand() {
        let (clock, hand) = Clock::manual(Millis(5));
        let other = clock.clone();
        assert_eq!(clock.now(), Millis(5));
        hand.advance(Duration::from_secs(1));
        assert_eq!(other.now(), Millis(1005));
        hand.set(Millis(7));
        assert_eq!(clock.now(), Millis(7));
    }

    #[test]
    fn system_time_is_after_2020() {
        assert!(Clock::system().now() > Millis(1_577_836_800_000));
    }
}
