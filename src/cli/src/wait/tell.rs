//! What people are told when a wait does not end well: how far it got, and why.

use std::time::Duration;

use futures::StreamExt;
use nebula_client::{Client, ClientError, LogQuery};
use nebula_wire::api::{Deployed, DeploymentPhase, DeploymentStatus, ErrorCode, Run};

use crate::duration;
use crate::error::{CliError, Exit};

/// Lines of a failed program's output that are shown.
const LOG_LINES: usize = 10;
/// Collecting them must not keep a person waiting.
const LOG_DEADLINE: Duration = Duration::from_secs(3);

/// What a probe says of a program that runs and does not take connections.
const NOBODY_LISTENS: &str = "no connection to port";
const LISTEN_HINT: &str = "the program has to listen on 127.0.0.1 at the port in the variable PORT; one that has a port of its own needs --port (in nebula.toml: port)";

pub(super) fn one_line(status: &DeploymentStatus) -> String {
    let mut text = format!(
        "release {}, {} of {} ready",
        status.release, status.ready, status.desired
    );
    if let Some(rollout) = &status.rollout {
        text.push_str(", ");
        text.push_str(&crate::render::rollout(rollout));
    }
    if let Some(waits) = status.last_run.as_ref().and_then(waits) {
        text.push_str(", ");
        text.push_str(&waits);
    }
    if let Some(problem) = status.problems.first() {
        text.push_str(", ");
        text.push_str(problem);
    }
    text
}

/// `run-3 is pending: waits for 'db', which has no ready instance`; none for what does not wait.
pub fn waits(run: &Run) -> Option<String> {
    let why = run.why.as_ref().filter(|_| run.state == "pending")?;
    Some(format!("{} is pending: {why}", run.id))
}

/// Somebody else removed what is waited for. `when`: `before release 3 was out`.
pub fn removed(name: &str, when: &str) -> CliError {
    CliError::new(
        Exit::Failed,
        ErrorCode::Conflict,
        format!("'{name}' was removed by someone else {when}"),
        format!("see 'nebula deploy events {name}' for by whom"),
    )
}

/// Why instances of the current release are not ready, each named once.
pub(super) fn reasons(status: &DeploymentStatus) -> Vec<String> {
    let named = |id: &str| {
        let is_part = |c: char| !c.is_ascii_alphanumeric() && c != '-';
        status
            .problems
            .iter()
            .any(|p| p.split(is_part).any(|word| word == id))
    };
    let instances = status
        .instances
        .iter()
        .filter(|i| i.release == status.release && i.health != "healthy")
        .filter(|i| !i.reason.is_empty() && !named(&i.id))
        .map(|i| format!("{} on {}: {} ({})", i.id, i.node, i.reason, i.phase));
    status.problems.iter().cloned().chain(instances).collect()
}

pub(super) async fn rolled_back(
    client: &Client,
    status: &DeploymentStatus,
    change: &Deployed,
) -> CliError {
    let (name, release) = (&change.name, change.release);
    let why = super::fate_of(status, release).and_then(|release| release.why.clone());
    let why = why.unwrap_or_else(|| "somebody took it back".to_owned());
    CliError::new(
        Exit::RolledBack,
        ErrorCode::Conflict,
        format!(
            "release {release} of '{name}' was taken back, release {} is wanted again: {why}",
            status.release
        ),
        match why.contains(NOBODY_LISTENS) {
            true => LISTEN_HINT.to_owned(),
            false => format!("see 'nebula deploy history {name}' and 'nebula deploy logs {name}'"),
        },
    )
    .with_details(last_output(client, name, release, &why).await)
}

pub(super) fn superseded(status: &DeploymentStatus, change: &Deployed) -> CliError {
    let (name, release) = (&change.name, change.release);
    CliError::new(
        Exit::Failed,
        ErrorCode::Conflict,
        format!(
            "release {release} of '{name}' was not out when release {} came",
            status.release
        ),
        format!("see 'nebula deploy history {name}'"),
    )
}

pub(super) fn late(
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
        match last.and_then(|status| status.rollout.as_ref()) {
            Some(rollout) if rollout.paused => {
                format!("it is paused: go on with 'nebula deploy resume {name}'")
            }
            _ => format!(
                "look again with 'nebula deploy status {name}', or wait longer with --timeout"
            ),
        },
    )
    .with_details(last.map(reasons).unwrap_or_default())
}

pub(super) async fn failure(client: &Client, status: &DeploymentStatus) -> CliError {
    let name = &status.name;
    if status.phase == DeploymentPhase::Removing {
        return CliError::new(
            Exit::Failed,
            ErrorCode::Conflict,
            format!("'{name}' is being removed by someone else"),
            format!("see 'nebula deploy events {name}' for by whom"),
        );
    }
    let reasons = reasons(status);
    let fate = super::fate_of(status, status.release).and_then(|release| release.why.clone());
    let why = fate.or_else(|| reasons.first().cloned());
    let why = why.unwrap_or_else(|| "no instance becomes ready".to_owned());
    let mut details: Vec<_> = reasons
        .into_iter()
        .filter(|reason| *reason != why)
        .collect();
    details.extend(last_output(client, name, status.release, &why).await);
    CliError::new(
        exit_of(status),
        ErrorCode::Unavailable,
        format!("release {} of '{name}' failed: {why}", status.release),
        match why.contains(NOBODY_LISTENS) {
            true => LISTEN_HINT.to_owned(),
            false => format!(
                "see 'nebula deploy logs {name}', then 'nebula deploy update {name} --path DIR'"
            ),
        },
    )
    .with_details(details)
}

/// A job that failed, and a release that its first hook has stopped, are told apart from instances that do not come up.
fn exit_of(status: &DeploymentStatus) -> Exit {
    let stopped_by = |run: &nebula_wire::api::Run| {
        run.release == status.release
            && run.state != "succeeded"
            && ["release", "pre_release"].contains(&run.cause.as_str())
    };
    match status.last_run.as_ref().is_some_and(stopped_by) {
        true => Exit::RolledBack,
        false => Exit::Failed,
    }
}

/// The end of a failed release's output for people, that of the instance which `why` names where it can be had.
async fn last_output(client: &Client, name: &str, release: u32, why: &str) -> Vec<String> {
    let is_part = |c: char| !c.is_ascii_alphanumeric() && c != '-';
    let instance = why.split(is_part).find(|word| word.starts_with("i-"));
    headed(last_log_lines(client, name, release, instance).await)
}

/// The end of one instance's output, for people.
pub async fn last_output_of(
    client: &Client,
    name: &str,
    release: u32,
    instance: &str,
) -> Vec<String> {
    headed(last_log_lines(client, name, release, Some(instance)).await)
}

fn headed(lines: Vec<String>) -> Vec<String> {
    if lines.is_empty() {
        return Vec::new();
    }
    let head = std::iter::once("its last output:".to_owned());
    head.chain(lines.into_iter().map(|line| format!("  {line}")))
        .collect()
}

/// The end of a release's output; empty when it cannot be had soon.
async fn last_log_lines(
    client: &Client,
    name: &str,
    release: u32,
    instance: Option<&str>,
) -> Vec<String> {
    let query = LogQuery {
        tail: Some(LOG_LINES),
        instance: instance.map(str::to_owned),
        ..LogQuery::default()
    };
    let read = async {
        let stream = client.logs(name, &query).await.ok()?;
        let lines: Vec<_> = stream
            .filter_map(|line| async { line.ok().filter(|l| l.release == release) })
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
