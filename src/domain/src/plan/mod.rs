//! What should change so that the cluster runs what it is meant to run.
//!
//! A [`Planner`] reduces desired state and the view to one [`job::Job`] for each deployment, which already holds the
//! previous placement, and to the room that each node has left, and solves the jobs one after the other. The rules move
//! as little as they can: an instance that fits stays where it is, and planning again on an applied plan changes nothing.
//! Every step depends only on what was observed, never on another step of the same plan, so that any
//! beginning of the list of changes is a good plan too.
//!
//! It remembers what it has seen, so that the next plan costs what has changed. [`plan`] is a planner that has seen nothing.
//! [`Planner::rebalance`] evens out what new nodes and others' ends have left uneven, when there is nothing else to do.

mod bound;
mod fleet;
mod job;
mod places;
mod planner;
mod possible;
mod rebalance;
mod service;
mod site;
mod solution;
mod spread;
mod waits;

#[cfg(test)]
mod bound_tests;
#[cfg(test)]
mod placement_tests;
#[cfg(test)]
mod port_tests;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::command::Change;
use crate::names::DeploymentName;
use crate::observed::View;
use crate::state::State;

pub use places::Places;
pub use planner::{Looked, Planner, Room, rooms, unplaceable};

/// Changes to propose against one revision of desired state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// `State::plan_revision` the plan was made for.
    pub plan_revision: u64,
    /// At most [`CHANGES_PER_PLAN`](crate::limits::CHANGES_PER_PLAN); plan again for the rest.
    pub changes: Vec<Change>,
    /// Why instances are missing, one sentence each.
    pub unplaced: BTreeMap<DeploymentName, Vec<String>>,
}

/// Plans the next changes from nothing but these two.
pub fn plan(state: &State, view: &View) -> Plan {
    Planner::default().plan_afresh(state, view)
}
