//! What is expected of a program: to answer requests, to work on its own, or to come to an end.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::SpecError;
use crate::limits::COMMAND_BYTES;
use crate::runs::Schedule;

/// Tries after the first one. What has failed so often will not mend itself.
pub const MAX_RETRIES: u32 = 10;
/// A run is over within an hour unless somebody says otherwise: one that hangs is found out the same day.
pub const DEFAULT_RUN_DEADLINE: Duration = Duration::from_secs(3600);
/// What lasts longer than a week is a worker.
pub const MAX_RUN_DEADLINE: Duration = Duration::from_secs(7 * 24 * 3600);
/// Shortest time limit of a run or a hook: an interpreter takes some of it to come up.
pub const MIN_RUN_DEADLINE: Duration = Duration::from_secs(1);
/// Long enough for a leader's loss, an update of all nodes or a reboot; a nightly run does not begin at noon.
pub const DEFAULT_STARTING_DEADLINE: Duration = Duration::from_secs(600);
/// Beyond a day the next one is due for most schedules.
pub const MAX_STARTING_DEADLINE: Duration = Duration::from_secs(24 * 3600);
/// Migrations of a large table take minutes; what takes longer says so.
pub const DEFAULT_HOOK_TIMEOUT: Duration = Duration::from_secs(600);
pub const MAX_HOOK_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Listens on `PORT` and answers requests.
    #[default]
    Server,
    /// Goes on without a port, and is sent no requests.
    Worker,
    /// Runs to its end once for each release.
    Job(RunLimits),
    /// Runs to its end whenever its time has come.
    Cron(Cron),
}

/// How long and how often a run may try.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunLimits {
    /// Tries after one that failed.
    pub retries: u32,
    /// From the beginning of the first try to the end of the last.
    pub deadline: Duration,
}

impl Default for RunLimits {
    fn default() -> RunLimits {
        RunLimits {
            retries: 0,
            deadline: DEFAULT_RUN_DEADLINE,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cron {
    pub schedule: Schedule,
    pub concurrency: Concurrency,
    /// A run that could not begin when it was due begins at most so much later.
    pub starting_deadline: Duration,
    pub limits: RunLimits,
}

/// What becomes of a run that is due while an earlier one goes on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Concurrency {
    /// It is left out.
    #[default]
    Forbid,
    /// It runs beside it.
    Allow,
    /// The earlier one is ended, and then it begins.
    Replace,
}

impl Concurrency {
    pub const ALL: [Concurrency; 3] = [
        Concurrency::Forbid,
        Concurrency::Allow,
        Concurrency::Replace,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Concurrency::Forbid => "forbid",
            Concurrency::Allow => "allow",
            Concurrency::Replace => "replace",
        }
    }
}

impl fmt::Display for Concurrency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Concurrency {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Concurrency, SpecError> {
        let mut all = Concurrency::ALL.into_iter();
        all.find(|one| one.as_str() == text)
            .ok_or_else(|| SpecError::Runs("use one of forbid, allow, replace".to_owned()))
    }
}

/// Commands that run once for each release, beside its instances.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hooks {
    /// Before any instance of the release begins; if it fails, none does.
    pub pre_release: Option<String>,
    /// Once the release is fully out; if it fails, that is told and nothing else.
    pub post_release: Option<String>,
    pub timeout: Duration,
}

impl Default for Hooks {
    fn default() -> Hooks {
        Hooks {
            pre_release: None,
            post_release: None,
            timeout: DEFAULT_HOOK_TIMEOUT,
        }
    }
}

/// Commands may hold secrets.
impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks")
            .field("pre_release", &self.pre_release.is_some())
            .field("post_release", &self.post_release.is_some())
            .field("timeout", &self.timeout)
            .finish()
    }
}

impl Kind {
    pub fn as_str(&self) -> &'static str {
        match self {
            Kind::Server => "service",
            Kind::Worker => "worker",
            Kind::Job(_) => "job",
            Kind::Cron(_) => "cron",
        }
    }

    /// Its program comes to an end by itself and has no instances between its runs.
    pub fn is_finite(&self) -> bool {
        matches!(self, Kind::Job(_) | Kind::Cron(_))
    }

    pub fn limits(&self) -> Option<&RunLimits> {
        match self {
            Kind::Server | Kind::Worker => None,
            Kind::Job(limits) => Some(limits),
            Kind::Cron(cron) => Some(&cron.limits),
        }
    }

    pub(super) fn check(&self) -> Result<(), SpecError> {
        if let Some(limits) = self.limits() {
            limits.check()?;
        }
        let Kind::Cron(cron) = self else {
            return Ok(());
        };
        cron.schedule.check()?;
        if cron.starting_deadline > MAX_STARTING_DEADLINE {
            return Err(SpecError::Runs(
                "cron.starting_deadline is longer than a day".to_owned(),
            ));
        }
        Ok(())
    }
}

impl RunLimits {
    fn check(&self) -> Result<(), SpecError> {
        if self.retries > MAX_RETRIES {
            let retries = self.retries;
            return Err(SpecError::Runs(format!(
                "job.retries is {retries}, and has to be at most {MAX_RETRIES}"
            )));
        }
        if !(MIN_RUN_DEADLINE..=MAX_RUN_DEADLINE).contains(&self.deadline) {
            return Err(SpecError::Runs(
                "job.deadline has to be from 1s to 168h (a week)".to_owned(),
            ));
        }
        Ok(())
    }
}

impl Hooks {
    pub(super) fn check(&self) -> Result<(), SpecError> {
        for command in [&self.pre_release, &self.post_release]
            .into_iter()
            .flatten()
        {
            if command.trim().is_empty() {
                return Err(SpecError::Runs(
                    "a hook's command is empty: leave it out instead".to_owned(),
                ));
            }
            COMMAND_BYTES.check("the hook's length in bytes", command.len())?;
        }
        if !(MIN_RUN_DEADLINE..=MAX_HOOK_TIMEOUT).contains(&self.timeout) {
            return Err(SpecError::Runs(
                "hooks.timeout has to be from 1s to 24h".to_owned(),
            ));
        }
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.pre_release.is_none() && self.post_release.is_none()
    }
}
