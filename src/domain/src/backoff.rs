//! How long to wait before an instance that ended by itself is started again.
//!
//! The first restart is quick, because most programs end once by accident (a deploy raced its
//! database, a machine was busy). After that the wait doubles, so that a program which cannot start
//! costs little. A program that ran for a while has earned a fresh beginning.

use std::time::Duration;

/// Before the first restart: long enough that a port in use is free again, short enough that nobody waits.
pub const FIRST: Duration = Duration::from_millis(100);
/// Before the second restart; doubles from here.
pub const BASE: Duration = Duration::from_millis(500);
/// The longest wait: a program that was repaired from outside comes back within half a minute.
pub const MAX: Duration = Duration::from_secs(30);
/// After this long without ending, earlier failures no longer count.
pub const RESET_AFTER: Duration = Duration::from_secs(60);

/// Restarts in a row of one instance, none of which ran for [`RESET_AFTER`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// As after `attempts` restarts in a row; for a supervisor that adopts an instance it did not start.
    pub fn resumed(attempts: u32) -> Backoff {
        Backoff { attempts }
    }

    /// The program ended after running for `ran`: how long to wait before it is started again.
    pub fn delay(&mut self, ran: Duration) -> Duration {
        if ran >= RESET_AFTER {
            self.attempts = 0;
        }
        let delay = match self.attempts {
            0 => FIRST,
            n => BASE
                .saturating_mul(1u32.checked_shl(n - 1).unwrap_or(u32::MAX))
                .min(MAX),
        };
        self.attempts = self.attempts.saturating_add(1);
        delay
    }

    pub fn attempts(&self) -> u32 {
        self.attempts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quick_once_then_doubling_to_the_longest() {
        let mut backoff = Backoff::default();
        let delays: Vec<u64> = (0..10)
            .map(|_| backoff.delay(Duration::from_secs(1)).as_millis() as u64)
            .collect();
        assert_eq!(
            delays,
            [
                100, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000
            ]
        );
        assert_eq!(backoff.attempts(), 10);
    }

    #[test]
    fn a_calm_minute_forgets_the_past() {
        let mut backoff = Backoff::resumed(7);
        assert_eq!(backoff.delay(RESET_AFTER), FIRST);
        assert_eq!(backoff.delay(Duration::ZERO), BASE);
    }

    #[test]
    fn no_number_of_restarts_overflows() {
        for attempts in [31, 32, 33, u32::MAX] {
            assert_eq!(Backoff::resumed(attempts).delay(Duration::ZERO), MAX);
        }
    }
}
