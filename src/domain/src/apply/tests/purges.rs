//! What lets go of a deployment's response cache, and what that leaves as it was.

use super::super::*;
use crate::testing::*;

fn purge(text: &str) -> Command {
    Command::PurgeCache { name: name(text) }
}

#[test]
fn a_purge_makes_new_tables_and_changes_no_deployment() {
    let mut sim = Sim::new(1, 8);
    sim.create("api", service_spec(), 1);
    sim.create("other", service_spec(), 1);
    sim.settle();
    let before = sim.state.clone();
    let revision = before.revision + 1;
    let told = Ok(Outcome::CachePurged { revision });
    assert_eq!(sim.run(purge("api")), told);
    let purged = |sim: &Sim, text: &str| sim.state.cache_purges.get(&name(text)).copied();
    assert_eq!(purged(&sim, "api"), Some(revision));
    assert_eq!(sim.state.revision, revision);
    assert_eq!(purged(&sim, "other"), None);
    assert!(sim.state.deployments == before.deployments);
    assert!(sim.state.plan_revision > before.plan_revision);
    let first = purged(&sim, "api");
    sim.ok(purge("api"));
    assert!(purged(&sim, "api") > first);
}

#[test]
fn nothing_is_purged_of_what_has_no_cache() {
    let mut sim = Sim::new(1, 8);
    sim.create("site", static_spec(), 1);
    sim.create("api", service_spec(), 1);
    sim.settle();
    let before = sim.state.revision;
    let unknown = Rejection::DeploymentUnknown(name("ghost"));
    assert_eq!(sim.run(purge("ghost")), Err(unknown));
    let site = Rejection::StaticCache(name("site"));
    assert_eq!(sim.run(purge("site")), Err(site));
    assert_eq!(sim.state.revision, before);
    // What is gone takes its purges with it.
    sim.ok(purge("api"));
    sim.ok(Command::RemoveDeployment { name: name("api") });
    let removing = Rejection::DeploymentRemoving(name("api"));
    assert_eq!(sim.run(purge("api")), Err(removing));
    sim.settle();
    assert!(!sim.state.deployments.contains_key(&name("api")));
    assert!(sim.state.cache_purges.is_empty());
}
