//! The reconciler that probes this node's instances and publishes what it finds.
//!
//! What follows from a probe, and when to ask again, is `domain::probe`'s decision; this crate dials,
//! keeps the time, and tells the membership and the supervisor. [`Reports`] tells people, of all nodes.
//! A node without instances does nothing at all here.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod book;
mod dial;
mod health;
mod metrics;
mod reports;
mod target;
mod usages;
mod verdicts;

pub use book::{BOOK_INSTANCES, Book};
pub use dial::{ProbeError, RESPONSE_HEAD_BYTES};
pub use health::{COMMANDS_AT_ONCE, Health, PROBES_AT_ONCE, PROBES_OF_ONE, Parts};
pub use reports::{ANSWER_WITHIN, Also, Report, ReportError, Reports, Sources};
pub use usages::Usages;
pub use verdicts::{Published, Verdicts};
