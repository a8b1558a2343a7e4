//! What should change so that the cluster runs what it is meant to run.
//!
//! [`plan`] reduces desired state and the view to a small [`problem::Problem`], which already holds the
//! previous placement, and solves it one deployment after the other. The rules move as little as they can:
//! an instance that fits stays where it is, and planning again on an applied plan changes nothing.
//! Every step depends only on what was observed, never on another step of the same plan, so that any
//! beginning of the list of changes is a good plan too.

mod bound;
mod fleet;
mod places;
mod problem;
mod service;
mod site;
mod waits;

#[cfg(test)]
mod bound_tests;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::command::Change;
use crate::ids::{InstanceId, NodeId, ReleaseNumber};
use crate::limits::CHANGES_PER_PLAN;
use crate::names::DeploymentName;
use crate::observed::View;
use crate::state::State;
pub use places::Places;
use problem::{Job, Kind, Place, Problem};

/// Changes to propose against one revision of desired state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// `State::plan_revision` the plan was made for.
    pub plan_revision: u64,
    /// At most [`CHANGES_PER_PLAN`]; plan again for the rest.
    pub changes: Vec<Change>,
    /// Why instances are missing, one sentence each.
    pub unplaced: BTreeMap<DeploymentName, Vec<String>>,
}

/// Plans the next changes.
pub fn plan(state: &State, view: &View) -> Plan {
    let Problem {
        mut fleet,
        jobs,
        forget,
    } = Problem::new(state, view);
    let mut solution = Solution::default();
    let mut programs = Vec::new();
    for job in &jobs {
        let lost = job.copies.iter().filter(|c| c.place == Place::Lost);
        if !matches!(job.kind, Kind::Bound { .. }) {
            lost.for_each(|copy| solution.stop(copy.id));
        }
        if let Some(reason) = waits::holds_up(state, view, job) {
            solution.explain(job.name, reason);
            continue;
        }
        match job.kind {
            Kind::Bound { release } => {
                bound::solve(state, job, release, &mut fleet, &mut solution);
            }
            Kind::Gone => stop_all(job, &mut solution),
            Kind::Site { release } => site::solve(job, release, &fleet, &mut solution),
            Kind::Service { release, demand } => {
                let mut works = service::works(job, release, &demand);
                for work in &mut works {
                    work.stop_surplus(&fleet, &mut solution);
                }
                programs.extend(works);
            }
        }
    }
    for program in &mut programs {
        program.reclaim(&mut fleet, &mut solution);
    }
    for program in programs {
        program.finish(&mut fleet, &mut solution);
    }
    solution.forgets = forget;
    solution.into_plan(state.plan_revision)
}

fn stop_all(job: &Job, solution: &mut Solution) {
    for copy in job.copies.iter().filter(|c| c.place != Place::Lost) {
        solution.stop(copy.id);
    }
}

/// What has been decided so far.
#[derive(Debug, Default)]
struct Solution {
    starts: Vec<Change>,
    stops: Vec<Change>,
    forgets: Vec<InstanceId>,
    unplaced: BTreeMap<DeploymentName, Vec<String>>,
}

impl Solution {
    /// Whether another start would still be part of the plan. What is not is neither started nor
    /// unplaced: the next plan sees to it.
    fn has_room(&self) -> bool {
        (self.starts.len() as u64) < CHANGES_PER_PLAN.max
    }

    fn start(&mut self, deployment: &DeploymentName, release: ReleaseNumber, node: NodeId) {
        self.starts.push(Change::Start {
            deployment: deployment.clone(),
            release,
            node,
        });
    }

    fn stop(&mut self, instance: InstanceId) {
        self.stops.push(Change::Stop { instance });
    }

    fn explain(&mut self, deployment: &DeploymentName, reason: String) {
        self.unplaced
            .entry(deployment.clone())
            .or_default()
            .push(reason);
    }

    /// Starts first, because what is missing hurts most; dropping records can wait.
    fn into_plan(self, plan_revision: u64) -> Plan {
        let forgets = self
            .forgets
            .into_iter()
            .map(|instance| Change::Forget { instance });
        let changes = self
            .starts
            .into_iter()
            .chain(self.stops)
            .chain(forgets)
            .take(CHANGES_PER_PLAN.max as usize)
            .collect();
        Plan {
            plan_revision,
            changes,
            unplaced: self.unplaced,
        }
    }
}
