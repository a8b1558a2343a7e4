//! Which phase and which problems follow from what is seen.

use super::*;
use crate::command::Command;
use crate::observed::Phase as Told;
use crate::testing::*;

fn of(sim: &Sim, text: &str) -> Summary {
    let one = summarise(&sim.state, &sim.view, &name(text)).unwrap();
    assert_eq!(
        summarise_all(&sim.state, &sim.view).remove(&name(text)),
        Some(one.clone())
    );
    one
}

fn app(nodes: u64, scale: u32) -> Sim {
    let mut sim = Sim::new(nodes, 8);
    sim.create("app", service_spec(), scale);
    sim
}

fn crash(sim: &mut Sim, id: u64, restarts: u32, reason: &str) {
    let facts = InstanceFacts {
        restarts,
        reason: reason.into(),
        ..facts(Told::Backoff, Health::Unknown)
    };
    sim.tell(InstanceId(id), facts);
}

#[test]
fn progresses_until_all_are_ready() {
    let mut sim = app(3, 3);
    let fresh = of(&sim, "app");
    assert_eq!(
        (fresh.phase, fresh.desired, fresh.ready),
        (Phase::Progressing, 3, 0)
    );
    assert_eq!(fresh.urls, ["http://app.example.test/"]);
    sim.step();
    let pending = of(&sim, "app");
    assert_eq!(pending.instances[0].phase.to_string(), "pending");
    assert_eq!(pending.instances[2].node_name, "n3");
    sim.settle();
    let ready = of(&sim, "app");
    assert_eq!((ready.phase, ready.ready), (Phase::Ready, 3));
    assert!(ready.problems.is_empty());
    assert!(summarise(&sim.state, &sim.view, &name("none")).is_none());
}

#[test]
fn an_update_progresses_until_the_old_are_gone() {
    let mut sim = app(2, 2);
    sim.settle();
    sim.update("app", 2);
    sim.step();
    sim.tell_ready(InstanceId(3));
    sim.tell_ready(InstanceId(4));
    let summary = of(&sim, "app");
    assert_eq!((summary.phase, summary.ready), (Phase::Progressing, 2));
    assert_eq!((summary.release.0, summary.generation), (2, 2));
    sim.step();
    let stopping = of(&sim, "app");
    assert_eq!(stopping.phase, Phase::Progressing);
    assert_eq!(stopping.instances[0].phase.to_string(), "stopping");
    sim.settle();
    assert_eq!(of(&sim, "app").phase, Phase::Ready);
}

#[test]
fn a_program_that_keeps_ending_has_failed() {
    let mut sim = app(1, 2);
    sim.step();
    crash(&mut sim, 1, 1, "");
    assert_eq!(
        of(&sim, "app").phase,
        Phase::Progressing,
        "once is an accident"
    );
    crash(&mut sim, 1, 1, "exit status 127: not found");
    assert_eq!(of(&sim, "app").phase, Phase::Progressing);
    crash(&mut sim, 1, 3, "exit status 127: not found");
    let failed = of(&sim, "app");
    assert_eq!(failed.phase, Phase::Failed);
    assert_eq!(
        failed.problems,
        ["instance i-1 on node n1: exit status 127: not found (restarted 3 times)"]
    );
    crash(&mut sim, 1, 3, "");
    assert_eq!(of(&sim, "app").phase, Phase::Failed);
    sim.tell_ready(InstanceId(2));
    let degraded = of(&sim, "app");
    assert_eq!((degraded.phase, degraded.ready), (Phase::Degraded, 1));
}

#[test]
fn a_bad_update_has_failed_though_the_old_release_serves() {
    let mut sim = app(1, 1);
    sim.settle();
    sim.update("app", 2);
    sim.step();
    crash(&mut sim, 2, 4, "exit status 1");
    assert_eq!(of(&sim, "app").phase, Phase::Failed);
}

#[test]
fn what_cannot_be_placed_degrades() {
    let mut sim = Sim::new(1, 1);
    sim.create("app", service_spec(), 2);
    sim.settle();
    let summary = of(&sim, "app");
    assert_eq!((summary.phase, summary.ready), (Phase::Degraded, 1));
    assert_eq!(
        summary.problems,
        ["1 of 2 instances cannot be placed: node n1 is full (1 of 1 instances)"]
    );
}

#[test]
fn an_unanswered_probe_is_a_problem() {
    let mut sim = app(1, 1);
    sim.step();
    sim.tell(InstanceId(1), facts(Told::Running, Health::Unknown));
    assert_eq!(of(&sim, "app").phase, Phase::Progressing);
    sim.tell(InstanceId(1), facts(Told::Running, Health::Unhealthy));
    let summary = of(&sim, "app");
    assert_eq!(summary.phase, Phase::Degraded);
    assert_eq!(
        summary.problems,
        ["instance i-1 on node n1: runs but does not answer its probe"]
    );
}

#[test]
fn instances_of_dead_nodes_are_lost() {
    let mut sim = app(2, 2);
    sim.settle();
    sim.set_alive(2, false);
    let summary = of(&sim, "app");
    assert_eq!((summary.phase, summary.ready), (Phase::Progressing, 1));
    assert_eq!(summary.instances[1].phase, InstancePhase::Lost);
    assert_eq!(summary.instances[1].phase.to_string(), "lost");
    sim.settle();
    assert_eq!(of(&sim, "app").phase, Phase::Ready);
}

#[test]
fn instances_of_a_node_that_restarts_go_on() {
    let mut sim = app(2, 2);
    sim.create("site", static_spec(), 1);
    sim.settle();
    for alive in [true, false] {
        sim.set_alive(2, alive);
        let node = sim.view.nodes.get_mut(&NodeId(2)).unwrap();
        node.returning = true;
        node.facts.restarting = true;
        let summary = of(&sim, "app");
        assert_eq!((summary.phase, summary.ready), (Phase::Progressing, 1));
        assert_eq!(summary.instances.len(), 2, "nothing is to take its place");
        assert_eq!(summary.instances[1].phase.to_string(), "running");
        assert_eq!(
            summary.problems,
            [format!(
                "instance {} on node n2: left to its node, which restarts",
                summary.instances[1].id
            )]
        );
        assert_eq!(of(&sim, "site").desired, 2);
    }
    sim.view.nodes.get_mut(&NodeId(2)).unwrap().returning = false;
    assert_eq!(of(&sim, "app").instances[1].phase, InstancePhase::Lost);
}

#[test]
fn a_site_wants_every_open_node() {
    let mut sim = Sim::new(3, 8);
    sim.create("site", static_spec(), 7);
    sim.settle();
    let summary = of(&sim, "site");
    assert_eq!(
        (summary.phase, summary.desired, summary.ready),
        (Phase::Ready, 3, 3)
    );
    sim.drain(1, true);
    sim.set_alive(2, false);
    sim.settle();
    let summary = of(&sim, "site");
    assert_eq!(
        (summary.phase, summary.desired, summary.ready),
        (Phase::Ready, 1, 1)
    );
}

#[test]
fn nothing_wanted_is_ready_and_removal_shows() {
    let mut sim = app(1, 1);
    sim.settle();
    sim.scale("app", 0);
    assert_eq!(of(&sim, "app").phase, Phase::Progressing);
    sim.settle();
    assert_eq!(of(&sim, "app").phase, Phase::Ready);
    sim.scale("app", 1);
    sim.settle();
    sim.ok(Command::RemoveDeployment { name: name("app") });
    let summary = of(&sim, "app");
    assert_eq!((summary.phase, summary.desired), (Phase::Removing, 0));
}
