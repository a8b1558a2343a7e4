//! Waiting until a change of a deployment shows: on a value (`generation >= n` and its phase), never on an edge.

use std::time::{Duration, Instant};

use clap::Args;
use futures::StreamExt;
use nebula_client::{Client, ClientError, LogQuery};
use nebula_wire::api::{Deployed, DeploymentPhase, DeploymentStatus, ErrorCode};

use crate::duration;
use crate::error::{CliError, Exit, Outcome};
use crate::output::Output;

/// Most roll-outs are over within this; until then ask often, so that a script's wait is short.
const EAGER: Duration = Duration::from_secs(3);
const EAGER_PAUSE: Duration = Duration::from_millis(50);
const PAUSE: Duration = Duration::from_millis(250);
/// Lines of a failed program's output that are shown.
const LOG_LINES: usize = 10;
/// Collecting them must not keep a person waiting.
const LOG_DEADLINE: Duration = Duration::from_secs(3);

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
    Failed,
    /// A later change put an older release back.
    RolledBack,
    NotYet,
}

fn judge(status: &DeploymentStatus, change: &Deployed) -> Seen {
    if status.generation < change.generation {
        return Seen::NotYet;
    }
    if status.release < change.release {
        return Seen::RolledBack;
    }
    match status.phase {
        DeploymentPhase::Ready => Seen::Done,
        DeploymentPhase::Failed | DeploymentPhase::Removing => Seen::Failed,
        DeploymentPhase::Progressing | DeploymentPhase::Degraded => Seen::NotYet,
    }
}

/// Waits until the deployment is ready at the change's generation or a later one.
pub async fn rollout(
    client: &Client,
    change: &Deployed,
    timeout: Duration,
    out: Output,
) -> Outcome<DeploymentStatus> {
    let name = change.name.as_str();
    let start = Instant::now();
    let bar = out.steps_bar(1);
    bar.set_message(format!("{name}: waiting for the cluster"));
    let mut last: Option<DeploymentStatus> = None;
    let mut trouble: Option<ClientError> = None;
    while start.elapsed() < timeout {
        let left = timeout.saturating_sub(start.elapsed());
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
                match judge(&status, change) {
                    Seen::Done => {
                        bar.finish_and_clear();
                        return Ok(status);
                    }
                    Seen::Failed => {
                        bar.finish_and_clear();
                        return Err(failure(client, &status).await);
                    }
                    Seen::RolledBack => {
                        bar.finish_and_clear();
                        return Err(rolled_back(&status, change));
                    }
                    Seen::NotYet => last = Some(status),
                }
            }
            // A node that has not applied the change yet, or a cluster that is electing a leader.
            Err(error) if error.is_not_found() || error.is_temporary() => trouble = Some(error),
            Err(error) => {
                bar.finish_and_clear();
                return Err(error.into());
            }
        }
        let pause = if start.elapsed() < EAGER {
            EAGER_PAUSE
        } else {
            PAUSE
        };
        tokio::time::sleep(pause).await;
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
        let pause = if start.elapsed() < EAGER {
            EAGER_PAUSE
        } else {
            PAUSE
        };
        tokio::time::sleep(pause).await;
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

fn one_line(status: &DeploymentStatus) -> String {
    let mut text = format!(
        "release {}, {} of {} ready",
        status.release, status.ready, status.desired
    );
    if let Some(problem) = status.problems.first() {
        text.push_str(", ");
        text.push_str(problem);
    }
    text
}

/// Why instances are not ready, as far as the cluster knows.
fn reasons(status: &DeploymentStatus) -> Vec<String> {
    let instances = status
        .instances
        .iter()
        .filter(|i| !i.reason.is_empty())
        .map(|i| format!("{} on {}: {} ({})", i.id, i.node, i.reason, i.phase));
    let mut all: Vec<String> = status.problems.iter().cloned().chain(instances).collect();
    all.dedup();
    all
}

fn rolled_back(status: &DeploymentStatus, change: &Deployed) -> CliError {
    CliError::new(
        Exit::RolledBack,
        ErrorCode::Conflict,
        format!(
            "release {} of '{}' was taken back: release {} is the current one again",
            change.release, change.name, status.release
        ),
        format!("see 'nebula deploy logs {}' for why", change.name),
    )
}

fn late(
    change: &Deployed,
    timeout: Duration,
    last: Option<&DeploymentStatus>,
    trouble: Option<&ClientError>,
) -> CliError {
    let name = &change.name;
    let how_far = match (last, trouble) {
        (_, Some(trouble)) if !trouble.is_not_found() => {
            format!("the cluster does not answer ({trouble})")
        }
        (Some(status), _) if status.generation >= change.generation => one_line(status),
        _ => "no node shows it yet".to_owned(),
    };
    CliError::timed_out(
        format!(
            "the change of '{name}' was made, but '{name}' is not ready after {}: {how_far}",
            duration::show(timeout)
        ),
        format!("look again with 'nebula deploy status {name}', or wait longer with --timeout"),
    )
    .with_details(last.map(reasons).unwrap_or_default())
}

async fn failure(client: &Client, status: &DeploymentStatus) -> CliError {
    let name = &status.name;
    if status.phase == DeploymentPhase::Removing {
        return CliError::new(
            Exit::Failed,
            ErrorCode::Conflict,
            format!("'{name}' is being removed by someone else"),
            "see 'nebula deploy list'",
        );
    }
    let reasons = reasons(status);
    let why = reasons
        .first()
        .cloned()
        .unwrap_or_else(|| "no instance becomes ready".to_owned());
    let mut details = reasons.get(1..).unwrap_or_default().to_vec();
    let lines = last_log_lines(client, name).await;
    if !lines.is_empty() {
        details.push("its last output:".to_owned());
        details.extend(lines.into_iter().map(|line| format!("  {line}")));
    }
    CliError::new(
        Exit::Failed,
        ErrorCode::Unavailable,
        format!("release {} of '{name}' failed: {why}", status.release),
        format!("see 'nebula deploy logs {name}', then 'nebula deploy update {name} --path DIR'"),
    )
    .with_details(details)
}

/// The end of the deployment's output; empty when it cannot be had soon.
async fn last_log_lines(client: &Client, name: &str) -> Vec<String> {
    let query = LogQuery {
        tail: Some(LOG_LINES),
        ..LogQuery::default()
    };
    let read = async {
        let stream = client.logs(name, &query).await.ok()?;
        let lines: Vec<_> = stream
            .filter_map(|line| async { line.ok() })
            .map(|line| format!("{} | {}", line.instance, line.line))
            .collect()
            .await;
        Some(lines)
    };
    let mut lines = tokio::time::timeout(LOG_DEADLINE, read)
        .await
        .ok()
        .flatten()
        .unwrap_or_default();
    lines.drain(..lines.len().saturating_sub(LOG_LINES));
    lines
}

#[cfg(test)]
mod tests {
    use nebula_wire::api::InstanceStatus;

    use super::*;

    fn status(generation: u64, phase: DeploymentPhase) -> DeploymentStatus {
        DeploymentStatus {
            name: "api".into(),
            kind: "service".into(),
            generation,
            release: 2,
            phase,
            desired: 3,
            ready: 1,
            urls: vec![],
            artifact: String::new(),
            instances: vec![InstanceStatus {
                id: "i-4".into(),
                node: "n2".into(),
                node_id: 2,
                release: 2,
                phase: "backoff".into(),
                health: "unknown".into(),
                restarts: 3,
                reason: "exited with code 1".into(),
            }],
            problems: vec!["no room for 1 instance".into()],
        }
    }

    fn change(generation: u64, release: u32) -> Deployed {
        Deployed {
            name: "api".into(),
            generation,
            release,
            urls: vec![],
        }
    }

    #[test]
    fn an_older_release_in_a_newer_generation_was_put_back() {
        let seen = status(6, DeploymentPhase::Ready);
        assert_eq!(judge(&seen, &change(5, 3)), Seen::RolledBack);
        assert_eq!(rolled_back(&seen, &change(5, 3)).exit as u8, 4);
    }

    #[test]
    fn only_our_generation_counts() {
        use DeploymentPhase as P;
        assert_eq!(judge(&status(4, P::Ready), &change(5, 2)), Seen::NotYet);
        assert_eq!(judge(&status(4, P::Failed), &change(5, 2)), Seen::NotYet);
        assert_eq!(judge(&status(5, P::Ready), &change(5, 2)), Seen::Done);
        assert_eq!(judge(&status(6, P::Ready), &change(5, 2)), Seen::Done);
        assert_eq!(judge(&status(5, P::Failed), &change(5, 2)), Seen::Failed);
        assert_eq!(judge(&status(5, P::Degraded), &change(5, 2)), Seen::NotYet);
    }

    #[test]
    fn being_late_says_how_far_it_got() {
        let minute = Duration::from_secs(60);
        let error = late(
            &change(5, 2),
            minute,
            Some(&status(5, DeploymentPhase::Progressing)),
            None,
        );
        assert_eq!(error.exit, Exit::TimedOut);
        let text = error.to_string();
        assert!(
            text.contains("1 of 3 ready") && text.contains("60 s") && text.contains("no room"),
            "{text}"
        );
        assert!(
            error
                .details
                .iter()
                .any(|d| d.contains("exited with code 1"))
        );
        let unseen = late(
            &change(5, 2),
            minute,
            Some(&status(4, DeploymentPhase::Ready)),
            None,
        );
        assert!(unseen.to_string().contains("no node shows it yet"));
    }
}
