//! `nebula scheduler`: one machine's daemon in one step.

use std::path::PathBuf;

use clap::Subcommand;
use nebula_client::Client;
use nebula_node::API_SOCKET;
use serde::Serialize;

use crate::error::Outcome;
use crate::nodectl::{self, NodeFlags, Prepared};
use crate::output::Output;
use crate::render;

#[derive(Debug, Subcommand)]
pub enum Scheduler {
    /// Start Nebula on this machine; make it the first of a new cluster if it belongs to none
    #[command(after_help = "Example:\n  nebula scheduler start")]
    Start {
        #[command(flatten)]
        node: NodeFlags,
    },
    /// Show what this machine's node says of itself
    #[command(after_help = "Example:\n  nebula scheduler status --json")]
    Status {
        /// Of the node
        #[arg(long, value_name = "DIR", env = "NEBULA_DATA_DIR")]
        data_dir: Option<PathBuf>,
    },
    /// Stop Nebula and what it runs on this machine
    #[command(
        after_help = "Examples:\n  nebula scheduler stop\n  nebula scheduler stop --keep-instances"
    )]
    Stop {
        /// Of the node
        #[arg(long, value_name = "DIR", env = "NEBULA_DATA_DIR")]
        data_dir: Option<PathBuf>,
        /// Stop only the daemon; the next one takes the instances over
        #[arg(long)]
        keep_instances: bool,
    },
}

#[derive(Serialize)]
struct Stopped {
    data_dir: PathBuf,
    was_running: bool,
}

pub async fn run(command: Scheduler, out: Output) -> Outcome {
    match command {
        Scheduler::Start { node } => start(&node, out).await,
        Scheduler::Status { data_dir } => {
            let dir = nodectl::data_dir(data_dir.as_deref());
            let status = Client::unix(dir.join(API_SOCKET)).status().await?;
            out.result(&status, render::node);
            Ok(())
        }
        Scheduler::Stop {
            data_dir,
            keep_instances,
        } => {
            let data_dir = nodectl::data_dir(data_dir.as_deref());
            let was_running = nodectl::stop(&data_dir, !keep_instances).await?;
            out.result(
                &Stopped {
                    data_dir,
                    was_running,
                },
                |s| {
                    if s.was_running {
                        format!("the node in {} is stopped", s.data_dir.display())
                    } else {
                        format!("no node runs in {}", s.data_dir.display())
                    }
                },
            );
            Ok(())
        }
    }
}

async fn start(flags: &NodeFlags, out: Output) -> Outcome {
    let config = flags.config(None)?;
    let program = nodectl::program("nodectl")?;
    if !nebula_node::is_prepared(&config.data_dir) {
        nodectl::check_addresses(&config)?;
        let mut prepared: Prepared = nodectl::prepare_first(&config, None)?;
        prepared.start(nodectl::start(&program, &config.data_dir).await?);
        prepared.show(out);
        return Ok(());
    }
    let started = nodectl::start(&program, &config.data_dir).await?;
    out.result(&started.status, |s| {
        format!("{} runs (pid {})\n{}", s.name, s.pid, render::node(s))
    });
    Ok(())
}
