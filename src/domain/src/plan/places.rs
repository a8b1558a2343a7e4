//! Where the attempts of runs go: the possible node that the rules of placement like best, and that has the least to do.

use super::planner::Planner;
use super::spread::Spread;
use crate::ids::NodeId;
use crate::names::DeploymentName;
use crate::observed::View;
use crate::spec::Service;
use crate::state::State;

/// The room there is, and what has been given away of it since.
pub struct Places(Planner);

impl Places {
    pub fn new(state: &State, view: &View) -> Places {
        Places(Planner::of(state, view))
    }

    /// A place for one more program of a deployment, or why there is none.
    pub fn take(&mut self, name: &DeploymentName, service: &Service) -> Result<NodeId, String> {
        let need = self.0.needed(service, name);
        let fleet = &mut self.0.fleet;
        let node = fleet.best(&need, &Spread::default(), None);
        let node = node.ok_or_else(|| fleet.why_none(&need))?;
        fleet.take(node, need.amounts);
        Ok(node)
    }
}
