//! A bound on how fast one instance may write: what is over it is dropped, counted, and told.
//!
//! A token bucket: it holds [`BURST_SECONDS`] of the rate, so that a long stack trace or the start of a
//! chatty program passes.

use std::time::Duration;

use nebula_domain::time::Millis;
use serde::{Deserialize, Serialize};

use super::Stream;

const BURST_SECONDS: u64 = 8;
/// Between two notes about what was dropped.
pub(crate) const NOTE_EVERY: Duration = Duration::from_secs(1);
/// What was dropped since the instance's first start, in its folder, for the daemon's metrics.
pub const DROPPED: &str = "dropped.json";

/// Lines that went over the rate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    pub lines: u64,
    pub bytes: u64,
}

pub(crate) struct Flood {
    rate_bytes: u64,
    left_bytes: u64,
    filled_at: Option<Millis>,
    /// Since the last note.
    untold: Dropped,
    noted_at: Option<Millis>,
}

impl Flood {
    pub(crate) fn new(rate_bytes: u64) -> Flood {
        Flood {
            rate_bytes,
            left_bytes: rate_bytes.saturating_mul(BURST_SECONDS),
            filled_at: None,
            untold: Dropped::default(),
            noted_at: None,
        }
    }

    /// Whether a line of so many bytes may be written.
    pub(crate) fn admits(&mut self, at: Millis, bytes: usize) -> bool {
        let bytes = bytes as u64;
        let passed = self.filled_at.map_or(Duration::ZERO, |then| at.since(then));
        let fresh = u128::from(self.rate_bytes) * passed.as_millis() / 1_000;
        if fresh > 0 || self.filled_at.is_none_or(|then| at < then) {
            // A clock that was set back gives nothing, and goes on from there.
            let fresh = u64::try_from(fresh).unwrap_or(u64::MAX);
            let most = self.rate_bytes.saturating_mul(BURST_SECONDS);
            self.left_bytes = self.left_bytes.saturating_add(fresh).min(most);
            self.filled_at = Some(at);
        }
        if bytes <= self.left_bytes {
            self.left_bytes -= bytes;
            return true;
        }
        self.untold.lines += 1;
        self.untold.bytes += bytes;
        false
    }

    /// Whether a note is owed, now or soon.
    pub(crate) fn owes(&self) -> bool {
        self.untold.lines > 0
    }

    /// What was dropped since the last note, unless that was a moment ago.
    pub(crate) fn owed_now(&mut self, at: Millis, last: bool) -> Option<Dropped> {
        let due = self
            .noted_at
            .is_none_or(|then| at < then || at.since(then) >= NOTE_EVERY);
        if !self.owes() || !(due || last) {
            return None;
        }
        self.noted_at = Some(at);
        Some(std::mem::take(&mut self.untold))
    }

    pub(crate) fn note(&self, dropped: Dropped) -> (Stream, String) {
        let text = format!(
            "{} lines ({} bytes) were dropped: output may be {} bytes a second",
            dropped.lines, dropped.bytes, self.rate_bytes
        );
        (Stream::Nebula, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_a_flood_is_counted_and_told_once_a_second() {
        let mut flood = Flood::new(100);
        let mut passed = 0;
        for _ in 0..20 {
            passed += u64::from(flood.admits(Millis(5), 100));
        }
        assert_eq!(passed, BURST_SECONDS);
        let told = flood.owed_now(Millis(5), false).unwrap();
        assert_eq!((told.lines, told.bytes), (12, 1200));
        assert!(!flood.owes());
        assert!(!flood.admits(Millis(6), 100) && flood.owes());
        assert_eq!(flood.owed_now(Millis(900), false), None);
        assert!(flood.admits(Millis(1_005), 100), "a second's worth is back");
        assert_eq!(flood.owed_now(Millis(1_005), false).unwrap().lines, 1);
        assert!(!flood.admits(Millis(1_006), 100));
        assert_eq!(flood.owed_now(Millis(1_006), true).unwrap().lines, 1);
    }

    #[test]
    fn a_steady_trickle_fills_although_each_step_is_small() {
        let mut flood = Flood::new(100);
        while flood.admits(Millis(0), 100) {}
        // 1 ms is a tenth of a byte.
        let passed = (1..=100_000)
            .filter(|ms| flood.admits(Millis(*ms), 10))
            .count();
        assert_eq!(passed, 1_000);
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_stop_the_output() {
        let mut flood = Flood::new(100);
        while flood.admits(Millis(1_000_000), 100) {}
        assert!(!flood.admits(Millis(0), 100));
        assert!(flood.admits(Millis(1_000), 100));
    }
}
