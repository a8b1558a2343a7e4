//! Runs: one execution of a command of a release, on one node, to its end.
//!
//! A run is kept in the registry ([`crate::state::State::work`]) and tried one attempt after the other. Each attempt is an
//! instance of its own ([`crate::state::Instance::run`]): a supervisor carries it out as any other, so that limits, isolation
//! and output are the same, and tells how it ended as long as the instance is there. [`steps`] compares both and says
//! what is next; [`crate::apply`] takes the step and decides what follows from it.
//!
//! There is never a second attempt of a run before the first has ended, unless its node was dead for
//! [`LOST_AFTER`] or is no member any more. So a run is carried out at least once, and in a partition perhaps twice.

mod absence;
mod schedule;
mod steps;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use imbl::Vector;
use serde::{Deserialize, Serialize};

use crate::ids::{InstanceId, NodeId, ReleaseNumber, RunNumber};
use crate::spec::RunLimits;
use crate::time::Millis;

pub use absence::{Absence, LOST_AFTER};
pub use schedule::{COUNTED_MAX, Come, Passed, SCHEDULE_BYTES, Schedule, UTC, told};
pub use steps::{Waiting, due, steps};

/// Runs that are over and still told of, for each deployment: three weeks of a nightly one.
pub const RUNS_KEPT: usize = 20;
/// Runs of one deployment that may go on at the same time, whatever its schedule.
pub const RUNS_OPEN_MAX: usize = 10;
/// Before the first retry; doubles from here.
pub const RETRY_FIRST: Duration = Duration::from_secs(2);
/// The longest pause before a retry.
pub const RETRY_MAX: Duration = Duration::from_secs(300);
/// Attempts that may end with their node, without having failed: a run that takes one machine after the other down stops there.
pub const LOSSES_MAX: usize = 3;
/// A run that finds no room on any node for so long has failed.
pub const START_WITHIN: Duration = Duration::from_secs(600);

/// The runs of one deployment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// Runs there ever were.
    pub count: u64,
    /// Oldest first: all that go on, and the latest [`RUNS_KEPT`] that are over.
    #[serde(with = "crate::listed")]
    pub runs: Vector<Run>,
    /// Of a cron deployment.
    pub cursor: Option<Cursor>,
}

/// How far a schedule has been followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// Whose schedule it is.
    pub release: ReleaseNumber,
    /// All due times up to here have been run, or told as missed.
    pub seen_until: Millis,
    /// The next one; none before a leader has worked it out.
    pub next: Option<Millis>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    pub number: RunNumber,
    pub release: ReleaseNumber,
    pub cause: Cause,
    pub limits: RunLimits,
    pub asked_at: Millis,
    pub state: RunState,
    /// Oldest first.
    pub attempts: Vec<Attempt>,
    /// Counts the changes, so that a step which was worked out from an earlier state is refused.
    pub seq: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    /// A release of a job.
    Release,
    /// Somebody asked for it.
    Person,
    /// It was due.
    Cron {
        due: Millis,
    },
    Hook(Hook),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hook {
    PreRelease,
    PostRelease,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunState {
    /// Waits for its next attempt.
    Pending {
        /// Since when nothing but a place is missing.
        since: Millis,
        /// A retry waits until then.
        not_before: Millis,
    },
    /// Its latest attempt goes on.
    Running,
    /// Its latest attempt was told to stop, and this is what will be said of the run.
    Ending(Verdict),
    Over {
        at: Millis,
        verdict: Verdict,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    Succeeded,
    Failed {
        why: String,
    },
    /// It was never begun.
    Missed {
        why: String,
    },
    Cancelled {
        why: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    pub instance: InstanceId,
    pub node: NodeId,
    pub started_at: Millis,
    pub end: Option<(Millis, Exit)>,
}

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    pub how: How,
    /// In words.
    pub said: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    Code(i32),
    Signal(i32),
    Memory,
    Disk,
    /// With its machine, or unseen: nobody knows how far it got.
    Lost,
}

/// What a leader makes of what it sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunStep {
    /// The next attempt, on this node.
    Start { node: NodeId },
    /// The latest attempt has ended.
    Ended(Exit),
    /// It has had its time.
    Late,
    /// There was no place for it in time, for this reason.
    NoPlace { why: String },
}

impl Exit {
    pub fn lost(said: impl Into<String>) -> Exit {
        Exit {
            how: How::Lost,
            said: said.into(),
        }
    }

    pub fn is_success(&self) -> bool {
        self.how == How::Code(0)
    }
}

impl Hook {
    pub fn as_str(self) -> &'static str {
        match self {
            Hook::PreRelease => "pre_release",
            Hook::PostRelease => "post_release",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Cause::Release => "release",
            Cause::Person => "manual",
            Cause::Cron { .. } => "cron",
            Cause::Hook(hook) => hook.as_str(),
        })
    }
}

impl Cause {
    pub fn is_hook(&self) -> bool {
        matches!(self, Cause::Hook(_))
    }
}

impl Verdict {
    pub fn why(&self) -> Option<&str> {
        match self {
            Verdict::Succeeded => None,
            Verdict::Failed { why } | Verdict::Missed { why } | Verdict::Cancelled { why } => {
                Some(why)
            }
        }
    }
}

impl Run {
    pub fn is_over(&self) -> bool {
        matches!(self.state, RunState::Over { .. })
    }

    /// An attempt of it goes on, as far as anybody knows.
    pub fn is_active(&self) -> bool {
        matches!(self.state, RunState::Running | RunState::Ending(_))
    }

    pub fn verdict(&self) -> Option<&Verdict> {
        match &self.state {
            RunState::Over { verdict, .. } => Some(verdict),
            _ => None,
        }
    }

    /// Whether its attempts have the deployment's volumes. Hooks have not: the instances hold them.
    pub fn keeps_volumes(&self) -> bool {
        !self.cause.is_hook()
    }

    /// The attempt that goes on.
    pub fn current(&self) -> Option<&Attempt> {
        self.attempts.last().filter(|attempt| attempt.end.is_none())
    }

    /// Attempts that failed by themselves, and those that ended with their node.
    pub fn failures(&self) -> (usize, usize) {
        let ends = self.attempts.iter().filter_map(|a| a.end.as_ref());
        let (mut failed, mut lost) = (0, 0);
        for (_, exit) in ends {
            match exit.how {
                How::Lost => lost += 1,
                _ => failed += usize::from(!exit.is_success()),
            }
        }
        (failed, lost)
    }

    /// When it has had its time.
    pub fn expires_at(&self) -> Option<Millis> {
        let first = self.attempts.first()?;
        Some(first.started_at.plus(self.limits.deadline))
    }

    /// Before which it is not tried again: 2 s, 4 s, and so on.
    pub(crate) fn pause(failed: usize) -> Duration {
        let doublings = u32::try_from(failed.saturating_sub(1)).unwrap_or(u32::MAX);
        RETRY_FIRST
            .saturating_mul(1u32.checked_shl(doublings).unwrap_or(u32::MAX))
            .min(RETRY_MAX)
    }
}

impl Work {
    pub fn run(&self, number: RunNumber) -> Option<&Run> {
        self.runs.iter().find(|run| run.number == number)
    }

    pub fn open(&self) -> impl Iterator<Item = &Run> {
        self.runs.iter().filter(|run| !run.is_over())
    }

    pub fn latest(&self) -> Option<&Run> {
        self.runs.last()
    }
}
