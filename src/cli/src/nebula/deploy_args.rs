//! The flags of `nebula deploy`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::spec::{ChangeFlags, HttpFlags, SpecFlags};
use crate::wait::WaitFlags;

#[derive(Debug, Subcommand)]
pub enum Deploy {
    /// Deploy a folder under a new name
    #[command(after_help = "\
Examples:
  nebula deploy create site --path ./dist --tld example.test
  nebula deploy create app --path ./dist --spa --tld example.test
  nebula deploy create api --path ./app --command 'python3 app.py' --instances 3 --env LEVEL=info \\
      --env-file ./api.env --health-path /health --tld example.test
  nebula deploy create shop --path ./dist --tld example.test --name shop.test --name '*.shop.test' --redirect-https
  nebula deploy create wiki --path ./wiki --command ./serve --tld example.test --basic-auth ann --http ./http.toml")]
    Create(Create),
    /// List all deployments
    #[command(
        visible_alias = "ls",
        after_help = "Example:\n  nebula deploy list --json"
    )]
    List,
    /// Show one deployment and its instances
    #[command(after_help = "Example:\n  nebula deploy status api")]
    Status { name: String },
    /// Show the output of a deployment's instances, from whichever nodes they run on
    #[command(
        after_help = "Examples:\n  nebula deploy logs api --follow\n  nebula deploy logs api --tail 20 --instance i-17"
    )]
    Logs(Logs),
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
    /// Stop a deployment's instances and forget it
    #[command(
        visible_alias = "rm",
        after_help = "Example:\n  nebula deploy remove api"
    )]
    Remove(Named),
}

#[derive(Debug, Args)]
pub struct Create {
    /// Lower-case letters, digits and dashes; the first part of the host name
    pub name: String,
    /// Folder with the files to deploy
    #[arg(long, value_name = "DIR")]
    pub path: PathBuf,
    /// Copies of the program; 1 unless said otherwise
    #[arg(long, value_name = "N")]
    pub instances: Option<u32>,
    #[command(flatten)]
    pub spec: SpecFlags,
    #[command(flatten)]
    pub http: HttpFlags,
    #[command(flatten)]
    pub wait: WaitFlags,
}

#[derive(Debug, Args)]
pub struct Update {
    pub name: String,
    /// Folder with the new files
    #[arg(long, value_name = "DIR")]
    pub path: Option<PathBuf>,
    #[command(flatten)]
    pub change: ChangeFlags,
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
    /// Begin each line with its time
    #[arg(long)]
    pub timestamps: bool,
}
