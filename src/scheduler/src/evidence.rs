//! What is known of a release's requests; the nodes' proxies count them, and the scheduler knows of no proxy.

use std::collections::BTreeMap;

use nebula_domain::rollout::Figures;
use nebula_domain::{DeploymentName, ReleaseNumber};

pub trait Evidence: Send + Sync + 'static {
    /// Of all nodes, since the deployment's present rollout began, by the two releases of it. Empty without one, and of static
    /// sites. [`nebula_domain::rollout::judge::Suspicions`] is what to make of it.
    fn figures(&self, name: &DeploymentName) -> BTreeMap<ReleaseNumber, Figures>;
}
