//! The reconciler that probes this node's instances and publishes what it finds.
//!
//! What follows from a probe, and when to ask again, is `domain::probe`'s decision; this crate dials,
//! keeps the time and tells the membership. A node without instances does nothing at all here.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod dial;
mod health;
mod target;
mod verdicts;

pub use dial::{ProbeError, RESPONSE_HEAD_BYTES};
pub use health::{Health, PROBES_AT_ONCE};
pub use verdicts::Verdicts;
