//! What becomes of a release on its way: the leader's steps and what operators say.

use super::dependencies;
use super::deployments::{changeable, put};
use super::{names, runs, secrets};
use crate::command::{Outcome, Rejection};
use crate::excerpt::excerpt_to;
use crate::ids::ReleaseNumber;
use crate::names::DeploymentName;
use crate::rollout::{Order, Pause, Rollout, Stage, Step};
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
pub(super) fn turn_to(
    deployment: &mut Deployment,
    to: ReleaseNumber,
    way: Way,
    (revision, now): (u64, Millis),
) {
    let before = deployment.rollout.take();
    let from = match &before {
        Some(rollout) => {
            if !deployment.current().has_failed() {
                deployment.set_fate(deployment.target, Fate::Superseded { at: now });
            }
            rollout.from
        }
        None if deployment.current().has_failed() => latest_good(deployment),
        None => Some(deployment.target),
    };
    deployment.target = to;
    let from = from.filter(|from| *from != to);
    begin(deployment, from, way, (revision, now));
    if let (Some(rollout), Some(before)) = (&mut deployment.rollout, before) {
        rollout.from_epoch = before.from_epoch;
        // A step towards the same release that is under way from before does not fit this one.
        rollout.seq = before.seq + 1;
    }
}

/// The way of the wanted release begins. A cron deployment's is out at once: its next run is of it.
pub(super) fn begin(
    deployment: &mut Deployment,
    from: Option<ReleaseNumber>,
    way: Way,
    (revision, now): (u64, Millis),
) {
    deployment.halted = false;
    if matches!(deployment.current().spec.kind(), Some(Kind::Cron(_))) {
        deployment.rollout = None;
        return deployment.set_fate(deployment.target, Fate::Good { at: now });
    }
    let rollout = Rollout::begin(deployment, from, way == Way::Straight, revision, now);
    deployment.rollout = Some(rollout);
    deployment.set_fate(deployment.target, Fate::Open);
}

/// A release that runs as the one to go back to begins no instances, and so has nothing to prepare.
pub(super) fn spare_hook(deployment: &mut Deployment) {
    let from = deployment.fallback().cloned();
    let alike = from.is_some_and(|from| from.runs_as(deployment.current()));
    if let Some(rollout) = deployment.rollout.as_mut().filter(|_| alike)
        && matches!(rollout.stage, Stage::Before { .. })
    {
        rollout.stage = Stage::Replacing;
    }
}

/// The revision of the state that the command being applied leads to.
pub(super) fn revision_after(state: &State) -> u64 {
    state.revision + 1
}

/// Takes the release on its way back. Without one to go back to it stays, and is over all the same.
fn take_back(deployment: &mut Deployment, fate: Fate) {
    let rollout = deployment.rollout.take();
    deployment.set_fate(deployment.target, fate);
    if let Some((from, epoch)) = rollout.and_then(|r| Some((r.from?, r.from_epoch))) {
        deployment.target = from;
        // Its instances are as good as they were.
        deployment.epoch = epoch;
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
    dependencies::check(state, name, &release.spec)?;
    secrets::check(state, &release.spec)?;
    let at = (revision_after(state), now);
    turn_to(&mut deployment, to, Way::Straight, at);
    secrets::pin(state, &mut deployment);
    runs::follow(state, &mut deployment, now);
    deployment.generation += 1;
    Ok(put(state, deployment))
}

/// The latest good release before the wanted one.
pub(super) fn latest_good(deployment: &Deployment) -> Option<ReleaseNumber> {
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
    let can_pause = deployment.can_pause();
    let Some(rollout) = &mut deployment.rollout else {
        return Err(Rejection::NoRollout(name.clone()));
    };
    rollout.seq += 1;
    match order {
        Order::Pause if !can_pause => {
            return Err(Rejection::CannotPause(name.clone()));
        }
        Order::Pause => {
            let instances = of_it;
            rollout.paused.get_or_insert(Pause { at: now, instances });
        }
        Order::Resume => {
            if let Some(pause) = rollout.paused.take() {
                rollout.go_on(pause, now);
            }
            reopen(&mut deployment);
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
        Stage::Warm { .. } | Stage::Watching { .. } => return succeed(state, deployment, now),
    }
    reopen(deployment);
}

/// One that had failed and stayed is given another chance.
fn reopen(deployment: &mut Deployment) {
    if deployment.current().has_failed() {
        deployment.set_fate(deployment.target, Fate::Open);
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
            fail(&mut deployment, rollout, fate);
        }
    }
    runs::follow(state, &mut deployment, now);
    Ok(put(state, deployment))
}

/// What follows from a failure. Nothing has been begun of a release that its first hook has stopped, so nothing of it can
/// stay; and to run an older job again would mend nothing.
fn fail(deployment: &mut Deployment, mut rollout: Rollout, fate: Fate) {
    let taken_back = match rollout.stage {
        Stage::Before { .. } => true,
        Stage::Job { .. } => false,
        _ => deployment.current().spec.strategy.rollback,
    };
    if taken_back {
        let first = deployment.fallback().is_none();
        deployment.halted = first && matches!(rollout.stage, Stage::Before { .. });
        return take_back(deployment, fate);
    }
    let now = rollout.progress_at;
    // It is left as it stands, with its part of the requests, until an operator says what becomes of it.
    let partly = rollout.from.is_some()
        && !matches!(rollout.stage, Stage::Job { .. } | Stage::Watching { .. })
        && !deployment.current().spec.is_static();
    let instances = rollout.ready;
    rollout.paused.get_or_insert(Pause { at: now, instances });
    deployment.rollout = partly.then_some(rollout);
    deployment.set_fate(deployment.target, fate);
}
