//! What an operator sees of the scheduler's work.

use std::collections::BTreeMap;

use nebula_domain::DeploymentName;
use nebula_telemetry::{Counter, Family, Gauge, Metrics};

/// Deployments with a series of their own. More than these being short at once is one problem of
/// the cluster (nodes are missing), not hundreds; the total still counts them all.
pub const UNPLACED_SERIES: usize = 100;

type DeploymentLabel = [(&'static str, String); 1];

/// Asking for the same names again gives the same metrics, so a scheduler made anew goes on with them.
pub(crate) struct SchedulerMetrics {
    pub(crate) plans: Counter,
    pub(crate) stale: Counter,
    pub(crate) moves: Counter,
    unplaced: Family<DeploymentLabel, Gauge>,
    unplaced_deployments: Gauge,
}

impl SchedulerMetrics {
    pub(crate) fn new(metrics: &Metrics) -> SchedulerMetrics {
        SchedulerMetrics {
            plans: metrics.counter("scheduler_plans", "Plans with changes that were accepted"),
            stale: metrics.counter(
                "scheduler_stale_plans",
                "Plans refused because the state had moved on",
            ),
            moves: metrics.counter(
                "scheduler_moves",
                "Instances that were to move to a node that is less full",
            ),
            unplaced: metrics.gauges::<DeploymentLabel>(
                "scheduler_unplaced",
                "Instances without a node, by deployment (leader only, the first 100)",
            ),
            unplaced_deployments: metrics.gauge(
                "scheduler_unplaced_deployments",
                "Deployments with instances that have no node (leader only)",
            ),
        }
    }

    /// Replaces all series by what the latest plan could not place.
    pub(crate) fn set_unplaced(&self, unplaced: &BTreeMap<DeploymentName, Vec<String>>) {
        self.unplaced.clear();
        self.unplaced_deployments.set(count(unplaced.len()));
        for (name, reasons) in unplaced.iter().take(UNPLACED_SERIES) {
            self.unplaced
                .get_or_create(&[("deployment", name.to_string())])
                .set(count(reasons.len()));
        }
    }
}

pub(crate) struct RolloutMetrics {
    pub(crate) stages: Counter,
    pub(crate) failed: Counter,
    pub(crate) under_way: Gauge,
}

impl RolloutMetrics {
    pub(crate) fn new(metrics: &Metrics) -> RolloutMetrics {
        RolloutMetrics {
            stages: metrics.counter(
                "rollout_stages",
                "Stages of rollouts that were over as they should be",
            ),
            failed: metrics.counter(
                "rollout_failures",
                "Releases that failed on their way, as this node found while it led",
            ),
            under_way: metrics.gauge(
                "rollouts_under_way",
                "Deployments with a release on its way (leader only)",
            ),
        }
    }
}

pub(crate) struct RunMetrics {
    pub(crate) steps: Counter,
    pub(crate) open: Gauge,
}

impl RunMetrics {
    pub(crate) fn new(metrics: &Metrics) -> RunMetrics {
        RunMetrics {
            steps: metrics.counter(
                "run_steps",
                "Steps of runs and schedules, as this node took them while it led",
            ),
            open: metrics.gauge("runs_open", "Runs that wait or go on (leader only)"),
        }
    }
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
