//! What a leader does next about runs and schedules: `(state, view, lost nodes, now) -> commands`.

use std::collections::BTreeSet;

use super::{Attempt, Exit, Run, RunState, RunStep, START_WITHIN, Work, told};
use crate::command::Command;
use crate::ids::{NodeId, RunNumber};
use crate::names::DeploymentName;
use crate::observed::{Phase, View};
use crate::plan::Places;
use crate::spec::{Concurrency, Kind};
use crate::state::{Deployment, State};
use crate::time::Millis;

/// Steps proposed after one look; the next look sees to the rest.
const STEPS_MAX: usize = 64;

/// All that can be done now. `lost` are nodes that are dead for good, as far as a leader may say.
pub fn steps(state: &State, view: &View, lost: &BTreeSet<NodeId>, now: Millis) -> Vec<Command> {
    let mut places = None;
    let mut commands = Vec::new();
    for (name, work) in &state.work {
        let Some(deployment) = state.deployments.get(name) else {
            continue;
        };
        commands.extend(tick(deployment, work, now));
        for run in work.open() {
            if commands.len() >= STEPS_MAX {
                return commands;
            }
            let look = Look {
                state,
                view,
                lost,
                work,
                deployment,
            };
            let mut place = || {
                let places = places.get_or_insert_with(|| Places::new(state, view));
                places.take(name, run)
            };
            if let Some(step) = look.step(run, now, &mut place) {
                commands.push(command(name, run, step, now));
            }
        }
    }
    commands
}

fn command(name: &DeploymentName, run: &Run, step: RunStep, now: Millis) -> Command {
    Command::StepRun {
        name: name.clone(),
        run: run.number,
        seq: run.seq,
        step,
        now,
    }
}

struct Look<'a> {
    state: &'a State,
    view: &'a View,
    lost: &'a BTreeSet<NodeId>,
    work: &'a Work,
    deployment: &'a Deployment,
}

impl Look<'_> {
    fn step(
        &self,
        run: &Run,
        now: Millis,
        place: &mut dyn FnMut() -> Result<NodeId, String>,
    ) -> Option<RunStep> {
        match &run.state {
            RunState::Over { .. } => None,
            RunState::Pending { .. } if run.expires_at().is_some_and(|at| at <= now) => {
                Some(RunStep::Late)
            }
            RunState::Pending { not_before, .. }
                if *not_before > now || self.awaited(run).is_some() =>
            {
                None
            }
            RunState::Pending { since, .. } => match place() {
                Ok(node) => Some(RunStep::Start { node }),
                Err(why) if since.plus(START_WITHIN) <= now => Some(RunStep::NoPlace { why }),
                Err(_) => None,
            },
            RunState::Running | RunState::Ending(_) => {
                let Some(attempt) = run.current() else {
                    return Some(RunStep::Ended(Exit::lost("it left no trace")));
                };
                if let Some(exit) = self.end(attempt) {
                    return Some(RunStep::Ended(exit));
                }
                let late = run.expires_at().is_some_and(|at| at <= now);
                (late && run.state == RunState::Running).then_some(RunStep::Late)
            }
        }
    }

    /// How an attempt ended, if it has.
    fn end(&self, attempt: &Attempt) -> Option<Exit> {
        let gone = || Exit::lost("it was not seen to end");
        let Some(node) = self.state.nodes.get(&attempt.node) else {
            return Some(Exit::lost(format!(
                "node {} is no member any more",
                attempt.node
            )));
        };
        if !self.state.instances.contains_key(&attempt.instance) {
            return Some(gone());
        }
        if self.lost.contains(&attempt.node) {
            return Some(Exit::lost(format!("node {} was lost", node.name)));
        }
        let facts = self.view.instance(attempt.node, attempt.instance)?;
        let ended = facts.phase == Phase::Stopped;
        ended.then(|| facts.exit.clone().unwrap_or_else(gone))
    }

    /// The run that has to end first.
    fn awaited(&self, run: &Run) -> Option<RunNumber> {
        let is_hook = run.cause.is_hook();
        let mut others = self
            .work
            .open()
            .filter(|other| other.number != run.number && other.cause.is_hook() == is_hook);
        let beside = !is_hook
            && matches!(
                &self.deployment.current().spec.kind(),
                Some(Kind::Cron(cron)) if cron.concurrency == Concurrency::Allow
            );
        let other = match beside {
            true => others.find(|other| matches!(other.state, RunState::Ending(_))),
            false => others.find(|other| other.is_active() || other.number < run.number),
        };
        other.map(|other| other.number)
    }
}

/// What runs wait for, for people who ask: by the same rules as [`steps`].
pub struct Waiting<'a> {
    state: &'a State,
    view: &'a View,
    now: Millis,
    places: Option<Places<'a>>,
}

impl<'a> Waiting<'a> {
    pub fn new(state: &'a State, view: &'a View, now: Millis) -> Waiting<'a> {
        Waiting {
            state,
            view,
            now,
            places: None,
        }
    }

    /// Why a run that is to begin does not, as a part of a sentence; `None` when it does, or is on its way.
    pub fn why(&mut self, name: &DeploymentName, run: &Run) -> Option<String> {
        let RunState::Pending { not_before, .. } = &run.state else {
            return None;
        };
        if *not_before > self.now {
            return Some(format!("tried again at {}", told(*not_before)));
        }
        let look = Look {
            state: self.state,
            view: self.view,
            lost: &BTreeSet::new(),
            work: self.state.work.get(name)?,
            deployment: self.state.deployments.get(name)?,
        };
        if let Some(other) = look.awaited(run) {
            return Some(format!("waits for {other} to end"));
        }
        let places = self
            .places
            .get_or_insert_with(|| Places::new(self.state, self.view));
        places.take(name, run).err()
    }
}

/// What a schedule has to do now.
fn tick(deployment: &Deployment, work: &Work, now: Millis) -> Option<Command> {
    let Some(Kind::Cron(cron)) = deployment.current().spec.kind() else {
        return None;
    };
    let cursor = work
        .cursor
        .as_ref()
        .filter(|cursor| cursor.release == deployment.target && !deployment.removing)?;
    if cursor.next.is_some_and(|next| next > now) {
        return None;
    }
    // It was checked when it was taken.
    let schedule = cron.schedule.read().ok()?;
    let first = cursor.next.or_else(|| schedule.next(cursor.seen_until))?;
    let come = schedule.come(first, now, cron.starting_deadline);
    Some(Command::TickCron {
        name: deployment.name.clone(),
        release: cursor.release,
        seen_until: cursor.seen_until,
        come,
        now,
    })
}

/// When time alone may call for a step, after `now`: what is due already waits for something else, such as a place.
pub fn due(state: &State, now: Millis) -> Option<Millis> {
    let of_work = |work: &Work| {
        let next = work.cursor.as_ref().and_then(|cursor| cursor.next);
        let runs = work.open().filter_map(|run| match &run.state {
            RunState::Pending { since, not_before } => {
                let times = [*not_before, since.plus(START_WITHIN)];
                let later = times.into_iter().filter(|at| *at > now);
                later.chain(run.expires_at().filter(|at| *at > now)).min()
            }
            RunState::Running => run.expires_at(),
            _ => None,
        });
        runs.chain(next).min()
    };
    state.work.values().filter_map(of_work).min()
}
