//! Logging set-up, metrics, and time and randomness as values that tests replace.
//!
//! Nothing here is global but the log subscriber, which only binaries install: several nodes live in
//! one process in tests, each with its own [`Metrics`].
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod clock;
pub mod logging;
pub mod metrics;
pub mod random;

pub use clock::{Clock, ManualClock};
pub use metrics::{Counter, Family, Gauge, Histogram, Metrics};
pub use random::Random;
