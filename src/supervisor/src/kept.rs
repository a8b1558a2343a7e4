//! How long the output of instances that are gone is kept.

use std::collections::{BTreeMap, BTreeSet};

use nebula_domain::{DeploymentName, InstanceId};
use nebula_drivers::Runs;

/// Enough to look back over some roll-outs of a deployment after something went wrong.
pub const KEPT_PER_DEPLOYMENT: usize = 20;
/// With at most 16 MiB each, and usually far less.
pub const KEPT_IN_ALL: usize = 200;

/// The ended instances to forget: those that nobody assigns any more, but the latest.
pub(crate) fn surplus(runs: &Runs, assigned: &BTreeSet<InstanceId>) -> Vec<InstanceId> {
    let mut of_deployment: BTreeMap<&DeploymentName, usize> = BTreeMap::new();
    let mut in_all = 0;
    let mut surplus = Vec::new();
    // Newest first.
    for (instance, run) in runs.iter().rev() {
        if run.is_running() || assigned.contains(instance) {
            continue;
        }
        let kept = of_deployment.entry(&run.deployment).or_default();
        if *kept < KEPT_PER_DEPLOYMENT && in_all < KEPT_IN_ALL {
            *kept += 1;
            in_all += 1;
        } else {
            surplus.push(*instance);
        }
    }
    surplus
}

#[cfg(test)]
mod tests {
    use nebula_domain::ids::ReleaseNumber;
    use nebula_domain::time::Millis;
    use nebula_drivers::{Exit, Run, RunStatus};

    use super::*;

    fn run(deployment: &str, status: RunStatus) -> Run {
        Run {
            run: 1,
            deployment: deployment.parse().unwrap(),
            release: ReleaseNumber(1),
            port: 1,
            started_at: Millis(0),
            status,
        }
    }

    #[test]
    fn the_latest_of_each_deployment_stay() {
        let ended = RunStatus::Ended {
            exit: Exit::Code(0),
            at: Millis(0),
        };
        let mut runs: Runs = (1..=30)
            .map(|n| (InstanceId(n), run("a", ended.clone())))
            .collect();
        runs.insert(InstanceId(31), run("b", ended));
        runs.insert(InstanceId(2), run("a", RunStatus::Running));
        let assigned = [InstanceId(1)].into();
        let expected: Vec<_> = (3..=10).rev().map(InstanceId).collect();
        assert_eq!(surplus(&runs, &assigned), expected);
    }

    #[test]
    fn there_is_a_limit_in_all() {
        let ended = RunStatus::Ended {
            exit: Exit::Code(0),
            at: Millis(0),
        };
        let runs: Runs = (0..300)
            .map(|n| (InstanceId(n), run(&format!("d{n}"), ended.clone())))
            .collect();
        assert_eq!(surplus(&runs, &BTreeSet::new()).len(), 100);
    }
}
