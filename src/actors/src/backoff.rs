//! How long to wait before a failed reconciler is made anew.

use std::time::Duration;

/// The pause after a first failure: short, since most failures are single.
pub const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// The longest pause: a fault that goes away by itself (a full disk) is noticed soon after.
pub const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// A reconciler that ran this long before it failed starts again from the first pause.
pub const CALM: Duration = Duration::from_secs(60);

/// Doubles from [`BACKOFF_FIRST`] to [`BACKOFF_MAX`]; forgets after [`CALM`].
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The pause after a run of length `ran` ended in failure.
    pub(crate) fn after_run(&mut self, ran: Duration) -> Duration {
        if ran >= CALM {
            self.failures = 0;
        }
        // 2^7 × 100 ms is already above the maximum; the cap keeps the shift in range for ever.
        let pause = BACKOFF_FIRST
            .saturating_mul(1 << self.failures.min(7))
            .min(BACKOFF_MAX);
        self.failures = self.failures.saturating_add(1);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_maximum_and_forgets_after_calm() {
        let mut backoff = Backoff::default();
        let short = Duration::from_secs(1);
        let pauses: Vec<u128> = (0..9)
            .map(|_| backoff.after_run(short).as_millis())
            .collect();
        assert_eq!(
            pauses,
            [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]
        );
        assert_eq!(backoff.after_run(CALM), BACKOFF_FIRST);
        assert_eq!(backoff.after_run(short), BACKOFF_FIRST * 2);
    }
}
