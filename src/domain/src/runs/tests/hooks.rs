//! Hooks of releases: what runs before, what runs after, and what becomes of the release.

use super::*;
use crate::ids::ReleaseNumber;
use crate::rollout::{Order, Stage};
use crate::runs::{Cause, Hook, RunState, Verdict};
use crate::spec::{Hooks, Strategy};
use crate::state::{Fate, Origin};
use crate::testing::service_spec;

fn hooked() -> Spec {
    Spec {
        hooks: Hooks {
            pre_release: Some("migrate".into()),
            post_release: Some("notify".into()),
            ..Hooks::default()
        },
        strategy: Strategy {
            deadline: Duration::from_secs(60),
            ..service_spec().strategy
        },
        ..service_spec()
    }
}

/// With its first release out, and both of its hooks over.
fn app() -> World {
    let mut world = World::new(3);
    world.sim.create("app", hooked(), 2);
    world.settle();
    assert_eq!(serving(&world), 0, "nothing before the hook");
    world.end("app", 1, exit(0));
    world.settle();
    assert_eq!(world.run("app", 2).cause, Cause::Hook(Hook::PostRelease));
    world.end("app", 2, exit(0));
    world.settle();
    assert!(matches!(fate(&world, 1), Fate::Good { .. }));
    assert_eq!(serving(&world), 2);
    world
}

fn serving(world: &World) -> usize {
    let app = name("app");
    let all = world.sim.state.serving_of(&app);
    all.filter(|i| i.desired == Desired::Run).count()
}

fn of_release(world: &World, number: u32) -> usize {
    let app = name("app");
    let all = world.sim.state.serving_of(&app);
    all.filter(|i| i.release == ReleaseNumber(number) && i.desired == Desired::Run)
        .count()
}

fn fate(world: &World, number: u32) -> Fate {
    let app = &world.sim.state.deployments[&name("app")];
    app.release(ReleaseNumber(number)).unwrap().fate.clone()
}

fn target(world: &World) -> u32 {
    world.sim.state.deployments[&name("app")].target.0
}

fn order(world: &mut World, order: Order) {
    let now = world.now;
    world.sim.ok(Command::OrderRollout {
        name: name("app"),
        order,
        now,
    });
}

#[test]
fn a_release_waits_for_its_first_hook() {
    let mut world = app();
    world.sim.update("app", 2);
    world.settle();
    assert_eq!((of_release(&world, 1), of_release(&world, 2)), (2, 0));
    assert_eq!(world.run("app", 3).release, ReleaseNumber(2));
    // Longer than a release may be without progress: the hook has a limit of its own.
    world.pass(hooked().strategy.deadline * 2);
    world.settle();
    assert_eq!(fate(&world, 2), Fate::Open);
    world.end("app", 3, exit(0));
    world.settle();
    assert_eq!((of_release(&world, 1), of_release(&world, 2)), (0, 2));
    assert!(matches!(fate(&world, 2), Fate::Good { .. }));
}

#[test]
fn a_hook_that_fails_stops_the_release_and_touches_nothing() {
    let mut world = app();
    let before: Vec<InstanceId> = world.sim.running("app");
    world.sim.update("app", 2);
    world.settle();
    world.end("app", 3, exit(9));
    world.settle();
    let Fate::Failed { why, .. } = fate(&world, 2) else {
        panic!("{:?}", fate(&world, 2));
    };
    assert!(
        why.contains("the hook pre_release (run-3) failed: exited with code 9"),
        "{why}"
    );
    assert_eq!((target(&world), world.sim.running("app")), (1, before));
    assert_eq!(world.work("app").open().count(), 0);
}

#[test]
fn a_first_release_that_its_hook_stops_begins_nothing_until_there_is_another() {
    let mut world = World::new(3);
    world.sim.create("app", hooked(), 2);
    world.settle();
    world.end("app", 1, exit(1));
    world.settle();
    world.pass(Duration::from_secs(3600));
    world.settle();
    assert_eq!((serving(&world), world.programs.len()), (0, 1));
    assert!(matches!(fate(&world, 1), Fate::Failed { .. }));
    let app = name("app");
    let summary = crate::status::summarise(&world.sim.state, &world.sim.view, &app).unwrap();
    assert_eq!(summary.phase, crate::status::Phase::Failed);
    world.sim.update("app", 2);
    world.settle();
    world.end("app", 2, exit(0));
    world.settle();
    assert_eq!(of_release(&world, 2), 2);
}

#[test]
fn a_hook_has_its_own_time() {
    let mut world = app();
    world.sim.update("app", 2);
    world.settle();
    world.pass(hooked().hooks.timeout);
    world.settle();
    assert!(matches!(fate(&world, 2), Fate::Failed { .. }));
    assert_eq!(of_release(&world, 1), 2);
}

#[test]
fn a_newer_release_waits_for_the_older_one_s_hook_to_end() {
    let mut world = app();
    world.sim.update("app", 2);
    world.settle();
    world.sim.update("app", 3);
    world.settle();
    assert!(matches!(fate(&world, 2), Fate::Superseded { .. }));
    assert_eq!(world.run("app", 3).state, RunState::Running);
    assert!(matches!(
        world.run("app", 4).state,
        RunState::Pending { .. }
    ));
    // However it ends, it is the older one's.
    world.end("app", 3, exit(1));
    world.settle();
    assert_eq!(world.run("app", 4).state, RunState::Running);
    world.end("app", 4, exit(0));
    world.settle();
    assert_eq!((target(&world), of_release(&world, 3)), (3, 2));
}

#[test]
fn an_abort_ends_the_hook_and_a_pause_does_not() {
    let mut world = app();
    world.sim.update("app", 2);
    world.settle();
    order(&mut world, Order::Pause);
    world.end("app", 3, exit(0));
    world.settle();
    assert_eq!(of_release(&world, 2), 0, "paused");
    order(&mut world, Order::Resume);
    world.settle();
    assert_eq!(of_release(&world, 2), 2);
    world.end("app", 4, exit(0));
    world.settle();

    world.sim.update("app", 3);
    world.settle();
    order(&mut world, Order::Abort);
    world.settle();
    assert!(matches!(
        world.run("app", 5).verdict(),
        Some(Verdict::Cancelled { .. })
    ));
    assert_eq!((target(&world), of_release(&world, 2)), (2, 2));
}

#[test]
fn what_runs_after_changes_nothing_when_it_fails() {
    let mut world = app();
    world.sim.update("app", 2);
    world.settle();
    world.end("app", 3, exit(0));
    world.settle();
    world.end("app", 4, exit(1));
    world.settle();
    assert!(matches!(
        world.run("app", 4).verdict(),
        Some(Verdict::Failed { .. })
    ));
    assert!(matches!(fate(&world, 2), Fate::Good { .. }));
    assert_eq!(of_release(&world, 2), 2);
}

#[test]
fn going_back_runs_no_first_hook() {
    let mut world = app();
    world.sim.update("app", 2);
    world.settle();
    world.end("app", 3, exit(0));
    world.settle();
    world.end("app", 4, exit(0));
    world.settle();
    world.sim.ok(Command::RollBack {
        name: name("app"),
        to: None,
        now: world.now,
    });
    world.settle();
    assert_eq!(of_release(&world, 1), 2);
    assert_eq!(world.run("app", 5).cause, Cause::Hook(Hook::PostRelease));
}

#[test]
fn what_begins_nothing_runs_no_hook() {
    let mut world = app();
    let count = world.work("app").count;
    let mut spec = hooked();
    spec.hooks.timeout = Duration::from_secs(30);
    world.sim.ok(Command::UpdateDeployment {
        name: name("app"),
        based_on: None,
        spec: Some(spec),
        artifact: crate::Digest([1; 32]),
        artifact_bytes: 1,
        origin: Origin::default(),
        now: world.now,
    });
    world.settle();
    assert_eq!(world.work("app").count, count);
}

#[test]
fn a_way_back_by_an_update_leaves_what_runs_alone() {
    let mut world = app();
    let before = world.sim.running("app");
    world.sim.update("app", 2);
    world.settle();
    // The files of the first release again, while the second one's hook runs.
    world.sim.update("app", 1);
    world.settle();
    world.end("app", 3, exit(0));
    world.settle();
    let mut running = world.sim.running("app");
    // Without the hook that follows.
    running.retain(|id| world.sim.state.instances[id].run.is_none());
    assert_eq!((target(&world), running), (3, before));
}

/// A leader may be lost after each single command; another goes on with what is there.
#[test]
fn a_leader_may_be_lost_at_any_step() {
    for lost_after in 0..12 {
        let mut world = app();
        world.sim.update("app", 2);
        let mut left = lost_after;
        for _ in 0..40 {
            let taken = world.lead(1).len();
            world.sim.step();
            world.sim.roll(world.now);
            world.obey();
            if left == 0 {
                world.absence = Absence::default();
            }
            left -= taken.min(left);
            let hook = world.run("app", 3);
            let before = matches!(
                world.sim.state.deployments[&name("app")]
                    .rollout
                    .as_ref()
                    .map(|r| r.stage),
                Some(Stage::Before { .. })
            );
            assert!(!before || of_release(&world, 2) == 0);
            if hook.state == RunState::Running
                && hook.attempts.len() == 1
                && world.programs[&hook.attempts[0].instance].is_none()
            {
                world.end("app", 3, exit(0));
            }
        }
        world.settle();
        assert_eq!(world.run("app", 3).attempts.len(), 1, "after {lost_after}");
        assert_eq!(of_release(&world, 2), 2, "after {lost_after}");
    }
}
