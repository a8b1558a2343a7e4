//! `nebula volume`: what deployments keep.

use clap::Subcommand;
use nebula_wire::api::{VolumeInfo, VolumeStanding, Volumes};

use crate::connect::ConnectFlags;
use crate::error::Outcome;
use crate::output::{Output, table};
use crate::spec::deployment_name;

#[derive(Debug, Subcommand)]
pub enum Volume {
    /// List volumes with their nodes and what lies in them
    #[command(
        visible_alias = "ls",
        after_help = "Examples:\n  nebula volume list\n  nebula volume list db --json"
    )]
    List {
        /// Of this deployment only
        name: Option<String>,
    },
    /// Delete what a removed deployment has left, for good
    #[command(
        visible_alias = "rm",
        after_help = "Examples:\n  nebula volume delete db\n  nebula deploy remove db --volumes"
    )]
    Delete {
        /// The deployment that had them
        name: String,
    },
}

#[derive(serde::Serialize)]
struct Deleted<'a> {
    name: &'a str,
}

pub async fn run(command: Volume, connect: &ConnectFlags, out: Output) -> Outcome {
    match command {
        Volume::List { name } => {
            let name = name.as_deref().map(deployment_name).transpose()?;
            let mut all = connect.client()?.volumes().await?;
            if let Some(name) = name {
                all.volumes
                    .retain(|volume| volume.deployment == name.as_str());
            }
            out.result(&all, text);
        }
        Volume::Delete { name } => {
            let name = deployment_name(&name)?;
            connect.client()?.delete_volumes(name.as_str()).await?;
            let answer = Deleted {
                name: name.as_str(),
            };
            out.result(&answer, |a| {
                format!(
                    "the volumes of {} are being deleted; see 'nebula volume list'",
                    a.name
                )
            });
        }
    }
    Ok(())
}

fn text(all: &Volumes) -> String {
    if all.volumes.is_empty() {
        return "no volumes".to_owned();
    }
    let row = |volume: &VolumeInfo| {
        [
            volume.deployment.clone(),
            volume.ordinal.to_string(),
            volume.name.clone(),
            volume.node.clone(),
            standing(volume.standing).to_owned(),
            volume.used_bytes.map_or_else(|| "?".to_owned(), bytes),
            volume.instance.clone().unwrap_or_default(),
        ]
    };
    table(
        [
            "DEPLOYMENT",
            "NUMBER",
            "VOLUME",
            "NODE",
            "STATUS",
            "USED",
            "INSTANCE",
        ],
        all.volumes.iter().map(row),
    )
}

fn standing(standing: VolumeStanding) -> &'static str {
    match standing {
        VolumeStanding::Used => "used",
        VolumeStanding::Free => "free",
        VolumeStanding::Left => "left",
        VolumeStanding::Deleting => "deleting",
        VolumeStanding::Unreachable => "unreachable",
        VolumeStanding::Lost => "lost",
    }
}

/// As the limits are written: `512Mi`.
fn bytes(bytes: u64) -> String {
    const UNITS: [(&str, u32); 3] = [("Gi", 30), ("Mi", 20), ("Ki", 10)];
    let unit = UNITS.iter().find(|(_, bits)| bytes >= 10 << bits);
    match unit {
        Some((unit, bits)) => format!("{}{unit}", bytes >> bits),
        None => bytes.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        assert_eq!(bytes(0), "0");
        assert_eq!(bytes(9 << 10), "9216");
        assert_eq!(bytes(20 << 20), "20Mi");
        assert_eq!(bytes(5 << 30), "5120Mi");
    }
}
