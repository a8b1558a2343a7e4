//! `nodectl leave`: this machine's instances move away, then it is a member no more.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use nebula_client::{Client, ClientError};
use nebula_node::API_SOCKET;
use nebula_wire::api::{ErrorCode, MemberStatus};
use serde::Serialize;

use super::setup::data_dir;
use super::{daemon, systemd};
use crate::duration;
use crate::error::{CliError, Outcome};
use crate::output::Output;
use crate::process::Process;

const PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  nodectl leave

The data folder stays until you delete it; to join again, the machine needs an empty one.")]
pub struct Leave {
    /// Of the node that leaves
    #[arg(long, value_name = "DIR", env = "NEBULA_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// How long to wait for instances to move elsewhere before leaving all the same
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration::parse)]
    timeout: Duration,
}

#[derive(Serialize)]
struct Left {
    id: u64,
    name: String,
    data_dir: PathBuf,
    /// Instances that were still here; they come up elsewhere.
    instances_left: u32,
}

pub async fn run(args: Leave, out: Output) -> Outcome {
    let dir = data_dir(args.data_dir.as_deref());
    let client = Client::unix(dir.join(API_SOCKET));
    let me = client.status().await?;
    let daemon = Process::running(me.pid);
    let id = me.id.to_string();
    let instances_left = if has_company(&client, me.id).await? {
        client.set_draining(&id, true).await?;
        moved_away(&client, args.timeout, out).await?
    } else {
        me.instances
    };
    let answer = client.remove_member(&id).await;
    let answer = match answer {
        Err(error) if !may_have_worked(&error) => {
            // Still a member: it may as well be a useful one.
            let _ = client.set_draining(&id, false).await;
            return Err(error.into());
        }
        answer => answer,
    };
    let ended = match daemon {
        Some(process) => process.ended(daemon::STOP_DEADLINE).await,
        None => true,
    };
    if !ended {
        return Err(match answer {
            Err(error) => {
                let _ = client.set_draining(&id, false).await;
                error.into()
            }
            Ok(()) => CliError::timed_out(
                format!(
                    "{} is no longer a member, but its daemon (pid {}) still runs",
                    me.name, me.pid
                ),
                "see 'nodectl members' on another machine, and this daemon's log",
            ),
        });
    }
    if systemd::is_here() && systemd::owns(&dir) {
        systemd::stop(false)?;
    }
    let left = Left {
        id: me.id,
        name: me.name,
        data_dir: dir,
        instances_left,
    };
    out.result(&left, |l| {
        format!(
            "{} has left the cluster; its data is still in {}",
            l.name,
            l.data_dir.display()
        )
    });
    Ok(())
}

/// A daemon stops as soon as it hears that it was removed, perhaps before it has answered, or while it does. Whether
/// it was let go then shows in its end.
fn may_have_worked(error: &ClientError) -> bool {
    match error {
        ClientError::Unreachable { .. }
        | ClientError::Timeout { .. }
        | ClientError::BadAnswer { .. } => true,
        ClientError::Api(error) => error.code == ErrorCode::Unavailable,
        ClientError::Untrusted { .. } | ClientError::Source(_) | ClientError::Setup(_) => false,
    }
}

/// Whether any other member could take the instances over.
async fn has_company(client: &Client, me: u64) -> Outcome<bool> {
    let members = client.members().await?.members;
    Ok(members
        .iter()
        .any(|m| m.id != me && m.status == MemberStatus::Alive))
}

/// Waits until no instance is assigned here, or time is over; says how many are left.
async fn moved_away(client: &Client, timeout: Duration, out: Output) -> Outcome<u32> {
    let until = Instant::now() + timeout;
    let bar = out.steps_bar(1);
    loop {
        let left = client.status().await?.instances;
        bar.set_message(format!("{left} instances still here"));
        if left == 0 || Instant::now() >= until {
            bar.finish_and_clear();
            return Ok(left);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use nebula_wire::api::ApiError;

    use super::*;

    #[test]
    fn only_an_answer_cut_short_leaves_it_open() {
        let api = |code| {
            ClientError::Api(ApiError {
                code,
                message: String::new(),
                hint: String::new(),
            })
        };
        assert!(may_have_worked(&api(ErrorCode::Unavailable)));
        assert!(may_have_worked(&ClientError::Unreachable { tried: vec![] }));
        assert!(!may_have_worked(&api(ErrorCode::Conflict)));
        assert!(!may_have_worked(&api(ErrorCode::NoQuorum)));
    }
}
