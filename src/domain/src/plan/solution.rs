//! What has been decided so far.

use std::collections::{BTreeMap, BTreeSet};

use super::Plan;
use super::fleet::Fleet;
use super::possible::Need;
use crate::command::Change;
use crate::ids::{InstanceId, NodeId, ReleaseNumber};
use crate::limits::CHANGES_PER_PLAN;
use crate::names::DeploymentName;

#[derive(Debug, Default)]
pub(super) struct Solution {
    starts: Vec<Change>,
    stays: Vec<Change>,
    stops: Vec<Change>,
    unplaced: BTreeMap<DeploymentName, Vec<String>>,
    /// Deployments that are not at rest: something is to be done, or cannot be done now for reasons outside of them.
    busy: BTreeSet<DeploymentName>,
    /// Needs that no node satisfies, and why: nodes only fill up while a plan is made.
    hopeless: Vec<(Need, String)>,
}

impl Solution {
    /// Whether another start would still be part of the plan. What is not is neither started nor
    /// unplaced: the next plan sees to it.
    pub fn has_room(&self) -> bool {
        (self.starts.len() as u64) < CHANGES_PER_PLAN.max
    }

    /// The deployment has to be looked at again whatever changes.
    pub fn is_busy(&mut self, deployment: &DeploymentName) {
        self.busy.insert(deployment.clone());
    }

    pub fn start(&mut self, deployment: &DeploymentName, release: ReleaseNumber, node: NodeId) {
        self.is_busy(deployment);
        self.starts.push(Change::Start {
            deployment: deployment.clone(),
            release,
            node,
        });
    }

    pub fn stop(&mut self, deployment: &DeploymentName, instance: InstanceId) {
        self.is_busy(deployment);
        self.stops.push(Change::Stop { instance });
    }

    pub fn stay(&mut self, deployment: &DeploymentName, instance: InstanceId) {
        self.is_busy(deployment);
        self.stays.push(Change::Stay { instance });
    }

    /// Why an instance is missing; the same reason counts once.
    pub fn explain(&mut self, deployment: &DeploymentName, reason: String) {
        self.is_busy(deployment);
        let reasons = self.unplaced.entry(deployment.clone()).or_default();
        if !reasons.contains(&reason) {
            reasons.push(reason);
        }
    }

    /// The nodes on which the plan starts instances of a deployment.
    pub fn started<'s>(&'s self, name: &'s DeploymentName) -> impl Iterator<Item = NodeId> + 's {
        self.starts.iter().filter_map(move |change| match change {
            Change::Start {
                deployment, node, ..
            } if deployment == name => Some(*node),
            _ => None,
        })
    }

    /// Why no node takes such an instance, if that was found before.
    pub fn why_hopeless(&self, need: &Need) -> Option<&str> {
        let alike = |other: &&(Need, String)| {
            need.apart.is_empty()
                && other.0.share.amounts == need.share.amounts
                && other.0.share.port() == need.share.port()
                && other.0.placement.require == need.placement.require
        };
        self.hopeless
            .iter()
            .find(alike)
            .map(|(_, why)| why.as_str())
    }

    /// Remembers and tells why no node takes such an instance.
    pub fn give_up(&mut self, need: &Need, fleet: &Fleet) -> String {
        if let Some(why) = self.why_hopeless(need) {
            return why.to_owned();
        }
        let why = fleet.why_none(need);
        if need.apart.is_empty() {
            self.hopeless.push((need.clone(), why.clone()));
        }
        why
    }

    /// Starts first, because what is missing hurts most; dropping records can wait. Returns the deployments that are not
    /// at rest besides.
    pub fn into_plan(
        self,
        plan_revision: u64,
        forget: &BTreeSet<InstanceId>,
    ) -> (Plan, BTreeSet<DeploymentName>) {
        let forgets = forget.iter().map(|instance| Change::Forget {
            instance: *instance,
        });
        let changes = self.starts.into_iter().chain(self.stays);
        let changes = changes
            .chain(self.stops)
            .chain(forgets)
            .take(CHANGES_PER_PLAN.max as usize)
            .collect();
        let plan = Plan {
            plan_revision,
            changes,
            unplaced: self.unplaced,
        };
        (plan, self.busy)
    }
}
