//! What one node says of an instance that runs there.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ProbeHealth;

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LastEnd {
    /// `exited`, `signal`, `out_of_memory`, `out_of_disk`, `probes` (they gave it up), `unseen` or `reboot`.
    pub how: String,
    /// The exit code or the signal's number, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<i32>,
    /// The same in words.
    pub said: String,
    /// RFC 3339, by the clock of its node.
    pub at: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InstanceDetail {
    /// Counts the program's starts.
    pub run: u64,
    /// Since when this one runs.
    pub since: String,
    pub used: Used,
    /// What keeps it within its limits and away from others, and what does not and why.
    pub isolation: Vec<Control>,
    pub probes: Vec<ProbeHealth>,
}

/// What it uses, beside what it may; absent where it is not counted, or not limited.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Used {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit_bytes: Option<u64>,
    /// Thousandths of a core, in the last seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_millis: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_limit_millis: Option<u64>,
    /// Processes and threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids_limit: Option<u64>,
    /// Processes of this run that were killed because memory ran out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_kills: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Control {
    /// Such as `memory limit`, `own user` or `seccomp`.
    pub what: String,
    pub holds: bool,
    /// By which means, or why not.
    pub detail: String,
}
