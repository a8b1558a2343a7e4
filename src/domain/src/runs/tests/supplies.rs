//! What a run is given besides a place: its deployment's volumes, and that which it depends on.

use super::*;
use crate::runs::{RunState, START_WITHIN, Verdict, Waiting};
use crate::spec::{Concurrency, Cron, Hooks, VolumeSpec};
use crate::testing::{keeping_spec, service_spec};

fn of_service(mut spec: Spec, change: impl FnOnce(&mut Service)) -> Spec {
    if let Workload::Service(service) = &mut spec.workload {
        change(service);
    }
    spec
}

fn keeping(spec: Spec) -> Spec {
    of_service(spec, |service| {
        service.volumes = vec![VolumeSpec {
            name: "dumps".parse().unwrap(),
            path: "/dumps".to_owned(),
        }];
    })
}

/// The node of the run's latest attempt, and whether that has the volumes.
fn attempt(world: &World, number: u64) -> (NodeId, bool) {
    let run = world.run("job", number);
    let attempt = run.attempts.last().unwrap();
    let held = world.sim.state.volumes_held(&name("job"), attempt.instance);
    (attempt.node, held.is_some())
}

/// What people are told that it waits for.
fn waiting(world: &World, number: u64) -> Option<String> {
    let run = world.run("job", number);
    Waiting::new(&world.sim.state, &world.sim.view, world.now).why(&name("job"), &run)
}

#[test]
fn a_run_that_waits_says_what_for() {
    let limits = RunLimits {
        retries: 1,
        ..RunLimits::default()
    };
    let mut world = World::new(1);
    world.sim.create("job", job_spec(limits), 1);
    world.lead(usize::MAX);
    world.settle();
    assert_eq!(waiting(&world, 1), None, "it goes on");
    world.end("job", 1, exit(1));
    world.settle();
    let why = waiting(&world, 1).unwrap();
    assert!(why.starts_with("tried again at "), "{why}");
    world.pass(Duration::from_secs(2));
    assert_eq!(waiting(&world, 1), None, "the next look begins it");
    world.sim.drain(1, true);
    let why = waiting(&world, 1).unwrap();
    assert!(why.contains("n1") && why.contains("draining"), "{why}");
    world.sim.drain(1, false);
    world.settle();

    // A newer release ends it and waits for that.
    world.sim.update("job", 2);
    world.lead(usize::MAX);
    world.sim.roll(world.now);
    assert_eq!(waiting(&world, 2).unwrap(), "waits for run-1 to end");
}

#[test]
fn one_run_after_the_other_has_the_volumes_where_they_are() {
    let mut world = World::new(3);
    world
        .sim
        .create("job", keeping(job_spec(RunLimits::default())), 3);
    world.settle();
    let (node, held) = attempt(&world, 1);
    assert!(held);
    assert_eq!(world.sim.state.volumes_of(&name("job")).count(), 1);
    for number in 2..5 {
        world.end("job", number - 1, exit(0));
        world.settle();
        world.start("job").unwrap();
        world.settle();
        assert_eq!(attempt(&world, number), (node, true));
    }

    // A try that failed has ended before the next one has its volumes.
    let again = keeping(job_spec(RunLimits {
        retries: 1,
        ..RunLimits::default()
    }));
    let mut world = World::new(3);
    world.sim.create("job", again, 1);
    world.settle();
    let (node, _) = attempt(&world, 1);
    world.end("job", 1, exit(1));
    world.settle();
    world.pass(Duration::from_secs(2));
    world.settle();
    assert_eq!(world.run("job", 1).attempts.len(), 2);
    assert_eq!(attempt(&world, 1), (node, true));
}

#[test]
fn a_run_waits_for_the_node_with_its_volumes_and_says_so() {
    let mut world = World::new(3);
    world
        .sim
        .create("job", keeping(job_spec(RunLimits::default())), 1);
    world.settle();
    let (node, _) = attempt(&world, 1);
    world.end("job", 1, exit(0));
    world.settle();
    world.kill_node(node.0);
    world.start("job").unwrap();
    world.settle();
    assert!(world.run("job", 2).attempts.is_empty());
    let why = waiting(&world, 2).unwrap();
    assert!(why.contains("its volume 'dumps' is on node"), "{why}");
    world.revive_node(node.0);
    world.settle();
    assert_eq!(attempt(&world, 2), (node, true));
    world.end("job", 2, exit(0));
    world.settle();

    world.kill_node(node.0);
    world.start("job").unwrap();
    world.pass(START_WITHIN);
    world.settle();
    let run = world.run("job", 3);
    let Some(Verdict::Failed { why }) = run.verdict() else {
        panic!("{run:?}");
    };
    assert!(
        why.contains("its volume 'dumps' is on node") && why.contains("not reachable"),
        "{why}"
    );
}

#[test]
fn a_lost_run_keeps_its_volumes_until_it_has_ended() {
    let mut world = World::new(3);
    let limits = RunLimits {
        deadline: Duration::from_secs(86_400),
        ..RunLimits::default()
    };
    world.sim.create("job", keeping(job_spec(limits)), 1);
    world.settle();
    let (node, _) = attempt(&world, 1);
    let first = world.run("job", 1).attempts[0].instance;
    world.kill_node(node.0);
    world.settle();
    world.pass(crate::runs::LOST_AFTER);
    world.settle();
    let run = world.run("job", 1);
    assert!(matches!(run.state, RunState::Pending { .. }), "{run:?}");
    let held = world.sim.state.volumes_held(&name("job"), first);
    assert!(held.is_some(), "it may run on");
    world.revive_node(node.0);
    world.settle();
    assert_eq!(world.run("job", 1).attempts.len(), 2);
    assert_eq!(attempt(&world, 1), (node, true));
}

#[test]
fn a_run_waits_for_what_its_program_depends_on() {
    let mut world = World::new(2);
    world.sim.create("db", service_spec(), 1);
    let needs = of_service(job_spec(RunLimits::default()), |service| {
        service.depends_on = [name("db")].into();
    });
    world.sim.create("job", needs, 1);
    world.lead(usize::MAX);
    world.lead(usize::MAX);
    assert!(world.run("job", 1).attempts.is_empty(), "nothing is ready");
    assert_eq!(
        waiting(&world, 1).unwrap(),
        "waits for 'db', which has no ready instance"
    );
    world.settle();
    assert_eq!(world.run("job", 1).attempts.len(), 1);
}

#[test]
fn a_hook_leaves_the_volumes_to_the_instances() {
    let mut world = World::new(2);
    let hooks = Hooks {
        post_release: Some("tell".to_owned()),
        ..Hooks::default()
    };
    world.sim.create(
        "job",
        Spec {
            hooks,
            ..keeping_spec()
        },
        1,
    );
    world.settle();
    let (_, held) = attempt(&world, 1);
    assert!(!held);
    // While it goes on an instance that has ended is replaced all the same.
    world.sim.restart("job");
    world.settle();
    assert!(matches!(world.run("job", 1).state, RunState::Running));
    let state = &world.sim.state;
    let db = name("job");
    let held = state
        .serving_of(&db)
        .map(|instance| state.volumes_held(&db, instance.id).is_some());
    assert_eq!(held.collect::<Vec<_>>(), [true]);
}

#[test]
fn runs_beside_each_other_cannot_share_a_volume() {
    let cron = |concurrency| {
        keeping(spec_of(Kind::Cron(Cron {
            schedule: crate::runs::Schedule {
                cron: "* * * * *".to_owned(),
                time_zone: "UTC".to_owned(),
            },
            concurrency,
            starting_deadline: Duration::from_secs(60),
            limits: RunLimits::default(),
        })))
    };
    assert_eq!(cron(Concurrency::Forbid).check(), Ok(()));
    assert_eq!(cron(Concurrency::Replace).check(), Ok(()));
    let refused = cron(Concurrency::Allow).check().unwrap_err().to_string();
    assert!(refused.contains("'allow'"), "{refused}");
}
