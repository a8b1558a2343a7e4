//! `nebula`: deployments, settings, contexts, and one machine's daemon in one step.

mod config;
mod context;
mod deploy;
mod deploy_args;
mod deploy_cache;
mod deploy_health;
mod events;
mod logs;
mod manifest;
mod releases;
mod runs;
mod scheduler;
mod secrets;
mod volume;

use clap::{CommandFactory, Parser, Subcommand};

use crate::app::{CommandLine, block_on};
use crate::connect::{ConnectFlags, Surroundings};
use crate::error::Outcome;
use crate::output::Output;

const EXAMPLES: &str = "\
Examples:
  nebula deploy create site --path ./dist --tld example.test
  nebula deploy create api --path ./app --command 'python3 app.py' --instances 3 --tld example.test
  nebula deploy list
  nebula --cluster ./cluster.json deploy status api --json

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 cluster unreachable or without quorum, 4 rolled back, 5 timed out,
6 'deploy plan --exit-code' found a difference";

/// Deploy applications to a Nebula cluster and look after them.
#[derive(Debug, Parser)]
#[command(name = "nebula", version, after_help = EXAMPLES)]
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
    /// Create, change and look at deployments
    #[command(subcommand)]
    Deploy(deploy_args::Deploy),
    /// Set, list and delete secrets that programs are given
    #[command(subcommand)]
    Secrets(secrets::Secrets),
    /// See and delete what deployments keep
    #[command(subcommand)]
    Volume(volume::Volume),
    /// Show what happened in the cluster: to deployments, instances and nodes
    #[command(after_help = "\
Examples:
  nebula events --since 1h
  nebula events --follow --kind node
  nebula events --node n2 --json

Events of one deployment: nebula deploy events NAME. With --follow another node is asked when the one that answers is
gone; no event is missed, and none comes twice.")]
    Events(events::Choice),
    /// Read and change the cluster's settings
    #[command(subcommand)]
    Config(config::Config),
    /// Keep several clusters by name
    #[command(subcommand)]
    Context(context::Context),
    /// Start and stop Nebula on this machine
    #[command(subcommand)]
    Scheduler(scheduler::Scheduler),
    /// Print completions for a shell
    #[command(
        after_help = "Example:\n  nebula completions bash > ~/.local/share/bash-completion/completions/nebula"
    )]
    Completions { shell: clap_complete::Shell },
}

impl CommandLine for Cli {
    fn json(&self) -> bool {
        self.json
    }
}

pub fn run(cli: Cli) -> Outcome {
    let out = Output::new(cli.json);
    let connect = cli.connect;
    match cli.command {
        Command::Deploy(command) => block_on(deploy::run(command, &connect, out)),
        Command::Secrets(command) => block_on(secrets::run(command, &connect, out)),
        Command::Volume(command) => block_on(volume::run(command, &connect, out)),
        Command::Events(choice) => block_on(events::run(None, choice, &connect, out)),
        Command::Config(command) => block_on(config::run(command, &connect, out)),
        Command::Context(command) => block_on(context::run(command, cluster_file(&connect), out)),
        Command::Scheduler(command) => block_on(scheduler::run(command, out)),
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "nebula", &mut text);
            out.line(&String::from_utf8_lossy(&text));
            Ok(())
        }
    }
}

/// The cluster file that flags or the environment name.
fn cluster_file(connect: &ConnectFlags) -> Option<std::path::PathBuf> {
    connect
        .cluster
        .clone()
        .or_else(|| Surroundings::of_process().cluster)
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
    fn every_command_has_examples() {
        fn check(command: &clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            let subcommands: Vec<_> = command
                .get_subcommands()
                .filter(|c| c.get_name() != "help")
                .collect();
            if subcommands.is_empty() {
                let help = command
                    .get_after_help()
                    .map(ToString::to_string)
                    .unwrap_or_default();
                assert!(help.contains("Example"), "{path} has no example");
            }
            for subcommand in subcommands {
                check(subcommand, &path);
            }
        }
        check(&Cli::command(), "");
        check(&crate::nodectl::command(), "");
    }

    #[test]
    fn flags_may_stand_anywhere() {
        let good = [
            "nebula --json deploy list",
            "nebula deploy list --json",
            "nebula deploy --cluster c.json list --json",
            "nebula deploy create a --path . --wait --timeout 10s --json",
            "nebula deploy create a --path . --env A=1 --env B=2 --command x --instances 3",
            "nebula deploy update a --env A=1 --unset-env B --no-health-path",
            "nebula deploy update a --no-spa --timeout 5s",
            "nebula deploy logs a -f --tail 5 --instance i-1",
            "nebula deploy health a --history --json",
            "nebula deploy create a --path . --command x --startup-path /up --liveness-path /live",
            "nebula deploy update a --no-liveness --no-startup",
            "nebula deploy logs a --level warn --since 1h --until 2026-01-31T12:00:00Z --grep x --release 3",
            "nebula deploy logs a --node n1 --stream stderr --past",
            "nebula deploy remove a --no-wait",
            "nebula deploy events a --since 1h --follow --json",
            "nebula events --follow --kind node-dead --node n1 --tail 5",
            "nebula deploy apply -f nebula.toml --env staging -m why --no-wait",
            "nebula deploy plan --exit-code --json",
            "nebula deploy init ./app --force",
            "nebula deploy schema",
            "nebula deploy create a --path . --command x --volume data:/data --volume wal:/wal",
            "nebula deploy remove a --volumes",
            "nebula volume list a --json",
            "nebula secrets set DB_PASSWORD",
            "nebula secrets set DB_PASSWORD hush",
            "nebula secrets set TLS_KEY --file key.pem",
            "nebula secrets list --json",
            "nebula secrets delete DB_PASSWORD",
            "nebula deploy create a --path . --command x --secret DB_PASSWORD --secret PGPASSWORD=DB_PASSWORD --depends-on db",
            "nebula volume delete a",
            "nebula deploy create a --path . --command x --memory 1Gi --step 10% --no-rollback",
            "nebula config set user.a b",
            "nebula scheduler start --data-dir /x",
        ];
        let bad = [
            "nebula",
            "nebula deploy",
            "nebula deploy create a",
            "nebula deploy create --path .",
            "nebula deploy logs a --level loud",
            "nebula deploy logs a --since soon",
            "nebula deploy logs a --follow --until 1h",
            "nebula deploy logs a --stream stdin",
            "nebula deploy plan --wait",
            "nebula deploy events",
            "nebula events --kind loud",
            "nebula events --since soon",
            "nebula deploy apply api",
            "nebula deploy scale a --instances -1",
            "nebula deploy scale a --instances many",
            "nebula deploy create a --path . --timeout soon",
            "nebula deploy create a --path . --env A",
            "nebula deploy create a --path . --unset-env A",
            "nebula deploy update a --unset-env 1A",
            "nebula deploy update a --spa --no-spa",
            "nebula deploy update a --health-path / --no-health-path",
            "nebula deploy update a --liveness-path / --no-liveness",
            "nebula --cluster a --context b deploy list",
        ];
        check_lines::<Cli>(&good, &bad);
    }
}
