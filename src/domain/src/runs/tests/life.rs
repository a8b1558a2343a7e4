//! From the asking to the end of one run.

use proptest::prelude::*;

use super::*;
use crate::runs::{LOSSES_MAX, LOST_AFTER, RUNS_KEPT, RunState, START_WITHIN, Verdict};
use crate::state::Fate;

fn limits(retries: u32) -> RunLimits {
    RunLimits {
        retries,
        deadline: Duration::from_secs(3600),
    }
}

fn job(nodes: u64, retries: u32) -> World {
    let mut world = World::new(nodes);
    world.sim.create("job", job_spec(limits(retries)), 1);
    world.settle();
    world
}

fn fate(world: &World) -> Fate {
    world.sim.state.deployments[&name("job")]
        .current()
        .fate
        .clone()
}

#[test]
fn a_job_runs_once_for_its_release_and_leaves_nothing() {
    let mut world = job(3, 0);
    assert_eq!(world.programs.len(), 1);
    assert!(world.sim.running("job").len() == 1);
    assert_eq!(fate(&world), Fate::Open);
    world.end("job", 1, exit(0));
    world.settle();
    assert_eq!(world.run("job", 1).verdict(), Some(&Verdict::Succeeded));
    assert!(matches!(fate(&world), Fate::Good { .. }));
    assert!(world.sim.state.instances.is_empty());
    world.pass(Duration::from_secs(86_400));
    world.settle();
    assert_eq!(world.programs.len(), 1);

    world.sim.update("job", 2);
    world.settle();
    assert_eq!(world.programs.len(), 2);
}

#[test]
fn retries_are_counted_and_wait_longer_each_time() {
    let mut world = job(3, 2);
    for (attempt, pause) in [(1, 2), (2, 4)] {
        world.end("job", 1, exit(3));
        world.settle();
        assert_eq!(world.programs.len(), attempt);
        world.pass(Duration::from_secs(pause) - Duration::from_millis(1));
        world.settle();
        assert_eq!(world.programs.len(), attempt, "too early");
        world.pass(Duration::from_millis(1));
        world.settle();
        assert_eq!(world.programs.len(), attempt + 1);
    }
    world.end("job", 1, exit(3));
    world.settle();
    let run = world.run("job", 1);
    let why = "exited with code 3, at attempt 3".to_owned();
    assert_eq!(run.verdict(), Some(&Verdict::Failed { why }));
    let Fate::Failed { why, .. } = fate(&world) else {
        panic!("{:?}", fate(&world));
    };
    assert!(
        why.contains("run-1 failed: exited with code 3, at attempt 3 (instance i-"),
        "{why}"
    );
    world.pass(Duration::from_secs(3600));
    world.settle();
    assert_eq!(world.programs.len(), 3);
}

#[test]
fn what_has_had_its_time_is_stopped_and_waited_for() {
    let mut world = job(1, 5);
    world.pass(Duration::from_secs(3600));
    world.lead(usize::MAX);
    assert!(matches!(world.run("job", 1).state, RunState::Ending(_)));
    world.settle();
    let run = world.run("job", 1);
    assert!(run.verdict().unwrap().why().unwrap().contains("after 1h"));
    assert_eq!(run.attempts.len(), 1);
    assert!(world.sim.state.instances.is_empty());
}

#[test]
fn a_lost_node_s_run_begins_again_only_after_a_while() {
    let mut world = job(3, 0);
    let node = world.run("job", 1).attempts[0].node;
    world.kill_node(node.0);
    world.settle();
    world.pass(LOST_AFTER - Duration::from_millis(1));
    world.settle();
    assert_eq!(world.run("job", 1).attempts.len(), 1);
    world.pass(Duration::from_millis(1));
    world.settle();
    let run = world.run("job", 1);
    assert_eq!(run.attempts.len(), 2);
    assert_ne!(run.attempts[1].node, node);
    assert_eq!(run.failures(), (0, 1), "it has not failed");
    world.end("job", 1, exit(0));
    world.settle();
    assert_eq!(world.run("job", 1).verdict(), Some(&Verdict::Succeeded));
    // The node returns, and finds that its attempt is of no use any more.
    world.revive_node(node.0);
    world.settle();
    assert!(world.programs.values().all(Option::is_some));
}

#[test]
fn a_node_that_lived_between_two_looks_is_waited_for_anew() {
    let mut world = job(3, 0);
    let node = world.run("job", 1).attempts[0].node;
    world.kill_node(node.0);
    world.settle();
    world.pass(LOST_AFTER - Duration::from_millis(1));
    world.revive_node(node.0);
    world.kill_node(node.0);
    world.pass(Duration::from_millis(1));
    world.settle();
    assert_eq!(world.run("job", 1).attempts.len(), 1);
    world.pass(LOST_AFTER);
    world.settle();
    assert_eq!(world.run("job", 1).attempts.len(), 2);
}

#[test]
fn a_daemon_that_returns_in_time_tells_how_it_ended() {
    let mut world = job(3, 0);
    let node = world.run("job", 1).attempts[0].node;
    world.kill_node(node.0);
    world.settle();
    world.end("job", 1, exit(7));
    world.pass(LOST_AFTER / 2);
    world.settle();
    assert!(!world.run("job", 1).is_over());
    world.revive_node(node.0);
    world.settle();
    let why = "exited with code 7".to_owned();
    assert_eq!(
        world.run("job", 1).verdict(),
        Some(&Verdict::Failed { why })
    );
}

#[test]
fn without_a_place_it_waits_and_then_says_why() {
    let mut world = World::new(1);
    world.sim.drain(1, true);
    world.sim.create("job", job_spec(limits(0)), 1);
    world.settle();
    assert_eq!(world.programs.len(), 0);
    world.pass(START_WITHIN);
    world.settle();
    let run = world.run("job", 1);
    let why = run.verdict().unwrap().why().unwrap();
    assert_eq!(why, "it found no place: node n1 is draining");
}

#[test]
fn one_at_a_time_until_it_is_cancelled() {
    let mut world = job(3, 0);
    let refused = world.start("job").unwrap_err();
    assert_eq!(
        refused.to_string(),
        "no other run of 'job' can begin: run-1 still goes on"
    );
    world.cancel("job", 1).unwrap();
    world.settle();
    assert!(matches!(
        world.run("job", 1).verdict(),
        Some(Verdict::Cancelled { .. })
    ));
    let why = fate(&world);
    assert!(matches!(why, Fate::Failed { .. }), "{why:?}");
    assert!(matches!(
        world.cancel("job", 1),
        Err(Rejection::RunOver { .. })
    ));
    assert!(matches!(
        world.cancel("job", 9),
        Err(Rejection::RunUnknown { .. })
    ));
    world.start("job").unwrap();
    world.settle();
    world.end("job", 2, exit(0));
    world.settle();
    assert_eq!(world.run("job", 2).verdict(), Some(&Verdict::Succeeded));
    assert_eq!(fate(&world), why, "a release's fate is its own run's");
}

#[test]
fn a_newer_release_ends_the_run_of_the_older_before_its_own_begins() {
    let mut world = job(3, 0);
    world.sim.update("job", 2);
    world.lead(usize::MAX);
    assert!(matches!(world.run("job", 1).state, RunState::Ending(_)));
    assert!(matches!(
        world.run("job", 2).state,
        RunState::Pending { .. }
    ));
    world.settle();
    assert!(world.run("job", 1).is_over());
    assert_eq!(world.run("job", 2).state, RunState::Running);
}

#[test]
fn what_is_not_meant_for_it_is_refused() {
    let mut world = job(1, 0);
    let scale = Command::ScaleDeployment {
        name: name("job"),
        scale: 3,
        based_on: None,
    };
    assert!(matches!(world.sim.run(scale), Err(Rejection::Finite(_))));
    let restart = Command::RestartDeployment {
        name: name("job"),
        now: world.now,
    };
    assert!(matches!(world.sim.run(restart), Err(Rejection::Finite(_))));
    world.sim.create("app", crate::testing::service_spec(), 1);
    assert!(matches!(world.start("app"), Err(Rejection::NoRuns(_))));
}

#[test]
fn a_removed_deployment_takes_its_runs_along() {
    let mut world = job(3, 0);
    world
        .sim
        .ok(Command::RemoveDeployment { name: name("job") });
    world.settle();
    assert!(world.sim.state.deployments.is_empty());
    assert!(world.sim.state.work.is_empty());
    assert!(world.programs.values().all(Option::is_some));
}

#[test]
fn the_history_is_bounded() {
    let mut world = job(1, 0);
    world.end("job", 1, exit(0));
    world.settle();
    for number in 2..=RUNS_KEPT as u64 + 10 {
        world.start("job").unwrap();
        world.settle();
        world.end("job", number, exit(0));
        world.settle();
    }
    let work = world.work("job");
    assert_eq!(work.runs.len(), RUNS_KEPT);
    assert_eq!(work.latest().unwrap().number.0, RUNS_KEPT as u64 + 10);
}

#[derive(Debug, Clone)]
enum Event {
    Time(u64),
    /// A look, of which so many steps are taken; then another leader, which knows nothing of before.
    LeaderLost(usize),
    Lead,
    Plan,
    Obey,
    Kill(u64),
    Revive(u64),
    End(i32),
    Cancel,
    Start,
    Update(u8),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (1u64..60_000).prop_map(Event::Time),
        (0usize..3).prop_map(Event::LeaderLost),
        Just(Event::Lead),
        Just(Event::Plan),
        Just(Event::Obey),
        (1u64..=3).prop_map(Event::Kill),
        (1u64..=3).prop_map(Event::Revive),
        (0i32..3).prop_map(Event::End),
        Just(Event::Cancel),
        Just(Event::Start),
        (2u8..9).prop_map(Event::Update),
    ]
}

fn happen(world: &mut World, event: &Event) {
    let open = world.work("job").open().last().map(|run| run.number.0);
    match event {
        Event::Time(millis) => world.pass(Duration::from_millis(*millis)),
        Event::LeaderLost(steps) => {
            world.lead(*steps);
            world.absence = Absence::default();
        }
        Event::Lead => {
            world.lead(usize::MAX);
            world.sim.roll(world.now);
        }
        Event::Plan => {
            world.sim.step();
        }
        Event::Obey => world.obey(),
        Event::Kill(node) => world.kill_node(*node),
        Event::Revive(node) => {
            world.revive_node(*node);
            world.obey();
        }
        Event::End(code) => {
            let running = world.programs.iter().find(|(_, end)| end.is_none());
            if let Some(id) = running.map(|(id, _)| *id) {
                world.programs.insert(id, Some(exit(*code)));
            }
        }
        Event::Cancel => {
            if let Some(number) = open {
                world.cancel("job", number).ok();
            }
        }
        Event::Start => {
            world.start("job").ok();
        }
        Event::Update(artifact) => {
            world.sim.update("job", *artifact);
        }
    }
}

/// No program goes on whose attempt is over, but on a node that was given up for dead; and nothing is tried too often.
fn check(world: &World) {
    let work = world.work("job");
    for run in &work.runs {
        for (position, attempt) in run.attempts.iter().enumerate() {
            let latest = position + 1 == run.attempts.len();
            let goes_on = world.programs.get(&attempt.instance) == Some(&None);
            match &attempt.end {
                None => assert!(latest && !run.is_over(), "{run:?}"),
                Some((at, exit)) if goes_on => {
                    assert_eq!(exit.how, How::Lost, "{run:?}");
                    let since = world.dead_since.get(&attempt.node);
                    let dead = since.is_some_and(|since| at.since(*since) >= LOST_AFTER);
                    assert!(dead, "{attempt:?} was given up too early");
                }
                Some(_) => {}
            }
        }
        let (failed, lost) = run.failures();
        assert!(failed <= run.limits.retries as usize + 1, "{run:?}");
        assert!(lost <= LOSSES_MAX + 1, "{run:?}");
    }
    let running = work.runs.iter().filter(|run| run.is_active()).count();
    assert!(running <= 1, "{work:?}");
    let over = work.runs.iter().filter(|run| run.is_over()).count();
    assert!(over <= RUNS_KEPT);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whoever_is_lost_no_run_is_lost_or_doubled(
        events in prop::collection::vec(event(), 1..120),
        retries in 0u32..3,
    ) {
        let mut world = World::new(3);
        world.sim.create("job", job_spec(limits(retries)), 1);
        for event in &events {
            happen(&mut world, event);
            check(&world);
        }
        // All is well again: everything comes to its end.
        for node in 1..=3 {
            world.revive_node(node);
        }
        for _ in 0..60 {
            world.settle();
            check(&world);
            let running: Vec<_> = world.programs.iter().filter(|(_, end)| end.is_none()).map(|(id, _)| *id).collect();
            for id in running {
                world.programs.insert(id, Some(exit(0)));
            }
            world.pass(Duration::from_secs(30));
        }
        world.settle();
        prop_assert_eq!(world.work("job").open().count(), 0);
        prop_assert!(world.sim.state.instances.is_empty());
        prop_assert!(world.sim.state.deployments[&name("job")].rollout.is_none());
        // Nothing was begun that the registry did not ask for.
        prop_assert!(world.programs.keys().all(|id| id.0 < world.sim.state.next_instance_id));
    }
}
