//! The way from one release to the next, as a state machine that any leader can go on with: all it has to know is in
//! the state, the view and the time.
//!
//! What is wanted of each release at a stage is [`Deployment::demand`], which the planner carries out; how requests are
//! shared is [`Deployment::shares`], which the routing table follows; and [`step`] says when the next stage has come, or
//! what speaks against the release. A step is one command; one that was worked out from an older stage is refused.

mod figures;
pub mod judge;
#[cfg(test)]
mod judge_tests;
mod look;
mod step;
#[cfg(test)]
mod tests;
mod trial;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::http::Weights;
use crate::ids::{ReleaseNumber, RunNumber};
use crate::spec::{Kind, Strategy, Takeover};
use crate::state::Deployment;
use crate::time::Millis;

pub use figures::{Figures, Pair, SLICES, Times, slice_of};
pub use look::{Seen, look};
pub use step::{due, stage_began, step};
pub use trial::{Side, TRIALS, Tally, Trial};

/// One release on its way; which one is [`Deployment::target`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// The latest release that was good, to go back to,
    pub from: Option<ReleaseNumber>,
    /// and the epoch of its instances.
    pub from_epoch: u64,
    /// That of the state which it began with: what instances from before it did is not held against it.
    pub since_revision: u64,
    pub stage: Stage,
    /// Counts the steps, so that one which was worked out from an earlier stage is refused.
    pub seq: u64,
    pub began_at: Millis,
    /// When the latest step was made; see [`Strategy::deadline`].
    pub progress_at: Millis,
    /// Ready instances of the release when the latest step was made.
    pub ready: u32,
    /// Times its instances had ended by themselves when the stage began.
    pub restarts: u32,
    /// Stopped by an operator, or because it has failed and is not to be taken back.
    pub paused: Option<Pause>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    pub at: Millis,
    /// Instances of the release there were.
    pub instances: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// Its first hook runs; nothing of it has begun, and nothing of the others has changed.
    Before { run: Option<RunNumber> },
    /// A job: it runs.
    Job { run: Option<RunNumber> },
    /// Its instances take the place of the others.
    Replacing,
    /// Blue-green before the switch: all of its instances beside all of the others, without requests.
    Beside,
    /// Blue-green after the switch: it has all requests, and the others are kept.
    Warm { since: Millis },
    /// The step of this number, from 0; `since` its instances are ready.
    Canary { step: u32, since: Option<Millis> },
    /// It is out, and has to stand its time.
    Watching { since: Millis },
}

/// What a leader makes of what it sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// More of its instances are ready than before.
    Progress { ready: u32 },
    /// What the stage waits for has come. `restarts` as in [`Rollout::restarts`].
    Next { ready: u32, restarts: u32 },
    /// What speaks against it, one sentence.
    Fail { why: String },
}

/// What an operator may say while a release is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    Pause,
    Resume,
    /// Skip what is left of the canary or the warm time: the release is good.
    Promote,
    /// Take it back.
    Abort,
}

/// Instances that are wanted now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// Of the wanted release.
    pub new: u32,
    /// Of the release before, whatever becomes of the new ones.
    pub keep: Option<(ReleaseNumber, u32)>,
    /// So many more than `new` may run while instances are replaced,
    pub surge: u32,
    /// and so many fewer be ready.
    pub unavailable: u32,
    /// New ones only once all others have ended.
    pub alone: bool,
}

impl Rollout {
    /// The beginning of the way. `straight`: without a canary and without two sets, as when going back.
    pub(crate) fn begin(
        deployment: &Deployment,
        from: Option<ReleaseNumber>,
        straight: bool,
        since_revision: u64,
        now: Millis,
    ) -> Rollout {
        let going_back = straight && from.is_some();
        let hook = deployment.current().spec.hooks.pre_release.is_some();
        let stage = match hook && !going_back {
            true => Stage::Before { run: None },
            false => Self::first(deployment, from, straight),
        };
        Rollout {
            from,
            from_epoch: deployment.epoch,
            since_revision,
            stage,
            seq: 0,
            began_at: now,
            progress_at: now,
            ready: 0,
            restarts: 0,
            paused: None,
        }
    }

    /// The stage in which its program first runs.
    fn first(deployment: &Deployment, from: Option<ReleaseNumber>, straight: bool) -> Stage {
        let spec = &deployment.current().spec;
        if matches!(spec.kind(), Some(Kind::Job(_))) {
            return Stage::Job { run: None };
        }
        // Two releases that run alike need no two sets.
        let alike = from.is_some_and(|from| deployment.runs_alike(from));
        match &spec.strategy.takeover {
            _ if straight || alike || from.is_none() || spec.is_static() => Stage::Replacing,
            Takeover::Rolling { .. } | Takeover::Recreate => Stage::Replacing,
            Takeover::BlueGreen { .. } => Stage::Beside,
            Takeover::Canary { .. } => Stage::Canary {
                step: 0,
                since: None,
            },
        }
    }

    /// The stage after this one; `None`: the release is good.
    pub(crate) fn following(&self, deployment: &Deployment, now: Millis) -> Option<Stage> {
        let spec = &deployment.current().spec;
        let canary_steps = match &spec.strategy.takeover {
            Takeover::Canary { steps } => steps.len(),
            _ => 0,
        };
        let stage = match self.stage {
            Stage::Before { .. } => Self::first(deployment, self.from, false),
            Stage::Beside => Stage::Warm { since: now },
            Stage::Canary { step, since: None } => Stage::Canary {
                step,
                since: Some(now),
            },
            Stage::Canary { step, .. } if (step as usize) + 1 < canary_steps => Stage::Canary {
                step: step + 1,
                since: None,
            },
            Stage::Canary { .. } => Stage::Replacing,
            Stage::Replacing => {
                let unwatched = self.from.is_none() || spec.is_static();
                if unwatched || spec.strategy.watch.is_zero() {
                    return None;
                }
                Stage::Watching { since: now }
            }
            Stage::Job { .. } | Stage::Warm { .. } | Stage::Watching { .. } => return None,
        };
        Some(stage)
    }

    /// After a pause: what lasts for a time goes on with what was left of it.
    pub(crate) fn go_on(&mut self, pause: Pause, now: Millis) {
        self.progress_at = now;
        if let Stage::Warm { since }
        | Stage::Watching { since }
        | Stage::Canary {
            since: Some(since), ..
        } = &mut self.stage
        {
            *since = since.plus(now.since(pause.at));
        }
    }

    /// Its instances have all been ready in this stage: from here on one that ends speaks against it.
    pub fn is_settled(&self) -> bool {
        match self.stage {
            Stage::Warm { .. } | Stage::Watching { .. } => true,
            Stage::Canary { since, .. } => since.is_some(),
            Stage::Before { .. } | Stage::Job { .. } | Stage::Replacing | Stage::Beside => false,
        }
    }
}

impl Stage {
    /// The run that it waits for.
    pub fn run(&self) -> Option<RunNumber> {
        match self {
            Stage::Before { run } | Stage::Job { run } => *run,
            _ => None,
        }
    }

    /// It waits for the end of a run, which has a time limit of its own.
    pub(crate) fn is_run(&self) -> bool {
        matches!(self, Stage::Before { .. } | Stage::Job { .. })
    }
}

impl Deployment {
    fn strategy(&self) -> &Strategy {
        &self.current().spec.strategy
    }

    fn runs_alike(&self, from: ReleaseNumber) -> bool {
        self.release(from)
            .is_some_and(|from| from.runs_as(self.current()))
    }

    /// Whether the release on its way has a stage in which nothing need move.
    pub(crate) fn can_pause(&self) -> bool {
        let apart = |from: ReleaseNumber| !self.runs_alike(from);
        let spec = &self.current().spec;
        self.rollout.as_ref().is_some_and(|rollout| {
            rollout.is_settled()
                || rollout.from.is_some_and(apart)
                    && !spec.is_static()
                    && spec.strategy.takeover != Takeover::Recreate
        })
    }

    /// The canary's share at this stage, in percent; `None` when there is none.
    fn canary_percent(&self) -> Option<(u8, Duration)> {
        let Stage::Canary { step, .. } = self.rollout.as_ref()?.stage else {
            return None;
        };
        let Takeover::Canary { steps } = &self.strategy().takeover else {
            return None;
        };
        let step = steps.get(step as usize)?;
        Some((step.percent, step.pause))
    }

    /// What the planner is to carry out. For programs; a static site is on every node.
    pub fn demand(&self) -> Demand {
        let scale = match self.halted || self.current().spec.is_finite() {
            true => 0,
            false => self.scale,
        };
        let (surge, unavailable) = match &self.strategy().takeover {
            Takeover::Rolling { surge, unavailable } => {
                (surge.of_up(scale), unavailable.of_down(scale))
            }
            // A restart, a drain, or the rest after a canary: as many more as there would be beside each other.
            Takeover::BlueGreen { .. } => (scale, 0),
            Takeover::Canary { .. } => (scale.div_ceil(4), 0),
            Takeover::Recreate => (0, scale),
        };
        let alone = matches!(self.strategy().takeover, Takeover::Recreate);
        let whole = Demand {
            new: scale,
            keep: None,
            // Otherwise nothing would ever move: a part of few instances rounds down to none.
            surge: surge.max(u32::from(unavailable == 0)),
            unavailable,
            alone,
        };
        let Some(rollout) = &self.rollout else {
            return whole;
        };
        let Some(from) = rollout.from else {
            let new = match rollout.stage {
                Stage::Before { .. } => 0,
                _ => whole.new,
            };
            return Demand { new, ..whole };
        };
        if self.runs_alike(from) && !matches!(rollout.stage, Stage::Before { .. }) {
            return whole;
        };
        let beside = |new| Demand {
            new,
            keep: Some((from, scale)),
            alone: false,
            ..whole
        };
        match (rollout.stage, rollout.paused) {
            (Stage::Before { .. }, _) => beside(0),
            (Stage::Beside | Stage::Warm { .. }, _) => beside(scale),
            (Stage::Canary { .. }, _) => {
                let (percent, _) = self.canary_percent().unwrap_or_default();
                let part = u64::from(scale) * u64::from(percent);
                let part = u32::try_from(part.div_ceil(100)).unwrap_or(scale);
                beside(part.max(1).min(scale))
            }
            (Stage::Replacing, Some(pause)) if !alone => {
                let new = pause.instances.min(scale);
                Demand {
                    // Until one is ready it takes no other's place.
                    keep: Some((from, scale - rollout.ready.min(new))),
                    ..beside(new)
                }
            }
            (Stage::Job { .. } | Stage::Replacing | Stage::Watching { .. }, _) => whole,
        }
    }

    /// How requests are shared between releases while one is on its way; `None`: all instances alike.
    pub fn shares(&self) -> Option<Weights> {
        let rollout = self.rollout.as_ref()?;
        let from = rollout.from?;
        let percent = match rollout.stage {
            Stage::Before { .. } | Stage::Beside => 0,
            Stage::Warm { .. } => 100,
            Stage::Canary {
                step: 0,
                since: None,
            } => 0,
            Stage::Canary { step, since } => {
                let Takeover::Canary { steps } = &self.strategy().takeover else {
                    return None;
                };
                // Its further instances are not there yet: until then the share is that of the step before.
                let step = if since.is_some() { step } else { step - 1 };
                steps.get(step as usize)?.percent
            }
            Stage::Job { .. } | Stage::Replacing | Stage::Watching { .. } => return None,
        };
        let percent = u32::from(percent);
        let weights = [(from, 100 - percent), (self.target, percent)];
        Some(Weights(weights.into()))
    }

    /// The release by whose policy requests are treated.
    pub fn leading(&self) -> ReleaseNumber {
        match &self.rollout {
            Some(Rollout {
                stage: Stage::Before { .. } | Stage::Beside | Stage::Canary { .. },
                from: Some(from),
                ..
            }) => *from,
            _ => self.target,
        }
    }
}
