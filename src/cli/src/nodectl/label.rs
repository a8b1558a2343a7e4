//! `nodectl label`: what an operator says of a member, for the rules of deployments.

use std::collections::BTreeMap;

use clap::Args;
use nebula_domain::names::{LabelKey, LabelValue};
use nebula_wire::api::{ErrorCode, LabelChange, NodeLabels};

use super::members::Here;
use crate::connect::ConnectFlags;
use crate::error::{CliError, Exit, Outcome};
use crate::output::Output;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  nodectl label node-2 disk=ssd zone=eu-1    # sets two, and leaves the others
  nodectl label node-2 disk-                 # takes one away
  nodectl label node-2                       # shows them

A deployment says what it makes of them: nebula deploy create … --require disk=ssd --spread zone. What runs already stays
where it is. Every member has the label 'node', its name.")]
pub struct Label {
    /// Id or name
    node: String,
    /// KEY=VALUE sets a label, KEY- takes it away
    #[arg(value_name = "KEY=VALUE|KEY-", value_parser = edit)]
    labels: Vec<Edit>,
    #[command(flatten)]
    here: Here,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Edit {
    Set(LabelKey, LabelValue),
    Remove(LabelKey),
}

fn edit(text: &str) -> Result<Edit, String> {
    let show = |e: nebula_domain::names::NameError| e.to_string();
    if let Some((key, value)) = text.split_once('=') {
        let key = key.parse().map_err(show)?;
        return Ok(Edit::Set(key, value.parse().map_err(show)?));
    }
    match text.strip_suffix('-') {
        Some(key) => key.parse().map(Edit::Remove).map_err(show),
        None => Err(format!(
            "'{text}' says nothing: write {text}=VALUE to set the label, or {text}- to take it away"
        )),
    }
}

fn change(edits: &[Edit]) -> Outcome<LabelChange> {
    let mut change = LabelChange::default();
    for edit in edits {
        let key = match edit {
            Edit::Set(key, _) | Edit::Remove(key) => key.to_string(),
        };
        if change.set.contains_key(&key) || change.remove.contains(&key) {
            return Err(CliError::usage(
                format!("the label '{key}' is named twice"),
                "say one thing about it",
            ));
        }
        match edit {
            Edit::Set(_, value) => drop(change.set.insert(key, value.to_string())),
            Edit::Remove(_) => change.remove.push(key),
        }
    }
    Ok(change)
}

pub async fn run(args: Label, connect: &ConnectFlags, out: Output) -> Outcome {
    let change = change(&args.labels)?;
    let client = connect.client_at(args.here.data_dir())?;
    let labels = if args.labels.is_empty() {
        let members = client.members().await?.members;
        let is_it = |id: u64, name: &str| id.to_string() == args.node || name == args.node;
        let member = members.into_iter().find(|m| is_it(m.id, &m.name));
        let member = member.ok_or_else(|| {
            CliError::new(
                Exit::Failed,
                ErrorCode::NotFound,
                format!("there is no member '{}'", args.node),
                "see 'nodectl members'",
            )
        })?;
        NodeLabels {
            name: member.name,
            labels: member.labels,
        }
    } else {
        client.label_member(&args.node, &change).await?
    };
    out.result(&labels, |l| match l.labels.is_empty() {
        true => format!("{} has no labels", l.name),
        false => format!("{}: {}", l.name, shown(&l.labels)),
    });
    Ok(())
}

/// `disk=ssd zone=eu-1`
pub fn shown(labels: &BTreeMap<String, String>) -> String {
    let pairs: Vec<_> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    pairs.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_set_and_taken_away() {
        let edits = ["disk=ssd", "zone-"].map(|text| edit(text).unwrap());
        let made = change(&edits).unwrap();
        assert_eq!(shown(&made.set), "disk=ssd");
        assert_eq!(made.remove, ["zone"]);
        for bad in ["disk", "disk=", "=ssd", "-", "Disk=a", "disk=a b"] {
            assert!(edit(bad).is_err(), "{bad}");
        }
        let twice = ["disk=ssd", "disk-"].map(|text| edit(text).unwrap());
        assert_eq!(change(&twice).unwrap_err().exit as u8, 2);
    }
}
