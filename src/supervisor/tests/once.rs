//! Attempts of runs: what is begun once, and how its end is told.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Node, ONE, TWO, node, service};
use nebula_domain::ids::{InstanceId, ReleaseNumber, RunNumber};
use nebula_domain::observed::Phase;
use nebula_domain::runs::{Cause, Hook, How, Run, RunState};
use nebula_domain::spec::{Hooks, RunLimits, Spec};
use nebula_domain::time::Millis;
use nebula_drivers::{Driver as _, Exit};

fn assign(node: &Node, cause: Cause) {
    let run = Run {
        number: RunNumber(3),
        release: ReleaseNumber(1),
        cause,
        limits: RunLimits::default(),
        asked_at: Millis(0),
        state: RunState::Running,
        attempts: Vec::new(),
        seq: 0,
    };
    let hooks = Hooks {
        pre_release: Some("migrate".into()),
        ..Hooks::default()
    };
    let spec = Spec {
        hooks,
        ..Spec::new(service(), "test".parse().unwrap())
    };
    node.assign_attempt(ONE, "work", spec, run);
}

#[tokio::test]
async fn an_attempt_runs_once_and_its_end_is_told_by_whoever_comes_after() {
    let node = node().await;
    assign(&node, Cause::Person);
    node.phase(ONE, Phase::Running).await;
    let starts = node.driver.starts();
    let first = starts.last().unwrap();
    assert_eq!((first.command.as_str(), first.port), ("run", None));
    assert_eq!(first.env["NEBULA_RUN_ID"], "run-3");
    assert_eq!(first.env["NEBULA_CAUSE"], "manual");
    assert!(!node.is_local(ONE), "nobody asks or probes it");

    node.driver.exit(ONE, Exit::Code(7));
    let facts = node.facts(ONE, |facts| facts.exit.is_some()).await;
    let exit = facts.exit.unwrap();
    assert_eq!((facts.phase, exit.how), (Phase::Stopped, How::Code(7)));
    assert_eq!(exit.said, "exited with code 7");

    node.restart_supervisor().await;
    let facts = node.facts(ONE, |facts| facts.exit.is_some()).await;
    assert_eq!(facts.exit.unwrap().how, How::Code(7));
    let of_it = |start: &&nebula_drivers::StartSpec| start.instance == ONE;
    assert_eq!(
        node.driver.starts().iter().filter(of_it).count(),
        starts.len()
    );

    node.unassign(ONE);
    node.phase(ONE, Phase::Stopped).await;
}

#[tokio::test]
async fn a_hook_s_command_is_the_hook_s_and_it_is_stopped_at_once() {
    let node = node().await;
    assign(&node, Cause::Hook(Hook::PreRelease));
    node.until("it was begun", || {
        let starts = node.driver.starts();
        starts
            .last()
            .is_some_and(|start| start.command == "migrate")
    })
    .await;
    // No proxy has acknowledged anything, and none is waited for.
    node.unassign(ONE);
    node.phase(ONE, Phase::Stopped).await;
    assert!(node.driver.runs().borrow()[&ONE].status != nebula_drivers::RunStatus::Running);
}

#[tokio::test]
async fn an_attempt_begins_only_where_the_registry_is_known_to_be_up_to_date() {
    let node = node().await;
    node.assign(TWO, "web", service());
    node.phase(TWO, Phase::Running).await;
    node.set_behind(true);
    // The contact of a supervisor that is made anew begins without certainty.
    node.restart_supervisor().await;
    assign(&node, Cause::Person);
    let after = InstanceId(3);
    node.assign(after, "after", service());
    node.phase(after, Phase::Running).await;
    let begun = |starts: &[nebula_drivers::StartSpec]| starts.iter().any(|s| s.instance == ONE);
    assert!(!begun(&node.driver.starts()), "it may have been given up");
    node.set_behind(false);
    node.phase(ONE, Phase::Running).await;
    assert!(begun(&node.driver.starts()));
}

#[tokio::test]
async fn an_attempt_that_may_have_begun_unseen_is_not_made_again() {
    let node = node().await;
    node.driver.lose_starts(ONE);
    assign(&node, Cause::Person);
    let facts = node.facts(ONE, |facts| facts.exit.is_some()).await;
    let exit = facts.exit.unwrap();
    assert_eq!((facts.phase, exit.how), (Phase::Stopped, How::Signal(9)));
    let of_it = |start: &&nebula_drivers::StartSpec| start.instance == ONE;
    assert_eq!(node.driver.starts().iter().filter(of_it).count(), 1);
}
