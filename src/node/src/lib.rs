//! The daemon: configuration, preparing a data folder, wiring, start and orderly stop.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod announce;
mod artifacts;
mod config;
mod directory;
mod edge;
mod facts;
mod files;
mod firewall;
mod history;
mod instances;
mod lock;
mod meter;
mod output;
mod rates;
pub mod recover;
mod reserve;
mod run;
mod setup;
mod supplies;
mod trials;
mod wiring;

/// Loops of the daemon that simulated nodes run as well.
pub mod parts {
    pub use crate::announce::Announcer;
    pub use crate::directory::{DirectoryKeeper, Peers, directory};
}

pub use config::{Config, ConfigError, LogConfig, LogFormat, Overrides, default_data_dir};
pub use edge::EdgeTls;
pub use files::{API_SOCKET, CLUSTER_FILE, INSTANCES_DIR, private_dir, write_private};
pub use instances::InstancesConfig;
pub use lock::{LockError, daemon_pid};
pub use nebula_drivers::confine::Mode as IsolationMode;
pub use output::{OutputConfig, OutputOverrides};
pub use reserve::ReserveConfig;
pub use run::{RunError, run};
pub use setup::{Initialised, Joined, SetupError, init, is_prepared, join};
