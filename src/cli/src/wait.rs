//! Waiting until a change of a deployment shows: on a value (`generation >= n` and its phase), never on an edge.

mod tell;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use clap::Args;
use nebula_client::{Client, ClientError, Consistency};
use nebula_wire::api::{
    Deployed, DeploymentPhase, DeploymentStatus, InstanceStatus, ReleaseInfo, RolloutStatus,
};

use crate::duration;
use crate::error::{CliError, Outcome};
use crate::output::Output;
use tell::{failure, late, one_line, rolled_back, superseded};
pub use tell::{last_output_of, removed, waits};

/// Most roll-outs are over within this; until then ask often, so that a script's wait is short.
const EAGER: Duration = Duration::from_secs(3);
const EAGER_PAUSE: Duration = Duration::from_millis(50);
const PAUSE: Duration = Duration::from_millis(250);
/// A program that ended once may come up at the next try, as when its database was not there yet; one that has
/// ended this often will not.
const RESTARTS_THAT_DECIDE: u32 = 3;
/// What fails without restarts (a folder that cannot be fetched, no free port) has this long to change.
const FAILING_PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Args)]
pub struct WaitFlags {
    /// Wait until the change is in effect (the default)
    #[arg(long, overrides_with = "no_wait")]
    pub wait: bool,
    /// Return as soon as the cluster has taken the change
    #[arg(long)]
    pub no_wait: bool,
    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "120s", value_parser = duration::parse)]
    pub timeout: Duration,
}

impl WaitFlags {
    pub fn waits(&self) -> bool {
        self.wait || !self.no_wait
    }
}

/// What one look at a deployment means for someone who waits for `generation`.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Done,
    /// It failed and stays: there is nothing to go back to, or its strategy says so.
    Failed,
    /// Another release is wanted in its place.
    RolledBack,
    /// A newer release came before it was out.
    Superseded,
    NotYet,
}

fn judge(status: &DeploymentStatus, change: &Deployed) -> Seen {
    if status.generation < change.generation {
        return Seen::NotYet;
    }
    if status.phase == DeploymentPhase::Removing {
        return Seen::Failed;
    }
    let fate = fate_of(status, change.release).map(|release| release.fate.as_str());
    match fate {
        Some("superseded") => Seen::Superseded,
        _ if status.release != change.release => Seen::RolledBack,
        Some("failed" | "aborted") => Seen::Failed,
        _ => match status.phase {
            DeploymentPhase::Ready if status.rollout.is_none() => Seen::Done,
            // While it is on its way its end is the cluster's to say: it may well be taken back.
            DeploymentPhase::Failed if status.rollout.is_none() => Seen::Failed,
            _ => Seen::NotYet,
        },
    }
}

/// The same where the change was how many instances there are of a release that had failed before: that is no news, and some of them may
/// do well all the same.
fn judge_scale(status: &DeploymentStatus, change: &Deployed) -> Seen {
    if status.generation < change.generation {
        return Seen::NotYet;
    }
    if status.phase == DeploymentPhase::Removing {
        return Seen::Failed;
    }
    if status.release != change.release {
        return Seen::Superseded;
    }
    let there = u32::try_from(status.instances.len()).unwrap_or(u32::MAX);
    if (there, status.ready) == (status.desired, status.desired) {
        return Seen::Done;
    }
    // Those that are too many end first; one that has ended often and is up now is well.
    let fails = |i: &InstanceStatus| i.phase == "backoff" && i.restarts >= RESTARTS_THAT_DECIDE;
    match there <= status.desired && status.instances.iter().any(fails) {
        true => Seen::Failed,
        false => Seen::NotYet,
    }
}

/// The release that is wanted has failed, nothing is on its way, and its instances are wanted all the same: of one that was stopped
/// before it had any there will be none.
pub fn has_failed(status: &DeploymentStatus) -> bool {
    let fate = fate_of(status, status.release).map(|release| release.fate.as_str());
    let is_stopped = status.instances.is_empty() && status.desired > 0;
    status.rollout.is_none() && matches!(fate, Some("failed" | "aborted")) && !is_stopped
}

fn fate_of(status: &DeploymentStatus, release: u32) -> Option<&ReleaseInfo> {
    let mut kept = status.releases.iter();
    kept.find(|info| info.number == release)
}

/// What changes while a release gets on; and whether it only waits for a time to be over, or for a run that has a time limit of its own.
fn progress(status: &DeploymentStatus) -> ((u64, u32, Option<RolloutStatus>), bool) {
    let rollout = status.rollout.clone();
    let timed = |rollout: &RolloutStatus| {
        let stage = rollout.stage.as_str();
        // A run has a time limit of its own.
        let runs = ["job", "pre-release"].contains(&stage);
        let lasts = ["canary", "warm", "watching"].contains(&stage);
        !rollout.paused && (runs || (lasts && status.ready >= rollout.wanted))
    };
    let only_time = rollout.as_ref().is_some_and(timed);
    ((status.generation, status.ready, rollout), only_time)
}

/// Whether a deployment that fails now, and did so first `since` ago, is past hope.
fn is_final(status: &DeploymentStatus, since: Duration) -> bool {
    status.phase == DeploymentPhase::Removing
        || fate_of(status, status.release).is_some_and(|release| release.fate == "failed")
        || since >= FAILING_PATIENCE
        || status
            .instances
            .iter()
            .any(|i| i.release == status.release && i.restarts >= RESTARTS_THAT_DECIDE)
}

/// Between two looks by one who has waited since `start`.
async fn pause(start: Instant) {
    let eager = start.elapsed() < EAGER;
    tokio::time::sleep(if eager { EAGER_PAUSE } else { PAUSE }).await;
}

/// Whether a deployment that was there is there no more: a node that does not know it may only be behind.
pub async fn is_gone(client: &Client, name: &str) -> bool {
    let client = client.with_consistency(Consistency::Linearizable);
    let asked = client.deployment(name).await;
    asked.is_err_and(|error| error.is_not_found())
}

/// Waits until the deployment is ready at the change's generation or a later one.
pub async fn rollout(
    client: &Client,
    change: &Deployed,
    timeout: Duration,
    out: Output,
) -> Outcome<DeploymentStatus> {
    watch(client, change, timeout, out, judge).await
}

/// Waits until there are as many instances as were asked for, of a release that had failed before.
pub async fn scale_of_failed(
    client: &Client,
    change: &Deployed,
    timeout: Duration,
    out: Output,
) -> Outcome<DeploymentStatus> {
    watch(client, change, timeout, out, judge_scale).await
}

async fn watch(
    client: &Client,
    change: &Deployed,
    timeout: Duration,
    out: Output,
    judge: impl Fn(&DeploymentStatus, &Deployed) -> Seen,
) -> Outcome<DeploymentStatus> {
    let name = change.name.as_str();
    let start = Instant::now();
    let bar = out.steps_bar(1);
    bar.set_message(format!("{name}: waiting for the cluster"));
    let mut last: Option<DeploymentStatus> = None;
    let mut trouble: Option<ClientError> = None;
    let mut failing_since: Option<Instant> = None;
    // The time of a stage that only waits (a canary's, say) is not its fault.
    let mut stuck_since = start;
    let mut before = None;
    while stuck_since.elapsed() < timeout {
        let left = timeout.saturating_sub(stuck_since.elapsed());
        match client
            .with_deadline(left.min(Duration::from_secs(10)))
            .deployment(name)
            .await
        {
            Ok(status) => {
                bar.set_length(u64::from(status.desired));
                bar.set_position(u64::from(status.ready));
                bar.set_message(format!("{name}: {}", one_line(&status)));
                trouble = None;
                let (progress, only_time) = progress(&status);
                if only_time || before.as_ref() != Some(&progress) {
                    stuck_since = Instant::now();
                }
                before = Some(progress);
                match judge(&status, change) {
                    Seen::Done => {
                        bar.finish_and_clear();
                        return Ok(status);
                    }
                    Seen::Failed
                        if !is_final(
                            &status,
                            failing_since.get_or_insert_with(Instant::now).elapsed(),
                        ) =>
                    {
                        last = Some(status);
                    }
                    Seen::Failed => {
                        bar.finish_and_clear();
                        return Err(failure(client, &status).await);
                    }
                    Seen::RolledBack => {
                        bar.finish_and_clear();
                        return Err(rolled_back(client, &status, change).await);
                    }
                    Seen::Superseded => {
                        bar.finish_and_clear();
                        return Err(superseded(&status, change));
                    }
                    Seen::NotYet => last = Some(status),
                }
            }
            Err(error) if error.is_not_found() && is_gone(client, name).await => {
                bar.finish_and_clear();
                return Err(removed(
                    name,
                    &format!("before release {} was out", change.release),
                ));
            }
            // A node that has not applied the change yet, or a cluster that is electing a leader.
            Err(error) if error.is_not_found() || error.is_temporary() => trouble = Some(error),
            Err(error) => {
                bar.finish_and_clear();
                return Err(error.into());
            }
        }
        pause(start).await;
    }
    bar.finish_and_clear();
    Err(late(change, timeout, last.as_ref(), trouble.as_ref()))
}

/// Waits until the deployment is gone.
pub async fn removal(client: &Client, name: &str, timeout: Duration, out: Output) -> Outcome {
    let start = Instant::now();
    let bar = out.steps_bar(1);
    bar.set_message(format!("{name}: stopping"));
    let mut left_over = None;
    while start.elapsed() < timeout {
        match client.deployment(name).await {
            Ok(status) => {
                bar.set_message(format!("{name}: {} instances left", status.instances.len()));
                left_over = Some(status.instances.len());
            }
            Err(error) if error.is_not_found() => {
                bar.finish_and_clear();
                return Ok(());
            }
            Err(error) if error.is_temporary() => {}
            Err(error) => {
                bar.finish_and_clear();
                return Err(error.into());
            }
        }
        pause(start).await;
    }
    bar.finish_and_clear();
    let how_far = left_over.map_or_else(
        || "the cluster does not answer".to_owned(),
        |n| format!("{n} of its instances are left"),
    );
    Err(CliError::timed_out(
        format!(
            "the removal of '{name}' goes on, but was not over after {}: {how_far}",
            duration::show(timeout)
        ),
        format!("look again with 'nebula deploy status {name}'"),
    ))
}
