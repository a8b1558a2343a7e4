//! JSON about runs: what is wanted of them, and what became of them. `docs/jobs.md` says what each means.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How often and how long a run may try.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Job {
    /// Tries after one that failed; 0 unless said otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
    /// From the beginning of the first try to the end of the last, such as `30m`; an hour unless said otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<String>,
}

/// When a cron deployment is due.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Cron {
    /// Minute, hour, day, month and weekday, such as `0 3 * * *`; seconds may stand in front; or a name such as `@daily`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// Whose clock it follows, such as `Europe/Berlin`; UTC unless said otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// What becomes of a run that is due while an earlier one goes on: `forbid` (it is left out, the default), `allow` or `replace`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<String>,
    /// How late a run may begin that could not when it was due, such as `1h`; 10 minutes unless said otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub starting_deadline: Option<String>,
}

/// Commands that run once for each release, on one node.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Hooks {
    /// Before any instance of the release begins; if it fails, the release is stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pre_release: Option<String>,
    /// Once the release is fully out; if it fails, that is told and changes nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub post_release: Option<String>,
    /// How long each of them may take, such as `5m`; 10 minutes unless said otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
}

/// Commands may hold secrets.
impl std::fmt::Debug for Hooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hooks")
            .field("pre_release", &self.pre_release.is_some())
            .field("post_release", &self.post_release.is_some())
            .field("timeout", &self.timeout)
            .finish()
    }
}

/// One execution of a command to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Run {
    /// Such as `run-3`.
    pub id: String,
    pub release: u32,
    /// `release`, `manual`, `cron`, `pre_release` or `post_release`.
    pub cause: String,
    /// `pending`, `running`, `stopping`, `succeeded`, `failed`, `missed` or `cancelled`.
    pub state: String,
    /// What a run that did not succeed ended with, or what one that waits is waiting for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// When it was asked for. RFC 3339.
    pub asked_at: String,
    /// When it was due; only for `cron`. RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_at: Option<String>,
    /// When its first attempt began. RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// When it was over. RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
    /// Oldest first.
    pub attempts: Vec<Attempt>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Attempt {
    /// Whose output `logs` shows.
    pub instance: String,
    /// Name of the node.
    pub node: String,
    /// RFC 3339.
    pub started_at: String,
    /// RFC 3339; absent while it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
    /// `code`, `signal`, `memory`, `disk` or `lost`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<String>,
    /// The number of the code or the signal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<i32>,
    /// How it ended, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub said: Option<String>,
}

/// The runs of a deployment that go on, and the latest that are over; newest first.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Runs {
    pub name: String,
    pub runs: Vec<Run>,
    /// When a cron deployment is due next. RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_run_at: Option<String>,
}

/// Answer to one who asks for a run.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RunBegun {
    pub name: String,
    /// Such as `run-3`.
    pub run: String,
}
