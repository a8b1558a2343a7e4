//! How a node runs the programs of its instances: the [`Driver`] trait, its two kinds
//! ([`process::ProcessDriver`] and [`fake::FakeDriver`]), the shim that is the parent of every
//! program, and the format of an instance's log file.
//!
//! A driver knows what runs and nothing of what should: it never restarts anything by itself.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod confine;
mod driver;
mod exec;
pub mod fake;
pub mod firewall;
mod image;
pub mod logfile;
pub mod process;
mod procfs;
mod record;
pub mod shim;
pub mod tree;
pub mod volume;

pub use driver::{Driver, DriverError, Exit, Run, RunStatus, Runs, Secrets, StartSpec};
pub use exec::{Exec, ExecSpec, SAID_BYTES};
pub use image::Image;
