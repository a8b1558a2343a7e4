//! Slow start: an instance that became ready gets its full share only after a while, so that caches, pools
//! and compilers may warm up. Pure functions; the moment an instance became ready is the caller's to keep.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::fields::Form;
use super::{Nanos, TrafficError, check_count, check_window, nanos};
use crate::text::{Percent, show_duration};

/// Text: `window=30s from=10%`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlowStart {
    /// From becoming ready to the full share.
    pub window: Duration,
    /// The share to begin with.
    pub from: Percent,
}

impl Default for SlowStart {
    /// Envoy's smallest share, 10%: with nothing at all the instance would never warm up.
    fn default() -> Self {
        SlowStart {
            window: Duration::from_secs(30),
            from: Percent::capped(10),
        }
    }
}

const FORM: Form = Form {
    what: "a slow start",
    example: "window=30s from=10%",
    words: &["window", "from"],
};

impl SlowStart {
    pub fn check(&self) -> Result<(), TrafficError> {
        check_window("window", self.window)?;
        check_count("from", u32::from(self.from.get()), 1)
    }
}

/// A full share.
pub const FULL: u32 = 1 << 16;

impl SlowStart {
    /// The share of its weight that an instance gets, of [`FULL`]: rising evenly from `from`, as nginx's and
    /// Envoy's (with its aggression of 1) do.
    pub fn share(&self, ready_since: Nanos, now: Nanos) -> u32 {
        let window = nanos(self.window);
        let since = now.saturating_sub(ready_since);
        if since >= window {
            return FULL;
        }
        let from = u64::from(FULL) * u64::from(self.from.get()) / 100;
        // At most 2^16 times an hour: fits.
        let risen = (u64::from(FULL) - from) * since / window;
        u32::try_from(from + risen).unwrap_or(FULL).max(1)
    }

    /// The ramp of some instances, of which the longest and the latest ready are these. `None`: none is starting, or all
    /// are equally far, as after a restart of the proxy.
    pub fn ramp(&self, oldest: Nanos, newest: Nanos, now: Nanos) -> Option<Ramp<'_>> {
        let best = self.share(oldest, now);
        let starting = oldest != newest && now.saturating_sub(newest) < nanos(self.window);
        starting.then_some(Ramp {
            start: self,
            best,
            now,
        })
    }
}

/// A slow start at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Ramp<'a> {
    start: &'a SlowStart,
    /// The share of the one that is furthest: the others' are seen against it.
    best: u32,
    now: Nanos,
}

impl Ramp<'_> {
    /// As [`SlowStart::share`], with [`FULL`] for the one that is furthest.
    pub fn share(&self, ready_since: Nanos) -> u32 {
        let share = u64::from(self.start.share(ready_since, self.now));
        let share = share * u64::from(FULL) / u64::from(self.best);
        u32::try_from(share).unwrap_or(FULL).clamp(1, FULL)
    }
}

impl FromStr for SlowStart {
    type Err = TrafficError;

    fn from_str(text: &str) -> Result<Self, TrafficError> {
        let (fields, default) = (FORM.read(text)?, SlowStart::default());
        let start = SlowStart {
            window: fields.duration("window", default.window)?,
            from: fields.percent("from", default.from)?,
        };
        start.check()?;
        Ok(start)
    }
}

impl fmt::Display for SlowStart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let window = show_duration(self.window);
        write!(f, "window={window} from={}", self.from)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Nanos = 1_000_000_000;

    #[test]
    fn a_share_rises_evenly_to_the_full_one() {
        let start: SlowStart = "window=10s from=20%".parse().unwrap();
        let percent =
            |now| (u64::from(start.share(5 * SECOND, now)) * 100).div_ceil(u64::from(FULL));
        assert_eq!(percent(0), 20, "a clock that is behind");
        assert_eq!(percent(5 * SECOND), 20);
        assert_eq!(percent(10 * SECOND), 60);
        assert_eq!(percent(15 * SECOND), 100);
        assert_eq!(percent(u64::MAX), 100);
    }

    #[test]
    fn shares_are_seen_against_the_one_that_is_furthest() {
        let start: SlowStart = "window=10s from=10%".parse().unwrap();
        let ramp = |oldest: u64, newest: u64, now: u64| {
            start.ramp(oldest * SECOND, newest * SECOND, now * SECOND)
        };
        assert!(ramp(5, 5, 6).is_none(), "all equally far");
        assert!(ramp(0, 5, 15).is_none(), "all over");
        let both = ramp(0, 5, 5).unwrap();
        assert_eq!(both.share(0), FULL);
        // 10% against 55%.
        assert!(both.share(5 * SECOND).abs_diff(FULL * 10 / 55) < 10);
    }

    proptest! {
        #[test]
        fn a_share_never_falls_and_is_never_nothing(a in 0u64..100, b in 0u64..100, from in 1u8..=100) {
            let start = SlowStart { window: Duration::from_secs(30), from: Percent::capped(from) };
            let share = |s: u64| start.share(0, s * SECOND);
            prop_assert!(share(a.min(b)) <= share(a.max(b)));
            prop_assert!((1..=FULL).contains(&share(a)));
        }
    }
}
