//! The replicated registry of desired state: openraft over the mesh, with log, vote and snapshots in
//! sled.
//!
//! [`Registry::propose`] changes the state through the leader, wherever it is called;
//! [`Registry::state`] shows what this node has applied, [`Registry::read`] what the cluster has agreed
//! on by now. Everything acknowledged is on stable storage on a majority of the voters.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod config;
mod disk;
mod elections;
mod error;
mod honest;
#[cfg(feature = "fault-points")]
pub mod laboratory;
mod limits;
mod log;
mod machine;
mod medium;
mod metrics;
mod peers;
mod planted;
mod points;
mod proposals;
mod reads;
mod recovery;
mod registry;
mod room;
mod service;
mod start;
mod status;
mod types;
mod voters;

#[cfg(test)]
mod tests;

pub use config::{Compaction, Config, Storage, Timing};
pub use error::{ProposeError, ReadError, RecoverError, StartError};
pub use limits::RECOVERY_ASKING;
pub use medium::Medium;
pub use nebula_wire::peer::registry::{Applied, OperatorToken};
pub use recovery::{Recovered, Survivor, Voice};
pub use registry::Registry;
pub use room::Space;
pub use status::Status;
