//! `nodectl`: machines. Make one a member, run its daemon, look at the members, try a cluster out.

mod daemon;
mod dev;
mod drain;
mod flags;
pub mod label;
mod leave;
mod members;
mod recover;
mod setup;
mod systemd;
mod token;
mod upgrade;

pub use daemon::{program, start, stop};
pub use flags::NodeFlags;
pub use setup::{Prepared, check_addresses, data_dir, prepare_first};

use std::path::PathBuf;

use clap::{CommandFactory, Parser, Subcommand};

use crate::app::{CommandLine, block_on};
use crate::connect::ConnectFlags;
use crate::error::{CliError, Outcome};
use crate::output::Output;

const EXAMPLES: &str = "\
Examples:
  nodectl dev                                   a cluster of three on this machine, to try things out
  nodectl init                                  on the first machine
  nodectl token create                          prints what to run on each other machine
  nodectl members

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 cluster unreachable or without quorum, 4 rolled back, 5 timed out";

/// Make machines members of a Nebula cluster and look after them.
#[derive(Debug, Parser)]
#[command(name = "nodectl", version, after_help = EXAMPLES)]
pub struct Cli {
    /// Print JSON for scripts; errors go to stderr as JSON too
    #[arg(long, global = true)]
    json: bool,
    #[command(flatten)]
    connect: ConnectFlags,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a cluster of several nodes on this machine, with an example site
    Dev(dev::Dev),
    /// Make this machine the first of a new cluster
    Init(setup::Init),
    /// Make this machine a member of a cluster
    Join(setup::Join),
    /// Run the daemon in the foreground
    Run(daemon::Run),
    /// Make, list and revoke the tokens that machines join with
    #[command(subcommand)]
    Token(token::Token),
    /// List the machines of the cluster
    #[command(after_help = "Example:\n  nodectl members --json")]
    Members(members::Here),
    /// Show what one node says of itself: this machine's, if it runs one
    #[command(after_help = "Example:\n  nodectl status")]
    Status(members::Here),
    /// Move a member's instances elsewhere and give it no new ones
    Drain(drain::Drain),
    /// Give a member instances again
    Undrain(drain::Undrain),
    /// Say of a member what deployments can ask for: disk=ssd, zone=eu-1
    Label(label::Label),
    /// Say which member to upgrade next, to the version of this program
    Upgrade(upgrade::Upgrade),
    /// Take this machine out of the cluster for good
    Leave(leave::Leave),
    /// Take another machine out of the cluster for good
    Remove(members::Remove),
    /// Bring the cluster back on this machine when a majority of its voters is gone for good
    Recover(recover::Recover),
    /// Print completions for a shell
    #[command(
        after_help = "Example:\n  nodectl completions bash > ~/.local/share/bash-completion/completions/nodectl"
    )]
    Completions { shell: clap_complete::Shell },
    /// Parent of one instance's program; started by the daemon
    #[command(hide = true, after_help = "Example:\n  nodectl shim DIR")]
    Shim {
        dir: PathBuf,
        /// Run one command beside the program that runs
        #[arg(long)]
        beside: bool,
    },
}

impl CommandLine for Cli {
    fn json(&self) -> bool {
        self.json
    }
}

#[cfg(test)]
pub fn command() -> clap::Command {
    Cli::command()
}

pub fn run(cli: Cli) -> Outcome {
    let out = Output::new(cli.json);
    let connect = cli.connect;
    match cli.command {
        Command::Dev(args) => block_on(dev::run(args, out)),
        Command::Init(args) => setup::init(args, out),
        Command::Join(args) => setup::join(args, out),
        Command::Run(args) => daemon::run(args, out),
        Command::Token(command) => block_on(token::run(command, &connect, out)),
        Command::Members(here) => block_on(members::list(here, &connect, out)),
        Command::Status(here) => block_on(members::status(here, &connect, out)),
        Command::Drain(args) => block_on(drain::drain(args, &connect, out)),
        Command::Undrain(args) => block_on(drain::undrain(args, &connect, out)),
        Command::Label(args) => block_on(label::run(args, &connect, out)),
        Command::Upgrade(args) => block_on(upgrade::run(args, &connect, out)),
        Command::Leave(args) => block_on(leave::run(args, out)),
        Command::Remove(args) => block_on(members::remove(args, &connect, out)),
        Command::Recover(args) => recover::run(args, out),
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "nodectl", &mut text);
            out.line(&String::from_utf8_lossy(&text));
            Ok(())
        }
        Command::Shim { dir, beside } => shim(&dir, beside),
    }
}

/// Its exit code is the shim's own: whoever started it is the daemon.
fn shim(dir: &std::path::Path, beside: bool) -> Outcome {
    let main = match beside {
        true => nebula_drivers::shim::beside::main,
        false => nebula_drivers::shim::main,
    };
    if main(dir) == std::process::ExitCode::SUCCESS {
        return Ok(());
    }
    Err(CliError::failed(
        format!("the shim of {} ended with an error", dir.display()),
        "see the node's log",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::check_lines;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_documented_lines_are_understood() {
        let good = [
            "nodectl dev",
            "nodectl dev --nodes 5 --data-dir /x --base-port 9000 --detach --json --no-example",
            "nodectl dev down --data-dir /x --purge",
            "nodectl init --name a --data-dir /x --listen 127.0.0.1:7600 --api-addr 127.0.0.1:7601 --no-start",
            "nodectl init --quic-addr 0.0.0.0:7600 --edge-addr 0.0.0.0:80 --advertise 192.0.2.1 --cluster-name lab --foreground",
            "nodectl join 192.0.2.1:7601 --token nbj1.x --name b",
            "nodectl run --data-dir /x --config /y",
            "nodectl token create --role worker --ttl 2h --reusable",
            "nodectl token list --json",
            "nodectl token revoke abc",
            "nodectl members --json --cluster c.json",
            "nodectl status --data-dir /x",
            "nodectl leave",
            "nodectl upgrade --data-dir /x --json",
            "nodectl drain b --deadline 10m --json",
            "nodectl drain 2 --no-wait --data-dir /x",
            "nodectl undrain b",
            "nodectl label b disk=ssd zone=eu-1 rack-",
            "nodectl label b --json",
            "nodectl remove b",
            "nodectl recover --data-dir /x --accept-loss --json",
            "nodectl shim /x",
            "nodectl shim /x --beside",
        ];
        let bad = [
            "nodectl join",
            "nodectl join 192.0.2.1:7601",
            "nodectl dev --nodes 0",
            "nodectl dev --nodes many",
            "nodectl dev down",
            "nodectl init --foreground --no-start",
            "nodectl init --api-addr nonsense",
            "nodectl init --name No_Good",
            "nodectl token create --role king",
            "nodectl token create --ttl never",
            "nodectl remove",
            "nodectl drain",
            "nodectl drain b --deadline never",
            "nodectl undrain",
            "nodectl label",
            "nodectl label b disk",
            "nodectl label b Disk=ssd",
            "nodectl recover --force",
        ];
        check_lines::<Cli>(&good, &bad);
    }
}
