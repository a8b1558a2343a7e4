//! `nodectl members`, `status` and `remove`.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use crate::connect::ConnectFlags;
use crate::error::Outcome;
use crate::output::Output;
use crate::render;

/// Which node to ask.
#[derive(Debug, Default, Args)]
pub struct Here {
    /// Ask the node with this data folder
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

impl Here {
    pub fn data_dir(&self) -> Option<&Path> {
        self.data_dir.as_deref()
    }
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  nodectl remove node-2

The member's certificate is refused from then on, and its instances come up elsewhere. To let the machine take part again,
join it with an empty data folder. On the machine itself, 'nodectl leave' is the gentler way.")]
pub struct Remove {
    /// Id or name
    node: String,
    #[command(flatten)]
    here: Here,
}

#[derive(Serialize)]
struct Removed<'a> {
    node: &'a str,
    removed: bool,
}

pub async fn list(here: Here, connect: &ConnectFlags, out: Output) -> Outcome {
    let members = connect.client_at(here.data_dir())?.members().await?;
    out.result(&members, render::members);
    Ok(())
}

pub async fn status(here: Here, connect: &ConnectFlags, out: Output) -> Outcome {
    let status = connect.client_at(here.data_dir())?.status().await?;
    out.result(&status, render::node);
    Ok(())
}

pub async fn remove(args: Remove, connect: &ConnectFlags, out: Output) -> Outcome {
    let client = connect.client_at(args.here.data_dir())?;
    client.remove_member(&args.node).await?;
    out.result(
        &Removed {
            node: &args.node,
            removed: true,
        },
        |r| format!("{} is no longer a member", r.node),
    );
    Ok(())
}
