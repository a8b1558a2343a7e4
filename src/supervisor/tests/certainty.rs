//! What the supervisor does while it cannot be sure of what the cluster wants.
#![allow(clippy::unwrap_used)]

mod common;

use common::{ME, ONE, TWO, node, service};
use nebula_domain::InstanceId;
use nebula_domain::observed::Phase;
use nebula_drivers::{Driver as _, Exit};
use nebula_membership::PhaseFacts;

const THREE: InstanceId = InstanceId(3);

#[tokio::test]
async fn an_old_state_stops_nothing() {
    let node = node().await;
    node.assign(TWO, "web", service());
    node.phase(TWO, Phase::Running).await;
    let old = node.state();
    node.assign(ONE, "api", service());
    node.phase(ONE, Phase::Running).await;
    node.unassign(TWO);
    let full = node.state();

    // As after a restart of the daemon: there is a quorum, and the log is still being applied.
    node.set_behind(true);
    node.apply(|state| *state = (*old).clone());
    node.restart_supervisor().await;
    node.apply(|state| *state = (*full).clone());
    node.acknowledge();
    node.driver.exit(ONE, Exit::Signal(9));
    node.facts(ONE, |f| f.restarts == 1 && f.phase == Phase::Running)
        .await;
    assert!(node.driver.stops().is_empty());

    // Only now it is certain that nothing newer wants them.
    node.set_behind(false);
    node.phase(TWO, Phase::Stopped).await;
    node.apply(|state| {
        state.instances.remove(&ONE);
    });
    node.acknowledge();
    node.until("what the registry dropped is stopped", || {
        node.driver
            .runs()
            .borrow()
            .get(&ONE)
            .is_none_or(|run| !run.is_running())
    })
    .await;
}

#[tokio::test]
async fn what_the_registry_has_forgotten_serves_until_this_nodes_proxies_know() {
    let node = node().await;
    node.assign(ONE, "api", service());
    node.phase(ONE, Phase::Running).await;
    node.acknowledge();
    // Replaced elsewhere while this node was away; it has just caught up.
    node.apply(|state| {
        state.instances.remove(&ONE);
    });
    node.assign(TWO, "web", service());
    node.phase(TWO, Phase::Running).await;
    assert!(node.driver.stops().is_empty());
    assert!(node.is_local(ONE), "requests are on their way to it");
    node.acknowledge();
    node.until("it is stopped", || {
        node.driver.stops().iter().any(|(id, _)| *id == ONE)
    })
    .await;
    node.until("it is gone", || !node.is_local(ONE)).await;
}

#[tokio::test]
async fn what_starts_that_came_to_nothing_left_is_deleted_once_that_is_certain() {
    let node = node().await;
    node.assign(TWO, "web", service());
    node.phase(TWO, Phase::Running).await;
    node.driver.leave_behind(ONE);
    node.driver.leave_behind(TWO);
    node.set_behind(true);
    node.restart_supervisor().await;
    assert_eq!(node.driver.leftovers(), [ONE, TWO]);
    node.set_behind(false);
    node.until("what is known to be gone is deleted", || {
        node.driver.leftovers() == [TWO]
    })
    .await;
}

#[tokio::test]
async fn without_a_quorum_nothing_is_stopped_and_what_ends_is_started_again() {
    let node = node().await;
    for (instance, name) in [(ONE, "api"), (TWO, "web"), (THREE, "db")] {
        node.assign(instance, name, service());
        node.phase(instance, Phase::Running).await;
    }
    node.set_quorum(false);
    // The last words that were heard.
    node.unassign(ONE);
    node.apply(|state| {
        state.instances.remove(&TWO);
    });
    node.acknowledge();
    for restarts in 1..=2 {
        node.driver.exit(THREE, Exit::Signal(9));
        node.facts(THREE, |f| {
            f.restarts == restarts && f.phase == Phase::Running
        })
        .await;
    }
    assert!(node.driver.stops().is_empty());

    node.set_quorum(true);
    node.until("both are stopped", || node.driver.stops().len() == 2)
        .await;
    node.phase(ONE, Phase::Stopped).await;
    node.phase(THREE, Phase::Running).await;
}

#[tokio::test]
async fn what_an_earlier_supervisor_spoke_of_is_taken_back() {
    let node = node().await;
    let facts = PhaseFacts {
        phase: Phase::Running,
        restarts: 0,
        reason: String::new(),
        exit: None,
        last_end: None,
        run: 1,
    };
    node.assign(TWO, "web", service());
    node.phase(TWO, Phase::Running).await;
    node.membership.publish_phase(ONE, facts);
    node.restart_supervisor().await;
    assert_eq!(node.membership.view().borrow().instance(ME, ONE), None);
}
