//! Whether a client keeps up with the least speed, over stretches of time in which it is waited for.

use std::time::Instant;

use crate::config::Limits;

#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// Since when the client is waited for, and what had moved by then.
    stretch: Option<(Instant, u64)>,
}

impl Pace {
    /// Somebody else is waited for.
    pub(crate) fn rest(&mut self) {
        self.stretch = None;
    }

    /// `moved` are the bytes that the client has sent or taken since it came. Until when it is waited for; nothing when it is too slow.
    pub(crate) fn due(&mut self, moved: u64, limits: &Limits, now: Instant) -> Option<Instant> {
        let (since, before) = *self.stretch.get_or_insert((now, moved));
        if now < since + limits.client_stall {
            return Some(since + limits.client_stall);
        }
        let millis = u64::try_from(limits.client_stall.as_millis()).unwrap_or(u64::MAX);
        let least = limits.client_rate.saturating_mul(millis) / 1000;
        if moved - before < least.max(1) {
            return None;
        }
        self.stretch = Some((now, moved));
        Some(now + limits.client_stall)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn who_moves_enough_is_waited_for_and_a_trickle_is_not() {
        let limits = Limits {
            client_stall: Duration::from_secs(10),
            client_rate: 100,
            ..Limits::default()
        };
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut pace = Pace::default();
        assert_eq!(pace.due(500, &limits, at(0)), Some(at(10)));
        assert_eq!(pace.due(900, &limits, at(9)), Some(at(10)));
        assert_eq!(pace.due(1_500, &limits, at(10)), Some(at(20)));
        assert_eq!(pace.due(2_499, &limits, at(20)), None);
        pace.rest();
        assert_eq!(pace.due(2_499, &limits, at(21)), Some(at(31)));
    }

    #[test]
    fn who_moves_nothing_is_too_slow_at_any_rate() {
        let limits = Limits {
            client_stall: Duration::from_millis(10),
            client_rate: 0,
            ..Limits::default()
        };
        let start = Instant::now();
        let mut pace = Pace::default();
        pace.due(0, &limits, start);
        let later = start + Duration::from_millis(20);
        assert!(pace.due(1, &limits, later).is_some());
        assert!(
            pace.due(1, &limits, later + Duration::from_millis(20))
                .is_none()
        );
    }
}
