//! Orders and losses at awkward moments.

use super::*;

/// As [`under_way`], for a strategy that leaves what has failed where it stands.
fn without_rollback(takeover: Takeover, scale: u32) -> Sim {
    let mut sim = Sim::new(3, 100);
    let mut spec = spec(takeover, 10 * SECOND);
    spec.strategy.rollback = false;
    sim.create("app", spec, scale);
    sim.settle();
    sim.update("app", 2);
    sim
}

fn fail(sim: &mut Sim) {
    let seen = look(&sim.state, &sim.view, app(sim));
    let step = step(app(sim), &seen, Some("20 % errors".into()), NOW).unwrap();
    let (release, seq) = (app(sim).target, app(sim).rollout.as_ref().unwrap().seq);
    sim.ok(Command::StepRollout {
        name: name("app"),
        release,
        seq,
        step,
        now: NOW,
    });
}

#[test]
fn a_pause_before_the_first_is_ready_stops_nothing() {
    let mut sim = under_way(rolling(1, 0), 10 * SECOND, 1);
    sim.step();
    order(&mut sim, Order::Pause).unwrap();
    sim.step();
    assert_eq!((count(&sim, OLD), count(&sim, NEW).0), ((1, 1), 1));
}

#[test]
fn a_pause_takes_no_time_from_a_stage() {
    let mut sim = under_way(canary(&[10]), Duration::ZERO, 3);
    settle_at(&mut sim, NOW);
    let at = |now| Command::OrderRollout {
        name: name("app"),
        order: Order::Resume,
        now,
    };
    order(&mut sim, Order::Pause).unwrap();
    let later = NOW.plus(3600 * SECOND);
    sim.ok(at(later));
    settle_at(&mut sim, later.plus(9 * SECOND));
    assert!(matches!(stage(&sim), Some(Stage::Canary { .. })));
    settle_at(&mut sim, later.plus(10 * SECOND));
    assert_eq!(count(&sim, NEW), (3, 3));
}

#[test]
fn what_would_go_on_all_the_same_is_not_said_to_be_paused() {
    let mut sim = under_way(Takeover::Recreate, 10 * SECOND, 1);
    let refused = Err(Rejection::CannotPause(name("app")));
    assert_eq!(order(&mut sim, Order::Pause), refused);
    let mut sim = Sim::new(3, 100);
    sim.create("app", spec(rolling(1, 0), SECOND), 1);
    assert_eq!(order(&mut sim, Order::Pause), refused);
}

#[test]
fn without_rollback_a_failed_canary_keeps_its_part() {
    let mut sim = without_rollback(canary(&[10]), 4);
    settle_at(&mut sim, NOW);
    fail(&mut sim);
    settle_at(&mut sim, NOW.plus(3600 * SECOND));
    assert!(matches!(fate(&sim, NEW), Fate::Failed { .. }));
    assert_eq!((count(&sim, OLD), count(&sim, NEW)), ((4, 4), (1, 1)));
    assert_eq!(app(&sim).shares().unwrap().0[&NEW], 10);

    let mut taken_back = sim.clone();
    order(&mut taken_back, Order::Abort).unwrap();
    settle_at(&mut taken_back, NOW);
    assert_eq!(
        (count(&taken_back, OLD), count(&taken_back, NEW)),
        ((4, 4), (0, 0))
    );

    order(&mut sim, Order::Resume).unwrap();
    assert_eq!(fate(&sim, NEW), Fate::Open);
    settle_at(&mut sim, NOW.plus(7200 * SECOND));
    settle_at(&mut sim, NOW.plus(7200 * SECOND));
    assert_eq!(count(&sim, NEW), (4, 4));
}

#[test]
fn what_it_falls_back_to_was_good() {
    let mut sim = without_rollback(rolling(4, 0), 2);
    settle_at(&mut sim, NOW);
    fail(&mut sim);
    assert!(matches!(fate(&sim, NEW), Fate::Failed { .. }));
    sim.update("app", 3);
    assert_eq!(app(&sim).rollout.as_ref().unwrap().from, Some(OLD));
    assert!(matches!(fate(&sim, NEW), Fate::Failed { .. }));

    let mut sim = Sim::new(3, 100);
    sim.create("app", spec(canary(&[10]), SECOND), 2);
    sim.step();
    fail(&mut sim);
    sim.update("app", 2);
    assert_eq!(app(&sim).rollout.as_ref().unwrap().from, None);
}

#[test]
fn the_contents_of_the_old_release_again_move_nothing() {
    for takeover in [
        canary(&[10]),
        Takeover::BlueGreen { warm: 30 * SECOND },
        rolling(1, 0),
    ] {
        let mut sim = under_way(takeover, 10 * SECOND, 4);
        settle_at(&mut sim, NOW);
        let old: Vec<_> = sim.running("app");
        let kept = old
            .into_iter()
            .filter(|id| sim.state.instances[id].release == OLD);
        let kept: Vec<_> = kept.collect();
        sim.update("app", 1);
        for _ in 0..20 {
            sim.step();
            let ready = sim.running("app").into_iter();
            let third = ready.filter(|id| app(&sim).is_current(&sim.state.instances[id]));
            assert!(third.count() + count(&sim, NEW).1 >= 4);
            sim.obey();
            sim.roll(NOW);
        }
        let running = sim.running("app");
        assert!(kept.iter().all(|id| running.contains(id)));
        settle_at(&mut sim, NOW.plus(10 * SECOND));
        assert_eq!(sim.running("app").len(), 4);
        assert!(matches!(fate(&sim, ReleaseNumber(3)), Fate::Good { .. }));
    }
}

#[test]
fn a_drained_node_does_not_make_two_of_what_may_run_once() {
    let mut sim = Sim::new(3, 100);
    sim.create("app", spec(Takeover::Recreate, Duration::ZERO), 1);
    sim.settle();
    let first = sim.running("app")[0];
    let node = sim.state.instances[&first].node;
    sim.drain(node.0, true);
    sim.settle_with(|sim| assert!(sim.state.instances.len() <= 1, "{:?}", sim.state.instances));
    let now = sim.running("app")[0];
    assert_ne!(sim.state.instances[&now].node, node);
}

#[test]
fn a_stage_that_lost_its_instance_ends_after_its_time_and_the_deadline() {
    let mut sim = Sim::new(3, 1);
    sim.create("app", spec(rolling(0, 1), 10 * SECOND), 3);
    sim.settle();
    sim.update("app", 2);
    settle_at(&mut sim, NOW);
    assert_eq!(stage(&sim), Some(Stage::Watching { since: NOW }));
    sim.set_alive(3, false);
    let over = NOW.plus(10 * SECOND);
    settle_at(&mut sim, over);
    assert!(matches!(stage(&sim), Some(Stage::Watching { .. })));
    let expires = over.plus(60 * SECOND);
    assert_eq!(due(app(&sim), over), Some(expires));
    sim.roll(expires);
    assert!(matches!(fate(&sim, NEW), Fate::Failed { .. }));
    assert_eq!(due(app(&sim), expires), None);
}

#[test]
fn what_has_come_is_not_too_late() {
    let mut sim = under_way(rolling(4, 0), 10 * SECOND, 2);
    sim.step();
    sim.obey();
    sim.step();
    sim.obey();
    sim.step();
    sim.roll(NOW.plus(3600 * SECOND));
    assert!(matches!(stage(&sim), Some(Stage::Watching { .. })));
}

#[test]
fn the_past_of_an_instance_is_not_held_against_a_release() {
    let mut sim = Sim::new(3, 100);
    sim.create("app", spec(rolling(1, 0), SECOND), 2);
    sim.settle();
    let old = newest(&sim, OLD);
    let mut weathered = facts(Phase::Running, Health::Healthy);
    weathered.restarts = look::CRASHES;
    sim.tell(old, weathered);
    sim.update("app", 2);
    sim.step();
    roll_back(&mut sim, Some(1)).unwrap();
    sim.roll(NOW);
    assert!(!matches!(fate(&sim, OLD), Fate::Failed { .. }));
}

#[test]
fn taking_the_same_again_back_leaves_what_runs_alone() {
    let mut sim = Sim::new(3, 100);
    sim.create("app", spec(rolling(1, 0), SECOND), 2);
    sim.settle();
    let before = sim.running("app");
    sim.update("app", 1);
    sim.step();
    assert_eq!(sim.running("app").len(), 3);
    order(&mut sim, Order::Abort).unwrap();
    settle_at(&mut sim, NOW);
    assert_eq!(sim.running("app"), before);
}

#[test]
fn a_restart_beside_the_old_ones_keeps_the_new_ones_ready() {
    let mut sim = under_way(Takeover::BlueGreen { warm: 30 * SECOND }, SECOND, 3);
    settle_at(&mut sim, NOW);
    assert!(matches!(stage(&sim), Some(Stage::Warm { .. })));
    sim.restart("app");
    for _ in 0..20 {
        sim.step();
        assert!(count(&sim, NEW).1 >= 3);
        sim.obey();
    }
    let epoch = app(&sim).epoch;
    let new = sim.running("app").into_iter();
    let new = new.filter(|id| sim.state.instances[id].release == NEW);
    assert!(
        new.map(|id| sim.state.instances[&id].epoch)
            .all(|e| e == epoch)
    );
}

#[test]
fn a_failed_release_that_stayed_may_do_better_after_a_restart() {
    let mut sim = Sim::new(3, 100);
    sim.create("app", spec(rolling(1, 0), SECOND), 1);
    sim.step();
    fail(&mut sim);
    assert!(matches!(fate(&sim, OLD), Fate::Failed { .. }));
    sim.restart("app");
    assert_eq!(fate(&sim, OLD), Fate::Open);
    settle_at(&mut sim, NOW);
    assert!(matches!(fate(&sim, OLD), Fate::Good { .. }));
}

#[test]
fn a_change_of_policy_makes_no_failed_program_good() {
    let mut sim = Sim::new(3, 100);
    sim.create("app", spec(rolling(1, 0), SECOND), 1);
    sim.step();
    fail(&mut sim);
    let mut other = spec(rolling(1, 0), SECOND);
    other.strategy.watch = 2 * SECOND;
    sim.ok(Command::UpdateDeployment {
        name: name("app"),
        based_on: None,
        spec: Some(other),
        artifact: crate::ids::Digest([1; 32]),
        artifact_bytes: 1,
        origin: Default::default(),
        now: NOW,
    });
    assert_eq!(fate(&sim, NEW), Fate::Open);
}

#[test]
fn of_two_who_scale_the_one_who_looked_before_is_refused() {
    let mut sim = under_way(rolling(1, 0), SECOND, 1);
    let seen = app(&sim).generation;
    sim.scale("app", 2);
    let late = sim.run(Command::ScaleDeployment {
        name: name("app"),
        scale: 5,
        based_on: Some(seen),
    });
    assert!(matches!(late, Err(Rejection::DeploymentChanged { .. })));
}
