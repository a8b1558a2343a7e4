//! How much output of one instance is kept, and how fast it may come.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// More segments than this make no difference to anybody but the file system.
pub const SEGMENTS_MAX: u32 = 16;

/// Of one instance. Travels to its shim with what to run; another value holds from the next start on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    /// A segment of this size is followed by the next: hours of an ordinary program's output.
    pub segment_bytes: u64,
    /// Segments that are kept, the one that is written included; from 2 to [`SEGMENTS_MAX`].
    pub segments: u32,
    /// Older output is deleted by whole segments, so each is at most this old divided by their number.
    pub keep: Duration,
    /// Output a second over a while; more is dropped, counted and told. No reader keeps up with more, and
    /// what came before the flood would be gone within a minute.
    pub rate_bytes: u64,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            segment_bytes: 16 * 1024 * 1024,
            segments: 4,
            keep: Duration::from_secs(30 * 24 * 60 * 60),
            rate_bytes: 4 * 1024 * 1024,
        }
    }
}

impl Bounds {
    /// So long may one segment be written to.
    pub(crate) fn segment_age(&self) -> Duration {
        self.keep / self.segments.max(1)
    }
}
