//! `nebula context`: several clusters by name.

use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;
use nebula_client::Client;
use nebula_wire::api::ClusterFile;
use serde::Serialize;

use crate::contexts::{self, Contexts, read_cluster_file};
use crate::error::{CliError, Outcome};
use crate::output::{Output, table};

/// Asking the cluster for its other addresses is a kindness, not a condition.
const ADDRESSES_DEADLINE: Duration = Duration::from_secs(3);

#[derive(Debug, Subcommand)]
pub enum Context {
    /// List the clusters kept here
    #[command(visible_alias = "ls", after_help = "Example:\n  nebula context list")]
    List,
    /// Make a cluster the one that commands speak to
    #[command(after_help = "Example:\n  nebula context use staging")]
    Use { name: String },
    /// Keep a cluster file under a name
    #[command(after_help = "\
Example:
  nebula context add staging --file ./cluster.json

The file holds a token: keep it for yourself. When the cluster answers, the addresses of all its nodes are kept, so that
commands go on working when one of them is away.")]
    Add {
        name: String,
        /// File that 'nodectl init' or 'nodectl dev' wrote; --cluster or NEBULA_CLUSTER otherwise
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// Replace a context of this name
        #[arg(long)]
        replace: bool,
    },
    /// Forget a cluster
    #[command(
        visible_alias = "rm",
        after_help = "Example:\n  nebula context remove staging"
    )]
    Remove { name: String },
}

#[derive(Serialize)]
struct Listed {
    name: String,
    current: bool,
    cluster_id: String,
    apis: Vec<String>,
}

#[derive(Serialize)]
struct List {
    contexts: Vec<Listed>,
}

#[derive(Serialize)]
struct Done<'a> {
    name: &'a str,
    current: bool,
}

pub async fn run(command: Context, cluster: Option<PathBuf>, out: Output) -> Outcome {
    let contexts = Contexts::in_dir(contexts::default_dir());
    let name = match command {
        Context::List => return list(&contexts, out),
        Context::Use { name } => {
            contexts.choose(&name)?;
            name
        }
        Context::Add {
            name,
            file,
            replace,
        } => {
            let file = file.or(cluster).ok_or_else(|| {
                CliError::usage(
                    "no cluster file was given",
                    "add --file with the file that 'nodectl init' wrote",
                )
            })?;
            let file = with_all_addresses(read_cluster_file(&file)?).await?;
            contexts.add(&name, &file, replace)?;
            name
        }
        Context::Remove { name } => {
            contexts.remove(&name)?;
            name
        }
    };
    let current = contexts.current().as_deref() == Some(name.as_str());
    out.result(
        &Done {
            name: &name,
            current,
        },
        |_| match contexts.current() {
            Some(current) => format!("the current context is '{current}'"),
            None => "no context is chosen".to_owned(),
        },
    );
    Ok(())
}

fn list(contexts: &Contexts, out: Output) -> Outcome {
    let current = contexts.current();
    let mut all = Vec::new();
    for name in contexts.names()? {
        let file = read_cluster_file(&contexts.path(&name)?)?;
        all.push(Listed {
            current: current.as_ref() == Some(&name),
            name,
            cluster_id: file.cluster_id,
            apis: file.apis,
        });
    }
    out.result(&List { contexts: all }, |list| {
        if list.contexts.is_empty() {
            return "no contexts are kept; add one with 'nebula context add NAME --file FILE'"
                .to_owned();
        }
        let rows = list.contexts.iter().map(|c| {
            let mark = if c.current { "*" } else { "" };
            [
                mark.to_owned(),
                c.name.clone(),
                c.cluster_id.clone(),
                c.apis.join(" "),
            ]
        });
        table(["", "NAME", "CLUSTER", "API"], rows)
    });
    Ok(())
}

/// The file with the API address of every member that the cluster names, its own first.
async fn with_all_addresses(mut file: ClusterFile) -> Outcome<ClusterFile> {
    let client = Client::from_cluster_file(&file)?.with_deadline(ADDRESSES_DEADLINE);
    if let Ok(members) = client.members().await {
        for member in members.members {
            if !file.apis.contains(&member.api)
                && file.apis.len() < nebula_client::limits::ADDRESSES
            {
                file.apis.push(member.api);
            }
        }
    }
    Ok(file)
}
