//! The flags of `nebula deploy`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use nebula_domain::loglevel::Level;

use super::logs;
use super::manifest::{Apply, Init, PlanFlags};
use super::releases::{Diff, RollBackArgs};
use super::runs::{Begin, Cancel};
use crate::spec::{ChangeFlags, HttpFlags, SpecFlags};
use crate::wait::WaitFlags;

#[derive(Debug, Subcommand)]
pub enum Deploy {
    /// Make a deployment what its file says
    #[command(after_help = "\
Examples:
  nebula deploy apply
  nebula deploy apply -f ./shop/nebula.toml --env staging --message 'new prices'

The same file and the same files again change nothing. What the file may say: docs/nebula-toml.md.")]
    Apply(Apply),
    /// Show what apply would change, and change nothing
    #[command(after_help = "\
Examples:
  nebula deploy plan
  nebula deploy plan --env staging --json
  nebula deploy plan --exit-code    # for scripts: 6 when something would change")]
    Plan(PlanFlags),
    /// Write a first nebula.toml from what is in a folder
    #[command(
        after_help = "Examples:\n  nebula deploy init\n  nebula deploy init ./shop --name shop"
    )]
    Init(Init),
    /// Print the JSON Schema of nebula.toml, for editors
    #[command(after_help = "Example:\n  nebula deploy schema > nebula.schema.json")]
    Schema,
    /// Deploy a folder under a new name
    #[command(after_help = "\
Examples:
  nebula deploy create site --path ./dist --tld example.test
  nebula deploy create app --path ./dist --spa --tld example.test
  nebula deploy create api --path ./app --command 'python3 app.py' --instances 3 --env LEVEL=info \\
      --env-file ./api.env --health-path /health --tld example.test
  nebula deploy create db --path ./db --command ./serve --memory 2Gi --require disk=ssd --spread zone --tld example.test
  nebula deploy create shop --path ./dist --tld example.test --name shop.test --name '*.shop.test' --redirect-https
  nebula deploy create wiki --image ./wiki.tar --port 3000 --tld example.test
  nebula deploy create mails --path ./app --command 'python3 worker.py' --type worker
  nebula deploy create report --path ./app --command 'python3 report.py' --schedule '0 3 * * *' --time-zone Europe/Berlin
  nebula deploy create wiki --path ./wiki --command ./serve --tld example.test --basic-auth ann --http ./http.toml")]
    Create(Create),
    /// List all deployments
    #[command(
        visible_alias = "ls",
        after_help = "Examples:\n  nebula deploy list --json\n  nebula deploy list --all"
    )]
    List {
        /// Every kept release of each, with what became of it
        #[arg(long)]
        all: bool,
    },
    /// Show one deployment and its instances
    #[command(after_help = "\
Example:
  nebula deploy status api

MEMORY, CPU (thousandths of a core, lately) and PIDS stand beside their limits. Below the table is what keeps the
instances within their limits and away from others, and what of that this machine does not give.")]
    Status { name: String },
    /// Show how the instances answer their probes, and why not
    #[command(after_help = "\
Examples:
  nebula deploy health api
  nebula deploy health api --history

A probe is waiting (for the startup probe), pending, passing or failing; STREAK counts results in a row like the last.")]
    Health(Health),
    /// Show the output of a deployment's instances, from whichever nodes they run on
    #[command(
        after_help = "Examples:\n  nebula deploy logs api --follow\n  nebula deploy logs api --tail 20 --instance i-17\n  nebula deploy logs api --since 1h --level warn --grep 'time(d )?out'"
    )]
    Logs(Logs),
    /// Show what happened to a deployment, and why
    #[command(after_help = "\
Examples:
  nebula deploy events api --since 1h
  nebula deploy events api --follow --kind instance
  nebula deploy events api --kind release --json

The latest 256 events of a deployment are kept, those of one that was removed too. See docs/events.md.")]
    Events {
        name: String,
        #[command(flatten)]
        choice: super::events::Choice,
    },
    /// Deploy a new release: other files, another command, or both
    #[command(after_help = "\
Examples:
  nebula deploy update site --path ./dist
  nebula deploy update api --env LEVEL=info --unset-env DEBUG
  nebula deploy update api --path ./app --command 'python3 app.py --fast'
  nebula deploy update api --rate-limit '10r/s burst=20 nodelay' --max-body 20MiB
  nebula deploy update api --maintenance on

Only what is named changes: without --path the files stay, and each flag replaces its own part. If somebody else
changes the deployment at the same moment, flags about the program are refused and nothing is changed.")]
    Update(Update),
    /// Change the number of a service's instances
    #[command(after_help = "Example:\n  nebula deploy scale api --instances 5")]
    Scale(Scale),
    /// Replace every instance by a new one
    #[command(after_help = "Example:\n  nebula deploy restart api")]
    Restart(Named),
    /// Show the runs of a job, a cron deployment or a release's hooks: those that go on, and the latest that are over
    #[command(after_help = "Example:\n  nebula deploy runs report")]
    Runs { name: String },
    /// Run a job or a cron deployment now, and wait until it is over
    #[command(after_help = "\
Examples:
  nebula deploy run report
  nebula deploy run report --follow
  nebula deploy run report --no-wait

Exits with 0 when the run has succeeded, and with 4 when it has failed or was cancelled.")]
    Run(Begin),
    /// End a run that waits or goes on
    #[command(after_help = "Example:\n  nebula deploy cancel report run-3")]
    Cancel(Cancel),
    /// Show a deployment's kept releases: who made them, when, why, and what became of them
    #[command(after_help = "Example:\n  nebula deploy history api")]
    History { name: String },
    /// Show what differs between two releases
    #[command(after_help = "Example:\n  nebula deploy diff api 3 5")]
    Diff(Diff),
    /// Make an older release the wanted one again
    #[command(after_help = "\
Examples:
  nebula deploy rollback api
  nebula deploy rollback api 3

Without a number the release on its way is taken back, or else the latest good one before the present one comes
back. It takes the straight way, without a canary.")]
    Rollback(RollBackArgs),
    /// Hold the release on its way where it is
    #[command(after_help = "Example:\n  nebula deploy pause api")]
    Pause { name: String },
    /// Let a paused release go on
    #[command(after_help = "Example:\n  nebula deploy resume api")]
    Resume { name: String },
    /// Take the release on its way to everybody, without waiting for the rest of its time
    #[command(after_help = "Example:\n  nebula deploy promote api")]
    Promote { name: String },
    /// Take the release on its way back
    #[command(after_help = "Example:\n  nebula deploy abort api")]
    Abort { name: String },
    /// What the response cache keeps of a deployment's answers
    #[command(subcommand)]
    Cache(Cache),
    /// Stop a deployment's instances and forget it
    #[command(
        visible_alias = "rm",
        after_help = "\
Examples:
  nebula deploy remove api
  nebula deploy remove db --volumes

What its volumes hold is kept unless --volumes says otherwise: a deployment of the same name finds it again."
    )]
    Remove(Remove),
}

#[derive(Debug, Args)]
pub struct Create {
    /// Lower-case letters, digits and dashes; the first part of the host name
    pub name: String,
    /// Folder with the files to deploy
    #[arg(
        long,
        value_name = "DIR",
        required_unless_present = "image",
        conflicts_with = "image"
    )]
    pub path: Option<PathBuf>,
    /// Copies of the program; 1 unless said otherwise
    #[arg(long, value_name = "N")]
    pub instances: Option<u32>,
    #[command(flatten)]
    pub spec: SpecFlags,
    #[command(flatten)]
    pub http: HttpFlags,
    /// Why, for the history
    #[arg(
        long,
        short,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    pub message: String,
    #[command(flatten)]
    pub wait: WaitFlags,
}

#[derive(Debug, Args)]
pub struct Update {
    pub name: String,
    /// Folder with the new files
    #[arg(long, value_name = "DIR", conflicts_with = "image")]
    pub path: Option<PathBuf>,
    #[command(flatten)]
    pub change: ChangeFlags,
    /// Why, for the history
    #[arg(
        long,
        short,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    pub message: String,
    #[command(flatten)]
    pub wait: WaitFlags,
}

#[derive(Debug, Args)]
pub struct Scale {
    pub name: String,
    /// Copies of the program
    #[arg(long, value_name = "N")]
    pub instances: u32,
    #[command(flatten)]
    pub wait: WaitFlags,
}

#[derive(Debug, Args)]
pub struct Named {
    pub name: String,
    #[command(flatten)]
    pub wait: WaitFlags,
}

#[derive(Debug, Args)]
pub struct Remove {
    #[command(flatten)]
    pub named: Named,
    /// Delete its volumes too, for good
    #[arg(long)]
    pub volumes: bool,
}

#[derive(Debug, Subcommand)]
pub enum Cache {
    /// Let go of all that is kept, on every node
    #[command(after_help = "\
Example:
  nebula deploy cache purge api

All of the deployment's answers go; there is no purge of single paths. Ends when every live node knows of it.")]
    Purge { name: String },
}

#[derive(Debug, Args)]
pub struct Logs {
    pub name: String,
    /// Go on with new lines until interrupted
    #[arg(long, short)]
    pub follow: bool,
    /// So many of the newest lines
    #[arg(long, value_name = "N")]
    pub tail: Option<usize>,
    /// Of this instance only, such as i-17
    #[arg(long, value_name = "ID")]
    pub instance: Option<String>,
    /// Of this level or a more serious one: trace, debug, info, warn, error or fatal
    #[arg(long, value_name = "LEVEL")]
    pub level: Option<Level>,
    /// From this time on: how long ago (15m, 2h) or a time (2026-01-31T12:00:00Z)
    #[arg(long, value_name = "TIME", value_parser = logs::time)]
    pub since: Option<String>,
    /// Before this time
    #[arg(long, value_name = "TIME", value_parser = logs::time, conflicts_with = "follow")]
    pub until: Option<String>,
    /// In which this regular expression is found; (?i) in front ignores case
    #[arg(long, value_name = "REGEX")]
    pub grep: Option<String>,
    /// Of this release only
    #[arg(long, value_name = "N")]
    pub release: Option<u32>,
    /// Of instances on this node only
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// What the program said on one of its outputs, or Nebula about it
    #[arg(long, value_name = "STREAM", value_parser = ["stdout", "stderr", "nebula"])]
    pub stream: Option<String>,
    /// Also of removed deployments that had this name
    #[arg(long)]
    pub past: bool,
    /// Begin each line with its time
    #[arg(long)]
    pub timestamps: bool,
}

#[derive(Debug, Args)]
pub struct Health {
    pub name: String,
    /// What changed lately, too: the last 50 changes of each instance, as long as its node has been up
    #[arg(long)]
    pub history: bool,
}
