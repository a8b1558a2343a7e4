//! `nodectl drain` and `undrain`: a member's instances move elsewhere, and back.

use std::time::{Duration, Instant};

use clap::Args;
use nebula_client::{Client, ClientError};
use nebula_wire::api::{DrainStatus, LeftInstance};
use serde::Serialize;

use super::members::Here;
use crate::connect::ConnectFlags;
use crate::duration;
use crate::error::{CliError, Outcome};
use crate::output::Output;

/// Between looks: a move takes seconds.
const PAUSE: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  nodectl drain node-2
  nodectl drain node-2 --deadline 30m
  nodectl drain node-2 --no-wait

Each instance is started elsewhere first, and stopped here when that one is ready and its requests have ended. What cannot
move is named. At the deadline the command ends with exit code 5 and the member stays draining: nothing is
stopped by force. Of programs whose volumes are on the member it says so at once: they go on there. 'nodectl undrain' takes it back, 'nodectl remove' does without what is left.")]
pub struct Drain {
    /// Id or name
    node: String,
    /// How long to wait until nothing is left on the member
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration::parse)]
    deadline: Duration,
    /// Return as soon as the cluster has taken the change
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    here: Here,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  nodectl undrain node-2")]
pub struct Undrain {
    /// Id or name
    node: String,
    #[command(flatten)]
    here: Here,
}

#[derive(Serialize)]
struct Drained {
    node: String,
    draining: bool,
    /// Instances that are there still; absent where nobody waited.
    #[serde(skip_serializing_if = "Option::is_none")]
    left: Option<usize>,
}

pub async fn drain(args: Drain, connect: &ConnectFlags, out: Output) -> Outcome {
    let client = connect.client_at(args.here.data_dir())?;
    client.set_draining(&args.node, true).await?;
    let left = match args.no_wait {
        true => None,
        false => Some(moved_away(&client, &args, out).await?),
    };
    let answer = Drained {
        node: args.node,
        draining: true,
        left,
    };
    out.result(&answer, |a| match a.left {
        None => format!("{} is draining: its instances move elsewhere", a.node),
        Some(_) => format!("{} is drained: nothing is left on it", a.node),
    });
    Ok(())
}

pub async fn undrain(args: Undrain, connect: &ConnectFlags, out: Output) -> Outcome {
    let client = connect.client_at(args.here.data_dir())?;
    client.set_draining(&args.node, false).await?;
    let answer = Drained {
        node: args.node,
        draining: false,
        left: None,
    };
    out.result(&answer, |a| {
        format!(
            "{} takes instances again; they come back a few at a time",
            a.node
        )
    });
    Ok(())
}

/// Waits until nothing is left on the member; how much that is.
async fn moved_away(client: &Client, args: &Drain, out: Output) -> Outcome<usize> {
    let until = Instant::now() + args.deadline;
    let bar = out.steps_bar(1);
    let mut last: Option<DrainStatus> = None;
    loop {
        let trouble = match client.drain_status(&args.node).await {
            Ok(status) if status.draining && status.left.is_empty() => {
                bar.finish_and_clear();
                return Ok(0);
            }
            Ok(status) if status.draining && status.left.iter().all(|left| left.bound) => {
                bar.finish_and_clear();
                return Err(bound(args, &status.left));
            }
            // The asked node may be behind.
            Ok(status) => {
                bar.set_message(format!("{} instances still there", status.left.len()));
                last = Some(status);
                None
            }
            Err(error) if error.is_not_found() => return Err(error.into()),
            // An election, or a node that has just gone: the drain goes on without us.
            Err(error) => Some(error),
        };
        if Instant::now() >= until {
            bar.finish_and_clear();
            return Err(late(args, last.as_ref(), trouble.as_ref()));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn late(args: &Drain, last: Option<&DrainStatus>, trouble: Option<&ClientError>) -> CliError {
    let node = &args.node;
    let left = last.map_or(&[][..], |status| &status.left);
    let how_far = match (trouble, last) {
        (Some(trouble), _) => format!("the cluster does not answer ({trouble})"),
        (None, Some(status)) if status.draining => match left.len() {
            1 => "1 instance is left on it".to_owned(),
            n => format!("{n} instances are left on it"),
        },
        _ => "somebody has taken it back".to_owned(),
    };
    CliError::timed_out(
        format!(
            "{node} is not drained after {}: {how_far}",
            duration::show(args.deadline)
        ),
        format!(
            "run it again to go on waiting, 'nodectl undrain {node}' to take it back, or 'nodectl remove {node}' to do without what is left"
        ),
    )
    .with_details(left.iter().map(line).collect())
}

/// Waiting longer would change nothing.
fn bound(args: &Drain, left: &[LeftInstance]) -> CliError {
    let node = &args.node;
    CliError::timed_out(
        format!("{node} is drained but for what cannot run anywhere else"),
        format!(
            "it goes on where its volumes are; 'nodectl undrain {node}' takes the node back, and whoever stops the machine stops it too"
        ),
    )
    .with_details(left.iter().map(line).collect())
}

fn line(left: &LeftInstance) -> String {
    let LeftInstance {
        id,
        deployment,
        phase,
        reason,
        bound: _,
    } = left;
    match reason {
        Some(reason) => format!("{id} of {deployment} ({phase}): {reason}"),
        None => format!("{id} of {deployment} ({phase})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_named_with_its_reason() {
        let args = Drain {
            node: "n2".into(),
            deadline: Duration::from_secs(300),
            no_wait: false,
            here: Here::default(),
        };
        let left = |reason: Option<&str>| LeftInstance {
            id: "i-7".into(),
            deployment: "api".into(),
            phase: "running".into(),
            reason: reason.map(str::to_owned),
            bound: false,
        };
        let status = DrainStatus {
            id: 2,
            name: "n2".into(),
            draining: true,
            left: vec![left(None), left(Some("no room"))],
        };
        let error = late(&args, Some(&status), None);
        assert_eq!(error.exit as u8, 5);
        assert!(
            error.to_string().contains("after 300 s: 2 instances"),
            "{error}"
        );
        let lines = [
            "i-7 of api (running)".to_owned(),
            "i-7 of api (running): no room".to_owned(),
        ];
        assert_eq!(error.details, lines);
        let undone = DrainStatus {
            draining: false,
            ..status
        };
        let error = late(&args, Some(&undone), None).to_string();
        assert!(error.contains("taken it back"), "{error}");
    }
}
