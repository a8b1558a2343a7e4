//! Where the attempts of runs go: the possible node that the rules of placement like best, and that has the least to do; or
//! the one with their volumes.

use super::planner::Planner;
use super::possible::Share;
use super::spread::Spread;
use super::{bound, waits};
use crate::ids::NodeId;
use crate::names::DeploymentName;
use crate::observed::View;
use crate::runs::Run;
use crate::state::State;

/// The room there is, and what has been given away of it since.
pub struct Places<'a> {
    state: &'a State,
    view: &'a View,
    planner: Planner,
}

impl<'a> Places<'a> {
    pub fn new(state: &'a State, view: &'a View) -> Places<'a> {
        let planner = Planner::of(state, view);
        Places {
            state,
            view,
            planner,
        }
    }

    /// A place for the next attempt of a run, or why there is none now.
    pub fn take(&mut self, name: &DeploymentName, run: &Run) -> Result<NodeId, String> {
        let deployment = self.state.deployments.get(name);
        let release = deployment.and_then(|deployment| deployment.release(run.release));
        let spec = release.map(|release| &release.spec);
        let service = spec.and_then(|spec| Some((spec, spec.service()?)));
        let (spec, service) = service.ok_or("its release is not kept any more")?;
        if let Some(why) = waits::waited_for(self.state, self.view, spec) {
            return Err(why);
        }
        let keeps = run.keeps_volumes() && !spec.volumes().is_empty();
        // All that a run may have is of number 0.
        let set = self
            .state
            .volumes_of(name)
            .find(|(ordinal, _)| keeps && *ordinal == 0);
        let set = set.map(|(_, set)| set);
        if let Some((set, holder)) = set.and_then(|set| Some((set, set.holder?))) {
            return Err(format!("instance {holder} has {}", set.told()));
        }
        let mut need = self.planner.needed(service, name);
        need.share = Share::of(service, name, false);
        let fleet = &mut self.planner.fleet;
        let node = bound::its_node(self.state, set, &need, fleet, &Spread::default())?;
        fleet.take(node, &need.share);
        Ok(node)
    }
}
