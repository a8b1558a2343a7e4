//! Runs: what people ask for, what releases and schedules bring, and the leader's steps.

use super::deployments::changeable;
use super::{secrets, volumes};
use crate::command::{Outcome, Rejection};
use crate::excerpt::excerpt_to;
use crate::ids::{InstanceId, NodeId, ReleaseNumber, RunNumber};
use crate::names::DeploymentName;
use crate::rollout::Stage;
use crate::runs::{
    Attempt, COUNTED_MAX, Cause, Come, Cursor, Exit, Hook, How, LOSSES_MAX, Passed, RUNS_KEPT,
    RUNS_OPEN_MAX, Run, RunState, RunStep, Verdict, Work, told,
};
use crate::spec::{Concurrency, Kind, RunLimits};
use crate::state::{Deployment, Desired, Fate, Instance, State};
use crate::text::show_duration;
use crate::time::Millis;

/// What is kept of why a run failed: a sentence or two.
const WHY_BYTES: usize = 512;

/// Somebody wants a run of a job or of a cron deployment now.
pub(super) fn start(
    state: &mut State,
    name: &DeploymentName,
    now: Millis,
) -> Result<Outcome, Rejection> {
    let deployment = changeable(state, name)?;
    let Some((kind, limits)) = finite(deployment) else {
        return Err(Rejection::NoRuns(name.clone()));
    };
    let concurrency = concurrency(&kind);
    let mut work = state.work.get(name).cloned().unwrap_or_default();
    let release = deployment.target;
    if let Some(reason) = in_the_way(&work, concurrency) {
        return Err(Rejection::RunOpen {
            name: name.clone(),
            reason,
        });
    }
    let number = admit(state, &mut work, concurrency, now, |work| {
        create(work, release, Cause::Person, limits, now)
    });
    keep(state, name, work);
    Ok(Outcome::RunBegun { run: number })
}

pub(super) fn cancel(
    state: &mut State,
    name: &DeploymentName,
    number: RunNumber,
    now: Millis,
) -> Result<Outcome, Rejection> {
    changeable(state, name)?;
    let mut work = state.work.get(name).cloned().unwrap_or_default();
    let known = work.run(number).map(Run::is_over);
    match known {
        None => {
            return Err(Rejection::RunUnknown {
                name: name.clone(),
                run: number,
            });
        }
        Some(true) => {
            return Err(Rejection::RunOver {
                name: name.clone(),
                run: number,
            });
        }
        Some(false) => {}
    }
    let why = "somebody cancelled it";
    end(state, &mut work, now, why, |run| run.number == number);
    keep(state, name, work);
    Ok(Outcome::Done)
}

/// What the schedule has come to.
pub(super) fn tick(
    state: &mut State,
    name: &DeploymentName,
    (release, seen_until): (ReleaseNumber, Millis),
    come: &Come,
    now: Millis,
) -> Result<Outcome, Rejection> {
    let stale = || Rejection::StaleStep(name.clone());
    let deployment = changeable(state, name)?;
    let Some((kind, limits)) = finite(deployment).filter(|_| deployment.target == release) else {
        return Err(stale());
    };
    let concurrency = concurrency(&kind);
    let mut work = state.work.get(name).cloned().unwrap_or_default();
    let cursor = work.cursor.as_mut();
    let Some(cursor) = cursor.filter(|c| c.release == release && c.seen_until == seen_until) else {
        return Err(stale());
    };
    cursor.next = come.next;
    let reached = come.due.into_iter();
    let reached = reached.chain(come.missed.as_ref().map(|passed| passed.last));
    cursor.seen_until = reached.max().unwrap_or(seen_until).max(seen_until);
    if let Some(passed) = &come.missed {
        let cause = Cause::Cron { due: passed.last };
        miss(
            &mut work,
            release,
            (cause, &limits),
            now,
            told_missed(passed),
        );
    }
    if let Some(due) = come.due {
        let cause = Cause::Cron { due };
        match in_the_way(&work, concurrency) {
            Some(why) => miss(&mut work, release, (cause, &limits), now, why),
            None => {
                admit(state, &mut work, concurrency, now, |work| {
                    create(work, release, cause, limits, now)
                });
            }
        }
    }
    keep(state, name, work);
    Ok(Outcome::Done)
}

fn told_missed(passed: &Passed) -> String {
    let (first, last) = (told(passed.first), told(passed.last));
    match passed.count {
        1 => format!("the time {first} passed before it could begin"),
        COUNTED_MAX => format!("{COUNTED_MAX} times or more passed from {first} to {last}"),
        count => format!("{count} times passed from {first} to {last}"),
    }
}

/// The leader's step.
pub(super) fn step(
    state: &mut State,
    name: &DeploymentName,
    (number, seq): (RunNumber, u64),
    step: &RunStep,
    now: Millis,
) -> Result<Outcome, Rejection> {
    let stale = || Rejection::StaleStep(name.clone());
    let mut work = state.work.get(name).cloned().unwrap_or_default();
    let found = work.runs.iter().position(|run| run.number == number);
    let Some(position) = found.filter(|at| work.runs[*at].seq == seq) else {
        return Err(stale());
    };
    let mut run = work.runs[position].clone();
    match (step, &run.state) {
        (RunStep::Start { node }, RunState::Pending { .. }) => {
            let instance = begin(state, name, &run, *node).ok_or_else(stale)?;
            run.attempts.push(Attempt {
                instance,
                node: *node,
                started_at: now,
                end: None,
            });
            run.state = RunState::Running;
        }
        (RunStep::Ended(exit), RunState::Running | RunState::Ending(_)) => {
            if let Some(attempt) = run.attempts.last_mut() {
                attempt.end = Some((now, exit.clone()));
                super::assign::stop(state, attempt.instance);
            }
            run.state = after(&run, exit, now);
        }
        (RunStep::Late, RunState::Running) => {
            let verdict = late(&run);
            tell_to_stop(state, &run);
            run.state = RunState::Ending(verdict);
        }
        (RunStep::Late, RunState::Pending { .. }) => {
            let verdict = late(&run);
            run.state = RunState::Over { at: now, verdict };
        }
        (RunStep::NoPlace { why }, RunState::Pending { .. }) => {
            let why = excerpt_to(&format!("it found no place: {why}"), WHY_BYTES);
            let verdict = Verdict::Failed { why };
            run.state = RunState::Over { at: now, verdict };
        }
        _ => return Err(stale()),
    }
    run.seq += 1;
    let over = run.is_over();
    work.runs.set(position, run);
    if over {
        // Others have waited for this one, and not for a place.
        for other in work.runs.iter_mut() {
            if let RunState::Pending { since, .. } = &mut other.state {
                *since = now;
            }
        }
    }
    keep(state, name, work);
    Ok(Outcome::Done)
}

fn late(run: &Run) -> Verdict {
    let deadline = show_duration(run.limits.deadline);
    let attempts = run.attempts.len();
    Verdict::Failed {
        why: match attempts {
            0 | 1 => format!("it was not over after {deadline}"),
            n => format!("it was not over after {deadline} and {n} attempts"),
        },
    }
}

/// What a run is after its latest attempt has ended.
fn after(run: &Run, exit: &Exit, now: Millis) -> RunState {
    let over = |verdict| RunState::Over { at: now, verdict };
    let again = |pause| RunState::Pending {
        since: now,
        not_before: now.plus(pause),
    };
    if let RunState::Ending(verdict) = &run.state {
        return over(verdict.clone());
    }
    if exit.is_success() {
        return over(Verdict::Succeeded);
    }
    let (failed, lost) = run.failures();
    if exit.how == How::Lost {
        if lost <= LOSSES_MAX {
            return again(std::time::Duration::ZERO);
        }
    } else if failed <= run.limits.retries as usize {
        return again(Run::pause(failed));
    }
    let attempts = match run.attempts.len() {
        0 | 1 => String::new(),
        n => format!(", at attempt {n}"),
    };
    let why = format!("{}{attempts}", exit.said);
    over(Verdict::Failed {
        why: excerpt_to(&why, WHY_BYTES),
    })
}

/// The instance of a new attempt; none when the state is not what the step was worked out from.
fn begin(state: &mut State, name: &DeploymentName, run: &Run, node: NodeId) -> Option<InstanceId> {
    let deployment = state.deployments.get(name).filter(|d| !d.removing)?;
    let release = deployment.release(run.release)?;
    let secrets = secrets::of(deployment, release);
    state.nodes.get(&node).filter(|node| !node.draining)?;
    let (id, epoch) = (InstanceId(state.next_instance_id), deployment.epoch);
    if run.keeps_volumes() && !volumes::take(state, name, run.release, (node, id)) {
        return None;
    }
    let instance = Instance {
        id,
        deployment: name.clone(),
        release: run.release,
        epoch,
        node,
        desired: Desired::Run,
        since_revision: state.revision + 1,
        secrets,
        run: Some(run.number),
    };
    state.next_instance_id += 1;
    state.instances.insert(id, instance);
    Some(id)
}

fn tell_to_stop(state: &mut State, run: &Run) {
    if let Some(attempt) = run.current() {
        super::assign::stop(state, attempt.instance);
    }
}

/// The kind and limits of what has runs of its own.
fn finite(deployment: &Deployment) -> Option<(Kind, RunLimits)> {
    let kind = deployment.current().spec.kind()?;
    Some((kind.clone(), kind.limits()?.clone()))
}

fn concurrency(kind: &Kind) -> Concurrency {
    match kind {
        Kind::Cron(cron) => cron.concurrency,
        _ => Concurrency::Forbid,
    }
}

fn own_open(work: &Work) -> impl Iterator<Item = &Run> {
    work.open().filter(|run| !run.cause.is_hook())
}

/// Why no other run may begin now.
fn in_the_way(work: &Work, concurrency: Concurrency) -> Option<String> {
    let mut open = own_open(work);
    match concurrency {
        Concurrency::Forbid => open
            .next()
            .map(|run| format!("{} still goes on", run.number)),
        Concurrency::Allow => (open.count() >= RUNS_OPEN_MAX)
            .then(|| format!("{RUNS_OPEN_MAX} of its runs go on (runs_open)")),
        Concurrency::Replace => None,
    }
}

/// Makes room for a run, and makes it.
fn admit(
    state: &mut State,
    work: &mut Work,
    concurrency: Concurrency,
    now: Millis,
    create: impl FnOnce(&mut Work) -> RunNumber,
) -> RunNumber {
    if concurrency == Concurrency::Replace {
        let next = RunNumber(work.count + 1);
        let why = format!("{next} replaces it");
        end(state, work, now, &why, |run| !run.cause.is_hook());
    }
    create(work)
}

fn create(
    work: &mut Work,
    release: ReleaseNumber,
    cause: Cause,
    limits: RunLimits,
    now: Millis,
) -> RunNumber {
    work.count += 1;
    let number = RunNumber(work.count);
    work.runs.push_back(Run {
        number,
        release,
        cause,
        limits,
        asked_at: now,
        state: RunState::Pending {
            since: now,
            not_before: now,
        },
        attempts: Vec::new(),
        seq: 0,
    });
    number
}

fn miss(
    work: &mut Work,
    release: ReleaseNumber,
    (cause, limits): (Cause, &RunLimits),
    now: Millis,
    why: String,
) {
    create(work, release, cause, limits.clone(), now);
    if let Some(run) = work.runs.back_mut() {
        run.state = RunState::Over {
            at: now,
            verdict: Verdict::Missed { why },
        };
    }
}

/// Cancels open runs. What has begun is over once it has ended.
fn end(state: &mut State, work: &mut Work, now: Millis, why: &str, of: impl Fn(&Run) -> bool) {
    for run in work.runs.iter_mut() {
        if run.is_over() || !of(run) {
            continue;
        }
        let verdict = Verdict::Cancelled {
            why: why.to_owned(),
        };
        match run.state {
            RunState::Pending { .. } => run.state = RunState::Over { at: now, verdict },
            RunState::Running => {
                tell_to_stop(state, run);
                run.state = RunState::Ending(verdict);
            }
            RunState::Ending(_) | RunState::Over { .. } => continue,
        }
        run.seq += 1;
    }
}

/// Puts the runs back, the oldest of those that are over left out.
fn keep(state: &mut State, name: &DeploymentName, mut work: Work) {
    let over = work.runs.iter().filter(|run| run.is_over()).count();
    let mut surplus = over.saturating_sub(RUNS_KEPT);
    work.runs.retain(|run| {
        let drop = surplus > 0 && run.is_over();
        surplus -= usize::from(drop);
        !drop
    });
    if work == Work::default() {
        return;
    }
    state.work.insert(name.clone(), work);
}

/// What a change of a deployment means for its runs: those that its stage waits for begin, those that nobody waits for
/// any more end, and its schedule is followed from now on.
pub(super) fn follow(state: &mut State, deployment: &mut Deployment, now: Millis) {
    let name = deployment.name.clone();
    let mut work = state.work.get(&name).cloned().unwrap_or_default();
    let release = deployment.target;
    let spec = deployment.current().spec.clone();
    if let Some(rollout) = &mut deployment.rollout {
        match &mut rollout.stage {
            Stage::Before { run } if run.is_none() => {
                let limits = RunLimits {
                    retries: 0,
                    deadline: spec.hooks.timeout,
                };
                let cause = Cause::Hook(Hook::PreRelease);
                *run = Some(create(&mut work, release, cause, limits, now));
            }
            Stage::Job { run } if run.is_none() => {
                let limits = spec.kind().and_then(Kind::limits).cloned();
                let limits = limits.unwrap_or_default();
                *run = Some(create(&mut work, release, Cause::Release, limits, now));
            }
            _ => {}
        }
    }
    let awaited = deployment.rollout.as_ref().and_then(|r| r.stage.run());
    let aborted = |release: ReleaseNumber| {
        let fate = deployment.release(release).map(|release| &release.fate);
        matches!(fate, Some(Fate::Aborted { .. }))
    };
    // A migration that a newer release overtakes goes on to its end, and the newer one's waits for it.
    end(state, &mut work, now, "its release was aborted", |run| {
        aborted(run.release) && run.cause != Cause::Hook(Hook::PostRelease)
    });
    let why = format!("release {} came", release.0);
    end(state, &mut work, now, &why, |run| {
        run.cause == Cause::Release && Some(run.number) != awaited && run.release != release
    });
    work.cursor = match spec.kind() {
        Some(Kind::Cron(_)) => Some(match work.cursor.take() {
            Some(cursor) if cursor.release == release => cursor,
            _ => Cursor {
                release,
                seen_until: now,
                next: None,
            },
        }),
        _ => None,
    };
    keep(state, &name, work);
}

/// The release is fully out: its last hook.
pub(super) fn out(state: &mut State, deployment: &Deployment, now: Millis) {
    let hooks = &deployment.current().spec.hooks;
    if hooks.post_release.is_none() {
        return;
    }
    let limits = RunLimits {
        retries: 0,
        deadline: hooks.timeout,
    };
    let mut work = state
        .work
        .get(&deployment.name)
        .cloned()
        .unwrap_or_default();
    let cause = Cause::Hook(Hook::PostRelease);
    create(&mut work, deployment.target, cause, limits, now);
    keep(state, &deployment.name, work);
}

/// The deployment goes: nothing more begins, and what has begun is stopped with its instances.
pub(super) fn remove(state: &mut State, name: &DeploymentName) {
    let Some(mut work) = state.work.get(name).cloned() else {
        return;
    };
    let latest = work.runs.iter().map(|run| run.asked_at).max();
    let why = "the deployment is being removed";
    end(state, &mut work, latest.unwrap_or_default(), why, |_| true);
    work.cursor = None;
    keep(state, name, work);
}

/// Releases that a run which is not over is of.
pub(super) fn releases(state: &State, name: &DeploymentName) -> Vec<ReleaseNumber> {
    let work = state.work.get(name);
    work.map_or_else(Vec::new, |work| {
        work.open().map(|run| run.release).collect()
    })
}
