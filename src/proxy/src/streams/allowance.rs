//! How much work a client may make for nothing.

use std::time::Instant;

use crate::config::Limits;

/// Earned back by waiting, in a second: a client that has nothing to say but keeps its connection.
const FRAMES_PER_SECOND: u32 = 100;
const RESETS_PER_SECOND: u32 = 20;
/// Content that is sent earns one idle frame for so many bytes. Clients open windows again by half of them, thousands of bytes;
/// one that does it byte by byte makes frames of one byte.
pub(crate) const BYTES_PER_FRAME: usize = 256;

/// What may still be spent; comes back with time, and by what is done for the client.
pub(crate) struct Allowance {
    left: u32,
    max: u32,
    per_second: u32,
    since: Instant,
}

impl Allowance {
    /// For streams that their client cancels, or that carry no request.
    pub(crate) fn of_resets(limits: &Limits) -> Allowance {
        Allowance::new(limits.http2_resets, RESETS_PER_SECOND)
    }

    /// For frames that carry nothing.
    pub(crate) fn of_frames(limits: &Limits) -> Allowance {
        Allowance::new(limits.http2_idle_frames, FRAMES_PER_SECOND)
    }

    fn new(max: u32, per_second: u32) -> Allowance {
        Allowance {
            left: max,
            max,
            per_second,
            since: Instant::now(),
        }
    }

    pub(crate) fn earn(&mut self, more: u32) {
        self.left = self.left.saturating_add(more).min(self.max);
    }

    /// Whether there was enough. The clock is asked only when there seems not to be.
    pub(crate) fn spend(&mut self, cost: u32) -> bool {
        if self.left < cost {
            let waited = self.since.elapsed();
            let earned = waited.as_millis() * u128::from(self.per_second) / 1000;
            if earned > 0 {
                self.since += waited;
                self.earn(u32::try_from(earned).unwrap_or(u32::MAX));
            }
        }
        let enough = self.left >= cost;
        self.left = self.left.saturating_sub(cost);
        enough
    }
}
