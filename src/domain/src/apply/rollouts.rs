//! What becomes of a release on its way: the leader's steps and what operators say.

use super::deployments::{changeable, put};
use super::{names, runs};
use crate::command::{Outcome, Rejection};
use crate::excerpt::excerpt_to;
use crate::ids::ReleaseNumber;
use crate::names::DeploymentName;
use crate::rollout::{Order, Rollout, Stage, Step};
use crate::spec::Kind;
use crate::state::{Deployment, Desired, Fate, State};
use crate::time::Millis;

/// What is kept of why a release failed: a sentence or two.
const WHY_BYTES: usize = 1024;

/// How a deployment comes to another release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    AsItsStrategySays,
    /// Without a canary and without two sets: it has run before.
    Straight,
}

/// Makes another release the wanted one. One that was on its way is over with that.
pub(super) fn turn_to(deployment: &mut Deployment, to: ReleaseNumber, way: Way, now: Millis) {
    let before = deployment.target;
    let from = match deployment.rollout.take() {
        Some(rollout) => {
            deployment.set_fate(before, Fate::Superseded { at: now });
            rollout.from
        }
        None => Some(before),
    };
    deployment.target = to;
    let from = from.filter(|from| *from != to);
    begin(deployment, from, way, now);
}

/// The way of the wanted release begins. A cron deployment's is out at once: its next run is of it.
pub(super) fn begin(
    deployment: &mut Deployment,
    from: Option<ReleaseNumber>,
    way: Way,
    now: Millis,
) {
    deployment.halted = false;
    if matches!(deployment.current().spec.kind(), Some(Kind::Cron(_))) {
        deployment.rollout = None;
        return deployment.set_fate(deployment.target, Fate::Good { at: now });
    }
    let rollout = Rollout::begin(deployment, from, way == Way::Straight, now);
    deployment.rollout = Some(rollout);
    deployment.set_fate(deployment.target, Fate::Open);
}

/// Takes the release on its way back. Without one to go back to it stays, and is over all the same.
fn take_back(deployment: &mut Deployment, fate: Fate) {
    let from = deployment.rollout.take().and_then(|rollout| rollout.from);
    deployment.set_fate(deployment.target, fate);
    if let Some(from) = from {
        deployment.target = from;
        deployment.generation += 1;
    }
}

pub(super) fn roll_back(
    state: &mut State,
    name: &DeploymentName,
    to: Option<ReleaseNumber>,
    now: Millis,
) -> Result<Outcome, Rejection> {
    let mut deployment = changeable(state, name)?.clone();
    if to.is_none() && deployment.fallback().is_some() {
        take_back(&mut deployment, Fate::Aborted { at: now });
        runs::follow(state, &mut deployment, now);
        return Ok(put(state, deployment));
    }
    let to = match to {
        Some(number) if number == deployment.target => {
            return Err(Rejection::ReleaseWanted {
                name: name.clone(),
                number,
            });
        }
        Some(number) => number,
        None => latest_good(&deployment).ok_or(Rejection::NothingToGoBackTo(name.clone()))?,
    };
    let unknown = || Rejection::ReleaseUnknown {
        name: name.clone(),
        number: to,
    };
    let release = deployment.release(to).ok_or_else(unknown)?;
    names::check(state, name, &release.spec)?;
    turn_to(&mut deployment, to, Way::Straight, now);
    runs::follow(state, &mut deployment, now);
    deployment.generation += 1;
    Ok(put(state, deployment))
}

/// The latest good release before the wanted one.
fn latest_good(deployment: &Deployment) -> Option<ReleaseNumber> {
    let mut older = deployment.releases.iter().rev();
    let found = older.find(|release| {
        release.number < deployment.target && matches!(release.fate, Fate::Good { .. })
    });
    found.map(|release| release.number)
}

pub(super) fn order(
    state: &mut State,
    name: &DeploymentName,
    order: Order,
    now: Millis,
) -> Result<Outcome, Rejection> {
    let mut deployment = changeable(state, name)?.clone();
    let running = state.serving_of(name);
    let of_it = running.filter(|i| i.desired == Desired::Run && deployment.is_current(i));
    let of_it = u32::try_from(of_it.count()).unwrap_or(u32::MAX);
    let Some(rollout) = &mut deployment.rollout else {
        return Err(Rejection::NoRollout(name.clone()));
    };
    rollout.seq += 1;
    match order {
        Order::Pause => rollout.paused = Some(rollout.paused.unwrap_or(of_it)),
        Order::Resume => {
            rollout.paused = None;
            rollout.progress_at = now;
        }
        Order::Promote => promote(state, &mut deployment, now),
        Order::Abort if rollout.from.is_none() => {
            return Err(Rejection::FirstRelease(name.clone()));
        }
        Order::Abort => take_back(&mut deployment, Fate::Aborted { at: now }),
    }
    if order != Order::Abort {
        deployment.generation += 1;
    }
    runs::follow(state, &mut deployment, now);
    Ok(put(state, deployment))
}

/// What waits only for time or a judgement has stood it; what waits for instances goes on waiting for them.
fn promote(state: &mut State, deployment: &mut Deployment, now: Millis) {
    let Some(rollout) = &mut deployment.rollout else {
        return;
    };
    rollout.paused = None;
    rollout.progress_at = now;
    match rollout.stage {
        Stage::Canary { .. } | Stage::Beside => rollout.stage = Stage::Replacing,
        Stage::Before { .. } | Stage::Job { .. } | Stage::Replacing => {}
        Stage::Warm { .. } | Stage::Watching { .. } => succeed(state, deployment, now),
    }
}

fn succeed(state: &mut State, deployment: &mut Deployment, now: Millis) {
    deployment.rollout = None;
    deployment.set_fate(deployment.target, Fate::Good { at: now });
    runs::out(state, deployment, now);
}

pub(super) fn step(
    state: &mut State,
    name: &DeploymentName,
    (release, seq): (ReleaseNumber, u64),
    step: &Step,
    now: Millis,
) -> Result<Outcome, Rejection> {
    let mut deployment = changeable(state, name)?.clone();
    let fits = deployment.target == release;
    let Some(rollout) = deployment.rollout.as_ref().filter(|r| fits && r.seq == seq) else {
        return Err(Rejection::StaleStep(name.clone()));
    };
    let mut rollout = rollout.clone();
    rollout.seq += 1;
    rollout.progress_at = now;
    match step {
        Step::Progress { ready } => {
            rollout.ready = *ready;
            deployment.rollout = Some(rollout);
        }
        Step::Next { ready, restarts } => match rollout.following(&deployment, now) {
            Some(stage) => {
                rollout.stage = stage;
                rollout.ready = *ready;
                rollout.restarts = *restarts;
                deployment.rollout = Some(rollout);
            }
            None => succeed(state, &mut deployment, now),
        },
        Step::Fail { why } => {
            let fate = Fate::Failed {
                at: now,
                why: excerpt_to(why, WHY_BYTES),
            };
            fail(&mut deployment, fate);
        }
    }
    runs::follow(state, &mut deployment, now);
    Ok(put(state, deployment))
}

/// What follows from a failure. Nothing has been begun of a release that its first hook has stopped, so nothing of it can
/// stay; and to run an older job again would mend nothing.
fn fail(deployment: &mut Deployment, fate: Fate) {
    let stage = deployment.rollout.as_ref().map(|rollout| rollout.stage);
    let taken_back = match stage {
        Some(Stage::Before { .. }) => true,
        Some(Stage::Job { .. }) => false,
        _ => deployment.current().spec.strategy.rollback,
    };
    if taken_back {
        let first = deployment.fallback().is_none();
        deployment.halted = first && matches!(stage, Some(Stage::Before { .. }));
        take_back(deployment, fate);
    } else {
        deployment.rollout = None;
        deployment.set_fate(deployment.target, fate);
    }
}
