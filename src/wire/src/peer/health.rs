//! Instances: one node asks another how those it runs are doing, by their probes and by what they use.
//!
//! One [`Request`], one [`Answer`]: what a node keeps is bounded, see [`HISTORY`] and [`INSTANCES`].

use nebula_domain::probe::Standing;
use nebula_domain::spec::ProbeRole;
use nebula_domain::time::Millis;
use nebula_domain::{DeploymentName, InstanceId};
use serde::{Deserialize, Serialize};

/// Changes that a node keeps of each instance, in memory: a day of an instance that is ill now and then.
pub const HISTORY: usize = 50;
/// Longest reason, as gossip has it.
pub const REASON_BYTES: usize = 300;
/// Longest description of a control.
pub const DETAIL_BYTES: usize = 200;
/// Instances in one answer: with the longest histories they fit a frame of the mesh. A node has fewer of one deployment.
pub const INSTANCES: usize = 250;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    pub deployment: DeploymentName,
    pub history: bool,
    /// What keeps them apart and what they use, instead of how they are probed lately.
    pub runs: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    pub instances: Vec<Probed>,
    /// Only where it was asked for.
    pub runs: Vec<Running>,
}

/// One program that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    pub instance: InstanceId,
    pub run: u64,
    pub since: Millis,
    pub held: Vec<Held>,
    pub usage: Usage,
}

/// One thing that the program is kept to, or away from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Such as `memory limit` or `seccomp`.
    pub what: String,
    pub holds: bool,
    /// By which means, or why not; at most [`DETAIL_BYTES`].
    pub detail: String,
}

/// None where the machine does not count it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    pub memory_bytes: Option<u64>,
    /// Thousandths of a core, lately.
    pub cpu_millis: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Of this run, since it began.
    pub memory_kills: Option<u64>,
}

/// One instance under probes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probed {
    pub instance: InstanceId,
    pub run: u64,
    pub probes: Vec<Probe>,
    /// The oldest first; empty unless it was asked for.
    pub history: Vec<Change>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    pub role: ProbeRole,
    /// Such as `GET /health`.
    pub asks: String,
    pub standing: Standing,
    /// The latest result.
    pub last: Option<Last>,
    /// Results in a row that were like it.
    pub streak: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Last {
    pub ok: bool,
    /// By the clock of the instance's node.
    pub at: Millis,
    /// Why it failed; empty when it did not.
    pub reason: String,
}

/// A probe came to stand otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub at: Millis,
    pub run: u64,
    pub role: ProbeRole,
    pub standing: Standing,
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_answer_fits_a_frame() {
        let reason = "x".repeat(REASON_BYTES);
        let change = Change {
            at: Millis(u64::MAX),
            run: u64::MAX,
            role: ProbeRole::Liveness,
            standing: Standing::Failing,
            reason: reason.clone(),
        };
        let probe = Probe {
            role: ProbeRole::Liveness,
            asks: reason.clone(),
            standing: Standing::Failing,
            last: Some(Last {
                ok: false,
                at: Millis(u64::MAX),
                reason,
            }),
            streak: u32::MAX,
        };
        let probed = Probed {
            instance: InstanceId(u64::MAX),
            run: u64::MAX,
            probes: vec![probe; 3],
            history: vec![change; HISTORY],
        };
        let held = Held {
            what: "own root folder".to_owned(),
            holds: true,
            detail: "x".repeat(DETAIL_BYTES),
        };
        let running = Running {
            instance: InstanceId(u64::MAX),
            run: u64::MAX,
            since: Millis(u64::MAX),
            held: vec![held; 13],
            usage: Usage {
                memory_bytes: Some(u64::MAX),
                cpu_millis: Some(u64::MAX),
                pids: Some(u64::MAX),
                memory_kills: Some(u64::MAX),
            },
        };
        let answer = Answer {
            instances: vec![probed; INSTANCES],
            runs: vec![running; INSTANCES],
        };
        assert!(crate::codec::encode(&answer).is_ok());
    }
}
