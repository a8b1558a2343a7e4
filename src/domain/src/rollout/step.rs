//! When the next stage has come, and what speaks against a release.

use std::time::Duration;

use super::look::Seen;
use super::{Rollout, Stage, Step};
use crate::spec::Takeover;
use crate::state::Deployment;
use crate::time::Millis;

/// The next step, if there is reason for one. `verdict` is what the judge of its requests says against it.
pub fn step(
    deployment: &Deployment,
    seen: &Seen,
    verdict: Option<String>,
    now: Millis,
) -> Option<Step> {
    let rollout = deployment.rollout.as_ref()?;
    // One that has failed and stays waits for what an operator says.
    if deployment.removing || deployment.current().has_failed() {
        return None;
    }
    if let Some(why) = against(rollout, seen, verdict) {
        return Some(Step::Fail { why });
    }
    if rollout.paused.is_none() && has_come(deployment, rollout, seen, now) {
        return Some(Step::Next {
            ready: seen.ready,
            restarts: seen.restarts,
        });
    }
    let ready = seen.ready;
    if ready > rollout.ready {
        return Some(Step::Progress { ready });
    }
    // Last: after an outage the deadline is over, and what it waited for may have come all the same.
    let late = expires(deployment, rollout).is_some_and(|at| at <= now);
    let late = late && !seen.is_suspected;
    late.then(|| Step::Fail {
        why: too_late(deployment, seen),
    })
}

fn against(rollout: &Rollout, seen: &Seen, verdict: Option<String>) -> Option<String> {
    if let Some(trouble) = &seen.trouble {
        return Some(trouble.clone());
    }
    if rollout.is_settled() && seen.restarts > rollout.restarts {
        let ended = seen.ended.clone();
        return Some(ended.unwrap_or_else(|| "an instance ended by itself".to_owned()));
    }
    verdict
}

fn too_late(deployment: &Deployment, seen: &Seen) -> String {
    let deadline = deployment.strategy().deadline.as_secs();
    let progress = format!(
        "no progress for {deadline} s: {} of {} instances are ready",
        seen.ready, seen.wanted
    );
    match &seen.complaint {
        Some(complaint) => format!("{progress}; {complaint}"),
        None => progress,
    }
}

/// When a stage has waited too long for instances: one that lasts for a time, after that time.
fn expires(deployment: &Deployment, rollout: &Rollout) -> Option<Millis> {
    if rollout.paused.is_some() || rollout.stage.is_run() {
        return None;
    }
    let from = ends(deployment, rollout).unwrap_or(rollout.progress_at);
    Some(from.plus(deployment.strategy().deadline))
}

fn has_come(deployment: &Deployment, rollout: &Rollout, seen: &Seen, now: Millis) -> bool {
    let all_ready = seen.ready >= seen.wanted;
    match rollout.stage {
        Stage::Before { .. } | Stage::Job { .. } => seen.run_succeeded,
        Stage::Beside | Stage::Canary { since: None, .. } => all_ready,
        Stage::Replacing => all_ready && seen.others == 0,
        Stage::Canary { .. } | Stage::Warm { .. } | Stage::Watching { .. } => {
            let is_over = ends(deployment, rollout).is_some_and(|at| at <= now);
            is_over && all_ready && !seen.is_suspected
        }
    }
}

/// When a stage that lasts for a time ends.
fn ends(deployment: &Deployment, rollout: &Rollout) -> Option<Millis> {
    let strategy = deployment.strategy();
    let (since, lasts): (Millis, Duration) = match (rollout.stage, &strategy.takeover) {
        (Stage::Warm { since }, Takeover::BlueGreen { warm }) => {
            (since, (*warm).max(strategy.watch))
        }
        (Stage::Warm { since } | Stage::Watching { since }, _) => (since, strategy.watch),
        (Stage::Canary { since, .. }, _) => (since?, deployment.canary_percent()?.1),
        (Stage::Before { .. } | Stage::Job { .. } | Stage::Replacing | Stage::Beside, _) => {
            return None;
        }
    };
    Some(since.plus(lasts))
}

/// When after `now` time alone may call for a step.
pub fn due(deployment: &Deployment, now: Millis) -> Option<Millis> {
    let rollout = deployment.rollout.as_ref()?;
    if rollout.paused.is_some() {
        return None;
    }
    let times = [ends(deployment, rollout), expires(deployment, rollout)];
    times.into_iter().flatten().filter(|at| *at > now).min()
}

/// When the stage began, or the latest step within it was made: what the times above are counted from.
pub fn stage_began(rollout: &Rollout) -> Millis {
    match rollout.stage {
        Stage::Warm { since } | Stage::Watching { since } => since,
        Stage::Canary { since, .. } => since.unwrap_or(rollout.progress_at),
        Stage::Before { .. } | Stage::Job { .. } | Stage::Replacing | Stage::Beside => {
            rollout.progress_at
        }
    }
}
