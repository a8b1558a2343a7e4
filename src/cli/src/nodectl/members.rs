//! `nodectl members`, `status`, `drain` and `remove`.

use std::path::PathBuf;

use clap::Args;
use nebula_wire::api::Volumes;
use serde::Serialize;

use crate::connect::ConnectFlags;
use crate::error::Outcome;
use crate::output::Output;
use crate::render;

/// Which node to ask.
#[derive(Debug, Args)]
pub struct Here {
    /// Ask the node with this data folder
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  nodectl drain node-2\n  nodectl drain node-2 --undo")]
pub struct Drain {
    /// Id or name
    node: String,
    /// Give the member instances again
    #[arg(long)]
    undo: bool,
    #[command(flatten)]
    here: Here,
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
struct Drained<'a> {
    node: &'a str,
    draining: bool,
    /// Instances that cannot leave it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    stays: Vec<String>,
}

#[derive(Serialize)]
struct Removed<'a> {
    node: &'a str,
    removed: bool,
}

pub async fn list(here: Here, connect: &ConnectFlags, out: Output) -> Outcome {
    let members = connect
        .client_at(here.data_dir.as_deref())?
        .members()
        .await?;
    out.result(&members, render::members);
    Ok(())
}

pub async fn status(here: Here, connect: &ConnectFlags, out: Output) -> Outcome {
    let status = connect
        .client_at(here.data_dir.as_deref())?
        .status()
        .await?;
    out.result(&status, render::node);
    Ok(())
}

pub async fn drain(args: Drain, connect: &ConnectFlags, out: Output) -> Outcome {
    let draining = !args.undo;
    let client = connect.client_at(args.here.data_dir.as_deref())?;
    client.set_draining(&args.node, draining).await?;
    let stays = match draining {
        true => bound(client.volumes().await?, &args.node),
        false => Vec::new(),
    };
    let answer = Drained {
        node: &args.node,
        draining,
        stays,
    };
    out.result(&answer, |a| {
        if a.draining {
            let stays = a
                .stays
                .iter()
                .map(|what| format!("\n  cannot move: {what}"));
            let stays: String = stays.collect();
            format!(
                "{} is draining: its instances move elsewhere{stays}",
                a.node
            )
        } else {
            format!("{} takes instances again", a.node)
        }
    });
    Ok(())
}

/// The instances that cannot leave a node, because what they keep is there.
fn bound(all: Volumes, node: &str) -> Vec<String> {
    let here = all
        .volumes
        .into_iter()
        .filter(|volume| volume.node == node || volume.node_id.to_string() == node);
    let held = here.filter_map(|volume| {
        let instance = volume.instance?;
        let (name, deployment) = (volume.name, volume.deployment);
        Some(format!(
            "{instance} of {deployment}: its volume '{name}' is there"
        ))
    });
    held.collect()
}

pub async fn remove(args: Remove, connect: &ConnectFlags, out: Output) -> Outcome {
    let client = connect.client_at(args.here.data_dir.as_deref())?;
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
