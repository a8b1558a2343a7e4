//! `nodectl dev`: a real cluster on one machine, for trying things out and for tests.

mod claims;
mod down;
mod edge;
mod example;
mod home;
mod nodes;
mod ports;
mod state;
mod up;

use std::num::NonZeroU16;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::flags::Isolation;
use crate::error::Outcome;
use crate::output::Output;

/// Nodes that one machine can hold without the cluster timing out on itself.
pub const MAX_NODES: u16 = 16;

#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  nodectl dev                                      until Ctrl-C, in a folder that goes away
  nodectl dev --nodes 5 --data-dir ./lab           keeps its data; run it again to go on with it
  nodectl dev --data-dir ./lab --detach --json     returns when the cluster is ready, for scripts
  nodectl dev down --data-dir ./lab"
)]
pub struct Dev {
    #[command(flatten)]
    up: Up,
    #[command(subcommand)]
    command: Option<DevCommand>,
}

#[derive(Debug, Args)]
pub struct Up {
    /// How many nodes [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_NODES)))]
    nodes: Option<u16>,
    /// Where to keep everything; one that holds a cluster goes on with it [default: a temporary folder]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Take four ports for each node from here on, instead of free ones
    #[arg(long, value_name = "PORT")]
    base_port: Option<NonZeroU16>,
    /// Threads of each node that serve what is deployed; 0 for one per core [default: as before, or 0]
    #[arg(long, value_name = "N")]
    edge_threads: Option<usize>,
    /// Serve what is deployed over TLS as well, with the certificates in this folder: NAME.crt with NAME.key beside it
    #[arg(long, value_name = "DIR")]
    edge_certificates: Option<PathBuf>,
    /// How programs are kept apart: as their deployments ask, everything or no start, or nothing but their limits [default: as before, or auto]
    #[arg(long, value_name = "MODE")]
    isolation: Option<Isolation>,
    /// Return when the cluster is ready and leave it running
    #[arg(long)]
    detach: bool,
    /// Deploy nothing
    #[arg(long)]
    no_example: bool,
}

#[derive(Debug, Subcommand)]
enum DevCommand {
    /// Stop a cluster that runs in a folder, and everything it runs
    #[command(
        after_help = "Examples:\n  nodectl dev down --data-dir ./lab\n  nodectl dev down --data-dir ./lab --purge"
    )]
    Down {
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
        /// Delete what the cluster kept in the folder as well
        #[arg(long)]
        purge: bool,
    },
}

pub async fn run(dev: Dev, out: Output) -> Outcome {
    match dev.command {
        None => up::run(dev.up, out).await,
        Some(DevCommand::Down { data_dir, purge }) => down::run(&data_dir, purge, out).await,
    }
}
