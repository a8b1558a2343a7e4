//! Releases on paper: every stage, every end, and a leader that may be another at each step.

mod awkward;

use std::time::Duration;

use proptest::prelude::*;
use proptest::strategy::Strategy as _;

use super::*;
use crate::command::{Command, Outcome, Rejection};
use crate::ids::InstanceId;
use crate::observed::{Health, Phase};
use crate::spec::{Amount, CanaryStep, Spec, Strategy, Takeover};
use crate::state::{Desired, Fate};
use crate::testing::*;

const SECOND: Duration = Duration::from_secs(1);
const OLD: ReleaseNumber = ReleaseNumber(1);
const NEW: ReleaseNumber = ReleaseNumber(2);

fn rolling(surge: u32, unavailable: u32) -> Takeover {
    Takeover::Rolling {
        surge: Amount::Count(surge),
        unavailable: Amount::Count(unavailable),
    }
}

fn canary(percents: &[u8]) -> Takeover {
    let step = |percent: &u8| CanaryStep {
        percent: *percent,
        pause: 10 * SECOND,
    };
    Takeover::Canary {
        steps: percents.iter().map(step).collect(),
    }
}

fn spec(takeover: Takeover, watch: Duration) -> Spec {
    let strategy = Strategy {
        takeover,
        watch,
        deadline: 60 * SECOND,
        ..Strategy::default()
    };
    Spec {
        strategy,
        ..service_spec()
    }
}

/// Three nodes, `scale` good instances of release 1, and release 2 on its way.
fn under_way(takeover: Takeover, watch: Duration, scale: u32) -> Sim {
    let mut sim = Sim::new(3, 100);
    sim.create("app", spec(takeover, watch), scale);
    sim.settle();
    assert!(matches!(fate(&sim, OLD), Fate::Good { .. }));
    sim.update("app", 2);
    sim
}

fn app(sim: &Sim) -> &Deployment {
    &sim.state.deployments[&name("app")]
}

fn fate(sim: &Sim, release: ReleaseNumber) -> Fate {
    app(sim).release(release).unwrap().fate.clone()
}

fn stage(sim: &Sim) -> Option<Stage> {
    app(sim).rollout.as_ref().map(|rollout| rollout.stage)
}

/// Instances of a release that are meant to run, and how many of them take requests.
fn count(sim: &Sim, release: ReleaseNumber) -> (usize, usize) {
    let of = |id: &&InstanceId| sim.state.instances[*id].release == release;
    let running = sim.running("app");
    let running: Vec<_> = running.iter().filter(of).collect();
    let is_ready = |id: &InstanceId| {
        let node = sim.state.instances[id].node;
        sim.view.instance(node, *id).is_some_and(|f| f.is_ready())
    };
    let ready = running.iter().filter(|id| is_ready(id));
    (running.len(), ready.count())
}

fn newest(sim: &Sim, release: ReleaseNumber) -> InstanceId {
    let running = sim.running("app");
    let mut of = running.into_iter().rev();
    of.find(|id| sim.state.instances[id].release == release)
        .unwrap()
}

/// Plans, obeys and rolls at this time until nothing changes.
fn settle_at(sim: &mut Sim, now: Millis) {
    for _ in 0..200 {
        let before = (sim.state.revision, sim.view.clone());
        sim.step();
        sim.obey();
        sim.roll(now);
        if before == (sim.state.revision, sim.view.clone()) {
            return;
        }
    }
    panic!("does not settle: {:?}", app(sim).rollout);
}

fn order(sim: &mut Sim, order: Order) -> Result<Outcome, Rejection> {
    sim.run(Command::OrderRollout {
        name: name("app"),
        order,
        now: NOW,
    })
}

fn roll_back(sim: &mut Sim, to: Option<u32>) -> Result<Outcome, Rejection> {
    sim.run(Command::RollBack {
        name: name("app"),
        to: to.map(ReleaseNumber),
        now: NOW,
    })
}

#[test]
fn rolling_stays_within_its_bounds_and_ends_good() {
    for (surge, unavailable) in [(1, 0), (2, 0), (0, 1), (1, 1), (4, 0)] {
        let mut sim = under_way(rolling(surge, unavailable), Duration::ZERO, 4);
        for _ in 0..60 {
            sim.step();
            let (old, old_ready) = count(&sim, OLD);
            let (new, new_ready) = count(&sim, NEW);
            assert!(old + new <= 4 + surge as usize, "{old} and {new}");
            assert!(old_ready + new_ready >= 4 - unavailable as usize);
            sim.obey();
            sim.roll(NOW);
        }
        assert_eq!((count(&sim, OLD), count(&sim, NEW)), ((0, 0), (4, 4)));
        assert_eq!(stage(&sim), None);
        assert_eq!(fate(&sim, NEW), Fate::Good { at: NOW });
    }
}

#[test]
fn what_stands_is_watched_before_it_counts() {
    let mut sim = under_way(rolling(4, 0), 10 * SECOND, 4);
    settle_at(&mut sim, NOW);
    assert_eq!(stage(&sim), Some(Stage::Watching { since: NOW }));
    assert_eq!(due(app(&sim), NOW), Some(NOW.plus(10 * SECOND)));
    assert_eq!(sim.roll(NOW.plus(9 * SECOND)), 0);
    assert_eq!(sim.roll(NOW.plus(10 * SECOND)), 1);
    assert!(matches!(fate(&sim, NEW), Fate::Good { .. }));
}

#[test]
fn one_end_while_it_is_watched_brings_the_old_one_back() {
    let mut sim = under_way(rolling(4, 0), 10 * SECOND, 4);
    settle_at(&mut sim, NOW);
    let generation = app(&sim).generation;
    let ill = newest(&sim, NEW);
    let mut ended = facts(Phase::Backoff, Health::Unknown);
    ended.restarts = 1;
    ended.reason = "exited with code 3".into();
    sim.tell(ill, ended);
    assert_eq!(sim.roll(NOW), 1);
    let Fate::Failed { why, .. } = fate(&sim, NEW) else {
        panic!("{:?}", fate(&sim, NEW));
    };
    assert_eq!(
        why,
        format!("instance {ill} on node {}: exited with code 3", {
            let node = sim.state.instances[&ill].node;
            sim.state.nodes[&node].name.clone()
        })
    );
    assert_eq!((app(&sim).target, stage(&sim)), (OLD, None));
    assert_eq!(app(&sim).generation, generation + 1);
    // What still answers goes on doing so until something better is there.
    sim.step();
    assert!(count(&sim, NEW).1 > 0);
    settle_at(&mut sim, NOW);
    assert_eq!((count(&sim, OLD), count(&sim, NEW)), ((4, 4), (0, 0)));
}

#[test]
fn a_release_that_does_not_come_up_leaves_the_old_one_alone() {
    let mut sim = under_way(rolling(1, 0), 10 * SECOND, 3);
    let old: Vec<_> = sim.running("app");
    sim.step();
    let ill = newest(&sim, NEW);
    let mut ended = facts(Phase::Backoff, Health::Unknown);
    ended.restarts = look::CRASHES;
    sim.tell(ill, ended);
    sim.roll(NOW);
    assert!(matches!(fate(&sim, NEW), Fate::Failed { .. }));
    settle_at(&mut sim, NOW);
    assert_eq!(sim.running("app"), old);
}

#[test]
fn blue_green_switches_at_once_and_keeps_the_old_ones_warm() {
    let takeover = Takeover::BlueGreen { warm: 30 * SECOND };
    let mut sim = under_way(takeover, 10 * SECOND, 3);
    sim.step();
    assert_eq!((count(&sim, OLD).0, count(&sim, NEW).0), (3, 3));
    let shares = |sim: &Sim| app(sim).shares().unwrap().0;
    assert_eq!(shares(&sim), [(OLD, 100), (NEW, 0)].into());
    settle_at(&mut sim, NOW);
    assert_eq!(stage(&sim), Some(Stage::Warm { since: NOW }));
    assert_eq!(shares(&sim), [(OLD, 0), (NEW, 100)].into());
    assert_eq!((count(&sim, OLD).1, count(&sim, NEW).1), (3, 3));
    settle_at(&mut sim, NOW.plus(29 * SECOND));
    assert_eq!(count(&sim, OLD).0, 3);
    settle_at(&mut sim, NOW.plus(30 * SECOND));
    assert_eq!((count(&sim, OLD).0, count(&sim, NEW).1), (0, 3));
    assert_eq!(app(&sim).shares(), None);
}

#[test]
fn a_canary_grows_by_its_steps() {
    let mut sim = under_way(canary(&[10, 50]), Duration::ZERO, 4);
    let share = |sim: &Sim| app(sim).shares().map(|shares| shares.0[&NEW]);
    sim.step();
    assert_eq!(share(&sim), Some(0));
    settle_at(&mut sim, NOW);
    assert_eq!((count(&sim, OLD).1, count(&sim, NEW).1), (4, 1));
    assert_eq!(share(&sim), Some(10));
    let second = NOW.plus(10 * SECOND);
    sim.roll(second);
    sim.step();
    assert_eq!(
        share(&sim),
        Some(10),
        "its second instance is not there yet"
    );
    settle_at(&mut sim, second);
    assert_eq!((count(&sim, OLD).1, count(&sim, NEW).1), (4, 2));
    assert_eq!(share(&sim), Some(50));
    settle_at(&mut sim, second.plus(10 * SECOND));
    assert_eq!((count(&sim, OLD), count(&sim, NEW)), ((0, 0), (4, 4)));
    assert_eq!((share(&sim), stage(&sim)), (None, None));
}

#[test]
fn a_verdict_withdraws_a_canary_at_once() {
    let mut sim = under_way(canary(&[10]), Duration::ZERO, 4);
    settle_at(&mut sim, NOW);
    let seen = look(&sim.state, &sim.view, app(&sim));
    let step = step(app(&sim), &seen, Some("20 % errors".into()), NOW).unwrap();
    let seq = app(&sim).rollout.as_ref().unwrap().seq;
    let command = |seq| Command::StepRollout {
        name: name("app"),
        release: NEW,
        seq,
        step: step.clone(),
        now: NOW,
    };
    // One that another leader worked out from an earlier stage.
    let stale = sim.run(command(seq - 1));
    assert_eq!(stale, Err(Rejection::StaleStep(name("app"))));
    sim.ok(command(seq));
    assert_eq!(app(&sim).target, OLD);
    sim.step();
    assert_eq!(count(&sim, NEW).0, 0, "nothing better is waited for");
    settle_at(&mut sim, NOW);
    assert_eq!(count(&sim, OLD), (4, 4));
}

#[test]
fn recreate_never_runs_two_releases() {
    let mut sim = under_way(Takeover::Recreate, Duration::ZERO, 3);
    let mut seen_none = false;
    for _ in 0..20 {
        sim.step();
        let stopping = sim.state.instances.values();
        let stopping = stopping.filter(|i| i.desired == Desired::Stop).count();
        if count(&sim, NEW).0 > 0 {
            assert_eq!((count(&sim, OLD).0, stopping), (0, 0));
        }
        seen_none |= count(&sim, OLD).0 + count(&sim, NEW).0 == 0;
        sim.obey();
        sim.roll(NOW);
    }
    assert!(seen_none);
    assert_eq!(count(&sim, NEW), (3, 3));
    assert!(matches!(fate(&sim, NEW), Fate::Good { .. }));
}

#[test]
fn time_runs_out_for_what_never_becomes_ready() {
    let mut sim = under_way(rolling(1, 0), Duration::ZERO, 2);
    sim.step();
    assert_eq!(sim.roll(NOW.plus(59 * SECOND)), 0);
    assert_eq!(due(app(&sim), NOW), Some(NOW.plus(60 * SECOND)));
    sim.roll(NOW.plus(60 * SECOND));
    let Fate::Failed { why, .. } = fate(&sim, NEW) else {
        panic!("{:?}", fate(&sim, NEW));
    };
    assert_eq!(why, "no progress for 60 s: 0 of 2 instances are ready");
}

#[test]
fn a_first_release_that_fails_stays() {
    let mut sim = Sim::new(3, 100);
    sim.create("app", spec(rolling(1, 0), SECOND), 1);
    sim.step();
    let mut ended = facts(Phase::Backoff, Health::Unknown);
    ended.restarts = look::CRASHES;
    let ill = newest(&sim, OLD);
    sim.tell(ill, ended);
    sim.roll(NOW);
    assert!(matches!(fate(&sim, OLD), Fate::Failed { .. }));
    assert_eq!((app(&sim).target, stage(&sim)), (OLD, None));
    settle_at(&mut sim, NOW);
    assert_eq!(sim.running("app"), [ill]);
    assert_eq!(
        roll_back(&mut sim, None),
        Err(Rejection::NothingToGoBackTo(name("app")))
    );
}

#[test]
fn the_newer_of_two_releases_wins_and_the_good_one_is_what_it_falls_back_to() {
    let mut sim = under_way(canary(&[10]), Duration::ZERO, 3);
    settle_at(&mut sim, NOW);
    sim.update("app", 3);
    assert_eq!(fate(&sim, NEW), Fate::Superseded { at: NOW });
    assert_eq!(app(&sim).rollout.as_ref().unwrap().from, Some(OLD));
    settle_at(&mut sim, NOW);
    assert_eq!(count(&sim, NEW).0, 0);
    assert_eq!(
        (count(&sim, OLD).1, count(&sim, ReleaseNumber(3)).1),
        (3, 1)
    );
    order(&mut sim, Order::Abort).unwrap();
    settle_at(&mut sim, NOW);
    assert_eq!(count(&sim, OLD), (3, 3));
    assert_eq!(fate(&sim, ReleaseNumber(3)), Fate::Aborted { at: NOW });
    assert_eq!(
        order(&mut sim, Order::Abort),
        Err(Rejection::NoRollout(name("app")))
    );
    // Numbers are never given twice.
    sim.update("app", 4);
    assert_eq!(app(&sim).target, ReleaseNumber(4));
}

#[test]
fn rolling_back_takes_the_straight_way_to_what_is_kept() {
    let mut sim = under_way(canary(&[10]), Duration::ZERO, 3);
    settle_at(&mut sim, NOW);
    settle_at(&mut sim, NOW.plus(10 * SECOND));
    assert!(matches!(fate(&sim, NEW), Fate::Good { .. }));
    let unknown = roll_back(&mut sim, Some(9));
    assert!(matches!(unknown, Err(Rejection::ReleaseUnknown { .. })));
    let present = roll_back(&mut sim, Some(2));
    assert!(matches!(present, Err(Rejection::ReleaseWanted { .. })));
    roll_back(&mut sim, None).unwrap();
    assert_eq!(
        (app(&sim).target, stage(&sim)),
        (OLD, Some(Stage::Replacing))
    );
    settle_at(&mut sim, NOW);
    assert_eq!((count(&sim, OLD), count(&sim, NEW)), ((3, 3), (0, 0)));
    assert!(matches!(fate(&sim, OLD), Fate::Good { .. }));
    roll_back(&mut sim, Some(2)).unwrap();
    settle_at(&mut sim, NOW);
    assert_eq!(count(&sim, NEW), (3, 3));
}

#[test]
fn a_pause_holds_everything_and_promote_skips_what_only_waits() {
    let mut sim = under_way(rolling(1, 0), 10 * SECOND, 3);
    sim.step();
    sim.obey();
    order(&mut sim, Order::Pause).unwrap();
    settle_at(&mut sim, NOW.plus(3600 * SECOND));
    assert_eq!((count(&sim, OLD), count(&sim, NEW)), ((2, 2), (1, 1)));
    order(&mut sim, Order::Resume).unwrap();
    settle_at(&mut sim, NOW);
    assert!(matches!(stage(&sim), Some(Stage::Watching { .. })));
    order(&mut sim, Order::Promote).unwrap();
    assert!(matches!(fate(&sim, NEW), Fate::Good { .. }));

    let mut sim = under_way(canary(&[10, 20, 30]), Duration::ZERO, 3);
    settle_at(&mut sim, NOW);
    order(&mut sim, Order::Promote).unwrap();
    settle_at(&mut sim, NOW);
    assert_eq!((stage(&sim), count(&sim, NEW)), (None, (3, 3)));
}

#[test]
fn scaling_to_none_and_back_works_within_a_rollout() {
    let mut sim = under_way(rolling(1, 0), Duration::ZERO, 3);
    sim.scale("app", 0);
    settle_at(&mut sim, NOW);
    assert_eq!((stage(&sim), sim.running("app").len()), (None, 0));
    sim.update("app", 3);
    settle_at(&mut sim, NOW);
    sim.scale("app", 2);
    settle_at(&mut sim, NOW);
    assert_eq!(count(&sim, ReleaseNumber(3)), (2, 2));
}

/// What may happen between two looks of whoever leads.
#[derive(Debug, Clone)]
enum Event {
    /// The leader plans, and loses what it planned when its term ended.
    Plan(bool),
    /// The leader steps, or dies before its step is taken.
    Roll(bool),
    /// One that starts becomes ready, or one ends.
    Ready(usize),
    End(usize),
    /// Nodes end what they were told to.
    Obey,
    Wait(u64),
    Node(u64, bool),
    Drain(u64, bool),
    /// Contents of its own, or those of an earlier release once more.
    Update(u8),
    Restart,
    Order(u8),
    Back,
    Scale(u32),
}

fn event() -> impl proptest::strategy::Strategy<Value = Event> {
    prop_oneof![
        4 => any::<bool>().prop_map(Event::Plan),
        4 => any::<bool>().prop_map(Event::Roll),
        4 => (0usize..16).prop_map(Event::Ready),
        1 => (0usize..16).prop_map(Event::End),
        2 => Just(Event::Obey),
        2 => (0u64..20).prop_map(Event::Wait),
        1 => (1u64..4, any::<bool>()).prop_map(|(node, up)| Event::Node(node, up)),
        1 => (1u64..4, any::<bool>()).prop_map(|(node, on)| Event::Drain(node, on)),
        1 => (0u8..3).prop_map(Event::Update),
        1 => Just(Event::Restart),
        1 => (0u8..4).prop_map(Event::Order),
        1 => Just(Event::Back),
        1 => (0u32..5).prop_map(Event::Scale),
    ]
}

fn takeover() -> impl proptest::strategy::Strategy<Value = Takeover> {
    prop_oneof![
        (0u32..3, 0u32..3)
            .prop_filter("some step", |(surge, unavailable)| surge + unavailable > 0)
            .prop_map(|(surge, unavailable)| rolling(surge, unavailable)),
        (0u64..20).prop_map(|s| Takeover::BlueGreen {
            warm: Duration::from_secs(s)
        }),
        Just(canary(&[10])),
        Just(canary(&[5, 30, 80])),
        Just(Takeover::Recreate),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever happens on the way, when it ends the wanted release runs whole and alone: no leader's death, lost step
    /// or lost node leaves a rollout that nobody can finish, and what a release fell back to was good.
    #[test]
    fn every_rollout_comes_to_an_end(
        takeover in takeover(),
        watch in 0u64..10,
        rollback in any::<bool>(),
        scale in 0u32..5,
        events in prop::collection::vec(event(), 0..60),
    ) {
        let mut sim = Sim::new(3, 100);
        let mut spec = spec(takeover, Duration::from_secs(watch));
        spec.strategy.rollback = rollback;
        sim.create("app", spec, scale);
        sim.settle();
        let mut now = NOW;
        let mut artifact = 1u8;
        for event in events {
            match event {
                Event::Plan(true) => { sim.step(); }
                Event::Roll(true) => { sim.roll(now); }
                Event::Plan(false) | Event::Roll(false) => {}
                Event::Ready(n) | Event::End(n) => {
                    let running = sim.running("app");
                    if let Some(id) = running.get(n % running.len().max(1)) {
                        let before = sim.view.instance(sim.state.instances[id].node, *id).cloned();
                        let restarts = before.map_or(0, |f| f.restarts);
                        let mut told = facts(Phase::Running, Health::Healthy);
                        told.restarts = restarts;
                        if matches!(event, Event::End(_)) {
                            told = facts(Phase::Backoff, Health::Unknown);
                            told.restarts = restarts + 1;
                        }
                        sim.tell(*id, told);
                    }
                }
                Event::Obey => sim.obey(),
                Event::Wait(seconds) => now = now.plus(Duration::from_secs(seconds)),
                Event::Node(node, up) => sim.set_alive(node, up),
                Event::Drain(node, on) => sim.drain(node, on),
                Event::Update(0) => { artifact += 1; sim.update("app", artifact); }
                Event::Update(back) => { sim.update("app", artifact.saturating_sub(back).max(1)); }
                Event::Restart => { sim.restart("app"); }
                Event::Order(n) => {
                    let all = [Order::Pause, Order::Resume, Order::Promote, Order::Abort];
                    let _ = order(&mut sim, all[n as usize]);
                }
                Event::Back => { let _ = roll_back(&mut sim, None); }
                Event::Scale(scale) => { sim.scale("app", scale); }
            }
            let deployment = app(&sim);
            prop_assert!(deployment.release(deployment.target).is_some());
            if let Some(from) = deployment.rollout.as_ref().and_then(|r| r.from) {
                prop_assert!(deployment.release(from).is_some());
                prop_assert!(from != deployment.target);
            }
        }
        // Now everything is well: the end has to come by itself.
        for node in 1..=3 {
            sim.set_alive(node, true);
            sim.drain(node, false);
        }
        for _ in 0..400 {
            // One that had been too late by then, and stays, is given another chance.
            if app(&sim).rollout.as_ref().is_some_and(|rollout| rollout.paused.is_some()) {
                order(&mut sim, Order::Resume).unwrap();
            }
            sim.step();
            sim.obey();
            sim.roll(now);
            now = now.plus(SECOND);
        }
        let deployment = app(&sim);
        prop_assert_eq!(&deployment.rollout, &None);
        let running = sim.running("app");
        prop_assert_eq!(running.len(), deployment.scale as usize);
        for id in running {
            prop_assert!(deployment.is_current(&sim.state.instances[&id]));
        }
    }

    /// Where nodes and programs are well, no moment has fewer ready instances than the strategy gives leave for.
    #[test]
    fn no_rollout_takes_more_than_it_may(
        takeover in takeover(),
        scale in 1u32..6,
        paused_at in 0usize..40,
        order_of_ready in prop::collection::vec(0usize..8, 40..80),
    ) {
        let unavailable = match &takeover {
            Takeover::Rolling { unavailable, .. } => unavailable.of_down(scale),
            Takeover::Recreate => scale,
            _ => 0,
        };
        let mut sim = under_way(takeover, Duration::from_secs(1), scale);
        let mut now = NOW;
        for (turn, pick) in order_of_ready.into_iter().enumerate() {
            if turn == paused_at {
                let _ = order(&mut sim, Order::Pause);
            }
            sim.step();
            sim.roll(now);
            now = now.plus(3 * SECOND);
            let ready = count(&sim, OLD).1 + count(&sim, NEW).1;
            prop_assert!(ready + unavailable as usize >= scale as usize, "{:?}", app(&sim).rollout);
            let waiting: Vec<_> = sim.running("app").into_iter().filter(|id| {
                let node = sim.state.instances[id].node;
                sim.view.instance(node, *id).is_none()
            }).collect();
            if let Some(id) = waiting.get(pick % waiting.len().max(1)) {
                sim.tell_ready(*id);
            }
            let stopping: Vec<_> = sim.state.instances.values().filter(|i| i.desired == Desired::Stop).map(|i| i.id).collect();
            for id in stopping {
                sim.tell(id, facts(Phase::Stopped, Health::Unknown));
            }
        }
    }
}
